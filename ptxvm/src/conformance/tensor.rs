//! Tensor copies: boxes of one to five dimensions, across the tensor's edges, with every
//! swizzle, in both directions. Where a box begins, the hardware has rules: a load takes
//! only multiples of 16 bytes in the innermost dimension, a store no coordinate before the
//! beginning. Programs that break one must fault; an H100 ended each of the launches from
//! which they are taken with an illegal instruction.

use super::Program;
use super::draft::{Draft, bits};
use crate::{OutOfBoundsFill, Swizzle, TensorElement, TensorMap};

const FAMILY: &str = "tensor copy";

/// A tensor and a box of it.
#[derive(Clone)]
struct Shape {
    element: TensorElement,
    /// Elements of the tensor, of the box, and where the box begins; innermost first.
    dims: Vec<u64>,
    box_dims: Vec<u32>,
    start: Vec<i32>,
    swizzle: Swizzle,
    fill: OutOfBoundsFill,
}

impl Shape {
    /// Bytes from one index to the next: rows are padded to 16 bytes.
    fn strides(&self) -> Vec<u64> {
        let mut stride = (self.dims[0] * self.element.bytes()).next_multiple_of(16);
        let mut strides = Vec::new();
        for dim in &self.dims[1..] {
            strides.push(stride);
            stride *= dim;
        }
        strides
    }

    fn tensor_bytes(&self) -> usize {
        let strides = self.strides();
        match (strides.last(), self.dims.last()) {
            (Some(stride), Some(dim)) => (stride * dim) as usize,
            _ => (self.dims[0] * self.element.bytes()).next_multiple_of(16) as usize,
        }
    }

    fn box_bytes(&self) -> usize {
        let elements: u32 = self.box_dims.iter().product();
        elements as usize * self.element.bytes() as usize
    }

    fn map(&self, address: u64) -> TensorMap {
        TensorMap {
            element: self.element,
            address,
            dims: self.dims.clone(),
            strides: self.strides(),
            box_dims: self.box_dims.clone(),
            swizzle: self.swizzle,
            fill: self.fill,
        }
    }

    /// For every element of the box: its first byte in shared memory, with the swizzle, and
    /// its first byte in the tensor if it is inside.
    fn places(&self) -> Vec<(usize, Option<usize>)> {
        let elements: u32 = self.box_dims.iter().product();
        let bytes = self.element.bytes();
        let strides = self.strides();
        let place = |number: u32| {
            let mut rest = number;
            let mut within = true;
            let mut at = 0;
            for (axis, &extent) in self.box_dims.iter().enumerate() {
                let index = i64::from(self.start[axis]) + i64::from(rest % extent);
                rest /= extent;
                within &= (0..self.dims[axis] as i64).contains(&index);
                at += index * if axis == 0 { bytes } else { strides[axis - 1] } as i64;
            }
            let plain = number as usize * bytes as usize;
            (swizzled(self.swizzle, plain), within.then_some(at as usize))
        };
        (0..elements).map(place).collect()
    }

    /// Bits of an element outside of the tensor, where the ISA says which.
    fn fill_bits(&self) -> Option<u64> {
        (self.fill == OutOfBoundsFill::Zero).then_some(0)
    }

    fn coordinates(&self) -> String {
        let list: Vec<String> =
            (0..self.start.len()).map(|n| format!("%r{}", 8 + n)).collect();
        format!("{{{}}}", list.join(", "))
    }
}

/// Chunks of 16 bytes within 128, 64 or 32 bytes are permuted by the number of the
/// 128 bytes that they are in.
fn swizzled(swizzle: Swizzle, at: usize) -> usize {
    let chunks = match swizzle {
        Swizzle::None => 1,
        Swizzle::Bytes32 => 2,
        Swizzle::Bytes64 => 4,
        Swizzle::Bytes128 => 8,
    };
    at ^ ((at / 128 % chunks) * 16)
}

/// Byte `n` of the tensors here: no two elements near each other are the same.
fn byte(n: usize) -> u8 {
    (n.wrapping_mul(2654435761) >> 13) as u8 | 1
}

fn little_endian(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.enumerate().map(|(n, byte)| u64::from(byte) << (8 * n)).sum()
}

