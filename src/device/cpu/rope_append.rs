//! Rotates queries and keys and appends keys and values to the pages of a cache: queries
//! are divided among threads by request, the cache by page.

use rayon::prelude::*;

use super::contract::{CpuFormat, CpuKernel, InputBytes, Kernel, PerThread, configured};
use super::simd::{narrow, widen};
use crate::op::{Op, RopeAppend};

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_rope_append",
    op: Op::RopeAppend,
    sources: &[include_str!("rope_append.rs")],
    configurations: &[],
    configure: |problem, _| {
        configured(problem, |&p: &RopeAppend| {
            CpuFormat::of("dtype", p.dtype)?;
            Ok(Box::new(move |run| Box::new(RopeAppendKernel::new(p, run.threads))))
        })
    },
};

/// The sine and cosine of each pair of a request's token.
type Rotation = Vec<[f32; 2]>;

/// Rotates in f32.
struct RopeAppendKernel {
    p: RopeAppend,
    /// By how much each pair turns from one position to the next, in radians.
    frequencies: Vec<f64>,
    /// The rotation of each request.
    rotations: Vec<Rotation>,
    /// For each page the request whose token falls into it.
    owners: Vec<Option<u64>>,
    /// A head as f32.
    head: PerThread<Vec<f32>>,
}

impl RopeAppendKernel {
    /// A kernel for `p`, in a format that the CPU has.
    fn new(p: RopeAppend, threads: usize) -> Self {
        let pairs = p.head_dim / 2;
        RopeAppendKernel {
            p,
            frequencies: (0..pairs).map(|pair| p.frequency(pair)).collect(),
            rotations: vec![vec![[0.0; 2]; pairs as usize]; p.batch as usize],
            owners: vec![None; (p.batch * p.pages()) as usize],
            head: PerThread::new(threads, || vec![0.0; p.head_dim as usize]),
        }
    }

    /// Writes a rotated head.
    fn rotate(&self, rotation: &Rotation, from: &[u8], to: &mut [u8]) {
        let dtype = self.p.dtype;
        self.head.with(|head| {
            widen(dtype, from, head);
            let (first, second) = head.split_at_mut(rotation.len());
            for ((a, b), [sine, cosine]) in first.iter_mut().zip(second).zip(rotation) {
                (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
            }
            narrow(dtype, head, to);
        });
    }

    /// Writes a request's keys, or values, into the page that they fall into: heads of
    /// `new`, one after another.
    fn write_page(&self, request: u64, new: &[u8], is_rotated: bool, to: &mut [u8]) {
        let p = &self.p;
        let (page_size, _) = p.paging();
        let place = p.position(request) % page_size;
        let row_bytes = p.dtype.bytes_of(p.head_dim) as usize;
        for (head, from) in (0..).zip(new.chunks(row_bytes)) {
            let row = if p.layout.is_token_first() {
                place * p.kv_heads + head
            } else {
                head * page_size + place
            };
            let to = &mut to[row as usize * row_bytes..][..row_bytes];
            if is_rotated {
                self.rotate(&self.rotations[request as usize], from, to);
            } else {
                to.copy_from_slice(from);
            }
        }
    }
}

impl Kernel for RopeAppendKernel {
    fn run(&mut self, _slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        let p = self.p;
        let table: &[u32] = bytemuck::cast_slice(inputs.get("page_table"));
        self.owners.fill(None);
        for (request, rotation) in (0..p.batch).zip(&mut self.rotations) {
            let position = p.position(request) as f64;
            for ([sine, cosine], frequency) in rotation.iter_mut().zip(&self.frequencies) {
                let (s, c) = (position * frequency).sin_cos();
                (*sine, *cosine) = (s as f32, c as f32);
            }
            let page = table[p.entry(request) as usize];
            self.owners[page as usize] = Some(request);
        }
        let row_bytes = p.dtype.bytes_of(p.head_dim) as usize;
        let bytes_of = |heads: u64| heads as usize * row_bytes;
        let token_bytes = bytes_of(p.heads());
        let qkv = inputs.get("qkv");
        let (q, cache) = output.split_at_mut(p.dtype.bytes_of(p.query_elements()) as usize);
        let kernel = &*self;
        let queries =
            q.par_chunks_mut(bytes_of(p.q_heads)).zip(qkv.par_chunks(token_bytes));
        queries.zip(&kernel.rotations).for_each(|((q, token), rotation)| {
            for (from, to) in token.chunks(row_bytes).zip(q.chunks_mut(row_bytes)) {
                kernel.rotate(rotation, from, to);
            }
        });
        let (k, v) = cache.split_at_mut(cache.len() / 2);
        let page_bytes = k.len() / kernel.owners.len();
        for (part, cache) in [k, v].into_iter().enumerate() {
            let first_head = p.q_heads + part as u64 * p.kv_heads;
            let pages = cache.par_chunks_mut(page_bytes).zip(&kernel.owners);
            pages.for_each(|(page, owner)| {
                let Some(request) = *owner else { return };
                let first = request as usize * token_bytes + bytes_of(first_head);
                let new = &qkv[first..first + bytes_of(p.kv_heads)];
                kernel.write_page(request, new, part == 0, page);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{device, verify};
    use crate::device::Device;
    use crate::op::Problem;

    #[test]
    fn rotations_are_right_and_in_their_place() {
        let mut device = device();
        for layout in ["paged1", "paged16", "paged16_nhd", "paged3"] {
            for (batch, context) in [(1, 1), (3, 17), (5, 131_072)] {
                for dtype in ["f32", "bf16", "f16"] {
                    for rest in ["", ",lengths=ragged", ",lengths=ragged,pages=whole"] {
                        // Whole caches of long contexts take more than tests have.
                        let context =
                            if rest.contains("whole") { context.min(300) } else { context };
                        verify(
                            &mut device,
                            &format!(
                                "rope_append:batch={batch},context={context},q_heads=6,\
                                 kv_heads=3,head_dim=10,dtype={dtype},layout={layout}{rest}"
                            ),
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn quantized_caches_are_refused() {
        let text = "rope_append:batch=1,context=8,q_heads=1,kv_heads=1,head_dim=8,\
                    dtype=fp8_e4m3,layout=paged16";
        let problem: Problem = text.parse().unwrap();
        let refusal = device().kernel(&problem).unwrap_err();
        assert!(refusal.to_string().contains("dtype = fp8_e4m3"), "{refusal}");
    }
}
