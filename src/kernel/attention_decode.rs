//! Host half of `kernels/attention_decode.cu`.

use bytemuck::{Pod, Zeroable};

use super::kv_read::{page_size, request_rows};
use super::split::{WorkList, refuse_counts};
use super::{Arch, Defines, Kernel, Launch, Params, Plan, Refusal, Scratch, Target};
use crate::problem::{DType, DecodeAttention, Op, Problem};

pub(super) const KERNEL: Kernel = Kernel {
    name: "attention_decode",
    op: Op::DecodeAttention,
    source: include_str!("../../kernels/attention_decode.cu"),
    supports,
    defines,
    plan,
};

/// Threads of a block: four warps.
const THREADS: u32 = 128;
/// Tokens of a tile: 16 for each warp.
const TILE_TOKENS: u32 = 64;
/// Largest group: two row tiles of the tensor cores.
const MAX_GROUP: u64 = 32;
/// Most slots of a ring; more would add bytes in flight beyond what DRAM can
/// use.
const MAX_SLOTS: u32 = 13;
/// Shared memory that every block takes beside the rings: what the kernel
/// declares itself, and what the hardware reserves.
const OTHER_SHARED_BYTES: u32 = 1024 + 1024;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DecodeParams {
    k: u64,
    v: u64,
    page_table: u64,
    q: u64,
    o: u64,
    work: u64,
    partial_outputs: u64,
    partial_softmaxes: u64,
    tickets: u64,
    kv_heads: u32,
    request_rows: u32,
    scale: f32,
    unused: u32,
}

/// How a block uses the shared memory of an SM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rings {
    /// Blocks that share an SM.
    blocks_per_sm: u32,
    /// Slots of each warp's ring: 16 tokens of keys or of values. Odd.
    slots: u32,
    /// Dynamic shared memory of a block.
    shared_bytes: u32,
}

impl Rings {
    /// The most that fits: two blocks on an SM, so that one streams while the
    /// other begins or ends a piece, or else one.
    fn new(p: &DecodeAttention, arch: Arch) -> Self {
        let target = Target::new(arch, 1);
        let slot_bytes = TILE_TOKENS * p.head_dim as u32 * 2;
        // Queries that do not fit the registers, see the kernel.
        let rows = p.group().next_multiple_of(16) as u32;
        let query_bytes = if rows * p.head_dim as u32 > 16 * 128 {
            rows * p.head_dim as u32 * 2
        } else {
            0
        };
        let fit = |blocks_per_sm: u32| {
            let share = (target.shared_bytes_per_sm / blocks_per_sm)
                .min(target.shared_bytes_per_block + 1024);
            let slots = (share - OTHER_SHARED_BYTES - query_bytes) / slot_bytes;
            let slots = slots.min(MAX_SLOTS);
            // Odd: keys then always follow keys into a slot's place.
            let slots = slots - (slots + 1) % 2;
            let shared_bytes = slots * slot_bytes + query_bytes;
            Rings { blocks_per_sm, slots, shared_bytes }
        };
        let two = fit(2);
        if two.slots >= 3 { two } else { fit(1) }
    }
}

fn of(problem: &Problem) -> &DecodeAttention {
    match problem {
        Problem::DecodeAttention(p) => p,
        _ => unreachable!("the kernel table pairs operations and kernels"),
    }
}

fn supports(problem: &Problem, _: Arch) -> Result<(), Refusal> {
    let p = of(problem);
    let refuse = |message: String| Err(Refusal(format!("the CUDA kernel takes {message}")));
    if !matches!(p.dtype, DType::Bf16 | DType::F16) {
        return refuse(format!(
            "bf16 and f16 queries, not dtype = {}; use one of those",
            p.dtype
        ));
    }
    if p.kv_dtype != p.dtype {
        return refuse(format!(
            "keys and values in the format of queries, not kv_dtype = {} with dtype = {}; use \
             the same",
            p.kv_dtype, p.dtype
        ));
    }
    if !matches!(p.head_dim, 64 | 128) {
        return refuse(format!(
            "head_dim = 64 and 128, not {}; use one of those",
            p.head_dim
        ));
    }
    if p.group() > MAX_GROUP {
        return refuse(format!(
            "up to {MAX_GROUP} query heads for each key and value head, not {}; use more \
             kv_heads",
            p.group()
        ));
    }
    refuse_counts(&p.kv())
}

fn defines(problem: &Problem, arch: Arch) -> Defines {
    let p = of(problem);
    let rings = Rings::new(p, arch);
    let element = match p.dtype {
        DType::F16 => "ELEMENT_F16",
        _ => "ELEMENT_BF16",
    };
    Defines::new()
        .with(element, 1)
        .with("THREADS", THREADS)
        .with("BLOCKS_PER_SM", rings.blocks_per_sm)
        .with("TILE_TOKENS", TILE_TOKENS)
        .with("SLOTS", rings.slots)
        .with("SHARED_BYTES", rings.shared_bytes)
        .with("GROUP", p.group())
        .with("HEAD_DIM", p.head_dim)
        .with("PAGE_SIZE", page_size(p.layout))
}

fn plan(problem: &Problem, target: &Target) -> Plan {
    let p = *of(problem);
    let rings = Rings::new(&p, target.arch);
    let list = WorkList::uniform(&p.kv(), TILE_TOKENS, target.sms * rings.blocks_per_sm);
    let scale = (std::f64::consts::LOG2_E / (p.head_dim as f64).sqrt()) as f32;
    let params = Params::of(move |bound| {
        let (k, v, page_table, q, o) = match *bound.tensors {
            [k, v, page_table, q, o] => (k, v, page_table, q, o),
            [k, v, q, o] => (k, v, 0, q, o),
            _ => unreachable!("the tensors of decode attention"),
        };
        DecodeParams {
            k,
            v,
            page_table,
            q,
            o,
            work: bound.scratch[0],
            partial_outputs: bound.scratch[1],
            partial_softmaxes: bound.scratch[2],
            tickets: bound.scratch[3],
            kv_heads: p.kv_heads as u32,
            request_rows: request_rows(&p.kv()),
            scale,
            unused: 0,
        }
    });
    let (output_bytes, softmax_bytes) = (p.group() * p.head_dim * 4, p.group() * 8);
    let partial_bytes = u64::from(list.slots) * (output_bytes + softmax_bytes);
    Plan {
        scratch: vec![
            list.scratch(),
            Scratch::unset("partial outputs", list.slots_bytes(output_bytes)),
            Scratch::unset("partial softmaxes", list.slots_bytes(softmax_bytes)),
            list.tickets(),
        ],
        extra_bytes: Some(list.bytes() + 2 * partial_bytes),
        ..Plan::of(Launch {
            shared_bytes: rings.shared_bytes,
            ..Launch::new("attention_decode", list.blocks, THREADS, params)
        })
    }
}
