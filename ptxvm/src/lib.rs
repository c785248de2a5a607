//! A virtual machine for PTX: it runs the kernels that NVRTC compiles on a CPU,
//! checks them while they run, and counts their work.
//!
//! ```
//! use ptxvm::{Launch, Memory, Module, Params};
//!
//! let ptx = "
//! .version 8.0
//! .target sm_80
//! .address_size 64
//! .visible .entry twice(.param .u64 data)
//! {
//!     .reg .b32 %r<3>;
//!     .reg .b64 %rd<4>;
//!     ld.param.u64 %rd1, [data];
//!     mov.u32 %r1, %tid.x;
//!     mul.wide.u32 %rd2, %r1, 4;
//!     add.s64 %rd3, %rd1, %rd2;
//!     ld.global.u32 %r2, [%rd3];
//!     add.u32 %r2, %r2, %r2;
//!     st.global.u32 [%rd3], %r2;
//!     ret;
//! }";
//! let module = Module::parse(ptx).unwrap();
//! let mut memory = Memory::new();
//! let data = memory.alloc(128, "data");
//! memory.write(data, &[1; 128]);
//! let launch = Launch {
//!     block: [32, 1, 1],
//!     params: Params::new().u64(data).build(),
//!     ..Launch::new("twice")
//! };
//! let report = module.launch(&mut memory, &launch).unwrap();
//! assert_eq!(memory.read(data, 4), [2; 4]);
//! assert_eq!(report.counts.global_read_bytes, 128);
//! assert!(report.findings.is_empty());
//! ```

mod cache;
mod check;
mod clock;
mod count;
mod decode;
mod error;
mod exec;
mod finding;
mod float;
mod instruction;
mod lanes;
mod launch;
mod lex;
mod machine;
mod memory;
mod parse;
mod random;
mod schedule;
mod shared;
mod syntax;
mod tensor_map;
mod warp;

pub use count::{Class, Counts, Unit};
pub use error::ParseError;
pub use finding::{Fault, Finding, FindingKind};
pub use launch::{KernelInfo, Launch, Module, Options, Params, Report};
pub use memory::{Address, Memory};
pub use tensor_map::{OutOfBoundsFill, Swizzle, TensorElement, TensorMap, TensorMapError};
