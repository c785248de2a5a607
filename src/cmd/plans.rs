//! `ridgepoint kernels plan`: how memory-bound kernels are launched for every point of
//! suites, which resources of an SM they use, and how fast they should be; or how far that is
//! from what a campaign measured.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};

use super::compare::is_wanted;
use super::options::{FilterArgs, OutputFormat};
use super::table;
use crate::analysis::Campaign;
use crate::expectation::records::compare;
use crate::expectation::{Asked, LaunchCosts, traffic};
use crate::inventory::{Inventory, Wanted};
use crate::kernel::Kernel;
use crate::model::launch::{FIXED_S, LATENCY_S, REACHABLE, expect};
use crate::model::machine::{Machine, Machines};
use crate::op::Problem;
use crate::point::{LaunchMode, Point};
use crate::quantity::{share, si};
use crate::section::Section;
use crate::suite::{PlanBasis, Suite};
use crate::toolchain::nvrtc::Resources;
use crate::toolchain::{Arch, Compiler, CompilerOptions, Target};

/// Show how memory-bound kernels are launched for every point of suites: their resources,
/// bytes in flight, and the time that follows from these, by assumed constants or by those
/// that a campaign measured; or hold that time against a campaign. Needs no GPU.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Built-in suites or .toml files; `paper` where none is named.
    suites: Vec<OsString>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Architecture to compile for: the machine's, and no other.
    #[arg(long)]
    arch: Option<Arch>,
    /// Machine of the table of data sheets, for its architecture, multiprocessors, cache and
    /// bandwidth.
    #[arg(long, default_value = DEFAULT_MACHINE, conflicts_with = "campaign")]
    machine: String,
    /// Plan for the GPU of this campaign, and take what it measured in place of what is
    /// assumed: bandwidth, empty launches, fixed costs of kernels.
    #[arg(long, value_name = "DIR")]
    campaign: Option<PathBuf>,
    /// Hold the times against the records of this campaign, of a GPU like the one that is
    /// planned for, and show how far they are from what was measured.
    #[arg(long, value_name = "DIR", conflicts_with = "suites")]
    against: Option<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: OutputFormat,
}

/// The machine where none is named.
const DEFAULT_MACHINE: &str = "h100-sxm";
/// The suite where none is named.
const DEFAULT_SUITE: &str = "paper";
/// Capacity of the cache where nothing says it, in bytes: as much as an H100 has.
const USUAL_CACHE_BYTES: u64 = 50 << 20;

/// The GPU that is planned for, and what is known of its launches.
struct Gpu {
    name: String,
    target: Target,
    cache_bytes: u64,
    /// Of its data sheet, or derived from its memory's clock.
    bytes_per_s: f64,
    costs: LaunchCosts,
    /// The campaign that measured it.
    campaign: Option<Campaign>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let machines = Machines::load(None)?;
    let gpu = match &args.campaign {
        Some(folder) => Gpu::of_campaign(folder, &machines)?,
        None => Gpu::of_machine(machines.named(&args.machine)?)?,
    };
    if let Some(other) = args.arch.filter(|arch| *arch != gpu.target.arch) {
        bail!("{} is {}, not {other}; leave --arch out", gpu.name, gpu.target.arch);
    }
    let sections = match &args.against {
        Some(folder) => gpu.against(folder, &machines, &args.filter)?,
        None => vec![gpu.planned(args)?],
    };
    table::print(&sections, args.format)?;
    Ok(ExitCode::SUCCESS)
}

impl Gpu {
    /// With nothing but assumed constants.
    fn of_machine(machine: &Machine) -> Result<Self> {
        Ok(Gpu {
            name: machine.name.clone(),
            target: machine.target().map_err(anyhow::Error::msg)?,
            cache_bytes: machine.l2_bytes.map_or(USUAL_CACHE_BYTES, |bytes| bytes as u64),
            bytes_per_s: machine.bytes_per_s,
            costs: LaunchCosts::assumed(machine.bytes_per_s),
            campaign: None,
        })
    }

    /// With what a campaign measured.
    fn of_campaign(folder: &Path, machines: &Machines) -> Result<Self> {
        let campaign = Campaign::load(folder, machines)?;
        let shown = folder.display();
        let device = &campaign.provenance.device;
        let target = device.target().map_err(|why| {
            anyhow!(
                "{shown} is of {}, which reports {why}; name a campaign of an NVIDIA GPU",
                device.name
            )
        })?;
        let sheet = campaign.spec.as_ref().map(|sheet| &sheet.peaks);
        let peaks = sheet.or(campaign.derived.as_ref()).with_context(|| {
            format!(
                "neither the table of machines nor {shown} says the memory's bandwidth of {}",
                device.name
            )
        })?;
        let bytes_per_s = peaks.bandwidth.read.plateau().bytes_per_s;
        Ok(Gpu {
            name: device.name.clone(),
            target,
            cache_bytes: campaign.provenance.l2_bytes.unwrap_or(USUAL_CACHE_BYTES),
            bytes_per_s,
            costs: LaunchCosts::of_campaign(&campaign, bytes_per_s),
            campaign: Some(campaign),
        })
    }

