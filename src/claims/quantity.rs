//! What a claim may be about: a closed list, with what each needs to be told.

use super::unit::Unit;
use crate::format::{DType, text_of_name};
use crate::op::Problem;
use crate::resource::{Link, LinkDirection};
use crate::suite::Filter;

/// A value of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowQuantity {
    /// Time of a launch.
    Time,
    /// Compulsory bytes over time.
    Bandwidth,
    /// FLOPs over time.
    ComputeRate,
    /// Share of the measured memory roof.
    MemoryShare,
    /// Share of the measured compute roof.
    ComputeShare,
    /// Share of the roof that binds.
    RoofShare,
    /// FLOPs over compulsory bytes, by the model.
    Intensity,
    /// Counted FLOPs over the bytes that hardware counters saw.
    MeasuredIntensity,
    /// The model's FLOPs over the bytes that hardware counters saw, over that by the model:
    /// what tensor cores compute of padding is none of the problem's.
    IntensityOfModel,
    /// Bytes of cache of a request.
    CapacityFootprint,
}

/// Which of the values of many rows is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Over {
    /// The middle one.
    #[default]
    Median,
    /// The smallest.
    Least,
    /// The largest.
    Most,
}

text_of_name!(Over => "a choice among rows", Bound => "what binds", Of => "what time may follow");

impl Over {
    const ALL: [Over; 3] = [Over::Median, Over::Least, Over::Most];

    /// The spelling used in claims.
    pub const fn name(self) -> &'static str {
        match self {
            Over::Median => "median",
            Over::Least => "least",
            Over::Most => "most",
        }
    }
}

/// What a row may be bound by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Memory.
    Memory,
    /// Computing.
    Compute,
}

impl Bound {
    const ALL: [Bound; 2] = [Bound::Memory, Bound::Compute];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::Compute => "compute",
        }
    }
}

/// What an elasticity of time is taken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Bytes.
    Bytes,
    /// FLOPs.
    Flops,
}

impl Of {
    const ALL: [Of; 2] = [Of::Bytes, Of::Flops];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Of::Bytes => "bytes",
            Of::Flops => "flops",
        }
    }
}

/// What is measured of a claim. [`QUANTITIES`] has how each is spelled; the verdict has the
/// one place that finds their values.
#[derive(Clone, Debug)]
pub enum Quantity {
    /// The measured ceiling of reads from DRAM.
    DramReadBandwidth,
    /// Capacity of the last-level cache, as the device's driver says.
    L2Bytes,
    /// The measured ceiling of arithmetic in a format.
    ComputeCeiling(DType),
    /// The measured ridge of a format.
    Ridge(DType),
    /// The measured ceiling of a link, one way.
    LinkBandwidth(Link, LinkDirection),
    /// A value of each row, and which of them counts.
    OfRows(RowQuantity, Over),
    /// Time of the selected rows over that of others.
    TimeRatio(Filter, Over),
    /// Log of the ratio of times over that of bytes or FLOPs, in pairs of rows that differ in
    /// one thing.
    Elasticity(Of, Vec<String>, Over),
    /// Share of the rows that are bound by this.
    BoundBy(Bound),
    /// Share of the pairs whose time follows what it should.
    PairsFollow(Vec<String>),
    /// Share of models and workloads for which the memory of such machines is full before a
    /// decode step reaches the measured ridge of a format.
    FullBeforeRidge(DType),
    /// Share of the cases of a prediction in which the claim holds.
    Prediction(String),
    /// Time of the fastest rows of these problems, one after the other.
    TimeOfProblems(Vec<Problem>),
}

impl Quantity {
    /// The unit of its value.
    pub const fn unit(&self) -> Unit {
        match self {
            Quantity::DramReadBandwidth | Quantity::LinkBandwidth(..) => Unit::BytesPerS,
            Quantity::L2Bytes => Unit::Bytes,
            Quantity::ComputeCeiling(_) => Unit::FlopsPerS,
            Quantity::Ridge(_) => Unit::FlopsPerByte,
            Quantity::OfRows(of, _) => of.unit(),
            Quantity::TimeRatio(..) | Quantity::Elasticity(..) => Unit::Ratio,
            Quantity::BoundBy(_)
            | Quantity::PairsFollow(_)
            | Quantity::FullBeforeRidge(_)
            | Quantity::Prediction(_) => Unit::Share,
            Quantity::TimeOfProblems(_) => Unit::Seconds,
        }
    }
}

impl RowQuantity {
    const fn unit(self) -> Unit {
        match self {
            RowQuantity::Time => Unit::Seconds,
            RowQuantity::Bandwidth => Unit::BytesPerS,
            RowQuantity::ComputeRate => Unit::FlopsPerS,
            RowQuantity::MemoryShare
            | RowQuantity::ComputeShare
            | RowQuantity::RoofShare => Unit::Share,
            RowQuantity::Intensity | RowQuantity::MeasuredIntensity => Unit::FlopsPerByte,
            RowQuantity::IntensityOfModel => Unit::Ratio,
            RowQuantity::CapacityFootprint => Unit::Bytes,
        }
    }
}

/// Keys that some quantities ask for, as far as a claim has them.
#[derive(Debug)]
pub(super) struct Asked {
    pub beside: Option<Filter>,
    pub over: Over,
    pub dtype: Option<DType>,
    pub link: Option<Link>,
    pub direction: Option<LinkDirection>,
    pub of: Option<Of>,
    pub pairs: Option<Vec<String>>,
    pub prediction: Option<String>,
}

