//! Prefill attention, bound by arithmetic: blocks of query rows meet tiles of
//! keys and values in two products in f32, with the softmax taken online
//! between them (Dao et al., "FlashAttention", 2022). Tiles that no row
//! of a block may see are skipped.

use rayon::prelude::*;

use super::contract::{CpuFormat, CpuKernel, InputBytes, Kernel, PerThread, configured};
use super::product::{Left, PANEL, multiply, pack, pack_columns, packed_len};
use super::simd::{Lanes, exp2, narrow, widen};
use crate::device::Refusal;
use crate::multiversion::multiversioned;
use crate::op::{KvLayout, Lengths, Op, PrefillAttention};

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_prefill_attention",
    op: Op::PrefillAttention,
    sources: &[include_str!("prefill_attention.rs")],
    configurations: &[],
    configure: |problem, _| {
        configured(problem, |&p: &PrefillAttention| {
            refuse(p)?;
            Ok(Box::new(move |run| Box::new(PrefillKernel::new(p, run.threads))))
        })
    },
};

fn refuse(p: PrefillAttention) -> Result<(), Refusal> {
    CpuFormat::of("dtype", p.dtype)?;
    CpuFormat::of("kv_dtype", p.kv_dtype)?;
    CpuFormat::of("q_dtype", p.q_dtype)?;
    if p.v_head_dim != p.head_dim {
        return Err(Refusal(format!(
            "the CPU kernel takes values as wide as keys, not head_dim = {} with v_head_dim = {}; \
             use the same",
            p.head_dim, p.v_head_dim
        )));
    }
    if p.window > 0 {
        return Err(Refusal(format!(
            "the CPU kernel attends to all of the context, not to a window = {}; use 0",
            p.window
        )));
    }
    if p.layout != KvLayout::Contiguous {
        return Err(Refusal(format!(
            "the CPU kernel takes contiguous keys and values of a prompt, not layout = {}; use \
             contiguous",
            p.layout
        )));
    }
    if p.lengths != Lengths::Equal {
        return Err(Refusal(format!(
            "the CPU kernel takes prompts of equal lengths, not lengths = {}; use equal",
            p.lengths
        )));
    }
    Ok(())
}

/// Keys in a tile.
const KEYS: usize = 256;

/// Most query rows in a block.
const MAX_ROWS: usize = 256;

/// What one thread works with, all in f32.
struct Scratch {
    q: Vec<f32>,
    /// Keys or values before they are packed.
    wide: Vec<f32>,
    keys: Vec<Lanes>,
    values: Vec<Lanes>,
    /// `[query row][panel of keys]`: scores, then weights.
    scores: Vec<Lanes>,
    /// `[query row][panel of the head's width]`.
    out: Vec<Lanes>,
    rows: Vec<RowState>,
}

/// Running softmax of one query row.
#[derive(Clone, Copy)]
struct RowState {
    max: f32,
    sum: f32,
}

/// Attention of many tokens per request.
struct PrefillKernel {
    p: PrefillAttention,
    /// Query rows in a block.
    rows: usize,
    scratch: PerThread<Scratch>,
}

impl PrefillKernel {
    /// A kernel for `p`; blocks shrink until there are a few for each thread.
    fn new(p: PrefillAttention, threads: usize) -> Self {
        let (heads, tokens) = ((p.batch * p.q_heads) as usize, p.new_tokens as usize);
        let mut rows = tokens.min(MAX_ROWS);
        while heads * tokens.div_ceil(rows) < 4 * threads && rows > 32 {
            rows = rows.div_ceil(2);
        }
        let width = p.head_dim as usize;
        let scratch = || Scratch {
            q: vec![0.0; rows * width],
            wide: vec![0.0; KEYS * width],
            keys: vec![Lanes::ZERO; packed_len(KEYS, width)],
            values: vec![Lanes::ZERO; packed_len(width, KEYS)],
            scores: vec![Lanes::ZERO; packed_len(KEYS, rows)],
            out: vec![Lanes::ZERO; packed_len(width, rows)],
            rows: vec![RowState { max: f32::NEG_INFINITY, sum: 0.0 }; rows],
        };
        PrefillKernel { p, rows, scratch: PerThread::new(threads, scratch) }
    }

    /// One block of query rows of one head, from token `first` on.
    fn run_block(
        &self,
        head: usize,
        first: usize,
        inputs: &InputBytes,
        out: &mut [u8],
        scratch: &mut Scratch,
    ) {
        let p = &self.p;
        let width = p.head_dim as usize;
        let row_bytes = width * p.dtype.bytes() as usize;
        let rows = out.len() / row_bytes;
        let q_start = (head * p.new_tokens as usize + first) * row_bytes;
        let q = &mut scratch.q[..rows * width];
        widen(p.dtype, &inputs.get("q")[q_start..][..out.len()], q);
        // Scores become exponents of two.
        let scale = std::f32::consts::LOG2_E / (width as f32).sqrt();
        q.iter_mut().for_each(|x| *x *= scale);
        scratch.out.fill(Lanes::ZERO);
        scratch.rows.fill(RowState { max: f32::NEG_INFINITY, sum: 0.0 });

        let attended = p.attended((first + rows - 1) as u64).end as usize;
        for start in (0..attended).step_by(KEYS) {
            let keys = KEYS.min(attended - start);
            self.load_tile(head, start, keys, inputs, scratch);
            self.attend_tile(first, rows, start, keys, scratch);
        }
        let lines = scratch.out.chunks_exact_mut(width.div_ceil(PANEL));
        for (i, (line, out)) in lines.zip(out.chunks_exact_mut(row_bytes)).enumerate() {
            let line = &mut bytemuck::cast_slice_mut(line)[..width];
            let sum = scratch.rows[i].sum;
            line.iter_mut().for_each(|x| *x /= sum);
            narrow(p.dtype, line, out);
        }
    }

