//! How long a memory-bound launch should take, from its plan and a few constants of the
//! machine. Measurements are compared with this expectation, which needs no GPU.
//!
//! `T = fixed + max(u bytes / bandwidth, (u awaited / in flight - 1) latency)`, where `u` is
//! the busiest block's share. The bandwidth is what the best streams reach. By Little's law
//! each latency of DRAM brings what is in flight, and the first of them is part of the fixed
//! cost, which fills the first stages. Awaited are the bytes that are read, since nothing
//! waits for a store; those that are written where nothing is read. Arithmetic and hits in
//! caches are left out. The constants stand here as they are assumed;
//! [`crate::expectation`] takes those that a campaign measured in their place.

/// The best known read, as a share of the data sheet's bandwidth: 3240 of 3352 GB/s for a
/// sum of 4 GiB on an H100 SXM (the repository fast.cu, "sum").
pub const REACHABLE: f64 = 0.967;

/// Latency of a read from DRAM under load, in seconds: 0.5 to 0.6 us on an idle Hopper
/// (arXiv 2501.12084), and a third more on a busy one. Assumed.
pub const LATENCY_S: f64 = 0.8e-6;

/// Time that a launch takes in addition to moving its bytes, in seconds: starting blocks,
/// filling the first stages, writing results, combining by the last block. Assumed, of a node
/// of a graph, and [`EMPTY_NODE_S`] of it is the launch itself; a campaign fits it, see
/// [`crate::line_fit`].
pub const FIXED_S: f64 = 5e-6;

/// Time of an empty launch as a node of a graph, in seconds: 0.79 us on an H100 and 0.51 us on
/// an H200 in our campaigns. Assumed where a campaign does not say it.
pub const EMPTY_NODE_S: f64 = 0.8e-6;

/// Time of an empty launch that is queued alone, in seconds: 1.4 to 1.9 us in the same
/// campaigns. Assumed where a campaign does not say it.
pub const EMPTY_LAUNCH_S: f64 = 1.7e-6;

/// Time of an empty launch in a graph whose launches overlap, in seconds: 0.45 to 0.51 us in
/// the same campaigns. Assumed where a campaign does not say it.
pub const EMPTY_OVERLAPPED_S: f64 = 0.5e-6;

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
    /// Those of them that are written.
    pub written_bytes: u64,
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

/// What an expectation takes for given of a machine and a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// Bandwidth of a read stream without end, in bytes/s.
    pub read_bytes_per_s: f64,
    /// Bandwidth of a stream without end that reads and writes as the kernel does.
    pub mix_bytes_per_s: f64,
    /// Latency of DRAM under load, in seconds.
    pub latency_s: f64,
    /// Time that a launch takes in addition to moving its bytes, in seconds.
    pub fixed_s: f64,
}

impl Constants {
    /// Those that are assumed of a machine whose data sheet states `bytes_per_s`.
    pub fn assumed(bytes_per_s: f64) -> Self {
        let reachable = REACHABLE * bytes_per_s;
        Constants {
            read_bytes_per_s: reachable,
            mix_bytes_per_s: reachable,
            latency_s: LATENCY_S,
            fixed_s: FIXED_S,
        }
    }
}