    /// The table of the points of suites.
    fn planned(&self, args: &Args) -> Result<Section> {
        let default = [DEFAULT_SUITE.into()];
        let names = if args.suites.is_empty() { &default[..] } else { &args.suites };
        let suites =
            names.iter().map(|name| args.filter.load(name)).collect::<Result<Vec<_>>>()?;
        let resources = compile(&suites, self.target.arch)?;
        let mut rows = Vec::new();
        for suite in &suites {
            for point in self.points(suite)? {
                rows.extend(self.row(&point, &resources));
            }
        }
        if rows.is_empty() {
            let names: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
            bail!(
                "no memory-bound kernel runs a point of {} on {}",
                names.join(", "),
                self.target.arch
            );
        }
        let mut section = Section {
            heading: self.heading("Launches"),
            paragraphs: vec![self.basis(), READING.to_owned()],
            columns: COLUMNS.to_vec(),
            rows,
            keys: 2,
            spare: &[
                "registers",
                "shared_bytes",
                "blocks_per_sm",
                "extra_bytes",
                "busiest_over_mean",
                "sm_in_flight_bytes",
                "blocks",
                "mix_bytes_per_s",
                "fixed_s",
            ],
        };
        if self.campaign.as_ref().is_some_and(Campaign::is_simulated) {
            section.mark_simulated();
        }
        Ok(section)
    }

    fn heading(&self, what: &str) -> String {
        let Target { arch, sms, .. } = self.target;
        format!("{what} on {} ({arch}, {sms} SMs)", self.name)
    }

    /// What expectations rest on.
    fn basis(&self) -> String {
        let (sheet, reachable) = (si(self.bytes_per_s, "B/s"), share(REACHABLE));
        let (fixed, latency) = (si(FIXED_S, "s"), si(LATENCY_S, "s"));
        let formula = format!(
            "a fixed cost of each launch, and the longer of two: its bytes at the bandwidth, or \
             a latency of {latency} (assumed) for each time that what is in flight comes, but \
             the first; times the busiest block's share."
        );
        match &self.campaign {
            None => format!(
                "Expected, not measured: {formula} Assumed are {fixed} and {reachable} of \
                 {sheet}."
            ),
            Some(campaign) => format!(
                "Expected: {formula} Bandwidth, empty launches and fixed costs are those that \
                 {} measured, where the columns say so; assumed elsewhere are {fixed} and \
                 {reachable} of {sheet}.",
                campaign.folder.display()
            ),
        }
    }

    /// Tables of expectations beside the records of a campaign.
    fn against(
        &self,
        folder: &Path,
        machines: &Machines,
        filter: &FilterArgs,
    ) -> Result<Vec<Section>> {
        let mut records = Campaign::load(folder, machines)?;
        self.refuse_other(&records)?;
        records.points.retain(|point| is_wanted(filter, point));
        let of_itself = self.is_of(&records);
        let assumed = LaunchCosts::assumed(self.bytes_per_s);
        let found = compare(&self.costs, &assumed, &records, &self.target, of_itself);
        if found.points.is_empty() {
            let met =
                filter.filter.as_ref().map_or(String::new(), |f| format!(" meeting `{f}`"));
            bail!(
                "{} has no measured point{met} of a memory-bound kernel whose data come from DRAM",
                folder.display()
            );
        }
        let mut remarks = vec![self.basis()];
        if of_itself {
            remarks.push(OF_ITSELF.to_owned());
        }
        let heading = self.heading("Expected and measured");
        let mut sections = found.sections(&heading, &remarks);
        if records.is_simulated() {
            sections.iter_mut().for_each(Section::mark_simulated);
        }
        Ok(sections)
    }

    /// Refuses records of a GPU that the constants say nothing of.
    fn refuse_other(&self, records: &Campaign) -> Result<()> {
        let theirs = &records.provenance.device;
        let is_ours = match &self.campaign {
            Some(campaign) => {
                let ours = &campaign.provenance.device;
                (&ours.name, ours.sm_count) == (&theirs.name, theirs.sm_count)
            }
            None => records.spec.as_ref().is_some_and(|sheet| sheet.machine == self.name),
        };
        if is_ours {
            return Ok(());
        }
        bail!(
            "{} is of {}, and the times are of {}; name a campaign of the same GPU",
            records.folder.display(),
            if theirs.name.is_empty() { "an unknown device" } else { &theirs.name },
            self.name
        )
    }

    /// Whether the constants were measured by the same processes.
    fn is_of(&self, records: &Campaign) -> bool {
        let id = |campaign: &Campaign| {
            campaign.runs.first().and_then(|run| run.get("run_id")).map(str::to_owned)
        };
        self.campaign.as_ref().and_then(id).is_some_and(|ours| id(records) == Some(ours))
    }

