//! Axes, logarithmic and linear: ranges and ticks.

use crate::quantity::{bytes, count, number};

/// What the values of an axis are, which decides its ticks and their spelling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Decimal ticks in multiples of a unit.
    Decimal(f64),
    /// Counts at powers of two: `512`, `4K`.
    Count,
    /// Bytes at powers of two: `64 KiB`.
    Bytes,
    /// Even ticks in multiples of a unit; all others are logarithmic.
    Linear(f64),
}

/// A range of values on a scale: positive ones, unless it is linear.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    /// Smallest value shown.
    pub lo: f64,
    /// Largest value shown.
    pub hi: f64,
    /// What the values are.
    pub scale: Scale,
}

/// A tick; labelled where it carries a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// Where.
    pub value: f64,
    /// Its number, if it has one.
    pub label: Option<String>,
}

impl Axis {
    /// The range of `values`, widened by a factor at the lower and the upper
    /// end, and further where all values are nearly the same. `None` without a
    /// positive value.
    pub fn spanning(
        values: impl IntoIterator<Item = f64>,
        scale: Scale,
        (below, above): (f64, f64),
    ) -> Option<Self> {
        let (mut lo, mut hi) = (f64::MAX, 0.0f64);
        for value in values.into_iter().filter(|v| v.is_finite() && *v > 0.0) {
            lo = lo.min(value);
            hi = hi.max(value);
        }
        let (below, above) =
            if hi < 1.2 * lo { (2.0 * below, 2.0 * above) } else { (below, above) };
        (hi > 0.0).then(|| Axis { lo: lo / below, hi: hi * above, scale })
    }

    /// A linear axis from 0, or from below all values where they are far from it, to above
    /// them. `None` without a finite value.
    pub fn linear(values: impl IntoIterator<Item = f64>, unit: f64) -> Option<Self> {
        let (mut lo, mut hi) = (f64::MAX, f64::MIN);
        for value in values.into_iter().filter(|v| v.is_finite()) {
            lo = lo.min(value);
            hi = hi.max(value);
        }
        let room = 0.08 * (hi - lo).max(0.1 * hi.abs()).max(f64::MIN_POSITIVE);
        let lo = if lo >= 0.0 && lo < 0.7 * hi { 0.0 } else { lo - room };
        (hi >= lo).then_some(Axis { lo, hi: hi + room, scale: Scale::Linear(unit) })
    }

    /// How far along the axis a value lies: 0 at the lower end, 1 at the
    /// upper.
    pub fn share(&self, value: f64) -> f64 {
        if let Scale::Linear(_) = self.scale {
            return (value - self.lo) / (self.hi - self.lo);
        }
        (value / self.lo).ln() / (self.hi / self.lo).ln()
    }

    /// Ticks in ascending order, at most `most` of them labelled.
    pub fn ticks(&self, most: usize) -> Vec<Tick> {
        let powers = match self.scale {
            Scale::Decimal(unit) => return self.decimal(unit, most),
            Scale::Linear(unit) => return self.even(unit, most),
            Scale::Count | Scale::Bytes => self.powers_of_two(),
        };
        if powers.len() < 2 {
            return self.decimal(1.0, most);
        }
        let steps = [1, 2, 3, 4, 5, 6, 8, 10];
        let fits =
            |step: &i32| powers.iter().filter(|e| *e % step == 0).count() <= most.max(1);
        let step = steps.into_iter().find(fits).unwrap_or(20);
        let tick = |e: i32| {
            let value = 2f64.powi(e);
            Tick { value, label: (e % step == 0).then(|| self.label(value)) }
        };
        powers.into_iter().map(tick).collect()
    }

    fn label(&self, value: f64) -> String {
        match self.scale {
            Scale::Decimal(unit) | Scale::Linear(unit) => short(value / unit),
            Scale::Count => count(value),
            Scale::Bytes => bytes(value),
        }
    }

    fn powers_of_two(&self) -> Vec<i32> {
        let lo = self.lo.log2().ceil() as i32;
        (lo..=self.hi.log2().floor() as i32).collect()
    }

    /// Labels at decades; where those are few, at 1, 2 and 5 or at every
    /// digit.
    fn decimal(&self, unit: f64, most: usize) -> Vec<Tick> {
        let sets: [(&[u32], &[u32]); 3] = [
            (&[1], &[2, 5]),
            (&[1, 2, 5], &[3, 4, 6, 7, 8, 9]),
            (&[1, 2, 3, 4, 5, 6, 7, 8, 9], &[]),
        ];
        for (wanted, (labelled, silent)) in [3, 3, 2].into_iter().zip(sets) {
            let count = self.digits(unit, labelled).len();
            if count >= wanted && (labelled.len() == 1 || count <= most) {
                let stride = count.div_ceil(most.max(1));
                return self.merged(unit, labelled, silent, stride);
            }
        }
        self.even(unit, 5)
    }

    /// Values `digit * 10^n` in range.
    fn digits(&self, unit: f64, digits: &[u32]) -> Vec<f64> {
        let lo = (self.lo / unit).log10().floor() as i32;
        let hi = (self.hi / unit).log10().ceil() as i32;
        (lo..=hi)
            .flat_map(|e| digits.iter().map(move |&d| f64::from(d) * 10f64.powi(e) * unit))
            .filter(|value| self.lo <= *value && *value <= self.hi)
            .collect()
    }

