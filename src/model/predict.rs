//! What a step takes on a machine, and what that says: the sums over a [`Step`]'s list
//! beside a [`Machine`]'s peaks. Pure arithmetic.

use super::llm::Llm;
use super::machine::Machine;
use super::step::{Part, Phase, Shape, Step};
use crate::format::DType;
use crate::roofline::Roof;

/// Best read known, of a data sheet's bandwidth: see [`super::launch::REACHABLE`].
pub use super::launch::REACHABLE as REACHABLE_BANDWIDTH;

/// Best matrix product known, of a data sheet's dense peak: 855 of 989 TFLOP/s in bf16 on
/// an H100 SXM (README of ThunderKittens); power keeps clocks below those of the sheet.
pub const REACHABLE_COMPUTE: f64 = 855.0 / 989.0;

/// What a launch costs beside its bytes and FLOPs where a graph of launches runs, in
/// seconds: one kernel drains and the next fills. Assumed; [`super::launch::FIXED_S`] is
/// that of a launch alone.
pub const LAUNCH_S: f64 = 2e-6;

/// Which peaks to predict with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PeakBasis {
    /// The data sheet's: no machine is faster.
    #[default]
    Sheet,
    /// The shares of these that the best kernels known reach.
    Achievable,
}

/// The rates of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Rates<'a> {
    machine: &'a Machine,
    bandwidth: f64,
    compute: f64,
}

impl<'a> Rates<'a> {
    /// Of a machine, as its sheet states or as is achievable.
    pub const fn new(machine: &'a Machine, peaks: PeakBasis) -> Self {
        let (bandwidth, compute) = match peaks {
            PeakBasis::Sheet => (1.0, 1.0),
            PeakBasis::Achievable => (REACHABLE_BANDWIDTH, REACHABLE_COMPUTE),
        };
        Rates { machine, bandwidth, compute }
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

    /// FLOPs per byte at which computing and moving take as long.
    pub fn ridge(&self, dtype: DType) -> Option<f64> {
        Some(self.flops_per_s(dtype)? / self.bytes_per_s())
    }
}

/// Sums over the problems of a step, or of a part of it, on one GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// FLOPs.
    pub flops: f64,
    /// Bytes to and from DRAM.
    pub bytes: f64,
    /// Of these, weights.
    pub weight_bytes: f64,
    /// Of these, the cache that attention reads.
    pub cache_bytes: f64,
    /// Bytes with as many experts as uniform routing touches in the mean.
    pub expected_bytes: f64,
    /// Bytes that the GPU sends to others.
    pub link_bytes: f64,
    /// Launches.
    pub launches: u64,
}

impl Totals {
    /// Of the pieces of a step that `wanted` names.
    pub fn of(step: &Step, wanted: impl Fn(Part) -> bool) -> Totals {
        let mut totals = Totals::default();
        for piece in step.pieces.iter().filter(|piece| wanted(piece.part)) {
            let (work, count) = (piece.problem.work(), piece.count as f64);
            totals.flops += count * work.flops() as f64;
            totals.bytes += count * work.bytes() as f64;
            totals.weight_bytes += count * piece.problem.weight_bytes() as f64;
            totals.cache_bytes += count * piece.problem.cache_bytes() as f64;
            totals.expected_bytes += count * piece.expected_bytes();
            totals.launches += piece.count;
        }
        totals
    }

    /// Of a whole step.
    pub fn of_step(step: &Step) -> Totals {
        let sent =
            step.transfers.iter().map(|transfer| transfer.count as f64 * transfer.bytes);
        Totals { link_bytes: sent.sum(), ..Totals::of(step, |_| true) }
    }

    /// Operational intensity, FLOPs per byte of DRAM.
    pub fn operational_intensity(&self) -> f64 {
        self.flops / self.bytes
    }