    /// The distinct points of a suite whose kernels are memory bound.
    fn points(&self, suite: &Suite) -> Result<Vec<Point>> {
        let arch = self.target.arch;
        let kernel = |problem: &Problem| {
            Kernel::for_problem(problem, arch).ok().map(|found| found.kernel.name)
        };
        let basis = PlanBasis {
            cache_bytes: self.cache_bytes,
            units: u64::from(self.target.sms),
            kernel: &kernel,
            vendor: &|_| None,
        };
        let mut points = suite.plan_for(&basis)?.points;
        points.retain(|point| {
            Kernel::asked_for(&point.kernel, &point.problem, arch)
                .is_ok_and(|found| found.kernel.memory_bound)
        });
        Ok(points)
    }

    /// The row of a point, if a kernel runs it.
    fn row(&self, point: &Point, compiled: &Compiled) -> Option<Vec<String>> {
        let target = &self.target;
        let configured =
            Kernel::asked_for(&point.kernel, &point.problem, target.arch).ok()?;
        let kernel = configured.kernel;
        let (wanted, entries) =
            compiled.get(&(kernel.name, configured.defines.to_string()))?;
        let plan = configured.plan(target);
        let launch = plan.launches.first()?;
        let resources = entries.get(launch.entry)?;
        let (blocks_per_sm, _) = wanted.blocks_per_sm(launch.entry, resources);
        let blocks: u32 = launch.grid.iter().product();
        let work = point.problem.work();
        let costs = self.costs.of(&Asked {
            problem: &point.problem,
            kernel: &point.kernel,
            launch: point.launch.unwrap_or(LaunchMode::Graph),
            without: None,
        });
        let traffic = traffic(&plan, blocks_per_sm, target.sms, &work);
        let expected = expect(&traffic, &costs.constants);
        // One wave leaves room on an SM.
        let resident = blocks_per_sm.min(blocks.div_ceil(target.sms));
        let in_flight = launch.bytes_in_flight * u64::from(resident);
        Some(vec![
            point.problem.label(),
            point.kernel.to_string(),
            resources.registers.to_string(),
            (resources.shared_bytes + launch.shared_bytes).to_string(),
            blocks_per_sm.to_string(),
            blocks.to_string(),
            in_flight.to_string(),
            work.bytes().to_string(),
            plan.extra_bytes.map(|bytes| bytes.to_string()).unwrap_or_default(),
            plan.imbalance.to_string(),
            expected.time_s.to_string(),
            expected.of_read_stream.to_string(),
            expected.limit.name().to_owned(),
            costs.constants.mix_bytes_per_s.to_string(),
            costs.rate_from.name().to_owned(),
            costs.constants.fixed_s.to_string(),
            costs.fixed_from.name().to_owned(),
        ])
    }
}

/// How to read the table of launches.
const READING: &str = "The share of a stream compares with an endless read. Extra bytes are \
                       empty where they are as many as the cache does not keep.";

/// What is said where a campaign is held against itself.
const OF_ITSELF: &str = "The constants are of the same campaign: the line of each point is \
                         fitted without it, and streams whose rate is the bandwidth are not \
                         compared.";

const COLUMNS: [&str; 17] = [
    "problem",
    "kernel",
    "registers",
    "shared_bytes",
    "blocks_per_sm",
    "blocks",
    "sm_in_flight_bytes",
    "bytes",
    "extra_bytes",
    "busiest_over_mean",
    "expected_s",
    "stream_share",
    "limit",
    "mix_bytes_per_s",
    "rate_from",
    "fixed_s",
    "fixed_from",
];

/// Entries of compiled kernels by kernel and macros.
type Compiled = HashMap<(&'static str, String), (Wanted, HashMap<String, Resources>)>;

fn compile(suites: &[Suite], arch: Arch) -> Result<Compiled> {
    let compiler = Compiler::new(CompilerOptions::default())?;
    compiler.nvrtc().map_err(Clone::clone)?;
    let mut inventory = Inventory::of(suites, &[arch])?;
    inventory.wanted.retain(|wanted| {
        Kernel::named(wanted.source.name).is_some_and(|kernel| kernel.memory_bound)
    });
    let results = inventory.compile(&compiler);
    let mut compiled = HashMap::new();
    for (wanted, result) in inventory.wanted.into_iter().zip(results) {
        let binary = result
            .with_context(|| format!("{} with {}", wanted.source.name, wanted.defines))?;
        let key = (wanted.source.name, wanted.defines.to_string());
        compiled.insert(key, (wanted, binary.resources.into_iter().collect()));
    }
    Ok(compiled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_what_is_planned_for() {
        let machines = Machines::load(None).unwrap();
        let of = |name: &str| {
            let gpu = Gpu::of_machine(machines.named(name).unwrap());
            gpu.map(|gpu| gpu.heading("Launches"))
        };
        let a100 = of("a100-sxm-80gb").unwrap();
        assert_eq!(a100, "Launches on a100-sxm-80gb (sm_80, 108 SMs)");
        assert_eq!(of("b200").unwrap(), "Launches on b200 (sm_100a, 148 SMs)");
        assert!(of("h200").is_ok());
        assert!(of("mi300x").is_err());
    }
}