    fn merged(
        &self,
        unit: f64,
        labelled: &[u32],
        silent: &[u32],
        stride: usize,
    ) -> Vec<Tick> {
        let mut ticks: Vec<Tick> = self
            .digits(unit, labelled)
            .into_iter()
            .enumerate()
            .map(|(i, value)| {
                let label = (i % stride == 0).then(|| self.label_of(value, unit));
                Tick { value, label }
            })
            .collect();
        let silent = self.digits(unit, silent);
        ticks.extend(silent.into_iter().map(|value| Tick { value, label: None }));
        ticks.sort_by(|a, b| a.value.total_cmp(&b.value));
        ticks
    }

    fn label_of(&self, value: f64, unit: f64) -> String {
        match self.scale {
            Scale::Bytes => bytes(value),
            Scale::Decimal(_) | Scale::Count | Scale::Linear(_) => short(value / unit),
        }
    }

    /// Evenly spaced ticks, about `most` of them: of linear axes, and for a range so short
    /// that it looks linear.
    fn even(&self, unit: f64, most: usize) -> Vec<Tick> {
        let most = most.clamp(2, 5) as f64;
        let span = (self.hi - self.lo) / unit;
        let rough = 10f64.powf((span / most).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|m| m * rough)
            .find(|step| span / step <= most)
            .unwrap_or(10.0 * rough);
        let first = (self.lo / unit / step).ceil() as i64;
        (first..first + 6)
            .map(|i| i as f64 * step * unit)
            .filter(|value| self.lo <= *value && *value <= self.hi)
            .map(|value| Tick { value, label: Some(self.label_of(value, unit)) })
            .collect()
    }
}

/// A number short enough for a tick: powers of ten where digits would not do.
fn short(value: f64) -> String {
    if value == 0.0 || (0.000_999..99_999.0).contains(&value) {
        return number(value);
    }
    let power = (value.log10() + 1e-9).floor();
    let digits: String = format!("{power}")
        .chars()
        .map(|c| match c.to_digit(10) {
            Some(digit) => {
                ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][digit as usize]
            }
            None => '⁻',
        })
        .collect();
    match number(value / 10f64.powf(power)).as_str() {
        "1" => format!("10{digits}"),
        factor => format!("{factor}×10{digits}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(lo: f64, hi: f64, scale: Scale) -> Vec<String> {
        let ticks = Axis { lo, hi, scale }.ticks(9);
        ticks.into_iter().filter_map(|tick| tick.label).collect()
    }

    #[test]
    fn ticks_are_short() {
        assert_eq!((short(1e7), short(2e-4)), ("10⁷".into(), "2×10⁻⁴".into()));
        assert_eq!((short(0.001), short(50000.0)), ("0.001".into(), "50,000".into()));
    }

    #[test]
    fn decades_are_labelled_and_2_and_5_are_not() {
        let ticks = Axis { lo: 0.5, hi: 600.0, scale: Scale::Decimal(1.0) }.ticks(9);
        let values: Vec<f64> = ticks.iter().map(|t| t.value).collect();
        assert_eq!(values, [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]);
        assert_eq!(labels(0.5, 600.0, Scale::Decimal(1.0)), ["1", "10", "100"]);
    }

    #[test]
    fn short_ranges_get_more_labels() {
        assert_eq!(labels(15.0, 120.0, Scale::Decimal(1.0)), ["20", "50", "100"]);
        assert_eq!(labels(31.0, 39.0, Scale::Decimal(1.0)), ["32", "34", "36", "38"]);
        assert_eq!(labels(1e9, 1e12, Scale::Decimal(1e9)), ["1", "10", "100", "1000"]);
    }

    #[test]
    fn powers_of_two_are_thinned() {
        assert_eq!(labels(1.0, 16.0, Scale::Count), ["1", "2", "4", "8", "16"]);
        let many = labels(1.0, 1_048_576.0, Scale::Count);
        assert_eq!(many, ["1", "8", "64", "512", "4K", "32K", "256K"]);
        assert_eq!(labels(1e6, 5e6, Scale::Bytes), ["1 MiB", "2 MiB", "4 MiB"]);
    }

    #[test]
    fn one_value_has_a_range_around_it() {
        let axis = Axis::spanning([8.0], Scale::Count, (1.0, 1.0)).unwrap();
        assert_eq!((axis.lo, axis.hi), (4.0, 16.0));
    }

    #[test]
    fn nothing_positive_has_no_axis() {
        let none = Axis::spanning([0.0, -1.0, f64::NAN], Scale::Count, (1.0, 1.0));
        assert_eq!(none, None);
    }

    proptest! {
        #[test]
        fn ticks_are_in_range_sorted_and_enough(
            lo in 1e-3f64..1e14,
            factor in 1.05f64..1e9,
            kind in 0..4,
            most in 4usize..12,
        ) {
            let scales =
                [Scale::Decimal(1e9), Scale::Count, Scale::Bytes, Scale::Linear(1e9)];
            let scale = scales[kind as usize];
            let axis = Axis { lo, hi: lo * factor, scale };
            let ticks = axis.ticks(most);
            prop_assert!(ticks.iter().all(|t| axis.lo <= t.value && t.value <= axis.hi));
            prop_assert!(ticks.windows(2).all(|w| w[0].value < w[1].value));
            let labels = ticks.iter().filter(|t| t.label.is_some()).count();
            prop_assert!((1..=most.max(6)).contains(&labels), "{labels} labels");
            prop_assert!(axis.share(axis.lo).abs() < 1e-9);
            prop_assert!((axis.share(axis.hi) - 1.0).abs() < 1e-9);
        }
    }
}
