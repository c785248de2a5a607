//! What makes a run invalid, and what a reader should know all the same.

use super::{IMPOSSIBLE_SHARE, Judge, counted, percent};
use crate::analysis::{Doubt, LEAST_COMPUTE_SHARE, LEAST_MEMORY_SHARE, Measured};
use crate::device::ClockLimit;
use crate::format::DType;
use crate::model::derived;
use crate::quantity::si;
use crate::record::{Row, Status};
use crate::statistics::Estimate;

/// Clocks at which processors compute.
const CPU_CLOCKS_HZ: std::ops::RangeInclusive<f64> = 2.0e9..=6.5e9;

impl Judge<'_> {
    pub(super) fn validity(&self) -> (Vec<String>, Vec<String>) {
        let mut faults = Vec::new();
        let mut warnings = Vec::new();
        let in_turn = self.campaign.in_turn.iter().filter(|point| point.is_own());
        for point in self.campaign.own_points().chain(in_turn) {
            let (problem, reason) = (&point.problem, &point.reason);
            match point.status {
                Status::Wrong => faults.push(format!("wrong output: {problem}: {reason}")),
                Status::Failed => faults.push(format!("failed: {problem}: {reason}")),
                Status::Ok
                | Status::Noisy
                | Status::Disturbed
                | Status::Throttled
                | Status::Skipped => {}
            }
        }
        faults.extend(self.beyond_roofs());
        let unreadable = self.campaign.unreadable.iter();
        faults.extend(unreadable.map(|value| format!("unreadable: {value}")));
        self.check_records(&mut faults, &mut warnings);
        self.impossible_rates(&mut faults);
        self.faster_than_the_probe(&mut faults);
        self.missing_rows(&mut faults);
        faults.extend(self.nothing_measured());
        let count = |s| self.campaign.own_points().filter(|p| p.status == s).count();
        let (noisy, skipped) = (count(Status::Noisy), count(Status::Skipped));
        if noisy > 0 {
            warnings.push(format!(
                "{} noisy: the interval of the median is wider than the suite wants",
                counted(noisy, "point is", "points are")
            ));
        }
        let disturbed = count(Status::Disturbed);
        if disturbed > 0 {
            warnings.push(format!(
                "{} disturbed by other programs and not used; measure on an idle machine",
                counted(disturbed, "point was", "points were")
            ));
        }
        let throttled = count(Status::Throttled);
        if throttled > 0 {
            warnings.push(format!(
                "{} slowed down by the heat of the device and not used; cool it, or measure \
                 less at a time",
                counted(throttled, "point was", "points were")
            ));
        }
        warnings.extend(self.at_limit_of_power());
        if skipped > 0 {
            warnings.push(format!(
                "{} skipped; see the column reason",
                counted(skipped, "point was", "points were")
            ));
        }
        self.peer_warnings(&mut warnings);
        self.circumstances(&mut warnings);
        (faults, warnings)
    }

    /// A campaign without a single time says nothing, whatever the reason. Points that failed
    /// or were wrong are faults of their own.
    fn nothing_measured(&self) -> Option<String> {
        let points: Vec<&Measured> = self.campaign.own_points().collect();
        let spoils = |status| matches!(status, Status::Failed | Status::Wrong);
        let is_silent = |point: &&Measured| point.time_s.is_none() && !spoils(point.status);
        let first = points.first().filter(|_| points.iter().all(is_silent))?;
        let so = |status: Status| points.iter().filter(|p| p.status == status).count();
        let counts: Vec<String> = Status::ALL
            .into_iter()
            .filter(|status| so(*status) > 0)
            .map(|status| format!("{} {}", so(status), status.name()))
            .collect();
        Some(format!(
            "nothing was measured: of {}, {}; the first is {}: {}",
            counted(points.len(), "point", "points"),
            counts.join(", "),
            first.problem,
            first.reason
        ))
    }

    /// Points whose clocks the limit of power kept down: another limit, or other data,
    /// would give another time.
    fn at_limit_of_power(&self) -> Option<String> {
        let is_limited = |row: &&Row| {
            row.is_planned()
                && row.clock_limits.split('+').any(|name| name == ClockLimit::Power.name())
        };
        let limited = self.campaign.rows.iter().filter(is_limited).count();
        let limit_w = self.campaign.runs.last().and_then(|run| run.get("power_limit_w"));
        (limited > 0).then(|| {
            format!(
                "{} at the limit of the device's power{}: clocks were lower than they may be, \
                 and other data or another limit give another time (column clock_limits)",
                counted(limited, "point was measured", "points were measured"),
                limit_w.map_or(String::new(), |w| format!(", {w} W"))
            )
        })
    }

    /// Rates that no memory and no multiprocessor of this device can reach.
    fn impossible_rates(&self, faults: &mut Vec<String>) {
        let Some(derived) = &self.campaign.derived else { return };
        let bytes_per_s = derived.bandwidth.read.plateau().bytes_per_s;
        let read = self.campaign.ceilings.as_ref().map(|ceilings| &ceilings.read);
        if let Some(read) = read
            && read.rate.lo > derived::MARGIN * bytes_per_s
        {
            faults.push(format!(
                "impossible: the DRAM read ceiling of {} is {} of the {} that the memory's \
                 clock and bus allow; a cache helped, bytes are miscounted, or the device \
                 misreports its memory",
                si(read.rate.value, "B/s"),
                percent(read.rate.value / bytes_per_s),
                si(bytes_per_s, "B/s")
            ));
        }
        let margin = derived::compute_margin(&self.campaign.provenance.device);
        for point in &self.campaign.points {
            let is_ceiling = read.is_some_and(|read| read.point_id == point.point_id);
            if let Some(rate) = self.least_dram_rate(point)
                && rate.lo > derived::MARGIN * bytes_per_s
                && !is_ceiling
            {
                faults.push(format!(
                    "impossible: {} moved {} from DRAM, {} of the {} that the memory's clock \
                     and bus allow; its bytes are miscounted, or the device misreports its \
                     memory",
                    point.problem,
                    si(rate.value, "B/s"),
                    percent(rate.value / bytes_per_s),
                    si(bytes_per_s, "B/s")
                ));
            }
            let peak =
                point.problem.math_dtype().and_then(|dtype| derived.flops_per_s(dtype));
            if let (Some(rate), Some(peak)) = (point.flops_per_s(), peak)
                && rate.lo > margin * peak
            {
                faults.push(format!(
                    "impossible: {} ran at {}, {} of the {} that the multiprocessors can do at \
                     their highest clock; its FLOPs are miscounted, or it computed in another \
                     format",
                    point.problem,
                    si(rate.value, "FLOP/s"),
                    percent(rate.value / peak),
                    si(peak, "FLOP/s")
                ));
            }
        }
    }

    /// Arithmetic much faster than the probe of the units that do it. Where clocks are not
    /// known, this is all that a rate can be held against.
    fn faster_than_the_probe(&self, faults: &mut Vec<String>) {
        let Some(ceilings) = &self.campaign.ceilings else { return };
        for (dtype, ceiling) in &ceilings.compute {
            let (best, Some(probe)) = (ceiling.source(), ceiling.probe()) else { continue };
            let limit = IMPOSSIBLE_SHARE * probe.rate.value;
            if self.campaign.derived.is_some() || best.rate.lo <= limit {
                continue;
            }
            let done_in = ceiling.computed_in.unwrap_or(*dtype);
            let candidate = self.campaign.points.iter().find(|p| {
                p.point_id == best.point_id && p.problem.math_dtype() == Some(*dtype)
            });
            // Formats that share a ceiling share its fault.
            let Some(point) = candidate else { continue };
            faults.push(format!(
                "impossible: {} ran at {}, {} of the {} that the probe {} reached in {done_in}, \
                 the format in which it is computed; its FLOPs are miscounted, or the probe was \
                 measured under load",
                point.problem,
                si(best.rate.value, "FLOP/s"),
                percent(best.rate.value / probe.rate.value),
                si(probe.rate.value, "FLOP/s"),
                probe.kernel
            ));
        }
    }

    /// The rate at which DRAM must have moved bytes for a point at the least.
    /// Of each round through the rotation, the last-level cache can keep no
    /// more than it holds, whatever its replacement policy; the rest of the
    /// compulsory bytes came from DRAM. `None` for what lies in a cache.
    fn least_dram_rate(&self, point: &Measured) -> Option<Estimate> {
        let rate = point.bytes_per_s().filter(|_| point.is_from_dram())?;
        let cache = self.campaign.provenance.l2_bytes.unwrap_or(0) as f64;
        let round = point.reuse_distance_bytes? as f64;
        Some(rate.scaled(1.0 - (cache / round).clamp(0.0, 1.0)))
    }

    /// What about the machine a reader should know.
    fn circumstances(&self, warnings: &mut Vec<String>) {
        if self.campaign.ceilings.is_none() {
            warnings.push(
                "no read stream was measured from DRAM: shares of roofs are unknown".into(),
            );
        }
        warnings.extend(self.campaign.spec_refused.clone());
        self.doubtful_ceilings(warnings);
        warnings.extend(self.doubtful_clock());
        self.moved_probes(warnings);
        let sentinel = self.campaign.sentinel.as_ref().filter(|s| s.drift() > 0.1);
        if let Some(sentinel) = sentinel {
            let so = match self.campaign.repeatability {
                Some(_) => "rounds are spread over it, so that intervals contain that",
                None => "every interval is widened by that to both sides",
            };
            warnings.push(format!(
                "the machine drifted by {} of its repeats; {so}",
                sentinel.drift_text()
            ));
        }
        let most = self.campaign.disturbed_share();
        let is_disturbed =
            |p: &&Measured| p.other_cpu_share.is_some_and(|share| share > most);
        let disturbed = self.campaign.points.iter().filter(is_disturbed).count();
        if disturbed > 0 {
            warnings.push(format!(
                "during {} other programs or the hypervisor took more than {:.0}% of the CPU \
                 time (other_cpu_share in results.csv)",
                counted(disturbed, "point", "points"),
                100.0 * most
            ));
        }
    }

    /// Ceilings that nothing is judged by, and which probe is missing.
    fn doubtful_ceilings(&self, warnings: &mut Vec<String>) {
        let Some(ceilings) = &self.campaign.ceilings else { return };
        let read = ("DRAM reads".to_owned(), None, &ceilings.read, LEAST_MEMORY_SHARE);
        let compute = ceilings.compute.iter().map(|(dtype, ceiling)| {
            (format!("{dtype} arithmetic"), Some(*dtype), ceiling, LEAST_COMPUTE_SHARE)
        });
        for (what, dtype, ceiling, least) in std::iter::once(read).chain(compute) {
            let Some(doubt) = ceiling.doubt() else { continue };
            let best = ceiling.source();
            let why = match (doubt, best.share_of_derived()) {
                (Doubt::TooLow, Some(share)) => format!(
                    "{} is the best with {} of what the clocks allow, and {} are needed",
                    best.kernel,
                    percent(share),
                    percent(least)
                ),
                (Doubt::Disturbed, _) => "others used the CPU meanwhile".to_owned(),
                (_, _) => "nothing shows what the units can do".to_owned(),
            };
            let missing = match (ceiling.probe(), dtype) {
                (None, Some(dtype)) => format!(
                    "the campaign lacks a `peak` point of {}",
                    ceiling.computed_in.unwrap_or(dtype)
                ),
                (Some(probe), _) if probe.point_id != best.point_id => {
                    format!("the probe {} reaches less", probe.kernel)
                }
                (_, _) => "a better probe is missing".to_owned(),
            };
            warnings.push(format!(
                "what reaches the ceiling of {what} is not judged: {why}; {missing}"
            ));
        }
    }

    /// A CPU does not report its clock, but its instruction set says what its cores do in a
    /// cycle, so the f32 ceiling says at which clock they would have done it.
    fn doubtful_clock(&self) -> Option<String> {
        let run =
            self.campaign.runs.last().filter(|run| run.get("backend") == Some("cpu"))?;
        let simd = run.get("simd")?;
        let flops_per_cycle = derived::cpu_flops_per_cycle(simd)?;
        let threads: f64 = run.get("threads")?.parse().ok()?;
        let ceiling = self.campaign.ceilings.as_ref()?.compute.get(&DType::F32)?;
        let clock_hz = ceiling.rate.value / (threads * flops_per_cycle);
        let is_usual = CPU_CLOCKS_HZ.contains(&clock_hz);
        (!is_usual && clock_hz.is_finite()).then(|| {
            format!(
                "the f32 ceiling of {} is what {threads} threads do in {simd} at {}, \
                 {flops_per_cycle} FLOPs a cycle: expected are {} to {}. Threads share the \
                 units of a core, others used them, or FLOPs are miscounted",
                si(ceiling.rate.value, "FLOP/s"),
                si(clock_hz, "Hz"),
                si(*CPU_CLOCKS_HZ.start(), "Hz"),
                si(*CPU_CLOCKS_HZ.end(), "Hz")
            )
        })
    }

    fn missing_rows(&self, faults: &mut Vec<String>) {
        let planned = self.campaign.provenance.planned_rows;
        let (of_peers, planned_of_peers) = self.campaign.peer_rows();
        let rows = self.campaign.row_count - of_peers;
        let folder = self.campaign.folder.display();
        match planned {
            None => faults.push(format!("{folder}/run.csv does not say how many rows were planned")),
            Some(planned) if rows < planned => faults.push(format!(
                "{rows} of {planned} planned rows are there; finish it with `ridgepoint \
                 measure --resume {folder}`"
            )),
            Some(planned) if rows > planned => faults.push(format!(
                "{rows} rows are there, but {planned} were planned: files were mixed or edited"
            )),
            Some(_) => {}
        }
        if of_peers > planned_of_peers {
            faults.push(format!(
                "{of_peers} rows of peers are there, but {planned_of_peers} were planned: files \
                 were mixed or edited"
            ));
        }
    }
}
