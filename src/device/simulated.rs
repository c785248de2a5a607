//! A made-up device: right answers, invented times. Tests drive the protocol,
//! the records and the verdicts with it, and plant faults in it. Its rows say
//! `simulated` and figures drawn from them are marked.

use std::borrow::Cow;
use std::cell::Cell;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::{
    AskedTelemetry, Device, DeviceInfo, DeviceKind, FixedCosts, LaunchError, Layout,
    PrepareError, Prepared, Refusal, Telemetry, Timing,
};
use crate::data::Key;
use crate::format::DType;
use crate::kernel::{Candidate, Configuration, SearchSpace, split_name};
use crate::op::{Access, Gemm, Problem, Stream};
use crate::residency::{CacheLevel, CacheSize};
use crate::tuning::{Chosen, ChosenBy, Tuning};

/// What goes wrong, and from which launch of a point on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The last output byte is wrong.
    WrongOutput,
    /// The last output element is never written.
    Unwritten,
    /// The launch is reported as failed.
    LaunchFails,
    /// The kernel panics.
    Panics,
    /// The clock gives nonsense.
    BadClock,
}

/// A device that answers reads and small f32 gemms.
#[derive(Clone, Debug)]
pub struct SimulatedDevice {
    /// What it says it is.
    pub info: DeviceInfo,
    /// A fault and the number of the launch from which on it shows.
    pub fault: Option<(Fault, usize)>,
    /// Relative spread of times.
    pub noise: f64,
    /// Bytes per second.
    pub bytes_per_s: f64,
    /// FLOPs per second.
    pub flops_per_s: f64,
    /// What it reports when it is asked for the n-th time.
    pub reports: fn(usize) -> Telemetry,
    /// How often it was asked.
    pub asked: Cell<usize>,
    /// Clock that it reports with every row of launches.
    pub clock_hz: Option<f64>,
    /// Energy of a launch.
    pub launch_j: Option<f64>,
    /// Configurations of its kernel, whose parameter `time_percent` says how long they take
    /// beside the default.
    pub configurations: &'static [Configuration],
    /// Which of them it runs in.
    pub tuning: Tuning,
    /// How often it laid a point out.
    pub laid_out: u64,
    /// A made-up vendor's kernel for products; it takes as long as its own.
    pub vendor: Option<&'static str>,
}

/// The name of its kernel.
const KERNEL: &str = "simulated";

impl Default for SimulatedDevice {
    fn default() -> Self {
        SimulatedDevice {
            info: DeviceInfo {
                kind: DeviceKind::Simulated,
                backend: "simulated".into(),
                name: "Simulated Device".into(),
                slug: "simulated".into(),
                units: 1,
                caches: vec![CacheSize { level: CacheLevel::L2, bytes: 1 << 20 }],
                memory_bytes: 1 << 26,
                timer: "made up".into(),
                timer_quantum_s: 1e-9,
                launch_overhead_s: 1e-6,
                facts: Vec::new(),
            },
            fault: None,
            noise: 0.0,
            bytes_per_s: 1e11,
            flops_per_s: 1e12,
            reports: |_| Telemetry::default(),
            asked: Cell::new(0),
            clock_hz: None,
            launch_j: None,
            configurations: &[],
            tuning: Tuning::default(),
            laid_out: 0,
            vendor: None,
        }
    }
}

impl Device for SimulatedDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn kernel(&self, problem: &Problem) -> Result<&'static str, Refusal> {
        match problem {
            Problem::Stream(Stream { access: Access::Read, .. })
            | Problem::Gemm(Gemm { dtype: DType::F32, .. }) => Ok(KERNEL),
            other => Err(Refusal(format!("the simulated device has no {}", other.op()))),
        }
    }

    fn vendor_kernel(&self, problem: &Problem) -> Option<&'static str> {
        self.vendor.filter(|_| matches!(problem, Problem::Gemm(_)))
    }

    fn candidates(&self, problem: &Problem) -> Vec<Candidate> {
        let runs = self.kernel(problem).is_ok();
        let all = [Configuration::DEFAULT].into_iter().chain(self.configurations);
        all.filter(|_| runs)
            .map(|configuration| Candidate { kernel: KERNEL, configuration })
            .collect()
    }

    fn search_space(&self, kernel: &str) -> Option<SearchSpace> {
        (kernel == KERNEL).then(|| SearchSpace::new(KERNEL, self.configurations, [KERNEL]))
    }

    fn use_tuning(&mut self, tuning: Tuning) {
        self.tuning = tuning;
    }

    fn probe(&self) -> Result<FixedCosts, LaunchError> {
        Ok(FixedCosts {
            launch_s: Some(self.info.launch_overhead_s),
            timer_quantum_s: Some(self.info.timer_quantum_s),
        })
    }

    fn ask_telemetry(&self) -> AskedTelemetry {
        let asked = self.asked.get();
        self.asked.set(asked + 1);
        AskedTelemetry::Known((self.reports)(asked))
    }

    fn prepare<'a>(
        &'a mut self,
        problem: &Problem,
        kernel: &str,
        layout: Layout,
    ) -> Result<Box<dyn Prepared + 'a>, PrepareError> {
        let Layout { slots, seed, .. } = layout;
        layout.refuse_launch_mode("the simulated device")?;
        self.kernel(problem)?;
        let (configuration, by) = self.choose(kernel, problem)?;
        let time_share = f64::from(configuration.or("time_percent", 100)) / 100.0;
        let answers =
            (0..slots).map(|slot| answer(problem, seed, slot)).collect::<Vec<_>>();
        let work = problem.work();
        let seconds = time_share
            * (work.bytes() as f64 / self.bytes_per_s)
                .max(work.flops() as f64 / self.flops_per_s)
            + self.info.launch_overhead_s;
        // Times of one layout differ from those of another, as those of hardware do.
        self.laid_out += 1;
        let seed = seed.wrapping_add(self.laid_out);
        let chosen = Chosen { configuration: configuration.name.to_owned(), by };
        Ok(Box::new(SimulatedPoint {
            outputs: answers.clone(),
            answers,
            seconds,
            noise: self.noise,
            fault: self.fault,
            launched: 0,
            clock_hz: self.clock_hz,
            launch_j: self.launch_j,
            rng: Pcg64Mcg::seed_from_u64(seed),
            chosen,
            implementation: self.vendor.filter(|name| *name == kernel),
        }))
    }
}

