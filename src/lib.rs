//! ridgepoint measures kernels of LLM inference and sets every measurement
//! beside an analytical model.
//!
//! Dependencies run one way:
//!
//! ```text
//! problem <- {data, roofline} <- reference <- device <- measure
//!         <- {suite, record} <- campaign <- analysis <- {verdict, plot} <- cmd
//! ```

pub mod analysis;
pub mod data;
pub mod device;
pub mod plot;
pub mod point;
pub mod problem;
pub mod record;
pub mod reference;
pub mod roofline;
pub mod statistics;
