//! The limits of the machine as it was measured, and the fixed costs and bandwidths
//! of moving bytes.

use super::{Judge, LIMITS_HEADING, MachineLimit, cell, cells, interval, percent};
use crate::analysis::{Candidate, Ceiling, Repeatability, drift_text};
use crate::format::DType;
use crate::line_fit::{self, LineFamily};
use crate::quantity::si;
use crate::residency::CacheLevel;
use crate::roofline::Peaks;
use crate::section::Section;
use crate::statistics::Estimate;

impl Judge<'_> {
    /// What the machine was measured to do at most.
    pub(super) fn limits(&self) -> Vec<MachineLimit> {
        let mut limits = Vec::new();
        if let Some(ceilings) = &self.campaign.ceilings {
            let read = &ceilings.read;
            let of = |peaks: &Peaks| Some(peaks.bandwidth.read.plateau().bytes_per_s);
            limits.push(self.ceiling("dram_read_bandwidth".into(), read, "bytes/s", &of));
            for (&dtype, ceiling) in &ceilings.compute {
                let of = |peaks: &Peaks| peaks.flops_per_s(dtype);
                let id = format!("{dtype}_compute");
                let mut limit = self.ceiling(id, ceiling, "flops/s", &of);
                limit.from.push_str(&self.units_not_driven(dtype));
                limit.flops_per_clock = self.campaign.flops_per_clock(
                    ceiling.computed_in.unwrap_or(dtype),
                    ceiling.rate.value,
                    ceiling.source().sm_clock_hz,
                );
                limits.push(limit);
                limits.extend(self.ridge(dtype));
            }
            for (&(link, direction), ceiling) in &ceilings.links {
                let of = |peaks: &Peaks| peaks.link_bytes_per_s(link, direction);
                let id = format!("{link}_link_{}_bandwidth", direction.name());
                limits.push(self.ceiling(id, ceiling, "bytes/s", &of));
            }
        }
        limits.extend(self.cache_limits());
        if let Some(sentinel) = &self.campaign.sentinel {
            let drift = Estimate::exact(sentinel.drift());
            let from = format!("{} repeats of the sentinel", sentinel.times_s.len());
            let drift = self.limit("drift".into(), drift, "share", from, &|_| None);
            limits.push(MachineLimit { is_ceiling: false, ..drift });
        }
        limits
    }

    /// The rates of caches, from near to far.
    fn cache_limits(&self) -> Vec<MachineLimit> {
        let of = |(level, best): (CacheLevel, Ceiling)| {
            let id = format!("{level}_read_bandwidth").to_lowercase();
            let clock = best.source().sm_clock_hz;
            MachineLimit {
                bytes_per_clock: self.campaign.bytes_per_clock(best.rate.value, clock),
                is_ceiling: false,
                doubt: None,
                ..self.ceiling(id, &best, "bytes/s", &|_| None)
            }
        };
        self.campaign.cache_rates().into_iter().map(of).collect()
    }

    /// A limit, and what of it the clocks and the data sheet promise.
    fn limit(
        &self,
        id: String,
        value: Estimate,
        unit: &'static str,
        from: String,
        of: &dyn Fn(&Peaks) -> Option<f64>,
    ) -> MachineLimit {
        let derived = self.campaign.derived.as_ref().and_then(of);
        let spec = self.campaign.spec.as_ref().and_then(|sheet| of(&sheet.peaks));
        MachineLimit {
            id,
            value,
            unit,
            from,
            derived,
            derived_at_clock: None,
            spec,
            flops_per_clock: None,
            bytes_per_clock: None,
            is_ceiling: true,
            doubt: None,
            candidates: Vec::new(),
        }
    }

    fn ceiling(
        &self,
        id: String,
        ceiling: &Ceiling,
        unit: &'static str,
        of: &dyn Fn(&Peaks) -> Option<f64>,
    ) -> MachineLimit {
        let mut from = self.campaign.point_text(&ceiling.point_id);
        if let Some(dtype) = ceiling.computed_in {
            from.push_str(&format!(", computed in {dtype}"));
        }
        MachineLimit {
            derived_at_clock: ceiling.source().derived,
            doubt: ceiling.doubt(),
            candidates: ceiling.candidates.clone(),
            ..self.limit(id, ceiling.rate, unit, from, of)
        }
    }

    /// What the machine has for a format beside what the kernels use: its real ceiling is
    /// then higher. Empty if nothing is known.
    fn units_not_driven(&self, dtype: DType) -> String {
        let bears_on = |unit: &&str| match dtype {
            DType::Bf16 => unit.contains("bf16") || unit.starts_with("sme"),
            DType::F16 => unit.contains("fp") || *unit == "sme",
            _ => false,
        };
        let listed = self.campaign.runs.last().and_then(|run| run.get("units_not_driven"));
        let units: Vec<&str> =
            listed.unwrap_or_default().split_whitespace().filter(bears_on).collect();
        if units.is_empty() {
            return String::new();
        }
        format!("; no kernel drives this CPU's {}", units.join(", "))
    }

    fn ridge(&self, dtype: DType) -> Option<MachineLimit> {
        let ceilings = self.campaign.ceilings.as_ref()?;
        let compute = ceilings.compute.get(&dtype)?;
        let (id, of) = (format!("{dtype}_ridge"), |peaks: &Peaks| peaks.ridge(dtype));
        let [compute_from, read_from] = [compute, &ceilings.read]
            .map(|ceiling| self.campaign.point_text(&ceiling.point_id));
        let from = format!("{compute_from}, over {read_from}");
        Some(MachineLimit {
            doubt: ceilings.read.doubt().or_else(|| compute.doubt()),
            ..self.limit(id, ceilings.ridge(dtype)?, "flops/byte", from, &of)
        })
    }

    /// The measured limits, next to what the clocks and the data sheet promise
    /// where that is known.
    pub(super) fn limits_section(&self, limits: &[MachineLimit]) -> Section {
        let (derived, spec) = (self.campaign.derived.is_some(), &self.campaign.spec);
        let mut columns = vec!["limit", "value (95% interval)"];
        columns.extend(derived.then_some("of derived"));
        columns.extend(spec.is_some().then_some("of data sheet"));
        let has_clocks = limits.iter().any(|limit| limit.flops_per_clock.is_some());
        columns.extend(has_clocks.then_some("FLOP per clock and SM"));
        let has_caches = limits.iter().any(|limit| limit.bytes_per_clock.is_some());
        columns.extend(has_caches.then_some("bytes per clock and SM"));
        columns.extend(["from", "candidates", "judged by it"]);
        let rows = limits.iter().map(|limit| {
            let mut cells = vec![limit.id.replace('_', " "), limit.text()];
            cells.extend(derived.then(|| limit.share_of_derived()));
            cells.extend(spec.is_some().then(|| limit.share_of(limit.spec)));
            let per_clock =
                || limit.flops_per_clock.map_or("-".to_owned(), |of| of.to_string());
            cells.extend(has_clocks.then(per_clock));
            let bytes = limit.bytes_per_clock;
            let bytes = || bytes.map_or("-".to_owned(), |bytes| format!("{bytes:.1}"));
            cells.extend(has_caches.then(bytes));
            cells.push(limit.from.clone());
            cells.push(limit.candidates_text());
            cells.push(limit.judged().to_owned());
            cells
        });
        let rows: Vec<Vec<String>> = rows.collect();
        let mut paragraphs = Vec::new();
        if derived && !rows.is_empty() {
            paragraphs.push(DERIVED.to_owned());
        }
        if let (Some(sheet), false) = (spec, rows.is_empty()) {
            paragraphs.push(format!("Data sheet: {}, {}.", sheet.machine, sheet.source));
        }
        if limits.iter().any(|limit| !limit.candidates.is_empty() && !limit.is_ceiling) {
            paragraphs.push(CACHES.to_owned());
        }
        paragraphs.extend(self.campaign.repeatability.as_ref().map(repeatable));
        Section {
            heading: LIMITS_HEADING.into(),
            columns,
            rows,
            paragraphs,
            keys: 0,
            spare: &[
                "candidates",
                "FLOP per clock and SM",
                "bytes per clock and SM",
                "of data sheet",
                "judged by it",
            ],
        }
    }

    /// Fixed costs and bandwidths of moving bytes. Read streams are listed even where
    /// they are too few for a line; other kernels only where a line was fitted.
    pub(super) fn line_section(&self) -> Section {
        let derived = self.campaign.derived.as_ref();
        let peak = derived.map(|peaks| peaks.bandwidth.read.plateau().bytes_per_s);
        let families = line_fit::families(self.campaign);
        let shown = |f: &&LineFamily| f.is_roof() || f.fit.is_some();
        let rows = families.iter().filter(shown).map(|family| {
            let mut cells = vec![
                family.op.to_string(),
                family.kernel.to_string(),
                family.shape.clone(),
            ];
            cells.push(family.points.len().to_string());
            cells.extend(line_cells(family, peak.filter(|_| !family.is_of_link())));
            cells
        });
        Section {
            heading: "Time against bytes, from DRAM".into(),
            columns: vec![
                "op",
                "kernel",
                "shape",
                "points",
                "fixed_cost_s",
                "fixed_cost_s_lo",
                "fixed_cost_s_hi",
                "bandwidth_bytes_per_s",
                "bandwidth_bytes_per_s_lo",
                "bandwidth_bytes_per_s_hi",
                "of_derived_share",
                "residual_share",
                "note",
            ],
            rows: rows.collect(),
            paragraphs: vec![LINE.to_owned()],
            keys: 0,
            spare: &["points", "residual_share", "of_derived_share"],
        }
    }
}

