//! Expectations beside the records of a campaign: how far they are from what was measured,
//! by kernel, and where they are worst.

use std::collections::{BTreeMap, HashMap};

use super::{Asked, FixedSource, LaunchCosts, RateSource, traffic, unsaid_mode};
use crate::analysis::{Campaign, Measured};
use crate::kernel::{Kernel, Plan, split_name};
use crate::model::launch::{LaunchLimit, expect};
use crate::point::{KernelName, LaunchMode};
use crate::record::Row;
use crate::roofline::RoofKind;
use crate::section::Section;
use crate::statistics::median;
use crate::toolchain::Target;

/// How many of the worst are listed.
const WORST: usize = 10;

/// A measured point and what was expected of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Its id.
    pub point_id: String,
    /// Its problem, for people.
    pub label: String,
    /// Its kernel.
    pub kernel: KernelName,
    /// How its launches were queued.
    pub launch: LaunchMode,
    /// Expected seconds of a launch.
    pub expected_s: f64,
    /// What takes most of them.
    pub limit: LaunchLimit,
    /// The same with nothing but assumed constants.
    pub assumed_s: f64,
    /// Measured seconds.
    pub measured_s: f64,
    /// Where the bandwidth comes from.
    pub rate_from: RateSource,
    /// Where the fixed cost comes from.
    pub fixed_from: FixedSource,
    /// Whether the expectation is about what was measured.
    pub standing: Standing,
}

impl Compared {
    /// How far the expectation is from what was measured, as a share of that: above 0 where
    /// more was expected.
    pub fn error(&self) -> f64 {
        self.expected_s / self.measured_s - 1.0
    }

    /// The same with nothing but assumed constants.
    pub fn assumed_error(&self) -> f64 {
        self.assumed_s / self.measured_s - 1.0
    }
}

/// Whether an expectation is about what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is: today's plan, in some configuration, launches as many blocks of as many threads.
    Compared,
    /// The kernel of that day was launched otherwise than today's.
    OtherLaunch,
    /// The bandwidth that the expectation takes is this point's own.
    OwnRate,
    /// Under the measured ceilings arithmetic takes longer than the bytes.
    Arithmetic,
}

impl Standing {
    /// As tables print it.
    pub const fn name(self) -> &'static str {
        match self {
            Standing::Compared => "yes",
            Standing::OtherLaunch => "no: launched otherwise today",
            Standing::OwnRate => "no: its rate is the bandwidth",
            Standing::Arithmetic => "no: arithmetic binds",
        }
    }
}

/// What the records of a campaign say of expectations.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Points whose data come from DRAM, of kernels that are memory bound, by kernel.
    pub points: Vec<Compared>,
    /// The same whose problem today's kernel refuses.
    pub refused: usize,
    /// Points of such kernels whose data were in a cache, wholly or partly.
    pub from_caches: usize,
    /// The share of the read bandwidth that the lines of each kernel approach.
    line_shares: BTreeMap<KernelName, f64>,
}

/// The errors of the expectations of a kernel's points, of those that are compared.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelErrors {
    /// The kernel; `all` of them together.
    pub kernel: String,
    /// Points compared.
    pub points: usize,
    /// Median of the sizes of errors.
    pub median_error: f64,
    /// Median of errors with their signs: below 0 where less than measured was expected.
    pub bias: f64,
    /// The error of the greatest size.
    pub worst_error: f64,
    /// Median of the sizes of errors with nothing but assumed constants.
    pub assumed_median_error: f64,
    /// The share of the read bandwidth that the kernel's lines approach.
    pub line_share: Option<f64>,
    /// Points that are not compared.
    pub apart: usize,
}