    /// The same over weights and cache alone, as the literature counts a decode step.
    pub fn intensity_of_weights_and_cache(&self) -> f64 {
        self.flops / (self.weight_bytes + self.cache_bytes)
    }
}

/// What limits a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepBound {
    /// It does not fit the memory.
    Capacity,
    /// Most of its time goes by in problems that compute.
    Compute,
    /// Most of its time goes by in problems that move bytes.
    Bandwidth,
    /// GPUs wait for each other's bytes for most of the time.
    Link,
    /// Starting launches takes longer than what they do.
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
    /// Its bytes at the bandwidth of DRAM.
    pub memory_s: f64,
    /// Its FLOPs at the peaks of their formats.
    pub compute_s: f64,
    /// The sum over its problems of the longer of the two: problems follow one another.
    pub roof_s: f64,
    /// The part of [`StepTimes::roof_s`] in problems that computing takes longer in.
    pub computing_s: f64,
    /// What is sent, at the bandwidth of the links.
    pub link_s: f64,
    /// Starting its launches, which runs beside.
    pub launch_s: f64,
}

impl StepTimes {
    /// Of a step; `None` where the machine states no peak for a format, or no links where
    /// there is something to send.
    pub fn of(step: &Step, rates: &Rates) -> Option<StepTimes> {
        let mut times = StepTimes::default();
        let mut launches = 0;
        for piece in &step.pieces {
            let (work, count) = (piece.problem.work(), piece.count as f64);
            let compute_s = match (work.flops(), piece.problem.math_dtype()) {
                (0, _) | (_, None) => 0.0,
                (flops, Some(dtype)) => flops as f64 / rates.flops_per_s(dtype)?,
            };
            let roof =
                Roof { memory_s: work.bytes() as f64 / rates.bytes_per_s(), compute_s };
            times.memory_s += count * roof.memory_s;
            times.compute_s += count * roof.compute_s;
            times.roof_s += count * roof.time_s();
            if compute_s > roof.memory_s {
                times.computing_s += count * compute_s;
            }
            launches += piece.count;
        }
        times.launch_s = launches as f64 * LAUNCH_S;
        for transfer in &step.transfers {
            let link = rates.machine.link_bytes_per_s?;
            times.link_s += transfer.count as f64 * transfer.bytes / link;
        }
        Some(times)
    }

    /// Seconds of the step: sending follows computing, and launches are started beside.
    pub fn time_s(&self) -> f64 {
        (self.roof_s + self.link_s).max(self.launch_s)
    }

    /// What takes most of it, of a step that fits.
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

/// Memory that a step takes of a GPU, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Footprint {
    /// Weights.
    pub weight_bytes: f64,
    /// The cache of one request.
    pub request_cache_bytes: f64,
    /// Requests.
    pub requests: f64,
    /// Weights that a step reads if all experts are touched: without the embedding, of
    /// which it reads some rows.
    pub read_weight_bytes: f64,
}

impl Footprint {
    /// Of a step.
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

    /// Bytes altogether.
    pub fn resident_bytes(&self) -> f64 {
        self.weight_bytes + self.requests * self.request_cache_bytes
    }

    /// Most requests that fit so many bytes; 0 where not even the weights do.
    pub fn most_requests(&self, memory_bytes: f64) -> f64 {
        ((memory_bytes - self.weight_bytes) / self.request_cache_bytes).floor().max(0.0)
    }
}

/// FLOPs and bytes of decode over the batch, to find where it meets a ridge.
#[derive(Clone, Debug)]
pub struct Growth(Vec<(u64, f64, f64)>);

impl Growth {
    /// Batches that are looked at, powers of two up to this one.
    const MOST: u32 = 20;

    /// Of the decode step of a shape, whatever its batch.
    pub fn of(model: &Llm, shape: &Shape) -> Growth {
        let at = |power: u32| {
            let batch = shape.parallel.data << power;
            let step = Step::of(model, &Shape { batch, ..*shape }).ok()?;
            let totals = Totals::of(&step, |_| true);
            Some((batch, totals.flops, totals.bytes))
        };
        Growth((0..=Growth::MOST).map_while(at).collect())
    }

