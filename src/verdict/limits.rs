//! The limits of the machine as it was measured, and the fixed costs and bandwidths
//! of moving bytes.

use super::{Judge, MachineLimit, interval, percent};
use crate::line_fit::{self, LineFamily};
use crate::roofline::Peaks;
use crate::section::Section;
use crate::statistics::Estimate;

impl Judge<'_> {
    /// What the machine was measured to do at most.
    pub(super) fn limits(&self) -> Vec<MachineLimit> {
        let mut limits = Vec::new();
        let mut add =
            |id: String, value, unit, from, of: &dyn Fn(&Peaks) -> Option<f64>| {
                let derived = self.campaign.derived.as_ref().and_then(of);
                let spec = self.campaign.spec.as_ref().and_then(|sheet| of(&sheet.peaks));
                limits.push(MachineLimit { id, value, unit, from, derived, spec });
            };
        if let Some(ceilings) = &self.campaign.ceilings {
            let read = &ceilings.read;
            let of = |peaks: &Peaks| Some(peaks.bandwidth.read.plateau().bytes_per_s);
            add(
                "dram_read_bandwidth".into(),
                read.rate,
                "bytes/s",
                read.kernel.to_string(),
                &of,
            );
            for (&dtype, ceiling) in &ceilings.compute {
                let (rate, kernel) = (ceiling.rate, ceiling.kernel.to_string());
                let of = |peaks: &Peaks| peaks.flops_per_s(dtype);
                add(format!("{dtype}_compute"), rate, "flops/s", kernel, &of);
                if let Some(ridge) = ceilings.ridge(dtype) {
                    let from = "compute over read".into();
                    let of = |peaks: &Peaks| peaks.ridge(dtype);
                    add(format!("{dtype}_ridge"), ridge, "flops/byte", from, &of);
                }
            }
        }
        for (&(link, direction), ceiling) in
            self.campaign.ceilings.iter().flat_map(|ceilings| &ceilings.links)
        {
            let (rate, kernel) = (ceiling.rate, ceiling.kernel.to_string());
            let id = format!("{link}_link_{}_bandwidth", direction.name());
            let of = |peaks: &Peaks| peaks.link_bytes_per_s(link, direction);
            add(id, rate, "bytes/s", kernel, &of);
        }
        if let Some(sentinel) = &self.campaign.sentinel {
            let drift = Estimate::exact(2.0 * sentinel.drift());
            let from = format!("{} repeats of the sentinel", sentinel.times_s.len());
            add("drift".into(), drift, "share", from, &|_| None);
        }
        limits
    }

    /// The measured limits, next to what the clocks and the data sheet promise
    /// where that is known.
    pub(super) fn limits_section(&self, limits: &[MachineLimit]) -> Section {
        let (derived, spec) = (self.campaign.derived.is_some(), &self.campaign.spec);
        let mut columns = vec!["limit", "value (95% interval)"];
        columns.extend(derived.then_some("of derived"));
        columns.extend(spec.is_some().then_some("of data sheet"));
        columns.push("from");
        let rows = limits.iter().map(|limit| {
            let mut cells = vec![limit.id.replace('_', " "), limit.text()];
            cells.extend(derived.then(|| limit.share_of(limit.derived)));
            cells.extend(spec.is_some().then(|| limit.share_of(limit.spec)));
            cells.push(limit.from.clone());
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
        Section { heading: "Machine, as measured".into(), columns, rows, paragraphs }
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
                "fixed cost a",
                "bandwidth b",
                "of derived",
                "largest residual",
            ],
            rows: rows.collect(),
            paragraphs: vec![LINE.to_owned()],
        }
    }
}

/// What the column of derived peaks means.
const DERIVED: &str = "Derived: 2 x memory clock x bus width; multiprocessors x FLOPs per \
                       clock x clock, at the highest clocks that the device reports.";

/// What the table of fits means.
const LINE: &str = "T = a + V / b by least squares of relative errors, over points whose \
                        data come from DRAM, 95% intervals; a decides small sizes.";

/// Fixed cost, bandwidth, its share of the derived peak and the largest residual.
fn line_cells(family: &LineFamily, peak: Option<f64>) -> [String; 4] {
    let none = || "-".to_owned();
    match family.fit {
        Some(fit) => [
            interval(fit.fixed_s, 1e6, "us"),
            interval(fit.bytes_per_s, 1e-9, "GB/s"),
            peak.map_or_else(none, |peak| percent(fit.bytes_per_s.value / peak)),
            format!("{:.1}%", 100.0 * fit.worst_residual),
        ],
        None if family.points.len() < line_fit::FEWEST_POINTS => {
            let fewest = line_fit::FEWEST_POINTS;
            [format!("a line needs {fewest} points"), none(), none(), none()]
        }
        None => ["no line goes through these".to_owned(), none(), none(), none()],
    }
}

impl MachineLimit {
    /// The value with its interval and unit.
    fn text(&self) -> String {
        match self.scale() {
            Some((scale, unit)) => interval(self.value, scale, unit),
            None => format!("{:.1}% from fastest to slowest", 100.0 * self.value.value),
        }
    }

    /// `93% of 3352.3 GB/s`.
    fn share_of(&self, peak: Option<f64>) -> String {
        let (Some(peak), Some((scale, unit))) = (peak, self.scale()) else {
            return "-".to_owned();
        };
        format!("{} of {:.1} {unit}", percent(self.value.value / peak), peak * scale)
    }

    /// Factor and unit in which the value is printed; none for a share.
    fn scale(&self) -> Option<(f64, &'static str)> {
        match self.unit {
            "bytes/s" => Some((1e-9, "GB/s")),
            "flops/s" => Some((1e-9, "GFLOP/s")),
            "flops/byte" => Some((1.0, "FLOP/B")),
            _ => None,
        }
    }
}