    /// Widens and packs a tile of the keys and values that `head` reads.
    fn load_tile(
        &self,
        head: usize,
        start: usize,
        keys: usize,
        inputs: &InputBytes,
        scratch: &mut Scratch,
    ) {
        let p = &self.p;
        let width = p.head_dim as usize;
        let row_bytes = width * p.kv_dtype.dtype().bytes() as usize;
        // Query heads are numbered through requests, and so are the key and
        // value heads, each of which serves a group of them.
        let kv_head = head / p.group() as usize;
        let from = (kv_head * p.context() as usize + start) * row_bytes;
        let bytes = keys * row_bytes;
        let wide = &mut scratch.wide[..keys * width];
        widen(p.kv_dtype.dtype(), &inputs.get("k")[from..][..bytes], wide);
        pack(wide, width, width, &mut scratch.keys[..packed_len(keys, width)]);
        widen(p.kv_dtype.dtype(), &inputs.get("v")[from..][..bytes], wide);
        pack_columns(wide, width, &mut scratch.values[..packed_len(width, keys)]);
    }

    /// Attends `rows` query rows to the tile of `keys` keys from `start` on.
    fn attend_tile(
        &self,
        first: usize,
        rows: usize,
        start: usize,
        keys: usize,
        scratch: &mut Scratch,
    ) {
        let width = self.p.head_dim as usize;
        let (key_panels, out_panels) = (keys.div_ceil(PANEL), width.div_ceil(PANEL));
        let Scratch { q, keys: k, values, scores, out, rows: states, .. } = scratch;
        let scores = &mut scores[..rows * key_panels];
        let out = &mut out[..rows * out_panels];
        let k = &k[..packed_len(keys, width)];
        multiply(Left { rows: q, stride: width }, k, width, scores, false);
        let lines =
            scores.chunks_exact_mut(key_panels).zip(out.chunks_exact_mut(out_panels));
        for (i, (scores, out)) in lines.enumerate() {
            let attended = self.p.attended((first + i) as u64).end as usize;
            let visible = attended.saturating_sub(start).min(keys);
            let scores = bytemuck::cast_slice_mut(scores);
            let scale = weigh_row(scores, visible, &mut states[i]);
            if scale != 1.0 {
                out.iter_mut().for_each(|x| *x = x.times(Lanes::splat(scale)));
            }
        }
        let weights =
            Left { rows: bytemuck::cast_slice(scores), stride: key_panels * PANEL };
        multiply(weights, &values[..packed_len(width, keys)], keys, out, true);
    }
}

impl Kernel for PrefillKernel {
    /// Keys and values are read once for each block of query rows, from memory
    /// or a cache.
    fn extra_bytes(&self) -> Option<u64> {
        None
    }

    fn run(&mut self, _slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        let row_bytes = (self.p.head_dim * self.p.dtype.bytes()) as usize;
        let rows = self.rows;
        let head_bytes = self.p.new_tokens as usize * row_bytes;
        let blocks =
            output.par_chunks_mut(head_bytes).enumerate().flat_map(|(head, out)| {
                let blocks = out.par_chunks_mut(rows * row_bytes).enumerate();
                blocks.map(move |(block, out)| (head, block * rows, out))
            });
        blocks.for_each(|(head, first, out)| {
            self.scratch.with(|scratch| self.run_block(head, first, inputs, out, scratch));
        });
    }
}

multiversioned! {
/// Turns the first `visible` scores of a row into weights and the others into
/// zeros, and returns what to scale the earlier sums by.
fn weigh_row(scores: &mut [f32], visible: usize, state: &mut RowState) -> f32 {
    let (seen, hidden) = scores.split_at_mut(visible);
    hidden.fill(0.0);
    let (blocks, tail) = seen.as_chunks_mut::<16>();
    let mut max = Lanes::splat(state.max);
    for block in &*blocks {
        max = max.max(Lanes(*block));
    }
    let max = max.0.iter().chain(&*tail).fold(state.max, |a, &b| a.max(b));
    if max == f32::NEG_INFINITY {
        return 1.0;
    }
    let mut sums = Lanes::ZERO;
    for block in blocks {
        *block = Lanes(*block).exp2_less(Lanes::splat(max)).0;
        sums = sums.plus(Lanes(*block));
    }
    for score in &mut *tail {
        *score = exp2(*score - max);
    }
    let scale = exp2(state.max - max);
    let sum: f32 = sums.0.iter().chain(&*tail).sum();
    *state = RowState { max, sum: state.sum * scale + sum };
    scale
}
}
