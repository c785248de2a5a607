//! How a row of launches is timed on a GPU.
//!
//! ```text
//! hold | clocks | start | launch launch ... launch | stop | clocks
//! ```
//!
//! All of this is queued while `hold` keeps the GPU waiting, so the launches
//! run back to back however long the host took to queue them (the blocking
//! kernel of nvbench). Rows of two launches and more are graphs, see `queue.rs`: longer
//! rows are let go when the queue is full, and continue with further graphs, which the
//! host queues faster than a GPU runs them. Events give
//! the time between `start` and `stop`; each SM's cycle counter beside the wall
//! clock gives the true clock.
//!
//! Nothing that waits for the GPU may happen while it is held. Loading a kernel
//! does, and the driver puts that off to the first launch: so every kernel is
//! launched once before it is timed.

use std::rc::Rc;

use bytemuck::{Pod, Zeroable};

use super::driver::{
    self, Buffer, Context, CudaStream, Event, Function, HostPage, LaunchShape, Result,
};
use super::queue::MAX_HELD;
use crate::device::{LaunchError, Timing};
use crate::kernel::ParamBytes;
use crate::point::LaunchMode;
use crate::statistics::median;

/// Longest wait for the host. Queueing takes a few microseconds an entry.
const HOLD_TIMEOUT_NS: u64 = 4_000_000_000;

/// Resolution of event times as documented for `cuEventElapsedTime`.
pub const EVENT_QUANTUM_S: f64 = 0.5e-6;

/// Words of the host page.
const GO: usize = 0;
const TIMED_OUT: usize = 1;

/// Kernels that the stopwatch is made of.
pub struct Functions {
    /// See `kernels/device.cu`.
    pub hold: Function,
    /// See `kernels/device.cu`.
    pub read_clocks: Function,
}

/// Times what is queued on a stream.
pub struct Stopwatch {
    functions: Functions,
    page: HostPage,
    start: Event,
    stop: Event,
    clocks: Buffer,
    sms: usize,
    holds: bool,
}

/// Set by people who run the program under a tool that waits for the GPU at
/// every launch, such as a checker of memory or a profiler: a GPU that is held
/// would never answer. Times are then the host's too.
const NO_HOLD: &str = "RIDGEPOINT_NO_HOLD";

/// `HoldParams` of `kernels/device.cu`: addresses of two words and a time.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct HoldParams {
    go: u64,
    timed_out: u64,
    timeout_ns: u64,
}

/// `ClockParams` of `kernels/device.cu`: addresses of two arrays by SM.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ClockParams {
    cycles: u64,
    ns: u64,
    sms: u32,
    unused: u32,
}

/// `SpinParams` of `kernels/device.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct SpinParams {
    /// How long to spin.
    pub ns: u64,
}

impl Stopwatch {
    /// Makes what every measurement needs.
    pub fn new(
        context: &Rc<Context>,
        stream: &CudaStream,
        functions: Functions,
        sms: u32,
    ) -> Result<Self> {
        let sms = sms as usize;
        let bytes = 4 * 8 * sms as u64;
        let clocks = Buffer::new(context, bytes)?;
        clocks.set(stream, 0, bytes, 0)?;
        let stopwatch = Stopwatch {
            functions,
            page: HostPage::new(context)?,
            start: Event::new(context)?,
            stop: Event::new(context)?,
            clocks,
            sms,
            holds: [NO_HOLD, "CUDA_LAUNCH_BLOCKING"]
                .iter()
                .all(|name| std::env::var(name).map_or(true, |v| v.is_empty() || v == "0")),
        };
        // The first launch of each, see above.
        stopwatch.page.store(GO, 1);
        stopwatch.hold(stream)?;
        stopwatch.queue_clocks(stream, 0)?;
        stream.synchronize()?;
        Ok(stopwatch)
    }

