//! Time and memory of a step on a machine: sums over the problems of a [`Step`], and the
//! peaks of a [`Machine`]. Pure arithmetic.

use super::launch::Graphs;
use super::llm::Llm;
use super::machine::Machine;
use super::routing::Touched;
use super::step::{Step, StepPart, StepProblem, StepShape};
use crate::format::DType;
use crate::resource::{Resource, Work};
use crate::roofline::Roof;

/// The best known read, as a share of a data sheet's bandwidth: see [`super::launch::REACHABLE`].
pub use super::launch::REACHABLE as REACHABLE_BANDWIDTH;

/// The best known matrix product, as a share of a data sheet's dense peak: 855 of 989 TFLOP/s in bf16 on
/// an H100 SXM (README of ThunderKittens); power keeps clocks below those of the sheet.
pub const REACHABLE_COMPUTE: f64 = 855.0 / 989.0;

/// Which peaks to predict with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PeakBasis {
    /// The data sheet's: no machine is faster.
    #[default]
    Sheet,
    /// The shares of the data sheet's that the best known kernels reach.
    Achievable,
}

/// Rates of a machine that predictions use.
#[derive(Clone, Copy, Debug)]
pub struct Rates<'a> {
    machine: &'a Machine,
    bandwidth: f64,
    compute: f64,
    graphs: Graphs,
}

impl<'a> Rates<'a> {
    /// Rates of a machine, as its sheet states them or as they are achievable. Launches are
    /// nodes of graphs.
    pub const fn new(machine: &'a Machine, peaks: PeakBasis) -> Self {
        let (bandwidth, compute) = match peaks {
            PeakBasis::Sheet => (1.0, 1.0),
            PeakBasis::Achievable => (REACHABLE_BANDWIDTH, REACHABLE_COMPUTE),
        };
        Rates { machine, bandwidth, compute, graphs: Graphs::On }
    }

    /// The same with launches that are started in this way.
    pub const fn with_graphs(self, graphs: Graphs) -> Self {
        Rates { graphs, ..self }
    }

    /// The machine.
    pub const fn machine(&self) -> &'a Machine {
        self.machine
    }

    /// Bytes of DRAM per second.
    pub const fn bytes_per_s(&self) -> f64 {
        self.machine.bytes_per_s * self.bandwidth
    }

    /// FLOPs per second in a format, where the machine states any.
    pub fn flops_per_s(&self, dtype: DType) -> Option<f64> {
        self.machine.flops_per_s(dtype).map(|rate| rate * self.compute)
    }

    /// The least time of work, perfectly overlapped. `None` where the machine does not
    /// state the rate of a resource that it uses.
    pub fn roof(&self, work: &Work) -> Option<Roof> {
        let memory_s = work.bytes() as f64 / self.bytes_per_s();
        Roof::of(work, memory_s, |resource| match resource {
            Resource::MemoryRead | Resource::MemoryWrite => Some(self.bytes_per_s()),
            Resource::Matrix(dtype) | Resource::Vector(dtype) => self.flops_per_s(dtype),
            Resource::Link(link, _) => self.machine.link_bytes_per_s(link),
        })
    }

    /// [`Rates::roof`] of one problem of a step, with so many experts touched.
    pub fn roof_of(&self, entry: &StepProblem, touched: Touched) -> Option<Roof> {
        let work = entry.problem.work();
        let mut roof = self.roof(&work)?;
        if entry.is_routed() && touched == Touched::Mean {
            roof.memory_s = entry.bytes_of(&work, touched) / self.bytes_per_s();
            // What is sent is received: one rate for both.
            let most = entry.sent_bytes_of(&work, Touched::Bound);
            if most > 0.0 {
                roof.link_s *= entry.sent_bytes_of(&work, touched) / most;
            }
        }
        Some(roof)
    }

    /// FLOPs per byte at which computing and moving data take equally long.
    pub fn ridge(&self, dtype: DType) -> Option<f64> {
        Some(self.flops_per_s(dtype)? / self.bytes_per_s())
    }
}

/// Sums over the problems of a step, or of a part of it, on one GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// FLOPs.
    pub flops: f64,
    /// Bytes to and from DRAM, with as many experts as the step's routing touches.
    pub bytes: f64,
    /// Of these, weights.
    pub weight_bytes: f64,
    /// Of these, the cache that attention reads.
    pub cache_bytes: f64,
    /// Bytes, with the number of experts that are touched in the mean.
    pub expected_bytes: f64,
    /// Bytes, with as many experts as can be touched.
    pub bound_bytes: f64,
    /// Bytes that the GPU sends to other GPUs.
    pub link_bytes: f64,
    /// Number of launches.
    pub launches: u64,
}

