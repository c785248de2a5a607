//! What `cuLaunchKernel` refuses.

use crate::finding::{Fault, Finding, FindingKind};
use crate::instruction::Kernel;
use crate::launch::request::Launch;
use crate::target::{STATIC_SHARED, Target};

/// Registers of a multiprocessor, which a block can use.
const REGISTERS: u32 = 64 * 1024;
/// Registers are given to warps in units of so many for each thread.
const REGISTER_UNIT: u32 = 8;
/// Most threads of a block, by axis and together.
const THREADS: ([u32; 3], u64) = ([1024, 1024, 64], 1024);
/// Most blocks of a grid, by axis.
const BLOCKS: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// Most blocks of a cluster on every device that has clusters, and on some.
const CLUSTER: (u64, u64) = (8, 16);

/// The error of a launch that is not possible.
pub(super) fn refuse(launch: &Launch<'_>, detail: impl Into<String>) -> Fault {
    let cause = Finding {
        kind: FindingKind::BadLaunch,
        kernel: launch.entry.to_owned(),
        source: None,
        ptx_line: 0,
        instruction: String::new(),
        block: [0; 3],
        thread: [0; 3],
        address: None,
        allocation: None,
        detail: detail.into(),
        times: 1,
    };
    Fault { cause: Box::new(cause), findings: Vec::new(), printed: Vec::new() }
}

fn product(axes: [u32; 3]) -> u64 {
    axes.iter().map(|&n| u64::from(n)).product()
}

/// Refuses a launch that the driver refuses.
pub(super) fn validate(
    kernel: &Kernel,
    launch: &Launch<'_>,
    cluster: [u32; 3],
) -> Result<(), Fault> {
    let check = || {
        let device = device(kernel, launch)?;
        extents(launch, cluster)?;
        threads(kernel, launch)?;
        clusters(kernel, launch, cluster, device)?;
        shared(kernel, launch, device)?;
        registers(kernel, launch)?;
        params(kernel, launch)
    };
    check().map_err(|text: String| refuse(launch, text))
}

/// The device, which must be able to run the module.
fn device(kernel: &Kernel, launch: &Launch<'_>) -> Result<Target, String> {
    let Some(name) = launch.device else { return Ok(kernel.target) };
    let Some(device) = Target::parse(name) else {
        return Err(format!(
            "the device '{name}' is not an architecture that is known here"
        ));
    };
    if !kernel.target.runs_on(device) {
        return Err(format!(
            "the module is for {}, which does not run on {name}: compile it for {name}",
            kernel.target
        ));
    }
    Ok(device)
}

fn extents(launch: &Launch<'_>, cluster: [u32; 3]) -> Result<(), String> {
    for (what, axes) in
        [("grid", launch.grid), ("block", launch.block), ("cluster", cluster)]
    {
        if axes.contains(&0) {
            return Err(format!(
                "the {what} {axes:?} has an extent of zero; 1 is the least"
            ));
        }
    }
    for (what, axes, most) in
        [("grid", launch.grid, BLOCKS), ("block", launch.block, THREADS.0)]
    {
        if axes.iter().zip(most).any(|(&n, most)| n > most) {
            return Err(format!(
                "the {what} {axes:?} is too large: at most {most:?} along x, y and z; put the \
                 largest extent in x"
            ));
        }
    }
    let threads = product(launch.block);
    if threads > THREADS.1 {
        return Err(format!(
            "{threads} threads in a block, but at most {} are possible: use smaller blocks",
            THREADS.1
        ));
    }
    Ok(())
}

fn threads(kernel: &Kernel, launch: &Launch<'_>) -> Result<(), String> {
    let threads = product(launch.block);
    if let Some(most) = kernel.max_threads
        && threads > product(most)
    {
        return Err(format!(
            "{threads} threads in a block, but the kernel allows {} (.maxntid, from \
             __launch_bounds__)",
            product(most)
        ));
    }
    match kernel.required_threads {
        Some(exactly) if launch.block != exactly => Err(format!(
            "the kernel needs blocks of {exactly:?} threads (.reqntid), not {:?}",
            launch.block
        )),
        _ => Ok(()),
    }
}

