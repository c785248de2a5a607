//! The GPU as a device.

use ptxvm::conformance::Program;

use super::cublaslt;
use super::gpu::CudaDevice;
use super::nvml::Nvidia;
use super::{prepared, program, timing};
use crate::device::{
    AskedTelemetry, Device, DeviceInfo, FixedCosts, LaunchError, Layout, PrepareError,
    Prepared, Refusal, Telemetry,
};
use crate::kernel::Kernel;
use crate::op::Problem;
use crate::point::LaunchMode;

impl Device for CudaDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn kernel(&self, problem: &Problem) -> Result<&'static str, Refusal> {
        Kernel::for_problem(problem, self.target.arch).map(|found| found.kernel.name)
    }

    fn vendor_kernel(&self, problem: &Problem) -> Option<&'static str> {
        cublaslt::takes(problem).is_ok().then_some(cublaslt::NAME)
    }

    fn prepare<'a>(
        &'a mut self,
        problem: &Problem,
        kernel: &str,
        layout: Layout,
    ) -> Result<Box<dyn Prepared + 'a>, PrepareError> {
        if kernel == cublaslt::NAME {
            return Ok(Box::new(prepared::prepare_vendor(self, problem, layout)?));
        }
        let found = Kernel::asked_for(kernel, problem, self.target.arch)?;
        let plan = found.plan(&self.target);
        let mut entries: Vec<_> = plan.launches.iter().map(|l| l.entry).collect();
        entries.dedup();
        let loaded = match found.kernel.file() {
            Some(source) => Some(self.loaded(&found, &source, problem, &entries)?),
            None => None,
        };
        let ready = prepared::prepare(self, problem, plan, loaded.as_ref(), layout)?;
        Ok(Box::new(ready))
    }

    fn probe(&self) -> Result<FixedCosts, LaunchError> {
        let launch_s = timing::launch_overhead_s(
            &self.stopwatch,
            &self.stream,
            &self.empty,
            LaunchMode::Graph,
        )?;
        // The step of the clock is a constant of its kind.
        Ok(FixedCosts { launch_s: Some(launch_s), timer_quantum_s: None })
    }

    fn ask_telemetry(&self) -> AskedTelemetry {
        let nothing = || AskedTelemetry::Known(Telemetry::default());
        self.nvidia.as_ref().map_or_else(nothing, Nvidia::ask_telemetry)
    }

    fn runs_programs(&self) -> bool {
        true
    }

    fn run_program(&self, program: &Program) -> Result<Vec<u8>, PrepareError> {
        program::run(self, program)
    }

    fn lost(&self) -> Option<String> {
        let error = self.stream.synchronize().err()?;
        error.is_final().then(|| error.to_string())
    }
}