/// The expectation for a launch.
pub fn expect(traffic: &Traffic, constants: &Constants) -> Expected {
    let Traffic { compulsory_bytes, written_bytes, extra_bytes, .. } = *traffic;
    let bytes = (compulsory_bytes + extra_bytes) as f64;
    let streaming_s = traffic.imbalance * bytes / constants.mix_bytes_per_s;
    let read_bytes = compulsory_bytes - written_bytes;
    let awaited_bytes =
        if read_bytes > 0 { read_bytes + extra_bytes } else { written_bytes } as f64;
    // Without a statement of what is in flight nothing is known to wait.
    let waiting_s = match traffic.in_flight_bytes as f64 {
        0.0 => 0.0,
        in_flight => {
            let latencies = traffic.imbalance * awaited_bytes / in_flight;
            (latencies - 1.0).max(0.0) * constants.latency_s
        }
    };
    let moving_s = streaming_s.max(waiting_s);
    let time_s = constants.fixed_s + moving_s;
    let limit = if constants.fixed_s > moving_s {
        LaunchLimit::Fixed
    } else if waiting_s > streaming_s {
        LaunchLimit::Latency
    } else {
        LaunchLimit::Bandwidth
    };
    let stream_s = compulsory_bytes as f64 / constants.read_bytes_per_s;
    Expected { time_s, of_read_stream: stream_s / time_s, limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h100() -> Constants {
        Constants::assumed(3.35e12)
    }

    fn traffic(compulsory_bytes: u64) -> Traffic {
        Traffic {
            compulsory_bytes,
            written_bytes: 0,
            extra_bytes: 0,
            in_flight_bytes: 132 * 128 * 1024,
            imbalance: 1.0,
        }
    }

    #[test]
    fn large_reads_reach_the_stream_and_small_ones_the_fixed_cost() {
        let large = expect(&traffic(4 << 30), &h100());
        assert_eq!(large.limit, LaunchLimit::Bandwidth);
        assert!((0.995..1.0).contains(&large.of_read_stream), "{large:?}");
        // 1.0737e9 / (0.967 * 3.35e12) = 331.5 us, and 5.
        let one = expect(&traffic(1 << 30), &h100());
        assert!((one.time_s - 336.5e-6).abs() < 0.1e-6, "{one:?}");
        let small = expect(&traffic(1 << 20), &h100());
        assert_eq!(small.limit, LaunchLimit::Fixed);
        assert!(small.time_s < 5.4e-6);
    }

    #[test]
    fn few_bytes_in_flight_and_uneven_blocks_cost_time() {
        let few = Traffic { in_flight_bytes: 1 << 20, ..traffic(1 << 30) };
        let few = expect(&few, &h100());
        assert_eq!(few.limit, LaunchLimit::Latency);
        // The first of 1024 MiB is part of the fixed cost.
        assert!((few.time_s - FIXED_S - 1023.0 * LATENCY_S).abs() < 1e-9);
        let uneven = Traffic { imbalance: 1.1, ..traffic(1 << 30) };
        let even = expect(&traffic(1 << 30), &h100()).of_read_stream;
        assert!(expect(&uneven, &h100()).of_read_stream < even / 1.09);
    }

    #[test]
    fn nothing_waits_for_stores_where_something_is_read() {
        // A copy of 2 MiB whose reads are all in flight at once: 2 MiB at 3.24 TB/s.
        let copy = Traffic {
            written_bytes: 1 << 20,
            in_flight_bytes: 1 << 20,
            ..traffic(2 << 20)
        };
        let found = expect(&copy, &h100());
        assert!((found.time_s - FIXED_S - 0.647e-6).abs() < 1e-9, "{found:?}");
        // Stores alone are in flight as reads are: four times, and the first is paid for.
        let stores = Traffic {
            written_bytes: 2 << 20,
            in_flight_bytes: 1 << 19,
            ..traffic(2 << 20)
        };
        let found = expect(&stores, &h100());
        assert!((found.time_s - FIXED_S - 3.0 * LATENCY_S).abs() < 1e-9, "{found:?}");
        // No bytes, nothing in flight.
        let nothing = Traffic { in_flight_bytes: 0, ..traffic(0) };
        assert_eq!(expect(&nothing, &h100()).time_s, FIXED_S);
    }

    #[test]
    fn a_mix_that_is_slower_than_reads_takes_longer_and_compares_with_reads() {
        let copies = Constants { mix_bytes_per_s: 2.8e12, fixed_s: 2e-6, ..h100() };
        let found = expect(&traffic(1 << 30), &copies);
        // 1.0737e9 / 2.8e12 = 383.5 us, and 2.
        assert!((found.time_s - 385.5e-6).abs() < 0.1e-6, "{found:?}");
        assert!((found.of_read_stream - 331.5 / 385.5).abs() < 1e-3, "{found:?}");
    }
}
