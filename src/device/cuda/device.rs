//! The GPU as a device.

use std::collections::BTreeSet;

use ptxvm::conformance::Program;

use super::cublaslt;
use super::gpu::CudaDevice;
use super::nvml::Nvidia;
use super::{prepared, program, timing};
use crate::device::{
    AskedTelemetry, Device, DeviceInfo, FixedCosts, LaunchError, Layout, PrepareError,
    Prepared, Refusal, SearchSpace, Telemetry,
};
use crate::kernel::{Candidate, Kernel};
use crate::op::Problem;
use crate::point::LaunchMode;
use crate::tuning::Tuning;

impl Device for CudaDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn kernel(&self, problem: &Problem) -> Result<&'static str, Refusal> {
        Kernel::for_problem(problem, self.target.arch).map(|found| found.kernel.name)
    }

    fn candidates(&self, problem: &Problem) -> Vec<Candidate> {
        Kernel::candidates(problem, &self.target)
    }

    fn search_space(&self, kernel: &str) -> Option<SearchSpace> {
        Kernel::named(kernel).map(Kernel::search_space)
    }

    fn use_tuning(&mut self, tuning: Tuning) {
        self.tuning = tuning;
    }

    fn vendor_kernel(&self, problem: &Problem) -> Option<&'static str> {
        let takes = cublaslt::takes(problem).is_ok();
        self.plans_vendor.set(self.plans_vendor.get() || takes);
        takes.then_some(cublaslt::NAME)
    }

    fn prepare<'a>(
        &'a mut self,
        problem: &Problem,
        kernel: &str,
        layout: Layout,
    ) -> Result<Box<dyn Prepared + 'a>, PrepareError> {
        if self.plans_vendor.get() {
            self.begin_vendor();
        }
        if kernel == cublaslt::NAME {
            return Ok(Box::new(prepared::prepare_vendor(self, problem, layout)?));
        }
        let (found, chosen) = self.tuning.configure(kernel, problem, self.target.arch)?;
        let plan = found.plan(&self.target);
        let mut loaded = Vec::new();
        for (number, image) in found.images().iter().enumerate() {
            let Some(source) = image.kernel.file() else { continue };
            let launches = plan.all_launches().filter(|planned| planned.image == number);
            let entries: BTreeSet<_> =
                launches.map(|planned| planned.launch.entry).collect();
            let entries: Vec<_> = entries.into_iter().collect();
            loaded.push(self.loaded(image, &source, problem, &entries)?);
        }
        let ready = prepared::prepare(self, problem, plan, &loaded, layout)?;
        Ok(Box::new(ready.chosen_as(chosen)))
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
