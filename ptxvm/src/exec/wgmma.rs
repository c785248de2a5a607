//! wgmma.
use crate::exec::Next;
use crate::exec::matrix::{Accumulator, Element};
use crate::machine::{Machine, Step};
use crate::warp::Warp;

/// Where A comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    Registers(Vec<u16>),
    Descriptor(u16),
}

/// `wgmma.mma_async`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wgmma {
    pub n: usize,
    pub k: usize,
    pub a_ty: Element,
    pub b_ty: Element,
    pub accumulator: Accumulator,
    pub saturate: bool,
    pub d: Vec<u16>,
    pub a: Source,
    pub b: u16,
    pub scale_d: u16,
    pub negate_a: bool,
    pub negate_b: bool,
    pub transpose_a: bool,
    pub transpose_b: bool,
}
#[derive(Debug, Default)]
pub(crate) struct WgmmaState {}

pub(crate) fn issue(
    _: &mut Warp,
    m: &mut Machine<'_>,
    _: &Wgmma,
    _: u32,
    pc: u32,
) -> Step<Next> {
    let _ = (m, pc);
    Ok(Next::Go)
}
pub(crate) fn fence(_: &mut Warp) {}
pub(crate) fn commit(_: &mut Warp) {}
pub(crate) fn wait(_: &mut Warp, _: &mut Machine<'_>, _: u32, _: u32) {}
