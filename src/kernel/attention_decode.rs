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

    /// Bytes that a block's warps have under way: all slots but the one that is
    /// multiplied.
    fn bytes_in_flight(&self, p: &DecodeAttention) -> u64 {
        u64::from(self.slots - 1) * u64::from(TILE_TOKENS) * p.head_dim * p.kv_dtype.bytes()
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
    Plan {
        scratch: vec![
            list.scratch(),
            Scratch::unset("partial outputs", list.slots_bytes(output_bytes)),
            Scratch::unset("partial softmaxes", list.slots_bytes(softmax_bytes)),
            list.tickets(),
        ],
        extra_bytes: Some(list.extra_bytes(output_bytes + softmax_bytes)),
        ..Plan::of(Launch {
            shared_bytes: rings.shared_bytes,
            bytes_in_flight: rings.bytes_in_flight(&p),
            ..Launch::new("attention_decode", list.blocks, THREADS, params)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> Problem {
        let rest = text.strip_prefix("decode_attention:").unwrap_or(text);
        format!("decode_attention:{rest}").parse().unwrap()
    }

    fn llama() -> Problem {
        problem("batch=32,context=8192,q_heads=32,kv_heads=8,head_dim=128,dtype=bf16")
    }

    #[test]
    fn rings_fit_every_architecture() {
        let archs = ["sm_80", "sm_86", "sm_87", "sm_89", "sm_90a", "sm_100a", "sm_120"];
        for arch in archs.map(|arch| arch.parse::<Arch>().unwrap()) {
            let sm = Target::new(arch, 1);
            for head_dim in [64, 128] {
                for group in 1..=MAX_GROUP {
                    let shape = format!(
                        "batch=1,context=1,q_heads={group},kv_heads=1,head_dim={head_dim},\
                         dtype=f16"
                    );
                    let problem = problem(&shape);
                    let rings = Rings::new(of(&problem), arch);
                    assert!(rings.slots >= 3 && rings.slots % 2 == 1, "{arch} {shape}");
                    let block = rings.shared_bytes + OTHER_SHARED_BYTES;
                    assert!(rings.blocks_per_sm * block <= sm.shared_bytes_per_sm);
                    assert!(rings.shared_bytes + 1024 <= sm.shared_bytes_per_block);
                    let in_flight = rings.bytes_in_flight(of(&problem));
                    assert_eq!(in_flight, u64::from(rings.slots - 1) * head_dim * 128);
                    let of_sm = u64::from(rings.blocks_per_sm) * in_flight;
                    assert!(of_sm >= 64 << 10, "{arch} {shape}");
                }
            }
        }
        let h100 = Rings::new(of(&llama()), Arch::SM_90);
        assert_eq!((h100.blocks_per_sm, h100.slots, h100.shared_bytes), (2, 7, 7 * 16384));
    }

    #[test]
    fn refusals_say_what_is_taken() {
        for (shape, says) in [
            ("q_heads=8,kv_heads=8,head_dim=128,dtype=f32", "bf16 and f16"),
            ("q_heads=8,kv_heads=8,head_dim=128,dtype=bf16,kv_dtype=int8", "same"),
            ("q_heads=8,kv_heads=8,head_dim=80,dtype=bf16", "64 and 128"),
            ("q_heads=33,kv_heads=1,head_dim=64,dtype=bf16", "up to 32"),
        ] {
            let problem = problem(&format!("batch=1,context=64,{shape}"));
            let refusal = supports(&problem, Arch::SM_90).unwrap_err();
            assert!(refusal.0.contains(says), "{refusal}");
        }
        assert_eq!(supports(&llama(), Arch::OLDEST), Ok(()));
        let long = problem(
            "batch=1,context=2147483648,q_heads=1,kv_heads=1,head_dim=64,dtype=bf16",
        );
        assert!(
            supports(&long, Arch::SM_90)
                .unwrap_err()
                .0
                .contains("context below 2147483648")
        );
    }

    #[test]
    fn partial_results_are_extra_traffic() {
        let plan = plan(&llama(), &Target::new(Arch::SM_90, 132));
        let launch = &plan.launches[0];
        assert_eq!((launch.grid, launch.block), ([263, 1, 1], [128, 1, 1]));
        // 256 sequences over 263 blocks: two pieces of 32 bytes each, which leave
        // 4 heads of 128 values, a maximum and a sum, and a ticket of 4 bytes.
        let pieces = plan.scratch[0].bytes() / 32;
        let slots = plan.scratch[3].bytes() / 4;
        assert_eq!((pieces, slots), (512, 512));
        let partials = slots * 4 * (128 + 2) * 4;
        assert_eq!(plan.extra_bytes, Some(pieces * 32 + 2 * (partials + 256 * 4)));
        // A whole sequence for each block leaves none.
        let whole = "batch=4,context=64,q_heads=32,kv_heads=8,head_dim=128,dtype=bf16";
        let plan = super::plan(&problem(whole), &Target::new(Arch::SM_90, 132));
        assert_eq!(plan.extra_bytes, Some(32 * 32));
    }

    #[test]
    fn params_lie_as_the_kernel_declares() {
        let shape = "batch=2,context=100,q_heads=8,kv_heads=2,head_dim=64,dtype=f16";
        let problem = problem(&format!("{shape},layout=paged16"));
        let plan = plan(&problem, &Target::new(Arch::SM_80, 108));
        let bytes = plan.launches[0].params.bytes(&super::super::Bound {
            seed: 0,
            slot: 0,
            tensors: &[1, 2, 3, 4, 5],
            scratch: &[6, 7, 8, 9],
            tensor_maps: &[],
        });
        let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        // Two key and value heads, seven pages, log2(e) / 8.
        let scale = u64::from((std::f32::consts::LOG2_E / 8.0).to_bits());
        assert_eq!(words, [1, 2, 3, 4, 5, 6, 7, 8, 9, 7 << 32 | 2, scale]);
    }

    #[test]
    fn defines_depend_on_the_architecture() {
        let options = |arch| defines(&llama(), arch).options().join(" ");
        assert!(options(Arch::SM_80).contains("-DSLOTS=5"));
        assert!(options(Arch::SM_90).contains("-DSLOTS=7 -DSHARED_BYTES=114688 -DGROUP=4"));
        assert!(options(Arch::SM_120).contains("-DSLOTS=3"));
    }
}