impl Totals {
    /// Sums over the problems of a step for which `wanted` is true, without
    /// transfers.
    pub fn of(step: &Step, wanted: impl Fn(StepPart) -> bool) -> Totals {
        let mut totals = Totals::default();
        for entry in step.problems.iter().filter(|entry| wanted(entry.part)) {
            let (work, count) = (entry.problem.work(), entry.count as f64);
            let bytes = entry.bytes_of(&work, step.touched);
            let bound_bytes = entry.bytes_of(&work, Touched::Bound);
            // Of what depends on the routing, only weights are read from DRAM.
            let weight_bytes = entry.problem.weight_bytes() as f64 - (bound_bytes - bytes);
            totals.flops += count * work.flops() as f64;
            totals.bytes += count * bytes;
            totals.weight_bytes += count * weight_bytes;
            totals.cache_bytes += count * entry.problem.cache_bytes() as f64;
            totals.expected_bytes += count * entry.bytes_of(&work, Touched::Mean);
            totals.bound_bytes += count * bound_bytes;
            totals.link_bytes += count * entry.sent_bytes_of(&work, step.touched);
            totals.launches += entry.launches();
        }
        totals
    }

    /// Sums over a whole step.
    pub fn of_step(step: &Step) -> Totals {
        Totals::of(step, |_| true)
    }

    /// Operational intensity, FLOPs per byte of DRAM.
    pub fn operational_intensity(&self) -> f64 {
        self.flops / self.bytes
    }

    /// Operational intensity with as many experts as can be touched.
    pub fn bound_intensity(&self) -> f64 {
        self.flops / self.bound_bytes
    }

    /// FLOPs per byte of weights and cache only, as the literature counts a decode step.
    pub fn intensity_of_weights_and_cache(&self) -> f64 {
        self.flops / (self.weight_bytes + self.cache_bytes)
    }
}

/// What limits a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepBound {
    /// It does not fit in memory.
    Capacity,
    /// Compute-bound problems take most of its time.
    Compute,
    /// Memory-bound problems take most of its time.
    Bandwidth,
    /// Transfers between GPUs take most of its time.
    Link,
    /// Starting the launches takes longer than their work.
    Latency,
}

impl StepBound {
    /// The spelling used in tables and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            StepBound::Capacity => "capacity",
            StepBound::Compute => "compute",
            StepBound::Bandwidth => "bandwidth",
            StepBound::Link => "link",
            StepBound::Latency => "latency",
        }
    }
}

/// Times of a step on a machine, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTimes {
    /// Time of its bytes at the bandwidth of DRAM.
    pub memory_s: f64,
    /// Time of its FLOPs at the peaks of their formats.
    pub compute_s: f64,
    /// The sum over its problems of the longer of the two: problems run one after the
    /// other.
    pub roof_s: f64,
    /// The part of [`StepTimes::roof_s`] in compute-bound problems.
    pub computing_s: f64,
    /// Time of the bytes that are sent, at the bandwidth of the links.
    pub link_s: f64,
    /// Time to start its launches, at the same time as the rest.
    pub launch_s: f64,
}

impl StepTimes {
    /// Times of a step; `None` where the machine states no peak for a format, or no links
    /// where there is something to send.
    pub fn of(step: &Step, rates: &Rates) -> Option<StepTimes> {
        StepTimes::with(step, rates, step.touched)
    }

    /// Times of a step that touches as many experts as it can; `None` as [`StepTimes::of`].
    pub fn bound_of(step: &Step, rates: &Rates) -> Option<StepTimes> {
        StepTimes::with(step, rates, Touched::Bound)
    }

    fn with(step: &Step, rates: &Rates, touched: Touched) -> Option<StepTimes> {
        let mut times = StepTimes::default();
        let mut launches = 0;
        for entry in &step.problems {
            let (roof, count) = (rates.roof_of(entry, touched)?, entry.count as f64);
            times.memory_s += count * roof.memory_s;
            times.compute_s += count * roof.compute_s;
            times.roof_s += count * roof.memory_s.max(roof.compute_s);
            times.link_s += count * roof.link_s;
            if roof.compute_s > roof.memory_s {
                times.computing_s += count * roof.compute_s;
            }
            launches += entry.launches();
        }
        times.launch_s = launches as f64 * rates.graphs.launch_s();
        Some(times)
    }

