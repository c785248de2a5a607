//! A virtual machine for PTX: it runs the kernels that NVRTC compiles on a CPU, checks
//! them while they run, and counts their work.
//!
//! # What runs
//!
//! PTX 6 to 9 as NVRTC emits it for sm_80 to sm_90a: integer and floating-point
//! arithmetic in all formats down to 8 bits, each result rounded once; vector loads
//! and stores in all state spaces; exchanges within a warp; atomics; barriers of
//! warps, blocks and clusters; `cp.async`; mbarriers; bulk and tensor copies with
//! swizzles, fill and multicast; `ldmatrix`, `stmatrix`, `mma` and `wgmma`.
//! Device functions run in place of their calls; `printf` and `assert` are there.
//! A kernel that uses anything else is refused when its module is loaded. The error names
//! the instruction and its line. So is a module whose target or PTX version does not have
//! one of its instructions, and a launch that the driver would refuse. Threads have their own program counters, and reconverge
//! where they reach the same instruction.
//!
//! # What is found
//!
//! The order of warps and blocks is random, but the same for the same [`Launch::seed`].
//! Asynchronous copies complete as late as they may. Shared memory and registers start
//! with poison values. A launch ends with a [`Fault`] where a GPU would fault or hang. It
//! ends with a [`Report`] with [`Finding`]s where a GPU would continue, perhaps with wrong
//! data:
//!
//! * accesses to the same bytes of shared or global memory that nothing orders, by lanes of
//!   one warp, by warps or by blocks; a memory order counts only where the scopes of both
//!   sides include the other thread, and one lane publishes for others only where the lanes
//!   were synchronised before;
//! * reads through the read-only path of bytes that the launch writes;
//! * bytes that were never written and become an address, a branch or a stored value in
//!   global memory; it is allowed to move them and to mask them out;
//! * bytes that an asynchronous copy may be writing or reading, accumulators of
//!   `wgmma` before their wait, and a missing fence between what threads write and
//!   the async proxy reads or writes over, or uses as a tensor map;
//! * shared memory of another block that may not run yet, or not any more;
//! * barriers that not all threads reach, or that a reduction shares with something else,
//!   matrix instructions by a part of a warp, and who waits for what in a deadlock;
//! * waits for a phase of an mbarrier that is long over;
//! * warps of a warpgroup that do not execute the same `wgmma` or `setmaxnreg`, or not
//!   together, and registers that a block does not have.
//!
//! # What is counted
//!
//! [`Counts`] do not depend on the order of warps and blocks, except for instructions in
//! loops that wait (for an mbarrier, or for other blocks).
//!
//! # Layers
//!
//! A module imports only from the layers below its own; a test holds this.
//!
//! ```text
//! conformance      small programs of known results, for this machine and for GPUs
//! launch           modules and launches: the public interface
//! schedule         the order in which blocks and warps run
//! exec             what each instruction does to a warp and its cluster
//! machine          a running cluster and what its warps share
//! warp             registers, groups of threads and their waits
//! flight           copies and matrix products on their way
//! maps             which tensor maps that a launch writes its copies may use
//! shared, check, mbarrier   memory shared by warps, and the checks on it
//! memory, clock    global memory; which warp knows of which accesses
//! known            times of warps, and of lanes where they differ
//! decode           statements to instructions, once, when a module is loaded
//! inline           calls of device functions, replaced by their bodies
//! parse            PTX text to statements
//! instruction      decoded instructions and the kinds of their operands
//! lex, syntax, lanes        tokens; statements; registers as rows of 32 lanes
//! error, finding, count, bank, float, tensor_map, cache, options, random   basics
//! printf, target   what kernels print; architectures
//! ```
//!
//! An instruction's meaning is in the file under `decode/` that names it, as an
//! expression over typed lanes, or, where it touches more than registers, in the file
//! under `exec/` that runs its kind of operands from `instruction/`.
//!
//! # Example
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

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod bank;
mod cache;
mod check;
mod clock;
pub mod conformance;
mod count;
mod decode;
mod error;
mod exec;
mod finding;
mod flight;
mod float;
mod inline;
mod instruction;
mod known;
mod lanes;
mod launch;
mod lex;
mod machine;
mod maps;
mod mbarrier;
mod memory;
mod options;
mod parse;
mod printf;
mod random;
mod schedule;
mod shared;
mod syntax;
mod target;
mod tensor_map;
mod warp;

pub use count::{Class, Counts, LineCounts, Traffic, Unit};
pub use error::ParseError;
pub use finding::{Fault, Finding, FindingKind};
pub use instruction::KernelParam;
pub use launch::{KernelInfo, Launch, Module, Params, Report};
pub use memory::{Address, Memory};
pub use options::Options;
pub use printf::Printed;
pub use tensor_map::{OutOfBoundsFill, Swizzle, TensorElement, TensorMap, TensorMapError};