/// Holds expectations against the records of a campaign on a GPU of `target`. With
/// `of_itself` the costs are of the same campaign: then the line of each point is fitted
/// without it, and streams whose rate is the bandwidth stand apart.
pub fn compare(
    costs: &LaunchCosts,
    assumed: &LaunchCosts,
    records: &Campaign,
    target: &Target,
    of_itself: bool,
) -> Comparison {
    let first = |row: &&Row| row.is_planned();
    let rows: HashMap<&str, &Row> =
        records.rows.iter().filter(first).map(|row| (&*row.point_id, row)).collect();
    let mut found = Comparison::default();
    for point in records.own_points() {
        let (name, _) = split_name(&point.kernel);
        let is_memory_bound = Kernel::named(name).is_some_and(|kernel| kernel.memory_bound);
        let (true, Some(time_s)) = (is_memory_bound, point.time_s) else { continue };
        if !point.is_from_dram() {
            found.from_caches += 1;
            continue;
        }
        let row = rows.get(&*point.point_id);
        let plan = row.and_then(|row| as_recorded(point, row, target));
        let (Some(row), Some(plan)) = (row, plan) else {
            found.refused += 1;
            continue;
        };
        let traffic =
            traffic(&plan, row.blocks_per_sm.unwrap_or(1), target.sms, &point.work);
        let asked = Asked {
            problem: &point.problem,
            kernel: &point.kernel,
            launch: point.launch.unwrap_or(unsaid_mode(records)),
            without: of_itself.then_some((point.work.bytes() as f64, time_s.value)),
        };
        let known = costs.of(&asked);
        let expected = expect(&traffic, &known.constants);
        found.points.push(Compared {
            point_id: point.point_id.clone(),
            label: point.problem.label(),
            kernel: point.kernel.clone(),
            launch: asked.launch,
            expected_s: expected.time_s,
            limit: expected.limit,
            assumed_s: expect(&traffic, &assumed.of(&asked).constants).time_s,
            measured_s: time_s.value,
            rate_from: known.rate_from,
            fixed_from: known.fixed_from,
            standing: standing(point, row, &plan, of_itself.then_some(costs)),
        });
    }
    found.points.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    for kernel in found.points.iter().map(|point| &point.kernel) {
        let shares = costs.line_shares(kernel);
        if !shares.is_empty() {
            found.line_shares.insert(kernel.clone(), median(&shares));
        }
    }
    found
}

/// The kernel of a point, configured as its row says, or where the row does not say it in the
/// default, or the first configuration that is launched as the row has it; `None` where
/// today's kernels refuse the problem.
fn as_recorded(point: &Measured, row: &Row, target: &Target) -> Option<Plan> {
    let ask = |name: &str| {
        let configured = Kernel::asked_for(name, &point.problem, target.arch).ok()?;
        Some(configured.plan(target))
    };
    let (name, None) = split_name(&point.kernel) else { return ask(&point.kernel) };
    if !row.configuration.is_empty() {
        return ask(&format!("{name}.{}", row.configuration));
    }
    let default = ask(name)?;
    if is_launched_as(&default, row) {
        return Some(default);
    }
    let others = Kernel::named(name)?.configurations();
    let mut others = others.filter_map(|other| ask(&format!("{name}.{}", other.name)));
    others.find(|plan| is_launched_as(plan, row)).or(Some(default))
}

/// Whether a plan launches as many blocks of as many threads as a row says of the launch with
/// the most blocks.
fn is_launched_as(plan: &Plan, row: &Row) -> bool {
    let by = |[x, y, z]: [u32; 3]| format!("{x}x{y}x{z}");
    let blocks = |grid: [u32; 3]| grid.iter().map(|&n| u64::from(n)).product::<u64>();
    let launches = plan.all_launches().map(|planned| planned.launch);
    let main = launches.min_by_key(|launch| std::cmp::Reverse(blocks(launch.grid)));
    main.is_some_and(|main| by(main.grid) == row.grid && by(main.block) == row.block)
}

/// `own` are the costs where they are of the same campaign.
fn standing(
    point: &Measured,
    row: &Row,
    plan: &Plan,
    own: Option<&LaunchCosts>,
) -> Standing {
    let roof = point.empirical.or(point.derived).or(point.spec);
    if roof.is_some_and(|roof| roof.binding() != RoofKind::Memory) {
        return Standing::Arithmetic;
    }
    if own.is_some_and(|costs| costs.is_bandwidth_of(point)) {
        return Standing::OwnRate;
    }
    if is_launched_as(plan, row) { Standing::Compared } else { Standing::OtherLaunch }
}

impl Comparison {
    /// Those that are about what was measured.
    pub fn compared(&self) -> impl Iterator<Item = &Compared> + Clone {
        self.points.iter().filter(|point| point.standing == Standing::Compared)
    }

    /// Errors by kernel, and at the end of all kernels; of none where nothing is compared.
    pub fn by_kernel(&self) -> Vec<KernelErrors> {
        let mut kernels: Vec<&KernelName> =
            self.compared().map(|point| &point.kernel).collect();
        kernels.dedup();
        let of_kernel = |kernel: &KernelName| {
            let line_share = self.line_shares.get(kernel).copied();
            let is_its = |point: &Compared| point.kernel == *kernel;
            self.errors(kernel.to_string(), is_its, line_share)
        };
        let mut found: Vec<KernelErrors> = kernels.into_iter().map(of_kernel).collect();
        if !found.is_empty() {
            found.push(self.errors("all".to_owned(), |_| true, None));
        }
        found
    }