impl SimulatedDevice {
    /// The configuration that a kernel's name asks for, or that a tuning has.
    fn choose(
        &self,
        kernel: &str,
        problem: &Problem,
    ) -> Result<(&'static Configuration, ChosenBy), Refusal> {
        let space = SearchSpace::new(KERNEL, self.configurations, [KERNEL]);
        if let (_, Some(name)) = split_name(kernel) {
            return Ok((space.find(name)?, ChosenBy::Asked));
        }
        let tuned = self.tuning.choose(KERNEL, problem);
        Ok(tuned.map_or((Configuration::DEFAULT, ChosenBy::Default), |tuned| {
            (tuned, ChosenBy::Tuned)
        }))
    }
}

fn answer(problem: &Problem, seed: u64, slot: usize) -> Vec<u8> {
    let key = |tensor| Key::new(seed, slot, tensor);
    match *problem {
        Problem::Stream(stream) => {
            let words = (0..stream.bytes / 4).map(|i| key(0).word(i));
            let sum = words.fold(0u32, u32::wrapping_add);
            sum.wrapping_mul(stream.passes as u32).to_le_bytes().to_vec()
        }
        Problem::Gemm(Gemm { m, n, k, dtype, .. }) => (0..m * n)
            .flat_map(|index| {
                let (row, column) = (index / n, index % n);
                let product = |i| {
                    f64::from(key(0).value(dtype, row * k + i))
                        * f64::from(key(1).value(dtype, column * k + i))
                };
                ((0..k).map(product).sum::<f64>() as f32).to_le_bytes()
            })
            .collect(),
        _ => Vec::new(),
    }
}

struct SimulatedPoint {
    answers: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    seconds: f64,
    noise: f64,
    fault: Option<(Fault, usize)>,
    launched: usize,
    clock_hz: Option<f64>,
    launch_j: Option<f64>,
    rng: Pcg64Mcg,
    chosen: Chosen,
    implementation: Option<&'static str>,
}

impl Prepared for SimulatedPoint {
    fn extra_bytes(&self) -> Option<u64> {
        Some(0)
    }

    fn chosen(&self) -> Option<Chosen> {
        Some(self.chosen.clone())
    }

    fn implementation(&self) -> Option<String> {
        self.implementation.map(str::to_owned)
    }

    fn poison(&mut self) -> Result<(), LaunchError> {
        for output in &mut self.outputs {
            output.fill(0xff);
        }
        Ok(())
    }

    fn launch(
        &mut self,
        first_slot: usize,
        launches: usize,
    ) -> Result<Timing, LaunchError> {
        self.launched += launches;
        let fault = self.fault.filter(|(_, from)| self.launched > *from).map(|(f, _)| f);
        let slots = self.answers.len();
        for slot in (first_slot..first_slot + launches.min(slots)).map(|s| s % slots) {
            let answer = &self.answers[slot];
            let written = match fault {
                Some(Fault::Unwritten) => answer.len() - 4,
                _ => answer.len(),
            };
            self.outputs[slot][..written].copy_from_slice(&answer[..written]);
            if let (Some(Fault::WrongOutput), Some(last)) =
                (fault, self.outputs[slot].last_mut())
            {
                *last ^= 0x15;
            }
        }
        match fault {
            Some(Fault::LaunchFails) => {
                Err(LaunchError("the launch failed as planned".into()))
            }
            Some(Fault::Panics) => panic!("planned panic"),
            Some(Fault::BadClock) => Ok(Timing { seconds: f64::NAN, sm_clock_hz: None }),
            _ => {
                let noise = 1.0 + self.noise * self.rng.random_range(-1.0..1.0);
                let seconds = self.seconds * launches as f64 * noise;
                Ok(Timing { seconds, sm_clock_hz: self.clock_hz })
            }
        }
    }

    fn energy_j(&self) -> Option<f64> {
        Some(self.launch_j? * self.launched as f64)
    }

    fn output(&mut self, slot: usize) -> Result<Cow<'_, [u8]>, LaunchError> {
        Ok(Cow::Borrowed(&self.outputs[slot]))
    }
}
