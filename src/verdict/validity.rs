//! What makes a run invalid, and what a reader should know all the same.

use super::{DISTURBED_SHARE, Judge, counted, percent};
use crate::analysis::Measured;
use crate::model::derived;
use crate::record::Status;
use crate::statistics::Estimate;

impl Judge<'_> {
    pub(super) fn validity(&self) -> (Vec<String>, Vec<String>) {
        let mut faults = Vec::new();
        let mut warnings = Vec::new();
        for point in &self.campaign.points {
            let (problem, reason) = (&point.problem, &point.reason);
            match point.status {
                Status::Wrong => faults.push(format!("wrong output: {problem}: {reason}")),
                Status::Failed => faults.push(format!("failed: {problem}: {reason}")),
                Status::Ok | Status::Noisy | Status::Skipped => {}
            }
        }
        faults.extend(self.beyond_roofs());
        let unreadable = self.campaign.unreadable.iter();
        faults.extend(unreadable.map(|value| format!("unreadable: {value}")));
        self.check_records(&mut faults, &mut warnings);
        self.impossible_rates(&mut faults);
        self.missing_rows(&mut faults);
        let count = |s| self.campaign.points.iter().filter(|p| p.status == s).count();
        let (noisy, skipped) = (count(Status::Noisy), count(Status::Skipped));
        if noisy > 0 {
            warnings.push(format!(
                "{} noisy: the interval of the median is wider than the suite wants",
                counted(noisy, "point is", "points are")
            ));
        }
        if skipped > 0 {
            warnings.push(format!(
                "{} skipped; see the column reason",
                counted(skipped, "point was", "points were")
            ));
        }
        self.circumstances(&mut warnings);
        (faults, warnings)
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
                "impossible: the DRAM read ceiling of {:.1} GB/s is {} of the {:.1} GB/s that \
                 the memory's clock and bus allow; a cache helped, bytes are miscounted, or \
                 the device misreports its memory",
                1e-9 * read.rate.value,
                percent(read.rate.value / bytes_per_s),
                1e-9 * bytes_per_s
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
                    "impossible: {} moved {:.1} GB/s from DRAM, {} of the {:.1} GB/s that the \
                     memory's clock and bus allow; its bytes are miscounted, or the device \
                     misreports its memory",
                    point.problem,
                    1e-9 * rate.value,
                    percent(rate.value / bytes_per_s),
                    1e-9 * bytes_per_s
                ));
            }
            let peak =
                point.problem.math_dtype().and_then(|dtype| derived.flops_per_s(dtype));
            if let (Some(rate), Some(peak)) = (point.flops_per_s(), peak)
                && rate.lo > margin * peak
            {
                faults.push(format!(
                    "impossible: {} ran at {:.2} TFLOP/s, {} of the {:.2} TFLOP/s that the \
                     multiprocessors can do at their highest clock; its FLOPs are miscounted, \
                     or it computed in another format",
                    point.problem,
                    1e-12 * rate.value,
                    percent(rate.value / peak),
                    1e-12 * peak
                ));
            }
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
        if self.drift > 0.1 {
            warnings.push(format!(
                "the machine drifted over {:.0}% during the campaign; every interval is \
                 widened by that to both sides",
                100.0 * self.drift
            ));
        }
        let is_disturbed =
            |p: &&Measured| p.other_cpu_share.is_some_and(|share| share > DISTURBED_SHARE);
        let disturbed = self.campaign.points.iter().filter(is_disturbed).count();
        if disturbed > 0 {
            warnings.push(format!(
                "during {} other programs or the hypervisor took more than {:.0}% of the CPU \
                 time (other_cpu_share in results.csv)",
                counted(disturbed, "point", "points"),
                100.0 * DISTURBED_SHARE
            ));
        }
    }

    fn missing_rows(&self, faults: &mut Vec<String>) {
        let planned = self.campaign.provenance.planned_rows;
        let rows = self.campaign.row_count;
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
    }
}
