//! Transfers by the copy engines of a GPU: no source, only copies.

use super::contract::CopyHalf;
use super::plan::TensorCopy;
use crate::op::{Transfer, TransferDirection};

/// One copy for each way.
pub(super) struct HostCopies;

impl CopyHalf for HostCopies {
    type Operation = Transfer;
    const NAME: &'static str = "transfer";

    fn copies(p: &Transfer) -> Vec<TensorCopy> {
        let to_device = TensorCopy { from: "host_source", to: "device_target" };
        let to_host = TensorCopy { from: "device_source", to: "host_target" };
        match p.direction {
            TransferDirection::HostToDevice => vec![to_device],
            TransferDirection::DeviceToHost => vec![to_host],
            TransferDirection::Both => vec![to_device, to_host],
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::Kernel;
    use crate::op::Problem;
    use crate::toolchain::{Arch, Target};

    /// Every input is copied and every output is written, whatever the direction.
    #[test]
    fn all_tensors_are_copied_and_nothing_is_compiled() {
        for direction in ["host_to_device", "device_to_host", "both"] {
            let text = format!("transfer:direction={direction},memory=pinned,bytes=512");
            let problem: Problem = text.parse().unwrap();
            let configured = Kernel::for_problem(&problem, Arch::SM_80).unwrap();
            assert!(configured.kernel.file().is_none());
            let plan = configured.plan(&Target::new(Arch::SM_80, 108));
            assert!(plan.launches.is_empty());
            let copied = plan.copies.iter().flat_map(|copy| [copy.from, copy.to]);
            let mut copied: Vec<_> = copied.collect();
            copied.sort_unstable();
            let tensors = problem.tensors();
            let mut names: Vec<_> = tensors.iter().map(|tensor| tensor.name).collect();
            names.sort_unstable();
            assert_eq!(copied, names);
        }
    }
}
