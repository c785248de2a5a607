//! `CUresult`: the codes that this driver answers, or can be told to answer.

use std::ffi::CStr;

/// A failure, as a `CUresult` other than 0. Only values of the table exist: a caller may
/// take the number for an enumeration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(i32);

/// What a call gives.
pub type Result<T = (), E = Code> = std::result::Result<T, E>;

/// Number, the driver's words for it, and whether the context is lost after it.
const TABLE: [(i32, &CStr, bool); 35] = [
    (1, c"invalid argument", false),
    (2, c"out of memory", false),
    (3, c"initialization error", false),
    (4, c"driver shutting down", true),
    (46, c"device is busy or unavailable", false),
    (100, c"no CUDA-capable device is detected", false),
    (101, c"invalid device ordinal", false),
    (200, c"device kernel image is invalid", false),
    (201, c"invalid device context", false),
    (209, c"no kernel image is available for execution on the device", false),
    (214, c"uncorrectable ECC error encountered", true),
    (218, c"a PTX JIT compilation failed", false),
    (220, c"uncorrectable NVLink error detected during the execution", true),
    (304, c"OS call failed or operation not supported on this OS", false),
    (400, c"invalid resource handle", false),
    (500, c"named symbol not found", false),
    (600, c"device not ready", false),
    (700, c"an illegal memory access was encountered", true),
    (701, c"too many resources requested for launch", false),
    (702, c"the launch timed out and was terminated", true),
    (709, c"context is destroyed", true),
    (710, c"device-side assert triggered", true),
    (714, c"hardware stack error", true),
    (715, c"an illegal instruction was encountered", true),
    (716, c"misaligned address", true),
    (717, c"operation not supported on global/shared address space", true),
    (718, c"invalid program counter", true),
    (719, c"unspecified launch failure", true),
    (801, c"operation not supported", false),
    (803, c"system has unsupported display driver / cuda driver combination", false),
    (900, c"operation not permitted when stream is capturing", false),
    (901, c"operation failed due to a previous error during capture", false),
    (904, c"capturing stream has unjoined work", false),
    (905, c"dependency created on uncaptured work in another stream", false),
    (999, c"unknown error", true),
];

impl Code {
    /// An argument that cannot be.
    pub const INVALID_VALUE: Code = Code(1);
    /// Memory is short.
    pub const OUT_OF_MEMORY: Code = Code(2);
    /// Before `cuInit`.
    pub const NOT_INITIALIZED: Code = Code(3);
    /// A GPU that there is not.
    pub const INVALID_DEVICE: Code = Code(101);
    /// Neither PTX nor machine code.
    pub const INVALID_IMAGE: Code = Code(200);
    /// No context is current.
    pub const INVALID_CONTEXT: Code = Code(201);
    /// Machine code, which this driver does not run.
    pub const NO_BINARY_FOR_GPU: Code = Code(209);
    /// PTX that the virtual machine does not take.
    pub const INVALID_PTX: Code = Code(218);
    /// A handle of nothing.
    pub const INVALID_HANDLE: Code = Code(400);
    /// A name that is not there.
    pub const NOT_FOUND: Code = Code(500);
    /// An event that was not passed.
    pub const NOT_READY: Code = Code(600);
    /// An access outside of every allocation.
    pub const ILLEGAL_ADDRESS: Code = Code(700);
    /// A block that no multiprocessor holds.
    pub const LAUNCH_OUT_OF_RESOURCES: Code = Code(701);
    /// A kernel without an end.
    pub const LAUNCH_TIMEOUT: Code = Code(702);
    /// A malformed operand.
    pub const ILLEGAL_INSTRUCTION: Code = Code(715);
    /// An access that is not aligned.
    pub const MISALIGNED_ADDRESS: Code = Code(716);
    /// Any other fault of a kernel.
    pub const LAUNCH_FAILED: Code = Code(719);
    /// What this driver does not have.
    pub const NOT_SUPPORTED: Code = Code(801);
    /// What would wait for a stream that is recorded.
    pub const CAPTURE_UNSUPPORTED: Code = Code(900);
    /// A recording that was spoiled.
    pub const CAPTURE_INVALIDATED: Code = Code(901);
    /// A cluster of more blocks than the kernel may have.
    pub const INVALID_CLUSTER_SIZE: Code = Code(912);
    /// A recording with entries that nothing waits for.
    pub const CAPTURE_UNJOINED: Code = Code(904);
    /// A recording that would wait for what is not recorded.
    pub const CAPTURE_ISOLATION: Code = Code(905);
    /// A mistake of this driver.
    pub const UNKNOWN: Code = Code(999);

    /// The code of a number, if the table has it.
    pub fn of(number: i32) -> Option<Code> {
        TABLE.iter().find(|(known, ..)| *known == number).map(|_| Code(number))
    }

    /// As `CUresult`.
    pub const fn number(self) -> i32 {
        self.0
    }

    /// Whether every further call answers it too.
    pub fn is_final(self) -> bool {
        TABLE.iter().any(|&(number, _, is_final)| number == self.0 && is_final)
    }

    /// The driver's words.
    pub fn description(self) -> &'static CStr {
        let found = TABLE.iter().find(|(number, ..)| *number == self.0);
        found.map_or(c"", |&(_, text, _)| text)
    }
}