/// The head of every program: one thread copies the box in, all wait for it.
fn copy_in(draft: &mut Draft, shape: &Shape) {
    draft.declare(&format!(
        ".shared .align 1024 .b8 tile[{}];\n    .shared .align 8 .b64 bar;",
        shape.box_bytes()
    ));
    draft.code(
        "mov.u32 %r2, tile;
         mov.u32 %r3, bar;
         setp.eq.u32 %p1, %t, 0;
         @%p1 mbarrier.init.shared::cta.b64 [%r3], 1;
         @%p1 fence.mbarrier_init.release.cluster;
         bar.sync 0;
         mov.u64 %q1, map0;
         cvta.param.u64 %q1, %q1;",
    );
    for (axis, start) in shape.start.iter().enumerate() {
        draft.code(&format!("mov.b32 %r{}, {start};", 8 + axis));
    }
    draft.code(&format!(
        "@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 %q2, [%r3], {};
         @%p1 cp.async.bulk.tensor.{}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
         [%r2], [%q1, {}], [%r3];",
        shape.box_bytes(),
        shape.dims.len(),
        shape.coordinates()
    ));
    draft.wait("%r3", "0");
}

/// A box into shared memory, whose bytes are then stored in the order of shared memory.
fn load(name: &str, shape: &Shape) -> Program {
    let mut draft = Draft::new(FAMILY, name).needs("sm_90", "8.0").threads(64);
    let at = draft.input(&(0..shape.tensor_bytes()).map(byte).collect::<Vec<u8>>());
    draft.map(shape.map(at as u64));
    copy_in(&mut draft, shape);
    copy_to_output(&mut draft, shape);
    draft.finish()
}

/// Stores the box's bytes in the order of shared memory, and says what they must be.
fn copy_to_output(draft: &mut Draft, shape: &Shape) {
    let rounds = shape.box_bytes().div_ceil(16 * 64);
    let offset = draft.column(16 * rounds);
    draft.code(&format!(
        "mov.u32 %r4, %t;
         NEXT:
         setp.ge.u32 %p2, %r4, {};
         @%p2 bra DONE;
         mad.lo.u32 %r5, %r4, 16, %r2;
         ld.shared.v4.b32 {{%x0, %x1, %x2, %x3}}, [%r5];
         mad.wide.u32 %q3, %r4, 16, %out;
         st.global.v4.b32 [%q3+{offset}], {{%x0, %x1, %x2, %x3}};
         add.u32 %r4, %r4, 64;
         bra NEXT;
         DONE:",
        shape.box_bytes() / 16
    ));
    let bytes = shape.element.bytes() as usize;
    for (number, (place, from)) in shape.places().into_iter().enumerate() {
        let wanted = match from {
            Some(from) => Some(little_endian((from..from + bytes).map(byte))),
            None => shape.fill_bits(),
        };
        let label = format!("element {number} of the box");
        let wanted = match wanted {
            Some(wanted) => bits(wanted),
            None if bytes == 2 => super::Wanted::Nan(super::number::F16),
            None => super::Wanted::Nan(super::number::F32),
        };
        draft.case(label, offset + place, bytes, wanted);
    }
}

/// A box in, and out again to another tensor of the same shape. The second tensor must then
/// equal the first inside of the box, and be unchanged outside.
fn store(name: &str, shape: &Shape) -> Program {
    let mut draft = Draft::new(FAMILY, name).needs("sm_90", "8.0").threads(64);
    let size = shape.tensor_bytes();
    let from = draft.input(&(0..size).map(byte).collect::<Vec<u8>>());
    let to = draft.input(&vec![0; size]);
    draft.map(shape.map(from as u64));
    draft.map(shape.map(to as u64));
    copy_in(&mut draft, shape);
    let offset = draft.column(size.div_ceil(64).next_multiple_of(4));
    draft.code(&format!(
        "mov.u64 %q4, map1;
         cvta.param.u64 %q4, %q4;
         @%p1 cp.async.bulk.tensor.{}d.global.shared::cta.tile.bulk_group [%q4, {}], [%r2];
         @%p1 cp.async.bulk.commit_group;
         @%p1 cp.async.bulk.wait_group 0;
         bar.sync 0;
         mov.u32 %r4, %t;
         NEXT:
         setp.ge.u32 %p2, %r4, {};
         @%p2 bra DONE;
         mad.wide.u32 %q3, %r4, 4, %in;
         ld.global.b32 %r5, [%q3+{to}];
         mad.wide.u32 %q3, %r4, 4, %out;
         st.global.b32 [%q3+{offset}], %r5;
         add.u32 %r4, %r4, 64;
         bra NEXT;
         DONE:",
        shape.dims.len(),
        shape.coordinates(),
        size / 4
    ));
    let mut wanted = vec![0; size];
    for place in shape.places().into_iter().filter_map(|(_, place)| place) {
        let end = place + shape.element.bytes() as usize;
        let bytes: Vec<u8> = (place..end).map(byte).collect();
        wanted[place..end].copy_from_slice(&bytes);
    }
    for (n, word) in wanted.chunks(4).enumerate() {
        let wanted = bits(little_endian(word.iter().copied()));
        draft.case(format!("word {n} of the tensor"), offset + 4 * n, 4, wanted);
    }
    draft.finish()
}

