//! PTX text on the GPU: the driver compiles it, it runs once, and what it wrote comes
//! back.

use ptxvm::conformance::Program;

use super::driver::{self, Buffer, DriverError, LaunchShape};
use super::gpu::CudaDevice;
use crate::device::{LaunchError, PrepareError, Refusal};
use crate::kernel::ParamBytes;
use crate::toolchain::Arch;

/// Runs a program and returns its output.
///
/// # Errors
/// A refusal where this GPU lacks the program's instructions; what the driver says
/// where it does not load or faults.
pub fn run(device: &CudaDevice, program: &Program) -> Result<Vec<u8>, PrepareError> {
    if let Some(why) = refusal(program.target, device.target.arch) {
        return Err(Refusal(why).into());
    }
    let output = launch(device, program).map_err(|error| LaunchError(error.to_string()))?;
    Ok(output)
}

/// Why a GPU cannot run what was written for a target, if that is so: what ends in
/// `a` runs on one architecture only, all else on later ones too.
fn refusal(target: &str, here: Arch) -> Option<String> {
    let least: Arch = target.parse().ok()?;
    let runs = if target.ends_with('a') { here == least } else { here >= least };
    (!runs).then(|| format!("needs {target}"))
}

fn launch(device: &CudaDevice, program: &Program) -> Result<Vec<u8>, DriverError> {
    let (context, stream) = (&device.context, &device.stream);
    let functions = driver::load_ptx(context, &program.name, &program.ptx, &["k"])?;
    let input = Buffer::new(context, program.input.len() as u64)?;
    input.upload(stream, 0, &program.input)?;
    let bytes = program.output_bytes as u64;
    let output = Buffer::new(context, bytes)?;
    output.set(stream, 0, bytes, Program::UNWRITTEN)?;
    let mut params =
        vec![ParamBytes::of(&input.address()), ParamBytes::of(&output.address())];
    for map in program.maps_at(input.address()) {
        params.push(ParamBytes::of(&driver::encode(&map)?.0));
    }
    let shape = LaunchShape {
        grid: program.grid,
        block: program.block,
        cluster: program.cluster,
        shared_bytes: program.shared_bytes,
        overlaps_previous: false,
    };
    functions[0].allow_shared_bytes(program.shared_bytes)?;
    stream.launch(&functions[0], &shape, &params)?;
    stream.synchronize()?;
    let mut bytes = vec![0; program.output_bytes];
    output.download(stream, 0, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_run_where_their_instructions_are() {
        let here = |major, minor| Arch { major, minor };
        assert_eq!(refusal("sm_80", here(8, 0)), None);
        assert_eq!(refusal("sm_80", here(12, 0)), None);
        assert_eq!(refusal("sm_90a", here(9, 0)), None);
        assert_eq!(refusal("sm_90a", here(10, 0)).unwrap(), "needs sm_90a");
        assert_eq!(refusal("sm_89", here(8, 6)).unwrap(), "needs sm_89");
    }
}