/// A quantity as claims spell it.
#[derive(Debug)]
pub struct QuantityFacts {
    /// Its spelling.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Keys that a claim about it must have, besides those of every claim.
    pub needs: &'static [&'static str],
    /// Keys that it may have.
    pub takes: &'static [&'static str],
    /// Makes it of these keys; `None` where one of `needs` is missing.
    pub(super) make: fn(&Asked) -> Option<Quantity>,
}

/// Keys of claims about rows.
const ROWS: &[&str] = &["over", "include_peers"];

const fn of_rows(
    name: &'static str,
    about: &'static str,
    make: fn(&Asked) -> Option<Quantity>,
) -> QuantityFacts {
    QuantityFacts { name, about, needs: &["select"], takes: ROWS, make }
}

const fn quantity(
    name: &'static str,
    about: &'static str,
    needs: &'static [&'static str],
    takes: &'static [&'static str],
    make: fn(&Asked) -> Option<Quantity>,
) -> QuantityFacts {
    QuantityFacts { name, about, needs, takes, make }
}

/// Every quantity. A new one is a row here, a variant of [`Quantity`] or [`RowQuantity`], and
/// an arm of the match in the verdict that finds its value.
pub static QUANTITIES: [QuantityFacts; 22] = [
    quantity("dram_read_bandwidth", "ceiling of reads from DRAM", &[], &[], |_| {
        Some(Quantity::DramReadBandwidth)
    }),
    quantity("l2_bytes", "last-level cache, as the driver says", &[], &[], |_| {
        Some(Quantity::L2Bytes)
    }),
    quantity("compute_ceiling", "best rate of arithmetic", &["dtype"], &[], |asked| {
        Some(Quantity::ComputeCeiling(asked.dtype?))
    }),
    quantity(
        "ridge",
        "compute_ceiling over dram_read_bandwidth",
        &["dtype"],
        &[],
        |asked| Some(Quantity::Ridge(asked.dtype?)),
    ),
    quantity(
        "link_bandwidth",
        "best rate of a link",
        &["link", "direction"],
        &[],
        |asked| Some(Quantity::LinkBandwidth(asked.link?, asked.direction?)),
    ),
    of_rows("time", "seconds of a launch", |asked| {
        Some(Quantity::OfRows(RowQuantity::Time, asked.over))
    }),
    of_rows("bandwidth", "compulsory bytes over time", |asked| {
        Some(Quantity::OfRows(RowQuantity::Bandwidth, asked.over))
    }),
    of_rows("compute_rate", "FLOPs over time", |asked| {
        Some(Quantity::OfRows(RowQuantity::ComputeRate, asked.over))
    }),
    of_rows("memory_share", "share of the measured memory roof", |asked| {
        Some(Quantity::OfRows(RowQuantity::MemoryShare, asked.over))
    }),
    of_rows("compute_share", "share of the measured compute roof", |asked| {
        Some(Quantity::OfRows(RowQuantity::ComputeShare, asked.over))
    }),
    of_rows("roof_share", "share of the measured roof that binds", |asked| {
        Some(Quantity::OfRows(RowQuantity::RoofShare, asked.over))
    }),
    of_rows("oi", "FLOPs over compulsory bytes, by the model", |asked| {
        Some(Quantity::OfRows(RowQuantity::Intensity, asked.over))
    }),
    of_rows("oi_measured", "counted FLOPs over bytes that counters saw", |asked| {
        Some(Quantity::OfRows(RowQuantity::MeasuredIntensity, asked.over))
    }),
    of_rows(
        "oi_measured_of_model",
        "the model's FLOPs over bytes that counters saw, over oi",
        |asked| Some(Quantity::OfRows(RowQuantity::IntensityOfModel, asked.over)),
    ),
    of_rows("capacity_footprint", "bytes of cache of a request", |asked| {
        Some(Quantity::OfRows(RowQuantity::CapacityFootprint, asked.over))
    }),
    quantity(
        "time_ratio",
        "time of the rows of `select` over that of the rows of `beside`",
        &["select", "beside"],
        ROWS,
        |asked| Some(Quantity::TimeRatio(asked.beside.clone()?, asked.over)),
    ),
    quantity(
        "elasticity",
        "log of the ratio of times over that of bytes or FLOPs, in pairs",
        &["of", "pairs"],
        &["select", "over"],
        |asked| Some(Quantity::Elasticity(asked.of?, asked.pairs.clone()?, asked.over)),
    ),
    quantity(
        "memory_bound",
        "share of the rows from DRAM that are memory bound",
        &["select"],
        &[],
        |_| Some(Quantity::BoundBy(Bound::Memory)),
    ),
    quantity(
        "compute_bound",
        "share of the rows from DRAM that are compute bound",
        &["select"],
        &[],
        |_| Some(Quantity::BoundBy(Bound::Compute)),
    ),
    quantity(
        "pairs_follow",
        "share of the pairs whose time follows bytes or FLOPs as it should",
        &["pairs"],
        &["select"],
        |asked| Some(Quantity::PairsFollow(asked.pairs.clone()?)),
    ),
    quantity(
        "full_before_ridge",
        "share of models and workloads that fill this memory before the measured ridge",
        &["dtype"],
        &[],
        |asked| Some(Quantity::FullBeforeRidge(asked.dtype?)),
    ),
    quantity(
        "prediction",
        "share of the cases of a prediction; of `predict claims`, not of records",
        &["prediction"],
        &[],
        |asked| Some(Quantity::Prediction(asked.prediction.clone()?)),
    ),
];
