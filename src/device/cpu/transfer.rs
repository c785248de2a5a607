//! Transfers on a CPU, where the memory of the host is that of the device: copies between
//! two buffers on all cores.

use rayon::prelude::*;

use super::contract::{CpuKernel, InputBytes, Kernel, configured};
use crate::op::{Op, Transfer};

pub(super) const KERNEL: CpuKernel = CpuKernel {
    name: "cpu_transfer",
    op: Op::Transfer,
    sources: &[include_str!("transfer.rs")],
    configurations: &[],
    configure: |problem, _| {
        configured(problem, |&p: &Transfer| {
            Ok(Box::new(move |run| Box::new(TransferKernel::new(p, run.threads))))
        })
    },
};

struct TransferKernel {
    bytes: u64,
    bytes_in: usize,
    chunk_bytes: usize,
}

impl TransferKernel {
    /// Chunks as of a stream: few to hand out, and none that others wait for.
    fn new(p: Transfer, threads: usize) -> Self {
        let chunk_bytes = (p.bytes as usize / (8 * threads)).clamp(1 << 16, 1 << 22);
        TransferKernel { bytes: p.bytes, bytes_in: p.bytes_in() as usize, chunk_bytes }
    }
}

impl Kernel for TransferKernel {
    /// The side that stands in for the host is memory of this device too.
    fn extra_bytes(&self) -> Option<u64> {
        Some(self.bytes)
    }

    fn run(&mut self, _: usize, inputs: &InputBytes, output: &mut [u8]) {
        let source = |name| inputs.find(name).unwrap_or_default();
        let (device_target, host_target) = output.split_at_mut(self.bytes_in);
        let copy = |to: &mut [u8], from: &[u8]| {
            to.par_chunks_mut(self.chunk_bytes)
                .zip(from.par_chunks(self.chunk_bytes))
                .for_each(|(to, from)| to.copy_from_slice(from));
        };
        rayon::join(
            || copy(device_target, source("host_source")),
            || copy(host_target, source("device_source")),
        );
    }
}
