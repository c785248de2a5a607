//! Host half of `kernels/kv_read.cu`.

use bytemuck::{Pod, Zeroable};

use super::split::{WorkList, refuse_counts};
use super::{Arch, Defines, Kernel, Launch, Params, Plan, Refusal, Scratch, Target};
use crate::problem::{KvRead, Layout, Op, PageOrder, Problem};

pub(super) const KERNEL: Kernel = Kernel {
    name: "kv_read",
    op: Op::KvRead,
    source: include_str!("../../kernels/kv_read.cu"),
    supports,
    defines,
    plan,
};

/// Threads of a block.
const THREADS: u32 = 256;
/// Blocks that share an SM: with 256 threads each, 64 registers are left.
const BLOCKS_PER_SM: u32 = 4;
/// Accesses of 16 bytes that a thread has under way to keys, and as many to
/// values.
const UNROLL: u32 = 4;
/// Bytes of one access.
const VECTOR_BYTES: u64 = 16;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct KvReadParams {
    k: u64,
    v: u64,
    page_table: u64,
    checksums: u64,
    work: u64,
    partials: u64,
    tickets: u64,
    kv_heads: u32,
    request_rows: u32,
}

fn of(problem: &Problem) -> &KvRead {
    match problem {
        Problem::KvRead(p) => p,
        _ => unreachable!("the kernel table pairs operations and kernels"),
    }
}

fn row_bytes(p: &KvRead) -> u64 {
    p.head_dim * p.dtype.bytes()
}

fn supports(problem: &Problem, _: Arch) -> Result<(), Refusal> {
    let p = of(problem);
    let row = row_bytes(p);
    let most = u64::from(THREADS * UNROLL) * VECTOR_BYTES;
    if !row.is_multiple_of(VECTOR_BYTES) || row > most {
        return Err(Refusal(format!(
            "the CUDA kernel takes rows of up to {most} bytes that are multiples of \
             {VECTOR_BYTES}, not head_dim = {} of {}, which is {row} bytes; use another head_dim",
            p.head_dim, p.dtype
        )));
    }
    refuse_order(p.layout)?;
    refuse_counts(p)
}

/// Refuses pages that the kernel does not know.
pub(super) fn refuse_order(layout: Layout) -> Result<(), Refusal> {
    match layout {
        Layout::Paged { order: PageOrder::TokenFirst, .. } => Err(Refusal(format!(
            "the CUDA kernel takes pages with the head before the token, not layout = {layout}; \
             leave out `_nhd`"
        ))),
        _ => Ok(()),
    }
}

/// Tokens whose keys and values a block reads at a time.
fn tile_tokens(p: &KvRead) -> u32 {
    THREADS * UNROLL / (row_bytes(p) / VECTOR_BYTES) as u32
}

fn defines(problem: &Problem, _: Arch) -> Defines {
    let p = of(problem);
    Defines::new()
        .with("THREADS", THREADS)
        .with("BLOCKS_PER_SM", BLOCKS_PER_SM)
        .with("UNROLL", UNROLL)
        .with("ROW_BYTES", row_bytes(p))
        .with("TILE_TOKENS", tile_tokens(p))
        .with("PAGE_SIZE", page_size(p.layout))
}

/// Tokens of a page, which kernels are compiled for; 0 when contiguous.
pub(super) fn page_size(layout: Layout) -> u64 {
    match layout {
        Layout::Contiguous => 0,
        Layout::Paged { page_size, .. } => page_size,
    }
}

/// Whether pages have a token's heads side by side.
pub(super) fn is_token_first(layout: Layout) -> bool {
    matches!(layout, Layout::Paged { order: PageOrder::TokenFirst, .. })
}

/// Tokens of a request, or entries of its page table: what lies between one
/// request and the next.
pub(super) fn request_rows(p: &KvRead) -> u32 {
    match p.layout {
        Layout::Contiguous => p.context as u32,
        Layout::Paged { page_size, .. } => p.context.div_ceil(page_size) as u32,
    }
}

fn plan(problem: &Problem, target: &Target) -> Plan {
    let p = *of(problem);
    let list =
        WorkList::of(&p, |length| 0..length, tile_tokens(&p), target.sms * BLOCKS_PER_SM);
    let params = Params::of(move |bound| {
        let (k, v, page_table, checksums) = match *bound.tensors {
            [k, v, page_table, checksums] => (k, v, page_table, checksums),
            [k, v, checksums] => (k, v, 0, checksums),
            _ => unreachable!("the tensors of a cache read"),
        };
        KvReadParams {
            k,
            v,
            page_table,
            checksums,
            work: bound.scratch[0],
            partials: bound.scratch[1],
            tickets: bound.scratch[2],
            kv_heads: p.kv_heads as u32,
            request_rows: request_rows(&p),
        }
    });
    Plan {
        scratch: vec![
            list.scratch(),
            Scratch::unset("partials", list.slots_bytes(4)),
            list.tickets(4),
        ],
        extra_bytes: Some(list.extra_bytes(4, 4)),
        ..Plan::of(Launch {
            // A tile of keys and the same of values.
            bytes_in_flight: 2 * u64::from(tile_tokens(&p)) * row_bytes(&p),
            ..Launch::new("kv_read", list.blocks, THREADS, params)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(rest: &str) -> Problem {
        format!("kv_read:batch=2,context=1000,kv_heads=3,{rest}").parse().unwrap()
    }

    #[test]
    fn rows_are_whole_vectors() {
        for (shape, takes) in [
            ("head_dim=128,dtype=bf16", true),
            ("head_dim=80,dtype=f16,layout=paged1", true),
            ("head_dim=64,dtype=int8", true),
            ("head_dim=4096,dtype=f32", true),
            ("head_dim=4,dtype=bf16", false),
            ("head_dim=100,dtype=fp8_e4m3", false),
            ("head_dim=8192,dtype=f32", false),
        ] {
            let problem = problem(shape);
            assert_eq!(supports(&problem, Arch::SM_80).is_ok(), takes, "{problem}");
        }
        let refusal = supports(&problem("head_dim=4,dtype=bf16"), Arch::SM_80).unwrap_err();
        assert!(refusal.0.contains("which is 8 bytes; use another head_dim"), "{refusal}");
    }

    #[test]
    fn a_tile_is_what_a_block_reads_at_a_time() {
        let problem = problem("head_dim=128,dtype=bf16,layout=paged16");
        let options = defines(&problem, Arch::SM_90).options().join(" ");
        assert!(options.ends_with("-DROW_BYTES=256 -DTILE_TOKENS=64 -DPAGE_SIZE=16"));
        // Six sequences of 16 tiles, a block for each tile.
        let plan = plan(&problem, &Target::new(Arch::SM_90, 132));
        assert_eq!(plan.launches[0].grid, [96, 1, 1]);
        assert_eq!(plan.extra_bytes, Some(96 * 32 + 2 * 4 * (96 + 6)));
        let bytes = plan.launches[0].params.bytes(&super::super::Bound {
            seed: 0,
            slot: 0,
            tensors: &[1, 2, 3, 4],
            scratch: &[5, 6, 7],
            tensor_maps: &[],
        });
        let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        assert_eq!(words, [1, 2, 3, 4, 5, 6, 7, 63 << 32 | 3]);
    }
}
