//! An NVIDIA GPU as a device: kernels of `kernels/` in machine code for exactly
//! this architecture, timed by events behind a held queue.

mod driver;
mod prepared;
mod program;
mod timing;

use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};

use driver::{Context, CudaStream, Function, LaunchShape, Properties};
pub use driver::{DriverError, Unavailable, gpu_count};
use ptxvm::conformance::Program;
use timing::{Functions, SpinParams, Stopwatch};

use super::{
    CacheLevel, Device, DeviceInfo, DeviceKind, DeviceOptions, LaunchError, PrepareError,
    Prepared, Refusal, slug,
};
use crate::kernel::{Configured, DEVICE_SOURCE, Kernel, ParamBytes};
use crate::op::Problem;
use crate::toolchain::nvrtc::Source;
use crate::toolchain::{
    Arch, Binary, Compiler, CompilerOptions, Defines, SmLimits, Target,
};

/// Share of the free memory that buffers may take: the driver needs some, and
/// so do modules.
const MEMORY_SHARE: f64 = 0.95;

/// One GPU.
pub struct CudaDevice {
    info: DeviceInfo,
    target: Target,
    context: Rc<Context>,
    stream: CudaStream,
    stopwatch: Stopwatch,
    fill: Function,
    compiler: Compiler,
    loaded: HashMap<(&'static str, Defines), Rc<Loaded>>,
}

/// A kernel in one configuration, on the GPU.
struct Loaded {
    binary: Binary,
    functions: Vec<(&'static str, Function)>,
}

impl CudaDevice {
    /// Opens GPU number `ordinal`, compiles what the device needs and measures
    /// its clocks and an empty launch.
    ///
    /// # Errors
    /// A driver or GPU that cannot be used, an architecture that the kernels
    /// do not run on, no compiler and no compiled kernels.
    pub fn open(ordinal: usize, options: &DeviceOptions) -> Result<Self> {
        let context = Context::open(ordinal)?;
        let name = context.name()?;
        let opened = Self::set_up(context, ordinal, &name, options);
        opened.with_context(|| format!("cuda:{ordinal}, {name}, cannot be used"))
    }

    fn set_up(
        context: Rc<Context>,
        ordinal: usize,
        name: &str,
        options: &DeviceOptions,
    ) -> Result<Self> {
        let properties = context.properties()?;
        let target = target(&properties);
        if target.arch < Arch::OLDEST {
            bail!(
                "its compute capability is {}.{}, and the kernels need {}.{} or later",
                target.arch.major,
                target.arch.minor,
                Arch::OLDEST.major,
                Arch::OLDEST.minor
            );
        }
        let limits = target.check_limits().map_err(anyhow::Error::msg)?;
        let version = driver::version()?;
        let compiler = Compiler::new(CompilerOptions {
            kernels: options.kernels.clone(),
            max_major: Some(version as u32 / 1000),
            ..CompilerOptions::default()
        })?;
        let binary = compiler.compile(&DEVICE_SOURCE, &Defines::new(), target.arch)?;
        let entries = ["empty", "hold", "read_clocks", "spin", "fill"];
        let functions =
            driver::load(&context, DEVICE_SOURCE.name, &binary.image, &entries)?;
        let [empty, hold, read_clocks, spin, fill] =
            <[Function; 5]>::try_from(functions)
                .map_err(|_| anyhow::anyhow!("no functions"))?;
        let stream = CudaStream::new(&context)?;
        context.reset_persisting_l2()?;
        let functions = Functions { hold, read_clocks };
        let stopwatch = Stopwatch::new(&context, &stream, functions, target.sms)?;
        // See timing.rs on first launches.
        stream.launch(&empty, &LaunchShape::warps(1), &[])?;
        let no_time = ParamBytes::of(&SpinParams { ns: 0 });
        stream.launch(&spin, &LaunchShape::warps(1), &[no_time])?;
        stream.synchronize()?;
        let ratio = stopwatch.event_clock_ratio(&stream, &spin)?;
        let overhead_s = timing::launch_overhead_s(&stopwatch, &stream, &empty)?;
        let mut info = device_info(&context, &properties, name, ordinal, overhead_s)?;
        info.timer = stopwatch.name().to_owned();
        info.facts.extend([
            ("cuda_driver".to_owned(), cuda_version(version)),
            ("compiler".to_owned(), binary.compiler),
            ("event_clock_ratio".to_owned(), format!("{ratio:.5}")),
        ]);
        info.facts.extend(limits.map(|limits| ("sm_limits".to_owned(), limits)));
        let loaded = HashMap::new();
        Ok(CudaDevice { info, target, context, stream, stopwatch, fill, compiler, loaded })
    }

