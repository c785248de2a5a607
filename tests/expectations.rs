//! Times to expect, by what one campaign measured, beside what another one did: the committed
//! records of an H100.

use std::path::Path;

use ridgepoint::analysis::Campaign;
use ridgepoint::expectation::records::{Compared, Comparison, KernelErrors, compare};
use ridgepoint::expectation::{FixedSource, LaunchCosts};
use ridgepoint::model::machine::Machines;
use ridgepoint::roofline::{Curve, CurvePoint};
use ridgepoint::statistics::{Estimate, median};

/// The first has the constants, the second the records. The last is of one campaign alone:
/// there no line knows the point that it is asked for.
const PAIRS: [(&str, &str); 6] = [
    ("26-paper", "26-head-a"),
    ("26-paper", "26-weights"),
    ("26-paper", "27-headline"),
    ("27-quick", "27-headline"),
    ("27-headline", "27-quick"),
    ("26-paper", "26-paper"),
];

/// The median size of errors that no pair may exceed, by kernel.
const MOST: [(&str, f64); 9] = [
    ("stream", 0.015),
    ("stream_bulk", 0.01),
    ("kv_read", 0.02),
    ("attention_decode", 0.05),
    ("attention_mla", 0.10),
    ("attention_mla_wgmma", 0.35),
    ("gemm_skinny", 0.25),
    ("moe_gemm", 0.13),
    ("kv_append", 0.40),
];

fn load(name: &str) -> Campaign {
    let (day, suite) = name.split_once('-').unwrap();
    let folder = format!("results/2026-11-{day}-nvidia-h100-80gb-hbm3-{suite}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    Campaign::load(&folder, &Machines::load(None).unwrap()).unwrap()
}

fn held(constants: &Campaign, records: &Campaign, of_itself: bool) -> Comparison {
    let target = records.provenance.device.target().unwrap();
    let sheet = records.spec.as_ref().unwrap().peaks.bandwidth.read.plateau().bytes_per_s;
    let costs = LaunchCosts::of_campaign(constants, sheet);
    compare(&costs, &LaunchCosts::assumed(sheet), records, &target, of_itself)
}

fn pair((constants, records): (&str, &str)) -> Comparison {
    held(&load(constants), &load(records), constants == records)
}

/// Kernels without lines of their own, whose fixed costs are those of streams.
const WITHOUT_LINES: [&str; 2] = ["moe_gemm", "kv_append"];

/// Kernels whose median error is beyond its bound, of points whose fixed costs the campaign of
/// the constants knows.
fn faults(found: &Comparison) -> Vec<String> {
    let is_known = |point: &&Compared| {
        matches!(point.fixed_from, FixedSource::Family | FixedSource::Kernel)
            || point.fixed_from == FixedSource::Streams
                && WITHOUT_LINES.contains(&&*point.kernel)
    };
    let of = |(kernel, most): &(&str, f64)| {
        let its = found.compared().filter(|point| *point.kernel == **kernel);
        let sizes: Vec<f64> =
            its.filter(is_known).map(|point| point.error().abs()).collect();
        let is_far = !sizes.is_empty() && median(&sizes) > *most;
        is_far.then(|| format!("{kernel}: {:.3}", median(&sizes)))
    };
    MOST.iter().filter_map(of).collect()
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// The lines of the table of errors.
fn error_lines(pair: (&str, &str), found: &Comparison) -> Vec<String> {
    let line = |errors: KernelErrors| {
        format!(
            "| {} to {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            pair.0,
            pair.1,
            errors.kernel,
            errors.points,
            percent(errors.median_error),
            percent(errors.bias),
            percent(errors.worst_error),
            percent(errors.assumed_median_error),
            errors.line_share.map_or("-".to_owned(), percent),
            errors.apart
        )
    };
    found.by_kernel().into_iter().map(line).collect()
}

fn worst_line(pair: (&str, &str), point: &Compared) -> String {
    format!(
        "| {} to {} | {} | {:.1} | {:.1} | {} | {} |",
        pair.0,
        pair.1,
        point.label,
        1e6 * point.expected_s,
        1e6 * point.measured_s,
        percent(point.error()),
        point.fixed_from.name()
    )
}

/// Every kernel's median error is bounded. Prints the tables of docs/METHODOLOGY.md: the errors
/// by kernel, and the ten worst of all pairs.
#[test]
fn expectations_are_near_the_committed_records() {
    let (mut worst, mut kernels) = (Vec::new(), Vec::new());
    for names in PAIRS {
        let found = pair(names);
        println!("{}", error_lines(names, &found).join("\n"));
        assert_eq!(faults(&found), Vec::<String>::new(), "{names:?}");
        assert_eq!(found.worst().len(), found.compared().count().min(10), "{names:?}");
        kernels.extend(found.by_kernel().into_iter().map(|errors| errors.kernel));
        let of_pair =
            found.compared().map(|point| (point.error(), worst_line(names, point)));
        worst.extend(of_pair);
    }
    worst.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()).then_with(|| a.1.cmp(&b.1)));
    worst.iter().take(10).for_each(|(_, line)| println!("{line}"));
    assert!(worst.len() > 100, "only {} points are compared", worst.len());
    for kernel in ["kv_read", "attention_decode"] {
        assert!(kernels.iter().any(|known| known == kernel), "no record of {kernel}");
    }
}

/// What was measured is nearer to what is measured again than what is assumed: of all points of
/// a campaign, and of each kernel with lines whose rate is the machine's.
#[test]
fn measured_constants_are_nearer_than_assumed_ones() {
    for names in PAIRS {
        for errors in pair(names).by_kernel() {
            let is_of_machine = errors.line_share.is_some_and(|share| share > 0.95);
            if is_of_machine && errors.kernel != "attention_decode" {
                let (now, before) = (errors.median_error, errors.assumed_median_error);
                assert!(now < before, "{names:?} {}: {now} {before}", errors.kernel);
            }
        }
    }
}

type Plant = fn(&mut Campaign);

/// Mistakes in units and factors.
const PLANTS: [(&str, Plant); 4] = [
    ("twice the bandwidth", |campaign| scale_read(campaign, 2.0)),
    ("bandwidth in binary units", |campaign| scale_read(campaign, 1.0 / 1.0737)),
    ("empty launches in milliseconds", |campaign| {
        for seconds in campaign.probes.iter_mut().flat_map(|probe| &mut probe.times_s) {
            *seconds *= 1e3;
        }
    }),
    ("fixed costs in hundredths", |campaign| {
        for point in &mut campaign.points {
            point.time_s = point.time_s.map(|time_s: Estimate| Estimate {
                value: time_s.value + 1e-4,
                lo: time_s.lo + 1e-4,
                hi: time_s.hi + 1e-4,
            });
        }
    }),
];

fn scale_read(campaign: &mut Campaign, factor: f64) {
    let read = &mut campaign.ceilings.as_mut().unwrap().peaks.bandwidth.read;
    let scaled = |point: &CurvePoint| CurvePoint {
        bytes_per_s: factor * point.bytes_per_s,
        ..*point
    };
    *read = Curve::new(read.points().iter().map(scaled).collect()).unwrap();
}

#[test]
fn planted_errors_are_noticed() {
    let (paper, headline) = (load("26-paper"), load("27-headline"));
    assert_eq!(faults(&held(&paper, &headline, false)), Vec::<String>::new());
    for (what, plant) in PLANTS {
        let mut wrong = paper.clone();
        plant(&mut wrong);
        let found = faults(&held(&wrong, &headline, false));
        assert!(!found.is_empty(), "{what}");
    }
}
