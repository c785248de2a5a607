//! A warp's registers, and operations over its 32 lanes.
//!
//! A register is a row of 32 lanes, so that one decoded instruction is one loop that
//! the compiler turns into vector code. Immediates and special registers are rows
//! too, so a source operand is always an index. Each row has one bit per lane that says
//! that the value is undefined; instructions carry it from sources to destinations.

use std::collections::HashMap;

use crate::bank::Bank;

/// Threads of a warp.
pub const LANES: usize = 32;

/// Why a register's lanes are undefined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nothing was ever written to the register.
    Register,
    /// Loaded by the instruction at `pc` from never-written bytes at `address`.
    Load { pc: u32, address: u64 },
    /// A wgmma accumulator before its wait; the number of its commit group.
    Wgmma { group: u64 },
}

/// The register files of one warp.
#[derive(Debug, Clone, Default)]
pub(crate) struct Regs {
    pub p: Vec<u32>,
    pub r: Vec<[u32; LANES]>,
    pub d: Vec<[u64; LANES]>,
    /// Undefined lanes, by bank and register.
    pub undefined: [Vec<u32>; 3],
    /// Where undefined lanes came from, for registers that have some.
    pub origins: HashMap<(Bank, u16), Origin>,
    /// The instruction being executed used the accumulator of a product under way.
    pub touched_in_flight: bool,
}

/// Which rows an instruction works on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Args {
    pub d: u16,
    pub a: u16,
    pub b: u16,
    pub c: u16,
    pub e: u16,
}

/// One decoded arithmetic instruction: a loop over the lanes in `mask`.
pub(crate) type Wide = fn(&mut Regs, &Args, u32);

/// A type that a register row can be read as.
pub(crate) trait Lane: Copy + Default {
    const BANK: Bank;
    fn row(regs: &Regs, index: u16) -> [Self; LANES];
    fn put(regs: &mut Regs, index: u16, row: &[Self; LANES], mask: u32);
}

macro_rules! word_lane {
    ($($ty:ty: $load:expr, $store:expr;)*) => {$(
        impl Lane for $ty {
            const BANK: Bank = Bank::Word;
            #[inline(always)]
            fn row(regs: &Regs, index: u16) -> [Self; LANES] {
                regs.r[usize::from(index)].map($load)
            }
            #[inline(always)]
            fn put(regs: &mut Regs, index: u16, row: &[Self; LANES], mask: u32) {
                blend(&mut regs.r[usize::from(index)], &row.map($store), mask);
            }
        }
    )*};
}

word_lane! {
    u32: |x| x, |x| x;
    i32: |x| x as i32, |x| x as u32;
    f32: f32::from_bits, f32::to_bits;
    u16: |x| x as u16, u32::from;
    i16: |x| x as i16, |x| u32::from(x as u16);
    u8: |x| x as u8, u32::from;
}

macro_rules! double_lane {
    ($($ty:ty: $load:expr, $store:expr;)*) => {$(
        impl Lane for $ty {
            const BANK: Bank = Bank::Double;
            #[inline(always)]
            fn row(regs: &Regs, index: u16) -> [Self; LANES] {
                regs.d[usize::from(index)].map($load)
            }
            #[inline(always)]
            fn put(regs: &mut Regs, index: u16, row: &[Self; LANES], mask: u32) {
                blend(&mut regs.d[usize::from(index)], &row.map($store), mask);
            }
        }
    )*};
}

double_lane! {
    u64: |x| x, |x| x;
    i64: |x| x as i64, |x| x as u64;
    f64: f64::from_bits, f64::to_bits;
}

impl Lane for bool {
    const BANK: Bank = Bank::Predicate;
    #[inline(always)]
    fn row(regs: &Regs, index: u16) -> [Self; LANES] {
        let bits = regs.p[usize::from(index)];
        std::array::from_fn(|lane| bits >> lane & 1 != 0)
    }
    #[inline(always)]
    fn put(regs: &mut Regs, index: u16, row: &[Self; LANES], mask: u32) {
        let mut bits = 0;
        for (lane, &bit) in row.iter().enumerate() {
            bits |= u32::from(bit) << lane;
        }
        let old = &mut regs.p[usize::from(index)];
        *old = *old & !mask | bits & mask;
    }
}