/// Each of two blocks copies half of a row into both.
fn multicast() -> Program {
    let mut draft =
        Draft::new(FAMILY, "multicast to a cluster").needs("sm_90", "8.0").blocks(2, 2);
    let word = |n: u32| n.wrapping_mul(0x0203_0509) + 7;
    let at = draft.input_words((0..64).map(word));
    draft.map(TensorMap {
        element: TensorElement::U32,
        address: at as u64,
        dims: vec![64],
        strides: vec![],
        box_dims: vec![32],
        swizzle: Swizzle::None,
        fill: OutOfBoundsFill::Zero,
    });
    draft.declare(".shared .align 128 .b8 tile[256];\n    .shared .align 8 .b64 bar;");
    draft.code(
        "mov.u32 %r2, tile;
         mov.u32 %r3, bar;
         mov.u32 %r4, %cluster_ctarank;
         setp.eq.u32 %p1, %t, 0;
         @%p1 mbarrier.init.shared::cta.b64 [%r3], 1;
         @%p1 fence.mbarrier_init.release.cluster;
         bar.sync 0;
         @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 %q2, [%r3], 256;
         barrier.cluster.arrive.release.aligned;
         barrier.cluster.wait.acquire.aligned;
         mov.u64 %q1, map0;
         cvta.param.u64 %q1, %q1;
         mul.lo.u32 %r5, %r4, 32;
         mad.lo.u32 %r6, %r4, 128, %r2;
         mov.u16 %h1, 3;
         @%p1 cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%r6], [%q1, {%r5}], [%r3], %h1;",
    );
    draft.wait("%r3", "0");
    draft.code(
        "mad.lo.u32 %r7, %t, 8, %r2;
         ld.shared.v2.b32 {%r8, %r9}, [%r7];
         barrier.cluster.arrive.aligned;
         barrier.cluster.wait.aligned;",
    );
    draft.put("even words", "%r8", |g| word(2 * (g % 32)));
    draft.put("odd words", "%r9", |g| word(2 * (g % 32) + 1));
    draft.finish()
}

/// A load that begins where the hardware does not.
fn wrong_load(element: TensorElement, start: i32) -> Program {
    let row = 128 / element.bytes() as u32;
    let shape = Shape {
        element,
        dims: vec![u64::from(2 * row), 4],
        box_dims: vec![row, 2],
        start: vec![start, 0],
        swizzle: Swizzle::None,
        fill: OutOfBoundsFill::Zero,
    };
    let name = format!("must fault: load of {element:?} at column {start}");
    let mut draft = Draft::new(FAMILY, name)
        .needs("sm_90", "8.0")
        .threads(64)
        .must_fault("must begin at a multiple of 16 bytes in the innermost dimension");
    let at = draft.input(&(0..shape.tensor_bytes()).map(byte).collect::<Vec<u8>>());
    draft.map(shape.map(at as u64));
    copy_in(&mut draft, &shape);
    draft.column(4);
    draft.finish()
}

/// A store that begins before the tensor.
fn wrong_store(element: TensorElement, start: [i32; 2]) -> Program {
    let row = 64 / element.bytes() as u32;
    let shape = Shape {
        element,
        dims: vec![u64::from(2 * row), 8],
        box_dims: vec![row, 4],
        start: start.to_vec(),
        swizzle: Swizzle::None,
        fill: OutOfBoundsFill::Zero,
    };
    let name = format!(
        "must fault: store of {element:?} at column {}, row {}",
        start[0], start[1]
    );
    let mut draft = Draft::new(FAMILY, name)
        .needs("sm_90", "8.0")
        .threads(64)
        .must_fault("takes no coordinate before the beginning");
    let at = draft.input(&vec![0; shape.tensor_bytes()]);
    draft.map(shape.map(at as u64));
    draft.declare(&format!(".shared .align 128 .b8 tile[{}];", shape.box_bytes()));
    draft.code(
        "mov.u32 %r2, tile;
         setp.eq.u32 %p1, %t, 0;
         mad.lo.u32 %r3, %t, 4, %r2;
         st.shared.b32 [%r3], %t;
         fence.proxy.async.shared::cta;
         bar.sync 0;
         mov.u64 %q1, map0;
         cvta.param.u64 %q1, %q1;",
    );
    for (axis, start) in shape.start.iter().enumerate() {
        draft.code(&format!("mov.b32 %r{}, {start};", 8 + axis));
    }
    draft.code(&format!(
        "@%p1 cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%q1, {}], [%r2];
         @%p1 cp.async.bulk.commit_group;
         @%p1 cp.async.bulk.wait_group 0;",
        shape.coordinates()
    ));
    draft.column(4);
    draft.finish()
}