    fn errors(
        &self,
        kernel: String,
        is_its: impl Fn(&Compared) -> bool,
        line_share: Option<f64>,
    ) -> KernelErrors {
        let its: Vec<&Compared> = self.compared().filter(|point| is_its(point)).collect();
        let errors: Vec<f64> = its.iter().map(|point| point.error()).collect();
        let sizes: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
        let assumed: Vec<f64> =
            its.iter().map(|point| point.assumed_error().abs()).collect();
        let worst = errors.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
        KernelErrors {
            points: its.len(),
            median_error: median(&sizes),
            bias: median(&errors),
            worst_error: worst.unwrap_or(0.0),
            assumed_median_error: median(&assumed),
            line_share,
            apart: self.points.iter().filter(|point| is_its(point)).count() - its.len(),
            kernel,
        }
    }

    /// The ten whose expectations are farthest from what was measured, farthest first.
    pub fn worst(&self) -> Vec<&Compared> {
        let mut points: Vec<&Compared> = self.compared().collect();
        points.sort_by(|a, b| b.error().abs().total_cmp(&a.error().abs()));
        points.truncate(WORST);
        points
    }

    /// Tables: all points, kernels, and the worst.
    pub fn sections(&self, heading: &str, remarks: &[String]) -> Vec<Section> {
        let rows = self.points.iter().map(|point| {
            let mut row = cells(point);
            row.push(point.standing.name().to_owned());
            row
        });
        let mut columns = POINT_COLUMNS.to_vec();
        columns.push("compared");
        let mut paragraphs = remarks.to_vec();
        paragraphs.extend(self.left_out());
        let points = Section {
            heading: heading.to_owned(),
            paragraphs,
            columns,
            rows: rows.collect(),
            keys: 2,
            spare: SPARE,
        };
        let worst = Section {
            heading: "Farthest from what was measured".to_owned(),
            columns: POINT_COLUMNS.to_vec(),
            rows: self.worst().into_iter().map(cells).collect(),
            keys: 2,
            spare: SPARE,
            ..Section::default()
        };
        vec![points, self.kernel_section(), worst]
    }

    fn kernel_section(&self) -> Section {
        let row = |errors: KernelErrors| {
            vec![
                errors.kernel,
                errors.points.to_string(),
                errors.median_error.to_string(),
                errors.bias.to_string(),
                errors.worst_error.to_string(),
                errors.assumed_median_error.to_string(),
                errors.line_share.map_or(String::new(), |share| share.to_string()),
                errors.apart.to_string(),
            ]
        };
        Section {
            heading: "Errors by kernel".to_owned(),
            paragraphs: vec![
                "Of points that are compared: the median size of errors, the median error with \
                 its sign, the worst. The assumed column is the median size with nothing but \
                 assumed constants. Line share: the share of the read bandwidth that the \
                 kernel's own lines approach; what is missing there is missing here."
                    .to_owned(),
            ],
            columns: KERNEL_COLUMNS.to_vec(),
            rows: self.by_kernel().into_iter().map(row).collect(),
            keys: 1,
            spare: &["not_compared"],
        }
    }

    fn left_out(&self) -> Option<String> {
        let of = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
        let parts = [
            of(self.from_caches, "points whose data were in a cache"),
            of(self.refused, "that today's kernels refuse"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("Without {}.", parts.join(" and ")))
    }
}

const POINT_COLUMNS: [&str; 10] = [
    "problem",
    "kernel",
    "launch_mode",
    "expected_s",
    "measured_s",
    "error_share",
    "assumed_error_share",
    "limit",
    "rate_from",
    "fixed_from",
];

const KERNEL_COLUMNS: [&str; 8] = [
    "kernel",
    "points",
    "median_error_share",
    "bias_share",
    "worst_error_share",
    "assumed_median_error_share",
    "line_share",
    "not_compared",
];

/// What a narrow terminal can do without.
const SPARE: &[&str] =
    &["launch_mode", "limit", "rate_from", "measured_s", "assumed_error_share"];

fn cells(point: &Compared) -> Vec<String> {
    vec![
        point.label.clone(),
        point.kernel.to_string(),
        point.launch.to_string(),
        point.expected_s.to_string(),
        point.measured_s.to_string(),
        point.error().to_string(),
        point.assumed_error().to_string(),
        point.limit.name().to_owned(),
        point.rate_from.name().to_owned(),
        point.fixed_from.name().to_owned(),
    ]
}