fn clusters(
    kernel: &Kernel,
    launch: &Launch<'_>,
    cluster: [u32; 3],
    device: Target,
) -> Result<(), String> {
    if let Some(own) = kernel.cluster
        && own != cluster
    {
        return Err(format!(
            "clusters of {cluster:?} blocks, but the kernel was compiled for {own:?}"
        ));
    }
    let size = product(cluster);
    if kernel.explicit_cluster && kernel.cluster.is_none() && launch.cluster == [1; 3] {
        return Err("the kernel needs a launch with clusters (.explicitcluster)".to_owned());
    }
    if size > 1 && device.sm < 90 {
        return Err(format!(
            "clusters of {cluster:?} blocks on {device}, but only sm_90 and later have clusters"
        ));
    }
    if let Some(most) = kernel.max_cluster
        && size > u64::from(most)
    {
        return Err(format!(
            "{size} blocks in a cluster, but the kernel allows {most} (.maxclusterrank)"
        ));
    }
    let (portable, most) = CLUSTER;
    if size > most {
        return Err(format!("{size} blocks in a cluster, but at most {most} are possible"));
    }
    if size > portable && !launch.non_portable_cluster {
        return Err(format!(
            "{size} blocks in a cluster, but more than {portable} need the kernel's attribute \
             NON_PORTABLE_CLUSTER_SIZE_ALLOWED (Launch::non_portable_cluster)"
        ));
    }
    if launch.grid.iter().zip(cluster).any(|(grid, cluster)| grid % cluster != 0) {
        return Err(format!(
            "a grid of {:?} blocks cannot be divided into clusters of {cluster:?}",
            launch.grid
        ));
    }
    Ok(())
}

fn shared(kernel: &Kernel, launch: &Launch<'_>, device: Target) -> Result<(), String> {
    let (own, dynamic) = (kernel.declared_shared, launch.shared_bytes);
    let most = device.shared_opt_in();
    let total = own.saturating_add(dynamic);
    if total > most {
        return Err(format!(
            "{total} bytes of shared memory in a block ({own} static, {dynamic} dynamic), but \
             {device} has at most {most}"
        ));
    }
    match launch.dynamic_shared_limit {
        None if total > STATIC_SHARED => Err(format!(
            "{total} bytes of shared memory in a block ({own} static, {dynamic} dynamic): more \
             than {STATIC_SHARED} need the kernel's attribute MAX_DYNAMIC_SHARED_SIZE_BYTES \
             (Launch::dynamic_shared_limit)"
        )),
        Some(limit) if dynamic > limit => Err(format!(
            "{dynamic} bytes of dynamic shared memory, but the kernel's attribute \
             MAX_DYNAMIC_SHARED_SIZE_BYTES (Launch::dynamic_shared_limit) is {limit}"
        )),
        Some(limit) if own.saturating_add(limit) > most => Err(format!(
            "the attribute MAX_DYNAMIC_SHARED_SIZE_BYTES cannot be {limit}: with {own} static \
             bytes, {device} has {} left",
            most.saturating_sub(own)
        )),
        _ => Ok(()),
    }
}

/// The registers of a block, which only an assembler knows.
fn registers(kernel: &Kernel, launch: &Launch<'_>) -> Result<(), String> {
    let Some(count) = launch.registers else { return Ok(()) };
    if count > kernel.max_registers.unwrap_or(255).min(255) {
        return Err(format!(
            "{count} registers in a thread, but at most {} are possible",
            kernel.max_registers.unwrap_or(255).min(255)
        ));
    }
    // Four schedulers share the registers of a multiprocessor.
    let warps = product(launch.block).div_ceil(32).next_multiple_of(4) as u32;
    let total = warps * 32 * count.next_multiple_of(REGISTER_UNIT);
    if total > REGISTERS {
        return Err(format!(
            "{count} registers in each of {} threads need {total}, but a block has {REGISTERS}: \
             use smaller blocks, or state their size with __launch_bounds__",
            product(launch.block)
        ));
    }
    Ok(())
}

fn params(kernel: &Kernel, launch: &Launch<'_>) -> Result<(), String> {
    let (given, wanted) = (launch.params.len(), kernel.param_bytes);
    if (given as u64) < wanted {
        return Err(format!(
            "{given} bytes of parameters, but the kernel declares {wanted}"
        ));
    }
    Ok(())
}