/// The starts at which an H100 faulted.
fn wrong_starts() -> Vec<Program> {
    use TensorElement::{F32, U8, U16, U32, U64};
    let loads = [
        (U16, -5),
        (U16, -1),
        (U16, 5),
        (U16, 10),
        (U16, 70),
        (F32, -1),
        (U32, -3),
        (U64, 3),
        (U8, 31),
    ];
    let stores =
        [(U32, [-4, 1]), (U32, [-3, 1]), (U16, [-8, 0]), (U16, [0, -1]), (U8, [0, -2])];
    let loads = loads.into_iter().map(|(element, start)| wrong_load(element, start));
    let stores = stores.into_iter().map(|(element, start)| wrong_store(element, start));
    loads.chain(stores).collect()
}

/// A shape, where a load of it begins, and where a store does: they may not begin at the
/// same places.
type Places = (&'static str, Shape, Vec<i32>);

/// One shape for each number of dimensions, with the box over an edge.
fn shapes() -> Vec<Places> {
    let base = Shape {
        element: TensorElement::U16,
        dims: vec![70],
        box_dims: vec![32],
        start: vec![48],
        swizzle: Swizzle::None,
        fill: OutOfBoundsFill::Zero,
    };
    type Starts<'a> = (&'a [i32], &'a [i32]);
    let places = |name, element, dims: &[u64], box_dims: &[u32], starts: Starts| {
        let shape = Shape {
            element,
            dims: dims.to_vec(),
            box_dims: box_dims.to_vec(),
            start: starts.0.to_vec(),
            ..base.clone()
        };
        (name, shape, starts.1.to_vec())
    };
    use TensorElement::{F32, U8, U16, U32, U64};
    vec![
        places("1d", U16, &[70], &[32], (&[48], &[48])),
        places("1d over the beginning", U16, &[70], &[32], (&[-8], &[0])),
        places("1d far before the beginning", U16, &[70], &[32], (&[-64], &[64])),
        places("2d", U16, &[70, 10], &[64, 8], (&[0, 4], &[0, 4])),
        places("2d of bytes", U8, &[48, 9], &[32, 4], (&[32, -2], &[32, 6])),
        places("2d of 64 bits", U64, &[10, 6], &[4, 4], (&[8, 1], &[8, 1])),
        places("2d of floats", F32, &[10, 6], &[8, 4], (&[-4, -1], &[4, 3])),
        places("3d", U32, &[20, 7, 5], &[8, 4, 3], (&[-4, 5, 1], &[16, 5, 1])),
        places(
            "4d",
            U16,
            &[24, 5, 4, 3],
            &[16, 3, 2, 2],
            (&[16, -1, 1, 2], &[16, 4, 1, 2]),
        ),
        places(
            "5d",
            F32,
            &[8, 3, 4, 2, 3],
            &[4, 2, 2, 2, 2],
            (&[4, 2, -1, 0, 1], &[4, 2, 3, 0, 1]),
        ),
        places("2d all outside", U16, &[70, 10], &[16, 4], (&[72, 2], &[72, 2])),
    ]
}

fn swizzles() -> Vec<(String, Shape, Vec<i32>)> {
    let mut shapes = Vec::new();
    for (swizzle, span) in
        [(Swizzle::Bytes32, 32), (Swizzle::Bytes64, 64), (Swizzle::Bytes128, 128)]
    {
        for (element, start) in [
            (TensorElement::U8, [0, 0]),
            (TensorElement::BF16, [8, 3]),
            (TensorElement::U32, [-4, 9]),
        ] {
            let columns = span / element.bytes() as u32;
            let shape = Shape {
                element,
                dims: vec![u64::from(columns) + 4, 20],
                box_dims: vec![columns, 16],
                start: start.to_vec(),
                swizzle,
                fill: OutOfBoundsFill::Zero,
            };
            let name = format!("2d of {element:?}, {span}-byte swizzle");
            let store = start.iter().map(|start| start.abs()).collect();
            shapes.push((name, shape, store));
        }
    }
    shapes
}

pub(super) fn programs() -> Vec<Program> {
    let mut programs = Vec::new();
    let plain = shapes().into_iter().map(|(name, shape, to)| (name.to_owned(), shape, to));
    for (name, shape, to) in plain.chain(swizzles()) {
        programs.push(load(&format!("load {name}"), &shape));
        let shape = Shape { start: to, ..shape };
        programs.push(store(&format!("load and store {name}"), &shape));
    }
    for element in [TensorElement::F16, TensorElement::F32] {
        let shape = Shape {
            element,
            dims: vec![24, 6],
            box_dims: vec![16, 4],
            start: vec![16, 4],
            swizzle: Swizzle::None,
            fill: OutOfBoundsFill::Nan,
        };
        programs.push(load(&format!("load 2d of {element:?}, NaN outside"), &shape));
    }
    programs.push(multicast());
    programs.extend(wrong_starts());
    programs
}
