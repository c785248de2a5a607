//! How a kernel is launched, in the driver's terms.

use cudarc::driver::sys;

/// Blocks, threads and shared memory of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Blocks of a cluster in x, y and z.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Whether it may begin while the launch before it drains.
    pub overlaps_previous: bool,
}

impl LaunchShape {
    /// Blocks of one warp each, without clusters, shared memory or overlap.
    pub const fn warps(blocks: u32) -> Self {
        LaunchShape {
            grid: [blocks, 1, 1],
            block: [32, 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: 0,
            overlaps_previous: false,
        }
    }

    /// What the driver must be told beside sizes.
    pub(super) fn attributes(&self) -> Vec<sys::CUlaunchAttribute> {
        use sys::CUlaunchAttributeID as Id;
        let zero = sys::CUlaunchAttributeValue { pad: [0; 64] };
        let mut attributes = Vec::new();
        if self.cluster != [1, 1, 1] {
            let [x, y, z] = self.cluster;
            let mut value = zero;
            value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z };
            let id = Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            attributes.push(sys::CUlaunchAttribute { id, pad: [0; 4], value });
        }
        if self.overlaps_previous {
            let mut value = zero;
            value.programmaticStreamSerializationAllowed = 1;
            let id = Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attributes.push(sys::CUlaunchAttribute { id, pad: [0; 4], value });
        }
        attributes
    }
}
