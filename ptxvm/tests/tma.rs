//! Tensor copies where the hardware does not begin them, and what else asynchronous copies
//! get wrong: the smallest programs, each with its right twin.

mod common;

use common::{caught, kinds, upload, words};
use ptxvm::{
    Fault, FindingKind, Launch, Memory, Module, OutOfBoundsFill, Params, Report, Swizzle,
    TensorElement, TensorMap,
};

/// A kernel `k` of sm_90 with these parameters and this body, which finds registers, a tile
/// of 1 KiB, the mbarriers `bar` and `bar2`, and its thread in `%t`.
fn kernel(params: &str, body: &str) -> Module {
    let text = format!(
        ".version 8.3
         .target sm_90a
         .address_size 64
         .visible .entry k({params})
         {{
             .reg .pred %p<9>;
             .reg .b16 %h<9>;
             .reg .b32 %t, %r<20>;
             .reg .b64 %q<20>;
             .shared .align 1024 .b8 tile[1024];
             .shared .align 128 .b8 other[256];
             .shared .align 8 .b64 bar;
             .shared .align 8 .b64 bar2;
             mov.u32 %t, %tid.x;
             setp.eq.u32 %p1, %t, 0;
             {body}
             ret;
         }}"
    );
    Module::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

const INIT: &str = "
    @%p1 mbarrier.init.shared::cta.b64 [bar], 1;
    @%p1 fence.mbarrier_init.release.cluster;
    bar.sync 0;";

/// A loop until the first phase of `bar` is over.
const WAIT: &str = "
    WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p2, [bar], 0;
    @!%p2 bra WAIT;";

fn matrix(element: TensorElement, address: u64, columns: u64) -> TensorMap {
    TensorMap {
        element,
        address,
        dims: vec![columns, 8],
        strides: vec![(columns * element.bytes()).next_multiple_of(16)],
        box_dims: vec![(64 / element.bytes()) as u32, 4],
        swizzle: Swizzle::None,
        fill: OutOfBoundsFill::Zero,
    }
}

/// Loads, stores or prefetches a box that begins at `start`.
fn box_at(what: &str, element: TensorElement, start: [i32; 2]) -> Result<Report, Fault> {
    let copy = match what {
        "load" => {
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 256;
             cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [tile], [%q1, {%r1, %r2}], [bar];"
        }
        "store" => {
            "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%q1, {%r1, %r2}], [tile];
             cp.async.bulk.commit_group;
             cp.async.bulk.wait_group 0;"
        }
        _ => "cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%q1, {%r1, %r2}];",
    };
    let wait = if what == "load" { WAIT } else { "" };
    let body = format!(
        "{INIT}
         mad.lo.u32 %r3, %t, 8, 0;
         mov.u32 %r4, tile;
         add.u32 %r3, %r3, %r4;
         {}
         fence.proxy.async.shared::cta;
         bar.sync 0;
         mov.u64 %q1, map;
         cvta.param.u64 %q1, %q1;
         mov.b32 %r1, {};
         mov.b32 %r2, {};
         @!%p1 bra AFTER;
         {copy}
         AFTER:
         {wait}",
        if what == "store" { "st.shared.v2.b32 [%r3], {%t, %t};" } else { "" },
        start[0],
        start[1]
    );
    let module = kernel(".param .align 64 .b8 map[128]", &body);
    let mut memory = Memory::new();
    let address = upload(&mut memory, "tensor", &[7u8; 4096], u8::to_le_bytes);
    let map = matrix(element, address, 96 / element.bytes());
    let launch = Launch {
        block: [32, 1, 1],
        params: Params::new().bytes(64, &map.encode().unwrap()).build(),
        ..Launch::new("k")
    };
    module.launch(&mut memory, &launch)
}

/// The starts at which an H100 ended the launch, and those that it ran.
#[test]
fn loads_begin_at_multiples_of_16_bytes() {
    use TensorElement::{F32, U8, U16, U32, U64};
    for what in ["load", "prefetch"] {
        for (element, x) in [
            (U16, -5),
            (U16, -4),
            (U16, -1),
            (U16, 10),
            (F32, -1),
            (U32, -3),
            (U64, 3),
            (U8, 31),
        ] {
            let fault = box_at(what, element, [x, 0]).unwrap_err();
            assert_eq!(fault.cause.kind, FindingKind::BadOperand);
            let text = fault.to_string();
            let bytes = i64::from(x) * element.bytes() as i64;
            for part in [
                format!("a tensor {what} must begin at a multiple of 16 bytes"),
                format!("coordinate {x} in dimension 0"),
                format!("elements of {} byte", element.bytes()),
                format!("is byte {bytes};"),
                "cp.async.bulk.".to_owned(),
            ] {
                assert!(text.contains(&part), "{text}: {part}");
            }
        }
        for (element, start) in [
            (U16, [-8, 0]),
            (F32, [-4, -3]),
            (U8, [16, -1]),
            (U64, [2, 100]),
            (U16, [1000, -1000]),
        ] {
            assert_eq!(kinds(&box_at(what, element, start)), [], "{element:?} {start:?}");
        }
    }
}

#[test]
fn stores_begin_inside_or_behind() {
    use TensorElement::{F32, U8, U16, U32};
    for (element, start, dimension) in [
        (U32, [-4, 0], 0),
        (U16, [-8, 1], 0),
        (F32, [0, -1], 1),
        (U8, [16, -1000], 1),
        (U16, [-1, -1], 0),
    ] {
        let fault = box_at("store", element, start).unwrap_err();
        assert_eq!(fault.cause.kind, FindingKind::BadOperand);
        let text = fault.to_string();
        let which = format!("coordinate {} in dimension {dimension}", start[dimension]);
        assert!(text.contains("takes no coordinate before the beginning"), "{text}");
        assert!(text.contains(&which) && text.contains("(PTX line"), "{text}");
    }
    for (element, start) in [(U32, [0, 0]), (U16, [16, 6]), (F32, [16, 7]), (U8, [960, 80])]
    {
        assert_eq!(kinds(&box_at("store", element, start)), [], "{element:?} {start:?}");
    }
}
