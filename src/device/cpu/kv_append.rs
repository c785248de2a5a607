//! Appends new keys and values to the pages of a cache: pages are divided among
//! threads, and each takes the rows that belong there.

use rayon::prelude::*;

use super::contract::{CpuFormat, CpuKernel, InputBytes, Kernel, configured};
use super::simd::{narrow, widen};
use crate::op::{KvAppend, Op};

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_kv_append",
    op: Op::KvAppend,
    sources: &[include_str!("kv_append.rs")],
    configurations: &[],
    configure: |problem, _| {
        configured(problem, |&p: &KvAppend| {
            CpuFormat::of("dtype", p.dtype)?;
            CpuFormat::of("kv_dtype", p.kv_dtype)?;
            Ok(Box::new(move |_| Box::new(KvAppendKernel::new(p))))
        })
    },
};

/// Copies and rounds new rows.
struct KvAppendKernel {
    p: KvAppend,
    /// For each page, its request and its number there.
    owners: Vec<(u64, u64)>,
}

impl KvAppendKernel {
    /// A kernel for `p`, in formats that the CPU has.
    fn new(p: KvAppend) -> Self {
        KvAppendKernel { p, owners: vec![(0, 0); (p.batch * p.pages()) as usize] }
    }

    /// Writes what belongs on one page of keys or of values.
    fn write_page(&self, page: usize, new: &[u8], to: &mut [u8]) {
        let p = &self.p;
        let (request, index) = self.owners[page];
        let row_bytes = |bytes: u64| (p.head_dim * bytes) as usize;
        let (from_bytes, to_bytes) =
            (row_bytes(p.dtype.bytes()), row_bytes(p.kv_dtype.dtype().bytes()));
        let mut wide = vec![0.0; p.head_dim as usize];
        let first = p.first_place(request);
        let page_start = index * p.page_size();
        let end = (first + p.new_tokens).min(page_start + p.page_size());
        for place in first.max(page_start)..end {
            for head in 0..p.kv_heads {
                let token = request * p.new_tokens + place - first;
                let from = (token * p.kv_heads + head) as usize * from_bytes;
                let within = place - page_start;
                let row = if p.layout.is_token_first() {
                    within * p.kv_heads + head
                } else {
                    head * p.page_size() + within
                };
                let from = &new[from..from + from_bytes];
                let to = &mut to[row as usize * to_bytes..][..to_bytes];
                if p.dtype == p.kv_dtype.dtype() {
                    to.copy_from_slice(from);
                } else {
                    widen(p.dtype, from, &mut wide);
                    narrow(p.kv_dtype.dtype(), &wide, to);
                }
            }
        }
    }
}

impl Kernel for KvAppendKernel {
    fn run(&mut self, _slot: usize, inputs: &InputBytes, output: &mut [u8]) {
        let table: &[u32] = bytemuck::cast_slice(inputs.get("page_table"));
        for (index, &page) in (0..).zip(table) {
            self.owners[page as usize] = (index / self.p.pages(), index % self.p.pages());
        }
        let pages = self.owners.len();
        let new = [inputs.get("k_new"), inputs.get("v_new")];
        let page_bytes = output.len() / 2 / pages;
        output.par_chunks_mut(page_bytes).enumerate().for_each(|(index, to)| {
            self.write_page(index % pages, new[index / pages], to);
        });
    }
}
