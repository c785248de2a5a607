//! From CUDA text to machine code: the compiler, a cache and folders of compiled
//! kernels, and what is known of the result (resources, occupancy, instructions).
//! Knows architectures, sources and macros, but no kernel and no problem.
//!
//! Within the module, imports run one way:
//!
//! ```text
//! {library, search} <- {nvrtc, arch, defines, image} <- {binary, occupancy, sass} <- prebuilt
//!     <- compile
//! ```

pub mod arch;
pub mod binary;
pub mod compile;
pub mod defines;
pub mod image;
pub(crate) mod library;
pub mod nvrtc;
pub mod occupancy;
pub mod prebuilt;
pub mod sass;
pub mod search;

pub use arch::{Arch, SmLimits, Target};
pub use binary::{Binary, ImageKind};
pub use compile::{CompileError, Compiler, CompilerOptions};
pub use defines::Defines;
pub(crate) use library::c_library;
