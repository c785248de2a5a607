//! Boxes of tensors: which bytes of global memory belong where in shared memory.

use crate::exec::access::{Target, addresses, global, resolve};
use crate::exec::maps;
use crate::finding::FindingKind;
use crate::flight::Piece;
use crate::instruction::Address;
use crate::machine::{Machine, Step};
use crate::tensor_map::TensorMap;
use crate::warp::Warp;

/// Reads the tensor map that an operand points to.
pub(crate) fn read_map(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    address: &Address,
) -> Step<TensorMap> {
    let value = addresses(warp, m, address, 1 << lane, pc)[lane];
    let mut bytes = [0; 128];
    match resolve(address.space, warp.rank, value) {
        Target::Param(offset) => {
            let from = offset as usize;
            match m.run.params.get(from..from.saturating_add(128)) {
                Some(param) => bytes.copy_from_slice(param),
                None => {
                    let text = "the tensor map reaches beyond the kernel's parameters";
                    return m.stop(FindingKind::BadOperand, warp, pc, lane, text);
                }
            }
        }
        Target::Global(address) => {
            let (allocation, offset) = global(warp, m, (pc, lane), address, 128)?;
            m.run.memory.allocations[allocation].read(offset, &mut bytes);
            maps::used(warp, m, (pc, lane), (allocation, offset));
        }
        Target::Shared(..) | Target::Local(_) => {
            let text = "a tensor map must lie in global memory, constants or parameters";
            return m.stop(FindingKind::BadOperand, warp, pc, lane, text);
        }
    }
    if !value.is_multiple_of(64) {
        let text = "a tensor map must be aligned to 64 bytes";
        return m.stop_at(FindingKind::Misaligned, warp, pc, lane, (value, None), text);
    }
    match TensorMap::decode(&bytes) {
        Some(map) => Ok(map),
        None => {
            let text = "these bytes are not an encoded tensor map";
            m.stop(FindingKind::BadOperand, warp, pc, lane, text)
        }
    }
}

/// What is done with a box of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Load,
    Store,
    Prefetch,
}

/// The pieces of the box at `coordinates`, laid out from `at` in shared memory.
pub(crate) fn pieces(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    way: Way,
    (map, coordinates, at): (&TensorMap, &[u16], usize),
) -> Step<Vec<Piece>> {
    let first = start(warp, m, (pc, lane), way, (map, coordinates))?;
    let row_bytes = u64::from(map.box_dims[0]) * map.element.bytes();
    let rows = map.box_bytes() / row_bytes;
    let mut pieces = Vec::with_capacity((map.box_bytes() / 16) as usize);
    for row in 0..rows {
        let base = row_address(map, &first, row);
        let to = at as u64 + row * row_bytes;
        for chunk in 0..row_bytes / 16 {
            let plain = (to + 16 * chunk) as u32;
            let shared = map.swizzle.apply(plain);
            chunk_pieces(
                warp,
                m,
                (pc, lane),
                (map, first[0], base),
                chunk,
                shared,
                &mut pieces,
            )?;
        }
    }
    Ok(pieces)
}

/// Where the box begins, in elements, the innermost dimension first.
fn start(
    warp: &Warp,
    m: &mut Machine<'_>,
    (pc, lane): (u32, usize),
    way: Way,
    (map, coordinates): (&TensorMap, &[u16]),
) -> Step<Vec<i64>> {
    if coordinates.len() != map.dims.len() {
        let text = format!(
            "{} coordinates for a tensor of {} dimensions",
            coordinates.len(),
            map.dims.len()
        );
        return m.stop(FindingKind::BadOperand, warp, pc, lane, text);
    }
    let first: Vec<i64> = coordinates
        .iter()
        .map(|&row| i64::from(warp.regs.r[usize::from(row)][lane] as i32))
        .collect();
    match refusal(map, way, &first) {
        Some(text) => m.stop(FindingKind::BadOperand, warp, pc, lane, text),
        None => Ok(first),
    }
}

/// Why the hardware does not begin a box there, if that is so.
///
/// An H100 ended every launch with an illegal instruction in which a load began at
/// innermost bytes that are no multiple of 16, inside of the tensor or before it, and
/// every launch in which a store had a coordinate before the beginning, in whatever
/// dimension, multiples of 16 bytes too. It ran loads that began a multiple of 16 bytes
/// before the beginning, or before it in outer dimensions, and boxes past the end of both
/// kinds. That a prefetch obeys the rule of loads is inferred: it is the same request
/// without a destination. Whether a store may begin at other than multiples of 16 bytes was
/// not measured, so it is not refused.
fn refusal(map: &TensorMap, way: Way, first: &[i64]) -> Option<String> {
    let size = map.element.bytes() as i64;
    let element = format!("elements of {size} byte{}", if size == 1 { "" } else { "s" });
    if way == Way::Store {
        let (dimension, start) = first.iter().enumerate().find(|(_, start)| **start < 0)?;
        return Some(format!(
            "a tensor store takes no coordinate before the beginning: coordinate {start} in \
             dimension {dimension} ({element}); a GPU ends the launch with an illegal \
             instruction"
        ));
    }
    let (start, bytes) = (*first.first()?, first.first()? * size);
    let what = if way == Way::Load { "load" } else { "prefetch" };
    (bytes % 16 != 0).then(|| {
        format!(
            "a tensor {what} must begin at a multiple of 16 bytes in the innermost dimension: \
             coordinate {start} in dimension 0 ({element}) is byte {bytes}; a GPU ends the \
             launch with an illegal instruction"
        )
    })
}

/// The address of column 0 of a row of the box; none where the row is outside.
fn row_address(map: &TensorMap, first: &[i64], row: u64) -> Option<u64> {
    let (mut rest, mut address) = (row, map.address);
    for (n, &first) in first.iter().enumerate().skip(1) {
        let extent = u64::from(map.box_dims[n]);
        let index = first + (rest % extent) as i64;
        rest /= extent;
        if index < 0 || index as u64 >= map.dims[n] {
            return None;
        }
        address = address.wrapping_add(index as u64 * map.strides[n - 1]);
    }
    Some(address)
}

/// Splits 16 bytes of a row into the parts inside and outside of the tensor.
fn chunk_pieces(
    warp: &Warp,
    m: &mut Machine<'_>,
    site: (u32, usize),
    (map, column, base): (&TensorMap, i64, Option<u64>),
    chunk: u64,
    shared: u32,
    pieces: &mut Vec<Piece>,
) -> Step {
    let size = map.element.bytes();
    // Bytes of the row, counted from the tensor's column 0.
    let start = column * size as i64 + 16 * chunk as i64;
    let end = (map.dims[0] * size) as i64;
    let low = start.max(0).min(start + 16);
    let high = end.min(start + 16).max(low);
    let (low, high) = if base.is_some() { (low, high) } else { (start, start) };
    let mut push = |from: i64, to: i64, global: Option<(usize, u64)>| {
        if to > from {
            let offset = (from - start) as u32;
            let bytes = (to - from) as u32;
            pieces.push(Piece { shared: shared + offset, global, bytes });
        }
    };
    push(start, low, None);
    if let Some(base) = base
        && high > low
    {
        let place = global(warp, m, site, base + low as u64, (high - low) as u64)?;
        push(low, high, Some(place));
    }
    push(high, start + 16, None);
    Ok(())
}
