//! What the driver must have: its version and its functions.

/// Oldest driver whose API is used, as `1000 * major + 10 * minor`.
pub const OLDEST_VERSION: i32 = 12_000;

/// Tells the parameters of a function. Drivers before CUDA 12.4 do not have it.
pub const PARAM_INFO: &str = "cuFuncGetParamInfo";

/// What the virtual driver of the tests (`vdriver/`) has and no real one.
pub const VIRTUAL: &str = "ridgepoint_virtual_driver";

/// More parameters than a function can have, since each has at least a byte.
pub const MOST_PARAMS: usize = 32 << 10;

/// Every other driver function that `ffi` calls.
pub const SYMBOLS: &[&str] = &[
    "cuCtxResetPersistingL2Cache",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetUuid_v2",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventRecord",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuInit",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleLoadDataEx",
    "cuModuleUnload",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuProfilerStart",
    "cuProfilerStop",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuTensorMapEncodeTiled",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A symbol that is called but not looked for would panic where it is
    /// missing.
    #[test]
    fn every_function_called_is_looked_for() {
        let code = concat!(
            include_str!("ffi.rs"),
            include_str!("ffi/context.rs"),
            include_str!("ffi/host.rs")
        );
        let mut called: Vec<&str> = code
            .match_indices("cu")
            .filter(|(at, _)| {
                let before = &code[..*at];
                before.ends_with("call!(") || before.ends_with("sys::")
            })
            .map(|(at, _)| {
                let rest = &code[at..];
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                &rest[..end.unwrap_or(rest.len())]
            })
            .filter(|name| *name != "culib")
            .collect();
        called.sort_unstable();
        called.dedup();
        let mut known = [SYMBOLS, &[PARAM_INFO]].concat();
        known.sort_unstable();
        assert_eq!(called, known);
    }
}