    /// The kernel in the configuration for a problem, compiled and loaded.
    fn loaded(
        &mut self,
        configured: &Configured,
        source: &Source,
        problem: &Problem,
        entries: &[&'static str],
    ) -> Result<Rc<Loaded>, LaunchError> {
        let Configured { kernel, defines, .. } = configured;
        let key = (kernel.name, defines.clone());
        let known = self.loaded.get(&key);
        if let Some(loaded) = known.filter(|known| known.has_all(entries)) {
            return Ok(Rc::clone(loaded));
        }
        let broken = |what: &str, why: String| {
            LaunchError(format!("kernel {} {what} for {problem}: {why}", kernel.name))
        };
        let binary = self
            .compiler
            .compile(source, defines, self.target.arch)
            .map_err(|e| broken("does not compile", e.to_string()))?;
        let functions = driver::load(&self.context, kernel.name, &binary.image, entries)
            .map_err(|e| broken("does not load", e.to_string()))?;
        let functions = entries.iter().copied().zip(functions).collect();
        let loaded = Rc::new(Loaded { binary, functions });
        self.loaded.insert(key, Rc::clone(&loaded));
        Ok(loaded)
    }
}

impl Loaded {
    fn function(&self, entry: &str) -> Option<&Function> {
        self.functions.iter().find(|(name, _)| *name == entry).map(|(_, function)| function)
    }

    fn has_all(&self, entries: &[&str]) -> bool {
        entries.iter().all(|entry| self.function(entry).is_some())
    }
}

impl Device for CudaDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn kernel(&self, problem: &Problem) -> Result<&'static str, Refusal> {
        Kernel::for_problem(problem, self.target.arch).map(|found| found.kernel.name)
    }

    fn prepare<'a>(
        &'a mut self,
        problem: &Problem,
        kernel: &str,
        slots: usize,
        seed: u64,
    ) -> Result<Box<dyn Prepared + 'a>, PrepareError> {
        let found = Kernel::asked_for(kernel, problem, self.target.arch)?;
        let plan = found.plan(&self.target);
        let mut entries: Vec<_> = plan.launches.iter().map(|l| l.entry).collect();
        entries.dedup();
        let loaded = match found.kernel.file() {
            Some(source) => Some(self.loaded(&found, &source, problem, &entries)?),
            None => None,
        };
        let ready = prepared::prepare(self, problem, plan, loaded.as_ref(), slots, seed)?;
        Ok(Box::new(ready))
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

/// What plans must know of this GPU, as the driver tells it.
fn target(p: &Properties) -> Target {
    let [major, minor] = p.compute_capability;
    Target {
        arch: Arch { major, minor },
        sms: p.sms,
        limits: SmLimits {
            threads_per_sm: p.threads_per_sm,
            shared_bytes_per_sm: p.shared_bytes_per_sm,
            shared_bytes_per_block: p.shared_bytes_per_block,
            reserved_shared_bytes: p.reserved_shared_bytes,
        },
    }
}

fn cuda_version(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn device_info(
    context: &Context,
    p: &Properties,
    name: &str,
    ordinal: usize,
    launch_overhead_s: f64,
) -> Result<DeviceInfo> {
    let (free, total) = context.memory_bytes()?;
    let [major, minor] = p.compute_capability;
    let uuid = blake3::hash(context.uuid()?.as_bytes()).to_hex();
    let facts = [
        ("compute_capability", format!("{major}.{minor}")),
        ("sm_count", p.sms.to_string()),
        ("sm_clock_max_hz", (u64::from(p.sm_clock_khz) * 1000).to_string()),
        ("memory_clock_max_hz", (u64::from(p.memory_clock_khz) * 1000).to_string()),
        ("memory_bus_bits", p.memory_bus_bits.to_string()),
        ("l2_bytes", p.l2_bytes.to_string()),
        ("memory_total_bytes", total.to_string()),
        ("ecc", p.ecc.to_string()),
        ("gpu_uuid_hash", uuid[..12].to_owned()),
    ];
    Ok(DeviceInfo {
        kind: DeviceKind::Measured,
        backend: format!("cuda:{ordinal}"),
        name: name.to_owned(),
        slug: slug(name),
        caches: vec![CacheLevel { name: "L2".to_owned(), bytes: u64::from(p.l2_bytes) }],
        units: u64::from(p.sms),
        memory_bytes: (free as f64 * MEMORY_SHARE) as u64,
        timer: String::new(),
        timer_quantum_s: timing::EVENT_QUANTUM_S,
        launch_overhead_s,
        facts: facts.map(|(name, value)| (name.to_owned(), value)).to_vec(),
    })
}

#[cfg(test)]
mod tests;
