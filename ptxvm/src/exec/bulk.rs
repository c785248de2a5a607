//! Bulk copies.
use crate::exec::Next;
use crate::machine::{Machine, Step};
use crate::warp::Warp;

#[derive(Debug)]
pub(crate) struct Pending {}
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bulk {}

pub(crate) fn issue(_: &mut Warp, _: &mut Machine<'_>, _: &Bulk, _: u32, _: u32) -> Step {
    Ok(())
}
pub(crate) fn commit(_: &mut Warp, _: &mut Machine<'_>, _: u32) {}
pub(crate) fn wait(
    _: &mut Warp,
    _: &mut Machine<'_>,
    _: (u32, bool),
    _: u32,
    _: u32,
) -> Step<Next> {
    Ok(Next::Go)
}
/// Lands one copy at random; says whether there was one.
pub(crate) fn land_one(_: &mut Machine<'_>) -> Step<bool> {
    Ok(false)
}
