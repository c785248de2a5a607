//! Buffers of more bytes than 32 bits count, and the blocks at their far end.

use std::iter;

use ptxvm::{Launch, Memory, Module, Options, Params, Report};

/// Elements of 2 bytes: 6 GiB, and more than 2^31.
const ELEMENTS: u64 = 3 << 30;

/// Each thread copies one element; its offset in bytes is computed by `offset` from the
/// element's number, `%rd4` and as 32 bits `%r5`, to `%rd5`.
fn copy(offset: &str) -> Module {
    let ptx = format!(
        ".version 8.0
         .target sm_80
         .address_size 64
         .visible .entry copy(.param .u64 from, .param .u64 to)
         {{
             .reg .b16 %h<2>;
             .reg .b32 %r<6>;
             .reg .b64 %rd<8>;
             ld.param.u64 %rd1, [from];
             ld.param.u64 %rd2, [to];
             mov.u32 %r1, %ctaid.x;
             mov.u32 %r2, %ntid.x;
             mov.u32 %r3, %tid.x;
             cvt.u64.u32 %rd3, %r3;
             mul.wide.u32 %rd4, %r1, %r2;
             add.u64 %rd4, %rd4, %rd3;
             cvt.u32.u64 %r5, %rd4;
             {offset}
             add.u64 %rd6, %rd1, %rd5;
             add.u64 %rd7, %rd2, %rd5;
             ld.global.u16 %h1, [%rd6];
             st.global.u16 [%rd7], %h1;
             ret;
         }}"
    );
    Module::parse(&ptx).unwrap()
}

/// Runs the last block; says what it did and whether it wrote the end of the buffer.
fn last_block(module: &Module) -> (Report, bool) {
    let mut memory = Memory::new();
    let bytes = 2 * ELEMENTS;
    let from = memory.alloc(bytes, "from");
    memory.fill_with(from, bytes, |first, to| {
        (first..).zip(to).for_each(|(at, byte)| *byte = (at >> 20 ^ at) as u8);
    });
    let to = memory.alloc(bytes, "to");
    let blocks = ELEMENTS / 1024;
    let launch = Launch {
        grid: [blocks as u32, 1, 1],
        block: [1024, 1, 1],
        params: Params::new().u64(from).u64(to).build(),
        only: Some(iter::once(blocks - 1..blocks).collect()),
        options: Options::default(),
        ..Launch::new("copy")
    };
    let report = module.launch(&mut memory, &launch).unwrap();
    let end = bytes - 2048;
    let written = memory.is_written(to + end, 2048);
    assert!(!written || memory.read(to + end, 2048) == memory.read(from + end, 2048));
    (report, written)
}

#[test]
fn the_far_end_is_reached_with_64_bits() {
    let (report, written) = last_block(&copy("shl.b64 %rd5, %rd4, 1;"));
    assert!(written);
    assert!(report.findings.is_empty(), "{}", report.findings[0]);
    assert_eq!(report.counts.global_read_bytes, 2048, "other blocks ran");
}

/// The two ways to lose the upper bits: the product in 32 bits, and an element's number
/// that a signed 32-bit integer does not hold.
#[test]
fn offsets_that_wrap_are_seen() {
    let wraps = "shl.b32 %r4, %r5, 1; cvt.u64.u32 %rd5, %r4;";
    assert!(!last_block(&copy(wraps)).1);
    let negative = copy("mul.wide.s32 %rd5, %r5, 2;");
    let mut memory = Memory::new();
    let bytes = 2 * ELEMENTS;
    let [from, to] = ["from", "to"].map(|name| memory.alloc(bytes, name));
    let block = ELEMENTS / 1024 - 1;
    let launch = Launch {
        grid: [block as u32 + 1, 1, 1],
        block: [1024, 1, 1],
        params: Params::new().u64(from).u64(to).build(),
        only: Some(iter::once(block..block + 1).collect()),
        ..Launch::new("copy")
    };
    let fault = negative.launch(&mut memory, &launch).unwrap_err();
    assert_eq!(fault.cause.kind, ptxvm::FindingKind::OutOfBounds, "{fault}");
}

