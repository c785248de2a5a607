//! A CUDA driver without a GPU: a shared library that answers as `libcuda.so.1` and runs
//! kernels on the virtual machine `ptxvm`.
//!
//! It is for tests of programs that call the driver: everything that they do to a GPU
//! happens here too (modules, streams, events, graphs, copies, faults), on any machine,
//! and what can go wrong can be made to go wrong at every call. It takes PTX and no machine
//! code, and reports one GPU of compute capability 9.0.
//!
//! # What is true and what is not
//!
//! Results are those of `ptxvm`. A launch in which it finds a mistake (an access out of
//! bounds, a race, a value that was never written) faults: the finding is printed to
//! standard error, and as on a GPU every call that needs the context answers the error from
//! then on.
//!
//! Times are not a GPU's. The clock counts: a launch takes twenty microseconds and its warps'
//! instructions, shared by the multiprocessors, at a nanosecond each; copies take their bytes at 32 GB/s. `%globaltimer`, `%clock64` and events read this
//! clock, so the same program sees the same times. A program that records times must tell
//! them from measured ones: the library exports `ridgepoint_virtual_driver`, which no real
//! driver has, and the GPU's name begins with `virtual`.
//!
//! Queues run when somebody waits: a stream's entries are executed, in order, when it or
//! the context is synchronized, when memory is freed, or when pageable memory is copied. A
//! kernel that polls host memory sees what the host has written until then; where nothing
//! was written, it would wait for ever, and the launch fails with
//! `CUDA_ERROR_LAUNCH_TIMEOUT`. Streams that nothing orders run one after the other.
//! Registers and occupancy are estimates from the PTX.
//!
//! # Settings
//!
//! Environment variables, read at the first call:
//!
//! * `RIDGEPOINT_VDRIVER_SMS`: multiprocessors, 2 unless given;
//! * `RIDGEPOINT_VDRIVER_MEMORY_BYTES`, `RIDGEPOINT_VDRIVER_HOST_BYTES`: device memory, and
//!   host memory that can be pinned, 1 GiB each;
//! * `RIDGEPOINT_VDRIVER_FAULTS`: what goes wrong, clauses between semicolons, see
//!   [`faults`];
//! * `RIDGEPOINT_VDRIVER_CALLS`: a file to write the number of calls of each function into,
//!   when the context is released.
//!
//! # Layers
//!
//! ```text
//! ffi                  the C interface: pointers to values and back
//! driver               the state of the driver, and each call as a method
//! capture              streams that record a graph
//! queue                entries of streams, and the GPU that executes them
//! module, host         loaded PTX; ranges of the host's memory
//! settings             the environment
//! faults               what a test makes go wrong
//! code, remark         `CUresult`; what is said to people
//! ```

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod capture;
pub mod code;
pub mod driver;
pub mod faults;
pub mod ffi;
mod host;
mod module;
mod queue;
mod remark;
pub mod settings;