/// Overwrites the lanes in `mask`.
#[inline(always)]
fn blend<T: Copy>(old: &mut [T; LANES], new: &[T; LANES], mask: u32) {
    if mask == u32::MAX {
        *old = *new;
        return;
    }
    for lane in 0..LANES {
        if mask >> lane & 1 != 0 {
            old[lane] = new[lane];
        }
    }
}

/// The lanes of `mask`, ascending.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        Some(lane)
    })
}

impl Regs {
    /// The undefined lanes of a register.
    #[inline(always)]
    pub(crate) fn undefined(&self, bank: Bank, index: u16) -> u32 {
        self.undefined[bank as usize][usize::from(index)]
    }

    /// Declares the lanes in `mask` of a register undefined where `bits` is set.
    #[inline(always)]
    pub(crate) fn set_undefined(&mut self, bank: Bank, index: u16, bits: u32, mask: u32) {
        let old = &mut self.undefined[bank as usize][usize::from(index)];
        *old = *old & !mask | bits & mask;
    }

    /// Where an undefined register's value came from.
    pub(crate) fn origin(&self, bank: Bank, index: u16) -> Origin {
        self.origins.get(&(bank, index)).copied().unwrap_or(Origin::Register)
    }

    /// Records where undefined lanes of `to` came from. With `moved`, the instruction only
    /// moved them.
    #[cold]
    pub(crate) fn taint(&mut self, to: (Bank, u16), from: &[(Bank, u16)], moved: bool) {
        let source = from.iter().find(|&&(bank, index)| self.undefined(bank, index) != 0);
        let Some(&(bank, index)) = source else { return };
        let origin = self.origin(bank, index);
        self.touched_in_flight |= !moved && matches!(origin, Origin::Wgmma { .. });
        self.origins.insert(to, origin);
    }

    /// Carries undefined lanes from sources to the destination of an instruction.
    #[inline(always)]
    pub(crate) fn carry(&mut self, to: (Bank, u16), from: &[(Bank, u16)], mask: u32) {
        let bits =
            from.iter().fold(0, |bits, &(bank, index)| bits | self.undefined(bank, index));
        self.set_undefined(to.0, to.1, bits, mask);
        if bits & mask != 0 {
            self.taint(to, from, false);
        }
    }
}

#[inline(always)]
pub(crate) fn apply1<A: Lane, D: Lane>(
    regs: &mut Regs,
    args: &Args,
    mask: u32,
    f: impl Fn(A) -> D,
) {
    let a = A::row(regs, args.a);
    let mut row = [D::default(); LANES];
    for lane in 0..LANES {
        row[lane] = f(a[lane]);
    }
    D::put(regs, args.d, &row, mask);
    regs.carry((D::BANK, args.d), &[(A::BANK, args.a)], mask);
}

#[inline(always)]
pub(crate) fn apply2<A: Lane, B: Lane, D: Lane>(
    regs: &mut Regs,
    args: &Args,
    mask: u32,
    f: impl Fn(A, B) -> D,
) {
    let (a, b) = (A::row(regs, args.a), B::row(regs, args.b));
    let mut row = [D::default(); LANES];
    for lane in 0..LANES {
        row[lane] = f(a[lane], b[lane]);
    }
    D::put(regs, args.d, &row, mask);
    regs.carry((D::BANK, args.d), &[(A::BANK, args.a), (B::BANK, args.b)], mask);
}

#[inline(always)]
pub(crate) fn apply3<A: Lane, B: Lane, C: Lane, D: Lane>(
    regs: &mut Regs,
    args: &Args,
    mask: u32,
    f: impl Fn(A, B, C) -> D,
) {
    let (a, b) = (A::row(regs, args.a), B::row(regs, args.b));
    let c = C::row(regs, args.c);
    let mut row = [D::default(); LANES];
    for lane in 0..LANES {
        row[lane] = f(a[lane], b[lane], c[lane]);
    }
    D::put(regs, args.d, &row, mask);
    let from = [(A::BANK, args.a), (B::BANK, args.b), (C::BANK, args.c)];
    regs.carry((D::BANK, args.d), &from, mask);
}