/// Chosen blocks bring their clusters, each once.
#[test]
fn clusters_run_whole() {
    let module = Module::parse(
        ".version 8.0
         .target sm_90
         .address_size 64
         .visible .entry mark(.param .u64 to)
         {
             .reg .b32 %r<8>;
             .reg .b64 %rd<4>;
             ld.param.u64 %rd1, [to];
             mov.u32 %r1, %ctaid.x;
             mov.u32 %r2, %ctaid.y;
             mov.u32 %r3, %nctaid.x;
             mad.lo.u32 %r4, %r2, %r3, %r1;
             mul.wide.u32 %rd2, %r4, 4;
             add.u64 %rd3, %rd1, %rd2;
             atom.global.add.u32 %r5, [%rd3], 1;
             ret;
         }",
    )
    .unwrap();
    let mut memory = Memory::new();
    let to = memory.alloc(4 * 24, "to");
    memory.fill(to, 4 * 24, 0);
    let launch = Launch {
        grid: [6, 4, 1],
        cluster: [2, 2, 1],
        params: Params::new().u64(to).build(),
        // Numbers 9 and 10 are (3, 1) and (4, 1); 100 does not exist.
        only: Some(vec![9..11, 10..11, 100..200]),
        ..Launch::new("mark")
    };
    module.launch(&mut memory, &launch).unwrap();
    let ran: Vec<usize> = (0..24)
        .filter(|&block| memory.read(to + 4 * block as u64, 4) == [1, 0, 0, 0])
        .collect();
    assert_eq!(ran, [2, 3, 4, 5, 8, 9, 10, 11]);
    let none = Launch { only: Some(Vec::new()), ..launch };
    let report = module.launch(&mut memory, &none).unwrap();
    assert_eq!(report.counts.global_atomics, 0);
}

/// An address of a variable tells the blocks of a cluster apart, as on hardware, where the rank
/// stands above the place in shared memory; and it is of the block's own variable.
#[test]
fn addresses_of_shared_memory_say_of_which_block_of_a_cluster() {
    let module = Module::parse(
        ".version 8.0
         .target sm_90
         .address_size 64
         .visible .entry where(.param .u64 to)
         {
             .reg .b32 %r<8>;
             .reg .b64 %rd<4>;
             .shared .align 16 .b8 before[48];
             .shared .align 16 .b8 tile[16];
             ld.param.u64 %rd1, [to];
             mov.u32 %r1, %ctaid.x;
             mov.u32 %r2, tile;
             st.shared.u32 [tile+4], %r1;
             ld.shared.u32 %r3, [%r2+4];
             mul.wide.u32 %rd2, %r1, 8;
             add.u64 %rd3, %rd1, %rd2;
             st.global.u32 [%rd3], %r2;
             st.global.u32 [%rd3+4], %r3;
             ret;
         }",
    )
    .unwrap();
    let blocks_of = |cluster: u32| {
        let mut memory = Memory::new();
        let to = memory.alloc(8 * 8, "to");
        let launch = Launch {
            grid: [8, 1, 1],
            cluster: [cluster, 1, 1],
            params: Params::new().u64(to).build(),
            ..Launch::new("where")
        };
        module.launch(&mut memory, &launch).unwrap();
        let word =
            |at: u64| u32::from_le_bytes(memory.read(to + at, 4).try_into().unwrap());
        (0..8).map(|block| [word(8 * block), word(8 * block + 4)]).collect::<Vec<_>>()
    };
    let alone = blocks_of(1);
    let place = alone[0][0];
    assert!(
        alone.iter().zip(0..).all(|(&found, block)| found == [place, block]),
        "{alone:?}"
    );
    let together = blocks_of(4);
    for (block, &[address, read]) in together.iter().enumerate() {
        assert_eq!(address % (1 << 24), place, "{together:?}");
        assert_eq!(read, block as u32);
        assert_eq!(address, together[block % 4][0], "the same in every cluster");
        assert!(together[..block % 4].iter().all(|other| other[0] != address));
    }
}