    /// What its times are, for records.
    pub const fn name(&self) -> &'static str {
        match self.holds {
            true => "CUDA events behind a held queue",
            false => "CUDA events, the queue not held",
        }
    }

    /// Runs and times what `queue` queues. It is given a way to let the GPU go,
    /// and takes it before it queues more than [`MAX_HELD`] launches.
    ///
    /// # Errors
    /// A driver call or kernel that failed, a host too slow to fill the queue.
    pub fn time(
        &self,
        stream: &CudaStream,
        queue: impl FnOnce(&dyn Fn()) -> Result<()>,
    ) -> Result<Timing, LaunchError> {
        self.page.store(GO, u32::from(!self.holds));
        self.page.store(TIMED_OUT, 0);
        let queued = self.hold(stream).and_then(|()| self.bracket(stream, queue));
        // Also after a failure, or the GPU would wait for the time to run out.
        self.page.store(GO, 1);
        let finished = stream.synchronize();
        queued.and(finished).map_err(|e| LaunchError(e.to_string()))?;
        if self.page.load(TIMED_OUT) != 0 {
            return Err(LaunchError(format!(
                "the host took more than {} s to queue a row of launches, so its time would be \
                 the host's; is the machine overloaded?",
                HOLD_TIMEOUT_NS / 1_000_000_000
            )));
        }
        self.read(stream).map_err(|e| LaunchError(e.to_string()))
    }

    fn hold(&self, stream: &CudaStream) -> Result<()> {
        let params = ParamBytes::of(&HoldParams {
            go: self.page.address(GO),
            timed_out: self.page.address(TIMED_OUT),
            timeout_ns: HOLD_TIMEOUT_NS,
        });
        stream.launch(&self.functions.hold, &LaunchShape::warps(1), &[params])
    }

    fn bracket(
        &self,
        stream: &CudaStream,
        queue: impl FnOnce(&dyn Fn()) -> Result<()>,
    ) -> Result<()> {
        self.queue_clocks(stream, 0)?;
        self.start.record(stream)?;
        queue(&|| self.page.store(GO, 1))?;
        self.stop.record(stream)?;
        self.queue_clocks(stream, 2 * self.sms)
    }

    /// Queues a reading of all SMs' clocks into words `first` and on.
    fn queue_clocks(&self, stream: &CudaStream, first: usize) -> Result<()> {
        let cycles = self.clocks.address() + 8 * first as u64;
        let ns = cycles + 8 * self.sms as u64;
        let sms = self.sms as u32;
        let params = ParamBytes::of(&ClockParams { cycles, ns, sms, unused: 0 });
        let shape = LaunchShape::warps(sms);
        stream.launch(&self.functions.read_clocks, &shape, &[params])
    }

    fn read(&self, stream: &CudaStream) -> Result<Timing> {
        let mut words = vec![0u64; 4 * self.sms];
        self.clocks.download(stream, 0, bytemuck::cast_slice_mut(&mut words))?;
        Ok(Timing {
            seconds: self.stop.seconds_since(&self.start)?,
            sm_clock_hz: sm_clock_hz(&words),
        })
    }

    /// How many times longer an interval is by the events than by the wall clock
    /// of the GPU.
    ///
    /// # Errors
    /// As [`Stopwatch::time`].
    pub fn event_clock_ratio(
        &self,
        stream: &CudaStream,
        spin: &Function,
    ) -> Result<f64, LaunchError> {
        const SPIN_NS: u64 = 2_000_000;
        let params = [ParamBytes::of(&SpinParams { ns: SPIN_NS })];
        let timing =
            self.time(stream, |_| stream.launch(spin, &LaunchShape::warps(1), &params))?;
        Ok(timing.seconds / (SPIN_NS as f64 * 1e-9))
    }
}

/// The median SM's clock from the cycles and nanoseconds of every SM before,
/// then after. An SM that one of the readings missed has no progress or an
/// impossible one and is left out.
fn sm_clock_hz(words: &[u64]) -> Option<f64> {
    let sms = words.len() / 4;
    let clock = |sm: usize| {
        let cycles = words[2 * sms + sm].checked_sub(words[sm]).filter(|c| *c > 0)?;
        let ns = words[3 * sms + sm].checked_sub(words[sms + sm]).filter(|ns| *ns > 0)?;
        (words[sm] > 0).then(|| cycles as f64 * 1e9 / ns as f64)
    };
    let clocks: Vec<f64> = (0..sms).filter_map(clock).collect();
    (!clocks.is_empty()).then(|| median(&clocks))
}

