//! How long a campaign takes, before it is measured and while it is.

use std::fmt;

use super::{Scheduled, schedule};
use crate::device::Device;
use crate::measure::{Rotation, Settings};
use crate::record::Row;
use crate::suite::{Suite, SuiteError};

/// Seconds of warm-up and samples of a campaign. Filling buffers and comparing outputs
/// come on top: how long they take is known only when it is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpectedTime {
    /// Rounds of points, repeats of the sentinel among them.
    pub rounds: usize,
    /// How many of them the device can measure; the others are skipped at once.
    pub measured_rounds: usize,
    /// When every point is as precise as wanted at the earliest moment.
    pub least_s: f64,
    /// When every point takes all the time that it may.
    pub most_s: f64,
}

impl ExpectedTime {
    /// Of a suite on a device.
    ///
    /// # Errors
    /// A mistake in the suite.
    pub fn of(suite: &Suite, device: &dyn Device) -> Result<Self, SuiteError> {
        let settings = &suite.settings;
        let order = schedule(&suite.plan(device)?, 0, settings);
        let runs = order.iter().filter(|scheduled| can_run(device, scheduled, settings));
        Ok(Self::of_rounds(&settings.of_round(), order.len(), runs.count()))
    }

    /// With the settings of a round.
    fn of_rounds(settings: &Settings, rounds: usize, measured_rounds: usize) -> Self {
        let count = measured_rounds as f64;
        let most_sample_s = settings.max_sample_s.max(settings.min_sample_s);
        ExpectedTime {
            rounds,
            measured_rounds,
            least_s: count * (settings.warmup_s + settings.min_sample_s),
            most_s: count * (settings.warmup_s + most_sample_s),
        }
    }
}

impl fmt::Display for ExpectedTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "at least {} of warm-up and samples, {} where intervals stay wide, and the time \
             to fill buffers and to check outputs",
            spell_seconds(self.least_s),
            spell_seconds(self.most_s)
        )
    }
}

fn can_run(device: &dyn Device, scheduled: &Scheduled, settings: &Settings) -> bool {
    let info = device.info();
    let memory_bytes = settings.memory_bytes.min(info.memory_bytes);
    let cache_bytes = info.last_level_cache_bytes();
    device.kernel(&scheduled.point.problem).is_ok()
        && Rotation::plan(&scheduled.point, cache_bytes, memory_bytes).is_ok()
}

/// Mean seconds of the rows that were measured so far; `None` when there are none.
pub fn seconds_of_a_row(rows: &[Row]) -> Option<f64> {
    let total_s: f64 = rows
        .iter()
        .map(|row| row.setup_s + row.check_s + row.warmup_s + row.sample_s)
        .sum();
    (!rows.is_empty()).then(|| total_s / rows.len() as f64)
}

/// Seconds as people say them: `45 s`, `3.5 min`, `2.1 h`.
pub fn spell_seconds(seconds: f64) -> String {
    match seconds {
        s if s < 89.5 => format!("{s:.0} s"),
        s if s < 600.0 => format!("{:.1} min", s / 60.0),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::simulated::SimulatedDevice;

    #[test]
    fn skipped_points_take_no_time() {
        let text = "name = \"x\"\n[protocol]\nwarmup_s = 1\nmin_sample_s = 2\n\
                    max_sample_s = 9\nsentinel_every = 1\nrounds = 1\n[sentinel]\nop = \"stream\"\n\
                    access = \"read\"\nbytes = \"64 KiB\"\n[[points]]\nop = \"stream\"\n\
                    access = [\"read\", \"copy\"]\nbytes = \"4 MiB\"\n[[points]]\n\
                    op = \"stream\"\naccess = \"read\"\nbytes = \"1 GiB\"\n";
        let suite = Suite::parse("x.toml", text).unwrap();
        let expected = ExpectedTime::of(&suite, &SimulatedDevice::default()).unwrap();
        // The sentinel four times, between three points of which the device cannot copy
        // one and lacks the memory of another.
        assert_eq!((expected.rounds, expected.measured_rounds), (7, 5));
        assert_eq!((expected.least_s, expected.most_s), (15.0, 50.0));
        let said = expected.to_string();
        assert!(said.starts_with("at least 15 s of warm-up and samples, 50 s"), "{said}");
        // Three rounds of a third each, and the sentinel after each of them.
        let suite = Suite::parse("x.toml", &text.replace("rounds = 1", "rounds = 3"));
        let expected =
            ExpectedTime::of(&suite.unwrap(), &SimulatedDevice::default()).unwrap();
        assert_eq!((expected.rounds, expected.measured_rounds), (19, 13));
        assert!((expected.least_s - 13.0).abs() < 1e-9, "{expected:?}");
    }

    #[test]
    fn rows_say_what_a_row_takes() {
        let row = |sample_s| Row { setup_s: 1.0, sample_s, ..Row::default() };
        assert_eq!(seconds_of_a_row(&[row(1.0), row(3.0)]), Some(3.0));
        assert_eq!(seconds_of_a_row(&[]), None);
    }

    #[test]
    fn seconds_are_spelled_as_people_say_them() {
        let spelled = [0.0, 45.4, 89.9, 150.0, 1200.0, 7560.0].map(spell_seconds);
        assert_eq!(spelled, ["0 s", "45 s", "1.5 min", "2.5 min", "20 min", "2.1 h"]);
    }
}
