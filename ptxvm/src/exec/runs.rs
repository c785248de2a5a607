//! Global memory as a warp accesses it: lanes that follow one another, and whose bytes do,
//! are one access to the memory and to its checks.

use crate::check::{Accessor, Manner, Span};
use crate::exec::access::{
    Target, note_constant_read, note_read, note_write, resolve, sectors,
};
use crate::flight::Piece;
use crate::instruction::{Access, Space};
use crate::lanes::{LANES, lanes};
use crate::machine::Machine;
use crate::warp::Warp;

/// The most bytes that a lane accesses.
pub(crate) const LANE_BYTES: usize = 32;

/// Lanes that follow one another and access bytes that do, or every second word.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Run {
    /// Allocation and offset.
    pub place: (usize, u64),
    pub first: usize,
    pub lanes: usize,
    /// From the bytes of one lane to those of the next: as many as each has, 8 where it has
    /// 4, or 0 where all read the same.
    stride: u64,
}

impl Run {
    /// Bytes from the first to the last.
    fn bytes(&self, each: u64) -> usize {
        (self.stride * (self.lanes as u64 - 1) + each) as usize
    }

    /// The accesses that the checks have to know of, by their first lanes. Of lanes that read
    /// the same, the first two stand for all: with either of them each other lane would be
    /// one of several, and one of them is not the lane that wrote.
    fn spans(&self, each: u64) -> impl Iterator<Item = (usize, Span)> {
        let (count, lanes) = if self.stride == 0 { (2, 1) } else { (1, self.lanes) };
        let span = Span::of_lanes(self.place, lanes, (each, self.stride));
        (self.first..self.first + count).map(move |lane| (lane, span))
    }
}

/// The runs of one instruction, in order of lanes.
#[derive(Debug)]
pub(crate) struct Runs {
    list: [Run; LANES],
    count: usize,
    /// Bytes of each lane, a power of two.
    each: u64,
    /// Lanes that access the same bytes may be one run.
    shares: bool,
}

impl Runs {
    pub(crate) fn new(each: u64) -> Self {
        Self { list: [Run::default(); LANES], count: 0, each, shares: false }
    }

    pub(crate) fn list(&self) -> &[Run] {
        &self.list[..self.count]
    }

    /// Adds a lane behind those that were added before.
    #[inline]
    pub(crate) fn push(&mut self, lane: usize, place: (usize, u64)) {
        let each = self.each;
        if let Some(last) = self.list[..self.count].last_mut()
            && last.place.0 == place.0
            && last.first + last.lanes == lane
            && let Some(gap) = place.1.checked_sub(last.place.1)
            && (gap == last.stride * last.lanes as u64
                || last.lanes == 1 && (self.shares && gap == 0 || (each, gap) == (4, 8)))
        {
            last.stride = if last.lanes == 1 { gap } else { last.stride };
            last.lanes += 1;
        } else {
            self.list[self.count] = Run { place, first: lane, lanes: 1, stride: each };
            self.count += 1;
        }
    }

    /// The runs of the lanes' addresses. None where one of them is not global, not aligned
    /// or not allocated, or where the launch before may still run: then lane by lane is the
    /// way, up to the one that faults.
    pub(crate) fn find(
        warp: &Warp,
        m: &mut Machine<'_>,
        (space, row): (Space, &[u64; LANES]),
        (each, is_load): (u64, bool),
        active: u32,
    ) -> Option<Self> {
        let is_global = matches!(space, Space::Global | Space::Generic);
        if !is_global || !each.is_power_of_two() || m.early {
            return None;
        }
        let mut runs = Self { shares: is_load, ..Self::new(each) };
        for lane in lanes(active) {
            let Target::Global(address) = resolve(space, warp.rank, row[lane]) else {
                return None;
            };
            if address & (each - 1) != 0 {
                return None;
            }
            let memory = m.run.memory;
            let holds = |index: usize| {
                let found = memory.allocations.get(index)?;
                let inside = address.checked_sub(found.base)?;
                let fits = inside.saturating_add(each) <= found.bytes && found.live;
                fits.then_some(inside)
            };
            let place = match holds(m.last_allocation) {
                Some(offset) => (m.last_allocation, offset),
                None => {
                    m.last_allocation = memory.find(address, each).ok()?;
                    (m.last_allocation, holds(m.last_allocation)?)
                }
            };
            runs.push(lane, place);
        }
        Some(runs)
    }
}

/// The lanes' bytes.
pub(crate) type Rows = [[u8; LANE_BYTES]; LANES];

