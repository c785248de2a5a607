//! One GPU: its driver's objects, what is compiled and loaded on it, and what it is.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};

use super::cublaslt;
use super::driver::{self, Context, CudaStream, Function, LaunchShape, Properties};
use super::fill::Filler;
use super::nvml::Nvidia;
use super::timing::{self, Functions, SpinParams, Stopwatch};

use crate::device::contract::{near_cache_fact, slug};
use crate::device::{DeviceInfo, DeviceKind, DeviceOptions, LaunchError};
use crate::kernel::{Configured, DEVICE_SOURCE, ParamBytes};
use crate::op::Problem;
use crate::point::LaunchMode;
use crate::residency::{CacheLevel, CacheSize};
use crate::toolchain::nvrtc::Source;
use crate::toolchain::{
    Arch, Binary, Compiler, CompilerOptions, Defines, ImageKind, SmLimits, Target,
};
use crate::tuning::Tuning;

/// Share of the free memory that buffers may take: the driver needs some, and
/// so do modules.
const MEMORY_SHARE: f64 = 0.95;

/// One GPU.
pub struct CudaDevice {
    pub(super) info: DeviceInfo,
    pub(super) target: Target,
    pub(super) context: Rc<Context>,
    pub(super) stream: CudaStream,
    pub(super) stopwatch: Stopwatch,
    pub(super) filler: Filler,
    pub(super) digest: Function,
    pub(super) empty: Function,
    pub(super) nvidia: Option<Nvidia>,
    vendor: OnceCell<cublaslt::Library>,
    opening_vendor: RefCell<Option<cublaslt::Opening>>,
    /// Whether somebody plans points of the vendor's library.
    pub(super) plans_vendor: Cell<bool>,
    /// The fastest of the vendor's algorithms for problems that were measured before.
    pub(super) chosen: RefCell<HashMap<String, usize>>,
    /// Which configurations kernels run in.
    pub(super) tuning: Tuning,
    compiler: Compiler,
    loaded: HashMap<(&'static str, Defines), Rc<Loaded>>,
}

/// A kernel in one configuration, on the GPU.
pub(super) struct Loaded {
    pub binary: Binary,
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
        refuse_older(target.arch)?;
        let limits = target.check_limits().map_err(anyhow::Error::msg)?;
        let version = driver::version()?;
        let compiler = Compiler::new(CompilerOptions {
            kernels: options.kernels.clone(),
            max_major: Some(version as u32 / 1000),
            image: image_kind(&context)?,
            ..CompilerOptions::default()
        })?;
        let binary = compiler.compile(&DEVICE_SOURCE, &Defines::new(), target.arch)?;
        let entries = ["empty", "hold", "read_clocks", "spin", "fill", "digest"];
        let functions =
            driver::load(&context, DEVICE_SOURCE.name, &binary.image, &entries)?;
        let [empty, hold, read_clocks, spin, fill, digest] =
            <[Function; 6]>::try_from(functions)
                .map_err(|_| anyhow::anyhow!("no functions"))?;
        let stream = CudaStream::new(&context)?;
        context.reset_persisting_l2()?;
        let filler = Filler::new(&context, fill)?;
        let functions = Functions { hold, read_clocks };
        let stopwatch = Stopwatch::new(&context, &stream, functions, target.sms)?;
        // See timing.rs on first launches.
        stream.launch(&empty, &LaunchShape::warps(1), &[])?;
        let no_time = ParamBytes::of(&SpinParams { ns: 0 });
        stream.launch(&spin, &LaunchShape::warps(1), &[no_time])?;
        stream.synchronize()?;
        let calibration = timing::calibrate(&stopwatch, &stream, &empty, &spin)?;
        // Older GPUs do not overlap launches.
        let overlapped_s = target.arch.can_overlap_launches().then(|| {
            let mode = LaunchMode::Programmatic;
            timing::launch_overhead_s(&stopwatch, &stream, &empty, mode)
        });
        let overlapped_s = overlapped_s.transpose()?;
        let overhead_s = calibration.empty_launch_graph_s;
        let mut info = device_info(&context, &properties, name, ordinal, overhead_s)?;
        info.timer = match info.kind {
            DeviceKind::Measured => stopwatch.name().to_owned(),
            DeviceKind::Simulated => format!("counted instructions, {}", stopwatch.name()),
        };
        info.facts.extend([
            ("cuda_driver".to_owned(), cuda_version(version)),
            ("compiler".to_owned(), binary.compiler),
        ]);
        info.facts.extend(calibration.facts());
        let overlapped_s = overlapped_s.map_or(String::new(), |s| format!("{s:.4e}"));
        info.facts.push(("empty_launch_programmatic_s".to_owned(), overlapped_s));
        let nvidia = Nvidia::open(&context.uuid()?);
        info.facts.extend(management_facts(&nvidia));
        info.facts.extend(limits.map(|limits| ("sm_limits".to_owned(), limits)));
        let loaded = HashMap::new();
        Ok(CudaDevice {
            info,
            target,
            context,
            stream,
            stopwatch,
            filler,
            digest,
            empty,
            nvidia: nvidia.ok(),
            vendor: OnceCell::new(),
            opening_vendor: RefCell::new(None),
            plans_vendor: Cell::new(false),
            chosen: RefCell::default(),
            tuning: Tuning::default(),
            compiler,
            loaded,
        })
    }