/// What measuring itself costs and is off by.
pub struct Calibration {
    /// See [`Stopwatch::event_clock_ratio`].
    event_clock_ratio: f64,
    /// See [`event_pair_s`].
    event_pair_s: f64,
    /// Of launches that are queued one by one.
    empty_launch_stream_s: f64,
    /// Of the nodes of a graph.
    pub empty_launch_graph_s: f64,
}

impl Calibration {
    /// Columns of `run.csv`. That of graphs is `launch_overhead_s`.
    pub fn facts(&self) -> [(String, String); 3] {
        [
            ("event_clock_ratio".to_owned(), format!("{:.5}", self.event_clock_ratio)),
            ("event_pair_s".to_owned(), format!("{:.4e}", self.event_pair_s)),
            (
                "empty_launch_stream_s".to_owned(),
                format!("{:.4e}", self.empty_launch_stream_s),
            ),
        ]
    }
}

/// Measures what measuring costs.
///
/// # Errors
/// As [`Stopwatch::time`].
pub fn calibrate(
    stopwatch: &Stopwatch,
    stream: &CudaStream,
    empty: &Function,
    spin: &Function,
) -> Result<Calibration, LaunchError> {
    let empty_s = |mode| launch_overhead_s(stopwatch, stream, empty, mode);
    Ok(Calibration {
        event_clock_ratio: stopwatch.event_clock_ratio(stream, spin)?,
        event_pair_s: event_pair_s(stopwatch, stream)?,
        empty_launch_stream_s: empty_s(LaunchMode::Stream)?,
        empty_launch_graph_s: empty_s(LaunchMode::Graph)?,
    })
}

/// Seconds of one launch of the empty kernel, back to back with others that are queued in
/// the same way.
///
/// # Errors
/// As [`Stopwatch::time`].
pub fn launch_overhead_s(
    stopwatch: &Stopwatch,
    stream: &CudaStream,
    empty: &driver::Function,
    mode: LaunchMode,
) -> Result<f64, LaunchError> {
    let overlaps_previous = mode == LaunchMode::Programmatic;
    let shape = LaunchShape { overlaps_previous, ..LaunchShape::warps(1) };
    let queue = || (0..MAX_HELD).try_for_each(|_| stream.launch(empty, &shape, &[]));
    let failed = |e: driver::DriverError| LaunchError(e.to_string());
    let graph = match mode {
        LaunchMode::Stream => None,
        LaunchMode::Graph | LaunchMode::Programmatic => {
            let graph = stream.capture(queue).map_err(failed)?;
            graph.upload(stream).and_then(|()| stream.synchronize()).map_err(failed)?;
            Some(graph)
        }
    };
    let mut seconds = Vec::new();
    for _ in 0..11 {
        let timing = stopwatch.time(stream, |_| match &graph {
            Some(graph) => stream.launch_graph(graph),
            None => queue(),
        })?;
        seconds.push(timing.seconds / MAX_HELD as f64);
    }
    Ok(median(&seconds))
}

/// Seconds between two events with nothing between them: what every timed row has in it.
///
/// # Errors
/// As [`Stopwatch::time`].
fn event_pair_s(stopwatch: &Stopwatch, stream: &CudaStream) -> Result<f64, LaunchError> {
    let pairs = (0..11).map(|_| Ok(stopwatch.time(stream, |_| Ok(()))?.seconds));
    Ok(median(&pairs.collect::<Result<Vec<f64>, LaunchError>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_the_median_over_sms_that_were_read_twice() {
        // Three SMs: 1.5 GHz, never read, 2 GHz; 1000 ns passed.
        let before = [100, 0, 7, 10, 0, 30];
        let after = [1600, 500, 2007, 1010, 900, 1030];
        let words: Vec<u64> = before.into_iter().chain(after).collect();
        assert_eq!(sm_clock_hz(&words), Some(1.75e9));
        assert_eq!(sm_clock_hz(&[0; 12]), None);
        // A counter that goes backwards is not a clock.
        assert_eq!(sm_clock_hz(&[9, 5, 3, 8]), None);
    }
}