    /// Seconds of the step: transfers follow computing, and launches are started at the
    /// same time.
    pub fn time_s(&self) -> f64 {
        (self.roof_s + self.link_s).max(self.launch_s)
    }

    /// What takes most of the time of a step that fits in memory.
    pub fn bound(&self) -> StepBound {
        if self.launch_s > self.roof_s + self.link_s {
            StepBound::Latency
        } else if self.link_s > self.roof_s {
            StepBound::Link
        } else if self.computing_s > self.roof_s / 2.0 {
            StepBound::Compute
        } else {
            StepBound::Bandwidth
        }
    }
}

/// Memory that a step needs on a GPU, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Footprint {
    /// All weights.
    pub weight_bytes: f64,
    /// The cache of one request.
    pub request_cache_bytes: f64,
    /// Number of requests on this GPU.
    pub requests: f64,
    /// Weights that a step reads if it touches all experts: all but the embedding, of which
    /// it reads a few rows.
    pub read_weight_bytes: f64,
}

impl Footprint {
    /// Footprint of a step.
    pub fn of(step: &Step) -> Footprint {
        let weight_bytes = step.resident_weight_bytes();
        Footprint {
            weight_bytes: weight_bytes as f64,
            request_cache_bytes: step.request_cache_bytes as f64,
            requests: step.requests as f64,
            read_weight_bytes: (weight_bytes - step.embedding_bytes) as f64,
        }
    }

    /// Bytes for each request, the paper's capacity footprint: its cache, and its share of
    /// the weights that a step reads.
    pub fn per_request_bytes(&self) -> f64 {
        self.request_cache_bytes + self.read_weight_bytes / self.requests
    }

    /// Bytes of the weights and of the cache of all requests.
    pub fn resident_bytes(&self) -> f64 {
        self.weight_bytes + self.requests * self.request_cache_bytes
    }

    /// Largest number of requests that fits in `memory_bytes`; 0 where the weights alone do
    /// not fit.
    pub fn most_requests(&self, memory_bytes: f64) -> f64 {
        ((memory_bytes - self.weight_bytes) / self.request_cache_bytes).floor().max(0.0)
    }
}

/// FLOPs and bytes of a decode step as functions of the batch, to find where it reaches a
/// ridge.
#[derive(Clone, Debug)]
pub struct Growth(Vec<(u64, f64, f64)>);

impl Growth {
    /// The largest batch is this power of two, times the data parallelism.
    const MOST: u32 = 20;

    /// That of a step whose requests differ, which has no batch to grow: no ridge is known.
    pub const fn none() -> Growth {
        Growth(Vec::new())
    }

    /// Growth of the decode step of a shape; the shape's own batch does not matter.
    pub fn of(model: &Llm, shape: &StepShape) -> Growth {
        let at = |power: u32| {
            let batch = shape.parallel.data << power;
            let step = Step::of(model, &StepShape { batch, ..*shape }).ok()?;
            let totals = Totals::of(&step, |_| true);
            Some((batch, totals.flops, totals.bytes))
        };
        Growth((0..=Growth::MOST).map_while(at).collect())
    }

    /// The smallest batch whose step has the intensity of a ridge, in FLOPs per byte. Between
    /// powers of two FLOPs and bytes are interpolated linearly, which is exact for dense
    /// models.
    pub fn batch_at(&self, ridge: f64) -> Option<u64> {
        let excess = |&(_, flops, bytes): &(u64, f64, f64)| flops - ridge * bytes;
        let above = self.0.iter().position(|point| excess(point) >= 0.0)?;
        let Some(below) = above.checked_sub(1) else { return Some(self.0[0].0) };
        let (low, high) = (&self.0[below], &self.0[above]);
        let share = -excess(low) / (excess(high) - excess(low));
        Some((low.0 as f64 + share * (high.0 - low.0) as f64).ceil() as u64)
    }
}

/// The question that a row answers: a step of a model on a machine.
#[derive(Clone, Copy, Debug)]
pub struct StepQuestion<'a> {
    /// The model.
    pub model: &'a Llm,
    /// The step.
    pub shape: &'a StepShape,
    /// The machine with its rates.
    pub rates: &'a Rates<'a>,
}