/// Candidates that the table names; the CSV file has all of them.
const CANDIDATES_SHOWN: usize = 4;

/// How far times vary from round to round, and what a second campaign could tell.
fn repeatable(of: &Repeatability) -> String {
    let percent = |share: f64| format!("{:.1}%", 100.0 * share);
    format!(
        "From round to round ({}), a point's time varies by {} in the middle and by {} for one \
         point in ten; against a campaign like this one a difference of {} can be told in the \
         middle, and of {} for nine points in ten.",
        of.unit.name(),
        percent(of.range(0.5)),
        percent(of.range(0.9)),
        percent(of.resolution(0.5)),
        percent(of.resolution(0.9))
    )
}

/// What the column of derived peaks means.
const DERIVED: &str = "Derived: 2 x memory clock x bus width; multiprocessors x FLOPs per \
                       clock x clock, at the clock that was measured with the ceiling or \
                       else at the highest that the device reports.";

/// What the rates of caches mean.
const CACHES: &str = "Caches: the best of reads that go several times through a set in one \
                      launch. L1 of sets of which each core reads its own share again, caches \
                      behind it of sets that a core reads after another one. Nothing is judged \
                      by them.";

/// What a fixed cost below zero is: no time is negative.
fn note_on(fixed_s: Estimate) -> &'static str {
    match fixed_s {
        _ if fixed_s.value >= 0.0 => "",
        _ if fixed_s.hi >= 0.0 => "no fixed cost can be told from 0",
        _ => {
            "below 0: large sizes are slower for each byte than small ones, and no fixed cost \
             shows"
        }
    }
}