#[inline(always)]
pub(crate) fn apply4<A: Lane, B: Lane, C: Lane, E: Lane, D: Lane>(
    regs: &mut Regs,
    args: &Args,
    mask: u32,
    f: impl Fn(A, B, C, E) -> D,
) {
    let (a, b) = (A::row(regs, args.a), B::row(regs, args.b));
    let (c, e) = (C::row(regs, args.c), E::row(regs, args.e));
    let mut row = [D::default(); LANES];
    for lane in 0..LANES {
        row[lane] = f(a[lane], b[lane], c[lane], e[lane]);
    }
    D::put(regs, args.d, &row, mask);
    let from = [(A::BANK, args.a), (B::BANK, args.b), (C::BANK, args.c), (E::BANK, args.e)];
    regs.carry((D::BANK, args.d), &from, mask);
}

/// Stores a row that was computed from three sources.
#[inline(always)]
pub(crate) fn put3<A: Lane, B: Lane, C: Lane, D: Lane>(
    regs: &mut Regs,
    args: &Args,
    mask: u32,
    row: &[D; LANES],
) {
    D::put(regs, args.d, row, mask);
    let from = [(A::BANK, args.a), (B::BANK, args.b), (C::BANK, args.c)];
    regs.carry((D::BANK, args.d), &from, mask);
}

/// A plain copy: undefined values may be moved, also those of a product under way.
pub(crate) fn copy<T: Lane>(regs: &mut Regs, args: &Args, mask: u32) {
    let row = T::row(regs, args.a);
    T::put(regs, args.d, &row, mask);
    let bits = regs.undefined(T::BANK, args.a);
    regs.set_undefined(T::BANK, args.d, bits, mask);
    if bits & mask != 0 {
        regs.taint((T::BANK, args.d), &[(T::BANK, args.a)], true);
    }
}

/// `d = c ? a : b`; only undefined lanes of the chosen operand count.
pub(crate) fn select<T: Lane>(regs: &mut Regs, args: &Args, mask: u32) {
    let (a, b) = (T::row(regs, args.a), T::row(regs, args.b));
    let choice = bool::row(regs, args.c);
    let chosen = regs.p[usize::from(args.c)];
    let row = std::array::from_fn(|lane| if choice[lane] { a[lane] } else { b[lane] });
    T::put(regs, args.d, &row, mask);
    let (ua, ub) = (regs.undefined(T::BANK, args.a), regs.undefined(T::BANK, args.b));
    let bits = ua & chosen | ub & !chosen | regs.undefined(Bank::Predicate, args.c);
    regs.set_undefined(T::BANK, args.d, bits, mask);
    if bits & mask != 0 {
        let from = [(T::BANK, args.a), (T::BANK, args.b), (Bank::Predicate, args.c)];
        regs.taint((T::BANK, args.d), &from, false);
    }
}

/// A [`Wide`] function from an expression over typed lanes:
/// `wide!(|a: u32, b: u32| u32: a ^ b)`.
macro_rules! wide {
    (|$a:ident: $A:ty| $D:ty: $e:expr) => {{
        fn wide(r: &mut $crate::lanes::Regs, g: &$crate::lanes::Args, m: u32) {
            $crate::lanes::apply1::<$A, $D>(r, g, m, |$a| $e);
        }
        wide as $crate::lanes::Wide
    }};
    (|$a:ident: $A:ty, $b:ident: $B:ty| $D:ty: $e:expr) => {{
        fn wide(r: &mut $crate::lanes::Regs, g: &$crate::lanes::Args, m: u32) {
            $crate::lanes::apply2::<$A, $B, $D>(r, g, m, |$a, $b| $e);
        }
        wide as $crate::lanes::Wide
    }};
    (|$a:ident: $A:ty, $b:ident: $B:ty, $c:ident: $C:ty| $D:ty: $e:expr) => {{
        fn wide(r: &mut $crate::lanes::Regs, g: &$crate::lanes::Args, m: u32) {
            $crate::lanes::apply3::<$A, $B, $C, $D>(r, g, m, |$a, $b, $c| $e);
        }
        wide as $crate::lanes::Wide
    }};
    (|$a:ident: $A:ty, $b:ident: $B:ty, $c:ident: $C:ty, $d:ident: $E:ty| $D:ty: $e:expr) => {{
        fn wide(r: &mut $crate::lanes::Regs, g: &$crate::lanes::Args, m: u32) {
            $crate::lanes::apply4::<$A, $B, $C, $E, $D>(r, g, m, |$a, $b, $c, $d| $e);
        }
        wide as $crate::lanes::Wide
    }};
}
pub(crate) use wide;
