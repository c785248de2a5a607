//! What tells configurations of a kernel apart on a problem.

use std::convert::Infallible;

use super::bound::Bound;
use super::contract::Configured;
use super::plan::{ParamBytes, Scratch};
use super::tensor_map::EncodedTensorMap;
use crate::op::Problem;
use crate::toolchain::{Defines, Target};

/// All that a device is told of a kernel without parts: two configurations with the same are one
/// by two names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outline {
    defines: Defines,
    launches: Vec<LaunchOutline>,
    scratch: Vec<Scratch>,
    tensor_maps: Vec<ptxvm::TensorMap>,
    params: Vec<ParamBytes>,
    overlaps_runs: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct LaunchOutline {
    entry: &'static str,
    /// Blocks, threads, and blocks of a cluster.
    shape: [[u32; 3]; 3],
    shared_bytes: u32,
    overlaps_previous: bool,
}

impl Outline {
    /// That of a kernel on a GPU, with made-up addresses.
    pub fn of(configured: &Configured, problem: &Problem, target: &Target) -> Self {
        let plan = configured.plan(target);
        let tensors = problem.tensors();
        let bound = Bound::new(1, 0, tensors.iter().map(|tensor| tensor.name).zip(1..));
        let addresses: Vec<u64> = plan.all_scratch().zip(100..).map(|(_, at)| at).collect();
        let mut tensor_maps = Vec::new();
        let encode = |map: &ptxvm::TensorMap| {
            tensor_maps.push(map.clone());
            Ok::<_, Infallible>(EncodedTensorMap([0; 128]))
        };
        let Ok(params) = plan.params(bound, &addresses, encode);
        let launches = plan.launches.iter().map(|launch| LaunchOutline {
            entry: launch.entry,
            shape: [launch.grid, launch.block, launch.cluster],
            shared_bytes: launch.shared_bytes,
            overlaps_previous: launch.overlaps_previous,
        });
        Outline {
            defines: configured.defines.clone(),
            launches: launches.collect(),
            scratch: plan.scratch,
            tensor_maps,
            params,
            overlaps_runs: plan.overlaps_runs,
        }
    }
}