/// What the table of fits means.
const LINE: &str = "T = a + V / b by least squares of relative errors, over points whose \
                        data come from DRAM, 95% intervals; a decides small sizes.";

/// Fixed cost and bandwidth with their intervals, the share of the derived peak, the largest
/// residual, and what is to be said of them.
fn line_cells(family: &LineFamily, peak: Option<f64>) -> Vec<String> {
    let fit = family.fit;
    let of_derived = fit.zip(peak).map(|(fit, peak)| fit.bytes_per_s.value / peak);
    let note = match fit {
        Some(fit) => note_on(fit.fixed_s).to_owned(),
        None if family.points.len() < line_fit::FEWEST_POINTS => {
            format!("a line needs {} points", line_fit::FEWEST_POINTS)
        }
        None => "no line goes through these".to_owned(),
    };
    let numbers =
        [cells(fit.map(|fit| fit.fixed_s)), cells(fit.map(|fit| fit.bytes_per_s))];
    let ends = [cell(of_derived), cell(fit.map(|fit| fit.worst_residual)), note];
    [&numbers.concat()[..], &ends].concat()
}

impl MachineLimit {
    /// The value with its interval and unit.
    fn text(&self) -> String {
        match self.unit_symbol() {
            Some(unit) => interval(self.value, unit),
            None => drift_text(self.value.value),
        }
    }

    /// `64% of 971 TFLOP/s at 1.80 GHz`: the clock only where it was measured.
    fn share_of_derived(&self) -> String {
        let share = self.share_of(self.derived_at_clock.or(self.derived));
        let clock = self.candidates.first().and_then(|best| best.sm_clock_hz);
        match clock.filter(|_| self.unit == "flops/s" && self.derived_at_clock.is_some()) {
            Some(clock_hz) => format!("{share} at {:.2} GHz", 1e-9 * clock_hz),
            None => share,
        }
    }

    /// `peak 624 TFLOP/s (64%), gemm 460 TFLOP/s (53%)`: the best of each kernel with its share
    /// of derived, a few of them.
    fn candidates_text(&self) -> String {
        let Some(unit) = self.unit_symbol() else { return String::new() };
        let of = |candidate: &Candidate| {
            let share = candidate.share_of_derived();
            let share = share.map_or(String::new(), |s| format!(" ({})", percent(s)));
            let load = if candidate.is_disturbed { " under load" } else { "" };
            format!("{} {}{share}{load}", candidate.kernel, si(candidate.rate.value, unit))
        };
        let mut parts: Vec<String> =
            self.candidates.iter().take(CANDIDATES_SHOWN).map(of).collect();
        if self.candidates.len() > parts.len() {
            parts.push(format!("{} more", self.candidates.len() - parts.len()));
        }
        parts.join(", ")
    }

    /// `yes`, or why nothing is judged by the limit. Empty for what is no ceiling.
    pub fn judged(&self) -> &'static str {
        match self.doubt {
            Some(doubt) => doubt.name(),
            None if !self.is_ceiling => "",
            None => "yes",
        }
    }

    /// The candidates as `kernel@point_id=rate`, best first, in SI units.
    pub fn candidates_csv(&self) -> String {
        let of = |c: &Candidate| format!("{}@{}={}", c.kernel, c.point_id, c.rate.value);
        self.candidates.iter().map(of).collect::<Vec<_>>().join(";")
    }

    /// `93% of 3.35 TB/s`.
    fn share_of(&self, peak: Option<f64>) -> String {
        let (Some(peak), Some(unit)) = (peak, self.unit_symbol()) else {
            return "-".to_owned();
        };
        format!("{} of {}", percent(self.value.value / peak), si(peak, unit))
    }

    /// The unit as people write it, which takes prefixes; none for a share.
    fn unit_symbol(&self) -> Option<&'static str> {
        match self.unit {
            "bytes/s" => Some("B/s"),
            "flops/s" => Some("FLOP/s"),
            "flops/byte" => Some("FLOP/B"),
            _ => None,
        }
    }
}
