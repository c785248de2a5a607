//! Criterion benches for people who tune one kernel: the points of the quick
//! suite, timed by the device's own clock, each checked before it is timed.
//!
//! ```text
//! cargo bench --package kernel-benches -- decode_attention
//! ```
//!
//! Criterion's baselines (`--save-baseline`, `--baseline`) show whether a
//! change helped. Numbers to publish come from campaigns.

use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{Criterion, SamplingMode, Throughput};
use ridgepoint::device::{self, Device, Layout};
use ridgepoint::measure::Rotation;
use ridgepoint::point::Point;
use ridgepoint::reference;
use ridgepoint::suite::Suite;

/// Any fixed seed: the same inputs on every run.
const SEED: u64 = 1;

/// Nanoseconds by the device's clock.
struct DeviceTime;

impl Measurement for DeviceTime {
    type Intermediate = ();
    type Value = f64;

    fn start(&self) {}

    /// Only `iter_custom` is used, which hands in the device's time itself.
    fn end(&self, (): ()) -> f64 {
        f64::NAN
    }

    fn add(&self, a: &f64, b: &f64) -> f64 {
        a + b
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &Nanoseconds
    }
}

struct Nanoseconds;

/// Divides by the largest unit that keeps the typical value at 1 or above.
fn scale(typical: f64, values: &mut [f64], units: &[(f64, &'static str)]) -> &'static str {
    let fits = |(size, _): &&(f64, &'static str)| typical >= *size;
    let (size, name) = units.iter().find(fits).unwrap_or(&units[units.len() - 1]);
    for value in values {
        *value /= size;
    }
    name
}

impl ValueFormatter for Nanoseconds {
    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        scale(typical, values, &[(1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns")])
    }

    fn scale_throughputs(
        &self,
        typical: f64,
        throughput: &Throughput,
        values: &mut [f64],
    ) -> &'static str {
        let (amount, units): (u64, &[_]) = match *throughput {
            Throughput::Bytes(n) => (n, &[(1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s")]),
            Throughput::Elements(n) => {
                (n, &[(1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s")])
            }
            _ => (1, &[(1.0, "launches/s")]),
        };
        let per_s = |ns: f64| amount as f64 * 1e9 / ns;
        for value in values.iter_mut() {
            *value = per_s(*value);
        }
        scale(per_s(typical), values, units)
    }

    fn scale_for_machines(&self, _: &mut [f64]) -> &'static str {
        "ns"
    }
}

fn main() {
    let mut device = match device::open("auto", &device::DeviceOptions::default()) {
        Ok(opened) => opened.device,
        Err(error) => {
            eprintln!("kernels: {error:#}");
            std::process::exit(1);
        }
    };
    let plan = Suite::load("quick").and_then(|suite| Ok((suite.plan(&*device)?, suite)));
    let (plan, suite) = plan.unwrap_or_else(|error| panic!("{error:#}"));
    let mut criterion = Criterion::default()
        .with_measurement(DeviceTime)
        .sample_size(20)
        .configure_from_args();
    for point in &plan.points {
        // Others are of libraries that are not here, or of none.
        if device.kernel(&point.problem).is_ok_and(|name| *name == *point.kernel) {
            bench(&mut criterion, &mut *device, point, suite.settings.memory_bytes);
        }
    }
    criterion.final_summary();
}

fn bench(
    criterion: &mut Criterion<DeviceTime>,
    device: &mut dyn Device,
    point: &Point,
    memory_bytes: u64,
) {
    let work = point.problem.work();
    let mut group = criterion.benchmark_group(point.problem.op().name());
    // One number is what a kernel is tuned for: the one of the busier resource
    // on machines of today, bytes up to a few FLOPs per byte.
    group.throughput(match work.operational_intensity() {
        oi if oi > 32.0 => Throughput::Elements(work.flops()),
        _ => Throughput::Bytes(work.bytes()),
    });
    group.sampling_mode(SamplingMode::Flat);
    let (_, shape) = point.to_string().split_once(':').map_or_else(
        || (String::new(), point.to_string()),
        |(op, shape)| (op.to_owned(), shape.to_owned()),
    );
    group.bench_function(shape, |bencher| {
        let cache_bytes = device.info().last_level_cache_bytes();
        let rotation = Rotation::plan(point, cache_bytes, memory_bytes)
            .unwrap_or_else(|refusal| panic!("{point}: {refusal}"));
        let mut prepared = device
            .prepare(&point.problem, &point.kernel, Layout::new(rotation.slots, SEED))
            .unwrap_or_else(|refusal| panic!("{point}: {refusal}"));
        let mut next_slot = 0;
        let mut launch = |prepared: &mut dyn device::Prepared, launches: usize| {
            let timing = prepared
                .launch(next_slot, launches)
                .unwrap_or_else(|error| panic!("{point}: {error}"));
            next_slot = (next_slot + launches) % rotation.slots;
            timing.seconds
        };
        prepared.poison().unwrap_or_else(|error| panic!("{point}: {error}"));
        launch(&mut *prepared, 1);
        let output = prepared.output(0).unwrap_or_else(|error| panic!("{point}: {error}"));
        let check = reference::check(&point.problem, SEED, 0, 0, &output)
            .unwrap_or_else(|error| panic!("{point}: {error}"));
        assert!(
            check.verdict == reference::CheckVerdict::Pass,
            "{point}: {}",
            check.message
        );
        drop(output);
        bencher.iter_custom(|iterations| 1e9 * launch(&mut *prepared, iterations as usize));
    });
    group.finish();
}