    /// Begins to open the vendor's library, so that nobody waits for it later.
    pub(super) fn begin_vendor(&self) {
        let mut opening = self.opening_vendor.borrow_mut();
        if self.vendor.get().is_none() && opening.is_none() {
            *opening = Some(cublaslt::Opening::begin());
        }
    }

    /// The vendor's matrix products.
    pub(super) fn vendor(&self) -> &cublaslt::Library {
        self.vendor.get_or_init(|| {
            let begun = self.opening_vendor.take();
            begun.unwrap_or_else(cublaslt::Opening::begin).finish()
        })
    }

    /// The kernel in the configuration for a problem, compiled and loaded.
    pub(super) fn loaded(
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

/// What the driver is given to load: the virtual one runs no machine code.
fn image_kind(context: &Context) -> Result<ImageKind> {
    let asked_for = ImageKind::asked_for().map_err(anyhow::Error::msg)?;
    Ok(if context.is_virtual() { ImageKind::Ptx } else { asked_for })
}

/// Whether the management library is there, and what it says that stays the same.
fn management_facts(nvidia: &Result<Nvidia, String>) -> Vec<(String, String)> {
    let management = match nvidia {
        Ok(nvidia) => format!("yes, {}", nvidia.driver_version().unwrap_or_default()),
        Err(why) => format!("no: {why}"),
    };
    let limit_w = nvidia.as_ref().ok().and_then(Nvidia::power_limit_w);
    let limit = limit_w.map(|w| ("power_limit_w".to_owned(), w.to_string()));
    [("nvml".to_owned(), management)].into_iter().chain(limit).collect()
}

/// Kernels are written for this architecture and later ones.
fn refuse_older(arch: Arch) -> Result<()> {
    let Arch { major, minor } = Arch::OLDEST;
    if arch < Arch::OLDEST {
        bail!(
            "its compute capability is {}.{}, and the kernels need {major}.{minor} or later",
            arch.major,
            arch.minor
        );
    }
    Ok(())
}

impl Loaded {
    pub fn function(&self, entry: &str) -> Option<&Function> {
        self.functions.iter().find(|(name, _)| *name == entry).map(|(_, function)| function)
    }

    fn has_all(&self, entries: &[&str]) -> bool {
        entries.iter().all(|entry| self.function(entry).is_some())
    }
}

/// What plans must know of this GPU, as the driver tells it.
pub(super) fn target(p: &Properties) -> Target {
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

pub(super) fn cuda_version(version: i32) -> String {
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
        kind: match context.is_virtual() {
            true => DeviceKind::Simulated,
            false => DeviceKind::Measured,
        },
        backend: format!("cuda:{ordinal}"),
        name: name.to_owned(),
        slug: slug(name),
        caches: vec![CacheSize { level: CacheLevel::L2, bytes: u64::from(p.l2_bytes) }],
        units: u64::from(p.sms),
        memory_bytes: (free as f64 * MEMORY_SHARE) as u64,
        timer: String::new(),
        timer_quantum_s: timing::EVENT_QUANTUM_S,
        launch_overhead_s,
        facts: facts
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .chain([near_cache_fact(Arch { major, minor }, p.sms)])
            .collect(),
    })
}
