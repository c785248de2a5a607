//! Times that beat the campaign's own measured roofs, and what that says: that a ceiling
//! is too low, that a cache helped, or that bytes or FLOPs are miscounted.

use std::collections::{BTreeMap, BTreeSet};

use super::{IMPOSSIBLE_SHARE, Judge, counted, percent, range_text};
use crate::analysis::Measured;
use crate::op::{Access, Purpose};
use crate::point::KernelName;
use crate::quantity::si;
use crate::record::Row;
use crate::roofline::RoofKind;
use crate::statistics::Estimate;

/// How many times the last-level cache a working set may be for a cache to be suspected.
/// A rotation touches at least twice the cache before it reuses a byte.
const NEAR_CACHE: f64 = 4.0;

/// How many empty launches a point takes at least for its working set to be judged by a
/// cache's bandwidth: below that, it is launches that differ.
const LAUNCHES: f64 = 10.0;

/// The same for the compute ceiling of a point in a cache: a ceiling that short products
/// set is one of launches too.
const COMPUTE_LAUNCHES: f64 = 100.0;

/// Most points of one kernel that are told one by one; the others are counted.
const TOLD: usize = 5;

/// A point that beat a roof.
struct Beyond<'a> {
    point: &'a Measured,
    share: Estimate,
}