/// What is predicted of a step on a machine.
#[derive(Clone, Copy, Debug)]
pub struct Prediction {
    /// Sums over its problems, on one GPU.
    pub totals: Totals,
    /// Memory that it needs.
    pub footprint: Footprint,
    /// FLOPs per byte at which computing and moving data take equally long, in the format
    /// of activations.
    pub ridge: Option<f64>,
    /// Times, where the machine states all rates that they need.
    pub times: Option<StepTimes>,
    /// Times with as many experts as can be touched.
    pub bound_times: Option<StepTimes>,
    /// Memory capacity of the machine in bytes, where it is stated.
    pub memory_bytes: Option<f64>,
    /// New tokens of all GPUs.
    pub new_tokens: u64,
    /// Largest number of requests that fits, on all GPUs together.
    pub batch_max: Option<f64>,
    /// Smallest batch at which decode reaches the ridge; `None` where no batch does.
    pub batch_at_ridge: Option<u64>,
}

impl Prediction {
    /// Prediction for a step, whose decode grows with the batch as `growth` says.
    pub fn of(
        question: &StepQuestion,
        step: &Step,
        totals: Totals,
        growth: &Growth,
    ) -> Self {
        let StepQuestion { shape, rates, .. } = question;
        let footprint = Footprint::of(step);
        let memory_bytes = rates.machine.memory_bytes;
        let ridge = rates.ridge(shape.formats.activations);
        let data = shape.parallel.data as f64;
        let times = StepTimes::of(step, rates);
        let is_routed = step.problems.iter().any(StepProblem::is_routed);
        Prediction {
            totals,
            footprint,
            ridge,
            times,
            bound_times: if is_routed { StepTimes::bound_of(step, rates) } else { times },
            memory_bytes,
            new_tokens: step.new_tokens,
            batch_max: memory_bytes.map(|bytes| data * footprint.most_requests(bytes)),
            batch_at_ridge: ridge.and_then(|ridge| growth.batch_at(ridge)),
        }
    }

    /// Whether it fits; `None` where the machine states no capacity.
    pub fn fits(&self) -> Option<bool> {
        Some(self.footprint.resident_bytes() <= self.memory_bytes?)
    }

    /// Bytes of memory that are missing; `None` where it fits or no capacity is stated.
    pub fn short_bytes(&self) -> Option<f64> {
        let short = self.footprint.resident_bytes() - self.memory_bytes?;
        (short > 0.0).then_some(short)
    }

    /// What limits it; `None` where the machine states too little.
    pub fn bound(&self) -> Option<StepBound> {
        if self.fits() == Some(false) {
            return Some(StepBound::Capacity);
        }
        self.times.map(|times| times.bound())
    }

    /// Whether memory is full before the batch reaches the ridge; `None` where capacity
    /// or ridge are not known.
    pub fn wall_comes_first(&self) -> Option<bool> {
        self.ridge?;
        let most = self.batch_max?;
        Some(self.batch_at_ridge.is_none_or(|at_ridge| most < at_ridge as f64))
    }

    /// The paper's quadrant: intensity against the ridge, and capacity footprint times
    /// batch against the memory of the machine.
    pub fn quadrant(&self) -> Option<&'static str> {
        let computes = self.totals.operational_intensity() >= self.ridge?;
        Some(match (computes, self.fits()?) {
            (true, true) => "high OI, low CF",
            (true, false) => "high OI, high CF",
            (false, true) => "low OI, low CF",
            (false, false) => "low OI, high CF",
        })
    }

    /// New tokens per second of each GPU.
    pub fn tokens_per_s_per_gpu(&self, shape: &StepShape) -> Option<f64> {
        Some(self.new_tokens as f64 / self.times?.time_s() / shape.parallel.gpus() as f64)
    }

    /// Share of the compute peak that the step uses (MFU).
    pub fn compute_share(&self) -> Option<f64> {
        self.times.map(|times| times.compute_s / times.time_s())
    }

    /// Share of the bandwidth peak that the step uses (MBU).
    pub fn bandwidth_share(&self) -> Option<f64> {
        self.times.map(|times| times.memory_s / times.time_s())
    }

    /// Joules for each new token, at the power limit of the board.
    pub fn energy_per_token_j(&self, question: &StepQuestion) -> Option<f64> {
        let rate = self.tokens_per_s_per_gpu(question.shape)?;
        Some(question.rates.machine.power_w? / rate)
    }
}
