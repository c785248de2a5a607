//! How long a memory-bound launch should take, from its plan alone. Measurements are
//! compared with this expectation, which needs no GPU.
//!
//! `T = FIXED_S + imbalance * bytes / rate`. The rate is the smaller of two: the share of
//! the data sheet's bandwidth that the best reads reach, and, by Little's law, the bytes
//! in flight over the latency of DRAM. Arithmetic and hits in caches are left out.

/// The best known read, as a share of the data sheet's bandwidth: 3240 of 3352 GB/s for a
/// sum of 4 GiB on an H100 SXM (the repository fast.cu, "sum").
pub const REACHABLE: f64 = 0.967;

/// Latency of a read from DRAM under load, in seconds: 0.5 to 0.6 us on an idle Hopper
/// (arXiv 2501.12084), and a third more on a busy one. Assumed.
pub const LATENCY_S: f64 = 0.8e-6;

/// Time that a launch takes in addition to moving its bytes, in seconds: starting blocks,
/// filling the first stages, writing results, combining by the last block. Assumed; a
/// campaign fits it, see [`crate::line_fit`].
pub const FIXED_S: f64 = 5e-6;

/// How a step's launches are started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Graphs {
    /// As nodes of a graph, which the host starts as one: what serving engines do in decode.
    #[default]
    On,
    /// One by one.
    Off,
}

impl Graphs {
    /// Time that each of a step's launches takes in addition to its bytes and FLOPs, in
    /// seconds; [`FIXED_S`] is the same for a launch on its own.
    ///
    /// In a graph one kernel drains and the next fills: assumed, twice and more of what an
    /// empty node takes in our campaigns, 0.84 us on an H100 and 0.51 us on an H200. One by
    /// one it is the host that starts them: the driver alone takes 1.4 to 1.9 us in the same
    /// campaigns, an engine's code and the driver 4 to 6 us. Assumed in the middle of these.
    pub const fn launch_s(self) -> f64 {
        match self {
            Graphs::On => 2e-6,
            Graphs::Off => 5e-6,
        }
    }
}

/// What a plan says about a launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// Bytes that any kernel for the problem must move.
    pub compulsory_bytes: u64,
    /// Bytes that the kernel adds.
    pub extra_bytes: u64,
    /// Bytes in flight of all blocks that run at the same time.
    pub in_flight_bytes: u64,
    /// Bytes of the busiest block over the mean of all blocks.
    pub imbalance: f64,
}

/// What takes most of a launch's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchLimit {
    /// The bandwidth of DRAM.
    Bandwidth,
    /// Too few bytes in flight for the latency of DRAM.
    Latency,
    /// Costs that do not depend on the bytes.
    Fixed,
}

impl LaunchLimit {
    /// The name that tables print.
    pub const fn name(self) -> &'static str {
        match self {
            LaunchLimit::Bandwidth => "bandwidth",
            LaunchLimit::Latency => "bytes in flight",
            LaunchLimit::Fixed => "fixed costs",
        }
    }
}

/// The expected time of a launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// Time of a launch, in seconds.
    pub time_s: f64,
    /// Time of the compulsory bytes at the rate of the best read, over [`Expected::time_s`].
    pub of_read_stream: f64,
    /// What takes most of the time.
    pub limit: LaunchLimit,
}

/// The expectation for a launch on a machine whose data sheet states `bytes_per_s`.
pub fn expect(traffic: &Traffic, bytes_per_s: f64) -> Expected {
    let reachable = REACHABLE * bytes_per_s;
    let by_latency = traffic.in_flight_bytes as f64 / LATENCY_S;
    let rate = reachable.min(by_latency);
    let bytes = (traffic.compulsory_bytes + traffic.extra_bytes) as f64;
    let moving_s = traffic.imbalance * bytes / rate;
    let time_s = FIXED_S + moving_s;
    let limit = if FIXED_S > moving_s {
        LaunchLimit::Fixed
    } else if by_latency < reachable {
        LaunchLimit::Latency
    } else {
        LaunchLimit::Bandwidth
    };
    let of_read_stream = traffic.compulsory_bytes as f64 / reachable / time_s;
    Expected { time_s, of_read_stream, limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: f64 = 3.35e12;

    fn traffic(compulsory_bytes: u64) -> Traffic {
        Traffic {
            compulsory_bytes,
            extra_bytes: 0,
            in_flight_bytes: 132 * 128 * 1024,
            imbalance: 1.0,
        }
    }

    #[test]
    fn large_reads_reach_the_stream_and_small_ones_the_fixed_cost() {
        let large = expect(&traffic(4 << 30), H100);
        assert_eq!(large.limit, LaunchLimit::Bandwidth);
        assert!((0.995..1.0).contains(&large.of_read_stream), "{large:?}");
        // 1.0737e9 / (0.967 * 3.35e12) = 331.5 us, and 5.
        let one = expect(&traffic(1 << 30), H100);
        assert!((one.time_s - 336.5e-6).abs() < 0.1e-6, "{one:?}");
        let small = expect(&traffic(1 << 20), H100);
        assert_eq!(small.limit, LaunchLimit::Fixed);
        assert!(small.time_s < 5.4e-6);
    }

    #[test]
    fn few_bytes_in_flight_and_uneven_blocks_cost_time() {
        let few = Traffic { in_flight_bytes: 1 << 20, ..traffic(1 << 30) };
        let few = expect(&few, H100);
        assert_eq!(few.limit, LaunchLimit::Latency);
        assert!((few.time_s - FIXED_S - 1024.0 * LATENCY_S).abs() < 1e-9);
        let uneven = Traffic { imbalance: 1.1, ..traffic(1 << 30) };
        let even = expect(&traffic(1 << 30), H100).of_read_stream;
        assert!(expect(&uneven, H100).of_read_stream < even / 1.09);
    }
}
