//! The texts in `kernels/` that are not kernels: headers, and what a device compiles for
//! itself.

use crate::toolchain::nvrtc::Source;

/// Headers that kernels include: name and text.
pub static HEADERS: &[(&str, &str)] = &[
    ("prelude.cuh", include_str!("../../kernels/prelude.cuh")),
    ("ptx.cuh", include_str!("../../kernels/ptx.cuh")),
    ("element.cuh", include_str!("../../kernels/element.cuh")),
    ("word.cuh", include_str!("../../kernels/word.cuh")),
    ("divisor.cuh", include_str!("../../kernels/divisor.cuh")),
    ("lengths.cuh", include_str!("../../kernels/lengths.cuh")),
    ("prompt.cuh", include_str!("../../kernels/prompt.cuh")),
    ("narrow.cuh", include_str!("../../kernels/narrow.cuh")),
    ("cached.cuh", include_str!("../../kernels/cached.cuh")),
    ("reduce.cuh", include_str!("../../kernels/reduce.cuh")),
    ("last_block.cuh", include_str!("../../kernels/last_block.cuh")),
    ("work_list.cuh", include_str!("../../kernels/work_list.cuh")),
    ("cluster.cuh", include_str!("../../kernels/cluster.cuh")),
    ("split_kv.cuh", include_str!("../../kernels/split_kv.cuh")),
    ("mbarrier.cuh", include_str!("../../kernels/mbarrier.cuh")),
    ("peak_operands.cuh", include_str!("../../kernels/peak_operands.cuh")),
    ("wgmma.cuh", include_str!("../../kernels/wgmma.cuh")),
    ("gemm_wgmma.cuh", include_str!("../../kernels/gemm_wgmma.cuh")),
    ("tile.cuh", include_str!("../../kernels/tile.cuh")),
    ("weights.cuh", include_str!("../../kernels/weights.cuh")),
    ("skinny.cuh", include_str!("../../kernels/skinny.cuh")),
];

/// Kernels that a device needs around those under test: to fill buffers, to
/// hold a queue, to read clocks.
pub const DEVICE_SOURCE: Source<'static> = Source {
    name: "device",
    text: include_str!("../../kernels/device.cu"),
    headers: HEADERS,
};

/// Sources beyond the kernels that a device compiles, without macros. They are
/// built and checked with the kernels.
pub static UTILITIES: &[Source] = &[DEVICE_SOURCE];