    /// The smallest batch whose step has the intensity of a ridge. Between powers of two
    /// FLOPs and bytes grow evenly: that is exact for dense models.
    pub fn batch_at(&self, ridge: f64) -> Option<u64> {
        let excess = |&(_, flops, bytes): &(u64, f64, f64)| flops - ridge * bytes;
        let above = self.0.iter().position(|point| excess(point) >= 0.0)?;
        let Some(below) = above.checked_sub(1) else { return Some(self.0[0].0) };
        let (low, high) = (&self.0[below], &self.0[above]);
        let share = -excess(low) / (excess(high) - excess(low));
        Some((low.0 as f64 + share * (high.0 - low.0) as f64).ceil() as u64)
    }
}

/// What is asked for in one row: a shape on a machine.
#[derive(Clone, Copy, Debug)]
pub struct StepQuestion<'a> {
    /// The model.
    pub model: &'a Llm,
    /// The step.
    pub shape: &'a Shape,
    /// The machine with its rates.
    pub rates: &'a Rates<'a>,
}

/// What is predicted of a step on a machine.
#[derive(Clone, Copy, Debug)]
pub struct Prediction {
    /// Sums over its problems, on one GPU.
    pub totals: Totals,
    /// Memory that it takes.
    pub footprint: Footprint,
    /// FLOPs per byte at which computing and moving take as long, in the format of
    /// activations.
    pub ridge: Option<f64>,
    /// Times, where the machine states what they take.
    pub times: Option<StepTimes>,
    /// Capacity of the machine.
    pub memory_bytes: Option<f64>,
    /// Most requests that fit, on all GPUs together.
    pub batch_max: Option<f64>,
    /// Smallest batch of decode at the ridge; `None` where none reaches it.
    pub batch_at_ridge: Option<u64>,
}

impl Prediction {
    /// Of a step, with the growth of its decode over the batch.
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
        Prediction {
            totals,
            footprint,
            ridge,
            times: StepTimes::of(step, rates),
            memory_bytes,
            batch_max: memory_bytes.map(|bytes| data * footprint.most_requests(bytes)),
            batch_at_ridge: ridge.and_then(|ridge| growth.batch_at(ridge)),
        }
    }

    /// Whether it fits; `None` where the machine states no capacity.
    pub fn fits(&self) -> Option<bool> {
        Some(self.footprint.resident_bytes() <= self.memory_bytes?)
    }

    /// Bytes that are short, where it does not fit.
    pub fn short_bytes(&self) -> Option<f64> {
        let short = self.footprint.resident_bytes() - self.memory_bytes?;
        (short > 0.0).then_some(short)
    }

    /// What limits it.
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
    pub fn tokens_per_s_per_gpu(&self, shape: &Shape) -> Option<f64> {
        let tokens = match shape.phase {
            Phase::Decode => shape.batch,
            Phase::Prefill => shape.batch * shape.new_tokens,
        };
        Some(tokens as f64 / self.times?.time_s() / shape.parallel.gpus() as f64)
    }

    /// Share of the compute peak, on which FLOPs would take no longer (MFU).
    pub fn compute_share(&self) -> Option<f64> {
        self.times.map(|times| times.compute_s / times.time_s())
    }

    /// Share of the memory's peak (MBU).
    pub fn bandwidth_share(&self) -> Option<f64> {
        self.times.map(|times| times.memory_s / times.time_s())
    }

    /// Joules for each new token, at the power limit of the board.
    pub fn energy_per_token_j(&self, question: &StepQuestion) -> Option<f64> {
        let rate = self.tokens_per_s_per_gpu(question.shape)?;
        Some(question.rates.machine.power_w? / rate)
    }
}