impl Judge<'_> {
    /// Faults of times that beat measured roofs. The drift of the machine excuses none of
    /// them: what was measured at a slow moment is not a ceiling.
    pub(super) fn beyond_roofs(&self) -> Vec<String> {
        let mut by_roof: BTreeMap<&str, Vec<Beyond>> = BTreeMap::new();
        for point in self.campaign.own_points() {
            if let Some((roof, share)) = self.share_of_ceiling(point)
                && share.lo > IMPOSSIBLE_SHARE
            {
                by_roof.entry(roof).or_default().push(Beyond { point, share });
            }
        }
        by_roof.iter().flat_map(|(roof, found)| self.diagnose(roof, found)).collect()
    }

    /// The ceiling that binds a point, and the share of it that was reached, with the
    /// interval of both. `None` where nothing that was measured bounds the point.
    pub(super) fn share_of_ceiling(
        &self,
        point: &Measured,
    ) -> Option<(&'static str, Estimate)> {
        let ceilings = self.campaign.ceilings.as_ref()?;
        if let Some(access) = point.memory_roof() {
            return Some(("memory", self.share_of_plateau(point, access)?));
        }
        let share = point.fraction()?;
        let ceiling = match point.empirical?.binding() {
            RoofKind::Memory => {
                if !self.has_memory_ceiling(point) {
                    return None;
                }
                return Some(("memory", share.widened(ceilings.read.rate.half_width())));
            }
            RoofKind::Compute if !self.outlasts(point, COMPUTE_LAUNCHES) => return None,
            RoofKind::Compute => ceilings.compute.get(&point.problem.math_dtype()?)?,
            RoofKind::Link if point.judged_facts().purpose == Purpose::LinkRoof => {
                return None;
            }
            RoofKind::Link => return Some(("link", share)),
        };
        Some(("compute", share.widened(ceiling.rate.half_width())))
    }

    /// A stream from DRAM against the stream of the largest working set, which is what
    /// all else is judged by.
    fn share_of_plateau(&self, point: &Measured, access: Access) -> Option<Estimate> {
        let bandwidth = &self.campaign.ceilings.as_ref()?.peaks.bandwidth;
        let curve = match access {
            Access::Read => &bandwidth.read,
            Access::Write => bandwidth.write.as_ref()?,
            Access::Copy => bandwidth.copy.as_ref()?,
            // It has no ceiling of its own.
            Access::Triad => return None,
        };
        let rate = point.bytes_per_s().filter(|_| point.is_from_dram())?;
        Some(rate.scaled(1.0 / curve.plateau().bytes_per_s))
    }

    /// Whether the measured streams bound the bandwidth at a point's working set. Streams
    /// of larger working sets say little about a smaller one, and times of a few launches
    /// say little about bandwidth.
    fn has_memory_ceiling(&self, point: &Measured) -> bool {
        let Some(ceilings) = &self.campaign.ceilings else { return false };
        let smallest = ceilings.peaks.bandwidth.read.points().first();
        let Some(smallest) = smallest else { return false };
        point.is_from_dram()
            || point.reuse_distance_bytes >= Some(smallest.footprint_bytes)
                && self.outlasts(point, LAUNCHES)
    }

    /// Whether a point is from DRAM or takes at least as long as so many empty launches.
    fn outlasts(&self, point: &Measured, launches: f64) -> bool {
        let time_s = point.time_s.map_or(0.0, |time_s| time_s.value);
        point.is_from_dram() || time_s >= launches * self.launch_overhead_s
    }

    fn diagnose(&self, roof: &str, found: &[Beyond]) -> Vec<String> {
        let kernels: BTreeSet<&KernelName> =
            found.iter().map(|beyond| &beyond.point.kernel).collect();
        if kernels.len() > 1 {
            return vec![self.ceiling_too_low(roof, found, kernels.len())];
        }
        let is_stream = |beyond: &&Beyond| beyond.point.memory_roof().is_some();
        let (streams, others): (Vec<&Beyond>, Vec<&Beyond>) =
            found.iter().partition(is_stream);
        let mut told: Vec<String> = Vec::new();
        if let Some(fastest) =
            streams.iter().max_by(|a, b| a.share.lo.total_cmp(&b.share.lo))
        {
            told.push(format!(
                "impossible: {}: {} moved bytes at {} of the rate of the largest working \
                 set; {}",
                self.place(fastest.point),
                fastest.point.problem,
                percent(fastest.share.value),
                self.low_ceiling(roof)
            ));
        }
        told.extend(others.iter().take(TOLD).map(|beyond| {
            format!(
                "impossible: {}: {} ran at {} of the measured {roof} roof; {}",
                self.place(beyond.point),
                beyond.point.problem,
                percent(beyond.share.value),
                self.miscounted(roof, beyond.point, &others)
            )
        }));
        let rest = others.len().saturating_sub(TOLD);
        if rest > 0 {
            told.push(format!(
                "impossible: {} of the same kernel ran faster than the {roof} roof allows",
                counted(rest, "more point", "more points")
            ));
        }
        told
    }

    /// Several kernels are not miscounted all at once.
    fn ceiling_too_low(&self, roof: &str, found: &[Beyond], kernels: usize) -> String {
        let shares = || found.iter().map(|beyond| beyond.share.value);
        let (least, most) =
            (shares().fold(f64::MAX, f64::min), shares().fold(0.0, f64::max));
        let places = found.iter().map(|beyond| self.line(beyond.point).to_string());
        format!(
            "impossible: results.csv lines {}, column time_s_median: {} of {kernels} kernels \
             ran at {} of the measured {roof} roof; {}",
            places.collect::<Vec<_>>().join(", "),
            counted(found.len(), "point", "points"),
            range_text(&percent(least), &percent(most)),
            self.low_ceiling(roof)
        )
    }

    /// Why a ceiling may be too low, with the row of the read ceiling and its load.
    fn low_ceiling(&self, roof: &str) -> String {
        let read = self.campaign.ceilings.as_ref().map(|ceilings| &ceilings.read);
        let row = read.and_then(|read| self.row_of(&read.point_id));
        let (Some(read), Some(row), "memory") = (read, row, roof) else {
            return format!(
                "the {roof} ceiling is too low or was measured under load: measure again, \
                 on an idle machine"
            );
        };
        let load =
            row.other_cpu_share.filter(|share| *share > self.campaign.disturbed_share());
        let load = load.map_or(String::new(), |share| {
            format!(", while other programs had {} of the CPU", percent(share))
        });
        format!(
            "the read ceiling of {} (results.csv line {}) is too low or was measured under \
             load{load}: measure again, on an idle machine",
            si(read.rate.value, "B/s"),
            row.line
        )
    }

    /// Why one kernel alone may seem too fast.
    fn miscounted(&self, roof: &str, point: &Measured, found: &[&Beyond]) -> String {
        let compared = self.campaign.own_points().any(|other| {
            let is_bound = |p: &Measured| p.empirical.map(|roof| roof.binding());
            let is_work = other.judged_facts().purpose == Purpose::Work;
            other.kernel != point.kernel
                && is_work
                && other.time_s.is_some()
                && is_bound(other) == is_bound(point)
        });
        // Nothing else says whether the ceiling is right.
        let or_ceiling = match compared {
            true => String::new(),
            false => format!("; or {}", self.low_ceiling(roof)),
        };
        if roof != "memory" {
            let why = "its FLOPs are miscounted, or it computed in another format";
            return format!("{why}{or_ceiling}");
        }
        let Some(cache) = self.campaign.provenance.caches.last() else {
            return format!("its bytes are miscounted, or a cache helped{or_ceiling}");
        };
        let times = |point: &Measured| {
            let working_set = point.reuse_distance_bytes.unwrap_or(u64::MAX);
            working_set as f64 / cache.bytes as f64
        };
        let is_near = |point: &Measured| times(point) < NEAR_CACHE;
        // A cache cannot help with working sets that are many times as large, so a kernel
        // that is too fast there too is miscounted.
        if !is_near(point) || found.iter().any(|beyond| !is_near(beyond.point)) {
            return format!("its bytes are miscounted{or_ceiling}");
        }
        let larger = |p: &&Measured| p.kernel == point.kernel && !is_near(p);
        let helped = format!(
            "a cache helped: its working set is {:.1} times the {}",
            times(point),
            cache.level
        );
        match self.campaign.own_points().any(|p| larger(&p) && p.time_s.is_some()) {
            true => helped,
            false => format!("{helped}; or its bytes are miscounted{or_ceiling}"),
        }
    }

    fn row_of(&self, point_id: &str) -> Option<&Row> {
        let rows = self.campaign.rows.iter();
        rows.filter(|row| row.is_planned()).find(|row| row.point_id == point_id)
    }

    fn line(&self, point: &Measured) -> u64 {
        self.row_of(&point.point_id).map_or(0, |row| row.line)
    }

    fn place(&self, point: &Measured) -> String {
        format!("results.csv line {}, column time_s_median", self.line(point))
    }
}

#[cfg(test)]
mod tests;
