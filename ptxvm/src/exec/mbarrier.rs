//! mbarriers.
use crate::exec::Next;
use crate::instruction::Address;
use crate::machine::{Machine, Step};
use crate::warp::Warp;

#[derive(Debug, Default)]
pub(crate) struct Mbarrier {}
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MbarrierOp {}

pub(crate) fn run(
    _: &mut Warp,
    _: &mut Machine<'_>,
    _: &MbarrierOp,
    _: u32,
    _: u32,
) -> Step<Next> {
    Ok(Next::Go)
}
pub(crate) fn copies_arrive(
    _: &mut Warp,
    _: &mut Machine<'_>,
    _: (Address, bool),
    _: u32,
    _: u32,
) -> Step {
    Ok(())
}