/// Loads all runs of an access without a memory order; gives the lanes that get bytes which
/// were never written.
pub(crate) fn load(
    warp: &Warp,
    m: &mut Machine<'_>,
    (access, pc): (&Access, u32),
    runs: &Runs,
    (data, spans): (&mut Rows, &mut Vec<(usize, u64)>),
) -> u32 {
    let (each, mut undefined) = (runs.each as usize, 0);
    let mut flat = [0; LANES * LANE_BYTES];
    for run in runs.list() {
        let found = &m.run.memory.allocations[run.place.0];
        let (bytes, stride) = (run.bytes(runs.each), run.stride as usize);
        found.read(run.place.1, &mut flat[..bytes]);
        for (n, row) in data[run.first..][..run.lanes].iter_mut().enumerate() {
            row[..each].copy_from_slice(&flat[n * stride..][..each]);
        }
        if !found.is_written(run.place.1, bytes as u64) {
            for n in 0..run.lanes {
                let offset = run.place.1 + n as u64 * run.stride;
                let written = found.is_written(offset, runs.each);
                undefined |= u32::from(!written) << (run.first + n);
            }
        }
        sectors(spans, run.place.0, run.place.1, bytes as u64);
        for (lane, span) in run.spans(runs.each) {
            if access.read_only {
                note_constant_read(warp, m, (pc, lane), span);
            } else {
                note_read(warp, m, (pc, lane), span, Manner::Weak);
            }
        }
    }
    undefined
}

/// Stores all runs of an access without a memory order. `data` gives each lane's bytes.
pub(crate) fn store(
    warp: &Warp,
    m: &mut Machine<'_>,
    pc: u32,
    runs: &Runs,
    (data, spans): (impl Fn(usize) -> [u8; LANE_BYTES], &mut Vec<(usize, u64)>),
) {
    let each = runs.each as usize;
    let mut new = [0; LANES * LANE_BYTES];
    let mut old = [0; LANES * LANE_BYTES];
    for run in runs.list() {
        let found = &m.run.memory.allocations[run.place.0];
        let (bytes, stride) = (run.bytes(runs.each), run.stride as usize);
        for (n, part) in new[..bytes].chunks_mut(stride).enumerate() {
            part[..each].copy_from_slice(&data(run.first + n)[..each]);
        }
        let (new, old) = (&new[..bytes], &mut old[..bytes]);
        found.read(run.place.1, old);
        // Storing the value that is there already cannot race.
        let pairs = new.chunks(stride).zip(old.chunks(stride)).enumerate();
        let mut same = pairs
            .fold(0u32, |all, (n, (a, b))| all | u32::from(a[..each] == b[..each]) << n);
        for n in lanes(same) {
            let offset = run.place.1 + n as u64 * run.stride;
            same &= !(u32::from(!found.is_written(offset, runs.each)) << n);
        }
        if stride == each {
            found.write(run.place.1, new);
        } else {
            for (n, part) in new.chunks(stride).enumerate() {
                found.write(run.place.1 + n as u64 * run.stride, &part[..each]);
            }
        }
        sectors(spans, run.place.0, run.place.1, bytes as u64);
        note_stores(warp, m, pc, (run, runs.each), same);
    }
}

/// Records the stores of a run; those of the lanes in `same`, counted from the run's first,
/// changed nothing.
fn note_stores(
    warp: &Warp,
    m: &mut Machine<'_>,
    pc: u32,
    (run, each): (&Run, u64),
    same: u32,
) {
    let mut from = 0;
    while from < run.lanes {
        let is_same = same >> from & 1 != 0;
        let alike = if is_same { same >> from } else { !(same >> from) };
        let count = (alike.trailing_ones() as usize).min(run.lanes - from);
        let place = (run.place.0, run.place.1 + from as u64 * run.stride);
        let (span, lane) =
            (Span::of_lanes(place, count, (each, run.stride)), run.first + from);
        if is_same {
            let by = Accessor { clock: &warp.clock, lane, manner: Manner::Weak };
            m.run.races.on_same_write(span, by);
        } else {
            note_write(warp, m, (pc, lane), span, Manner::Weak);
        }
        from += count;
    }
}

/// Records the runs of reads.
pub(crate) fn note_reads(warp: &Warp, m: &mut Machine<'_>, pc: u32, runs: &Runs) {
    for run in runs.list() {
        for (lane, span) in run.spans(runs.each) {
            note_read(warp, m, (pc, lane), span, Manner::Weak);
        }
    }
}

/// The bytes of global memory that a copy's pieces have without gaps.
pub(crate) fn of_pieces(pieces: &[Piece]) -> Vec<((usize, u64), u64)> {
    let mut list: Vec<((usize, u64), u64)> = Vec::new();
    for piece in pieces {
        let Some((allocation, offset)) = piece.global else { continue };
        match list.last_mut() {
            Some((place, bytes)) if (place.0, place.1 + *bytes) == (allocation, offset) => {
                *bytes += u64::from(piece.bytes);
            }
            _ => list.push(((allocation, offset), u64::from(piece.bytes))),
        }
    }
    list
}
