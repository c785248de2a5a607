//! The host halves of the CUDA kernels in `kernels/`: what each supports, how
//! it is compiled and how it is launched. Plain data and arithmetic, nothing
//! here needs a GPU: a [`Plan`] is executed by a device, real or virtual.
//!
//! A host half is configured once for a problem of its operation, or returns a [`Refusal`];
//! its macros and its plan follow from that.
//!
//! To add a kernel: `kernels/<name>.cu`, `src/kernel/<name>.rs`, and a line in
//! [`KERNELS`]. What a GPU's copy engines do needs no source. Within the module, imports run one way:
//!
//! ```text
//! tensor_map <- bound <- plan <- {contract, split} <- clusters <- split_kv <- host halves <- table
//! ```

mod argmax;
mod attention_decode;
mod attention_mla;
mod attention_mla_wgmma;
mod attention_prefill;
mod attention_prefill_wgmma;
mod bound;
mod clusters;
mod configuration;
mod contract;
mod decode_step;
mod divisor;
mod embedding;
mod formats;
mod gated_activation;
mod gemm;
mod gemm_skinny;
mod gemm_swapped;
mod gemm_wgmma;
mod gemv;
mod kv_append;
mod kv_read;
mod lengths;
mod moe_gemm;
mod moe_gemm_wgmma;
mod outline;
mod peak;
mod peak_wgmma;
mod plan;
mod prompts;
mod refusal;
mod rmsnorm;
mod rope_append;
mod sources;
mod split;
mod split_kv;
mod stream;
mod stream_bulk;
mod table;
mod tensor_map;
mod transfer;

pub use bound::Bound;
pub use configuration::{Candidate, Configuration, SearchSpace, split_name};
pub use contract::{Choose, Configured, Kernel};
pub use plan::{
    BoundStage, Content, Launch, ParamBytes, Params, Plan, PlannedLaunch, Scratch,
    TensorCopy,
};
pub use refusal::Refusal;
pub use sources::{DEVICE_SOURCE, HEADERS, UTILITIES};
pub use table::KERNELS;
pub use tensor_map::{EncodedTensorMap, TensorMap};

#[cfg(test)]
mod drift;
#[cfg(test)]
mod latent_ring;
#[cfg(test)]
mod tests;
