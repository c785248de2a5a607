//! Atomic operations on memory.

use crate::bank::Bank;
use crate::float::{BF16, Rounding, bf16_to_f32, f16_to_f32, f32_to_f16};
use crate::instruction::address::{Address, Order, Scope};
use crate::instruction::types::Type;

/// The operation on the old value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AtomicOp {
    /// Old value, operand, and `cas`'s new value.
    pub f: fn(u64, u64, u64) -> u64,
    pub bytes: u64,
}

impl PartialEq for AtomicOp {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.f, other.f) && self.bytes == other.bytes
    }
}

/// An `atom` or `red`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Atomic {
    pub op: AtomicOp,
    pub address: Address,
    /// Empty for `red`.
    pub d: Vec<u16>,
    pub a: Vec<u16>,
    pub b: Option<u16>,
    pub bank: Bank,
    pub order: Order,
    pub scope: Scope,
}

fn f32_add(a: u64, b: u64) -> u64 {
    let sum = f32::from_bits(a as u32) + f32::from_bits(b as u32);
    u64::from(sum.to_bits())
}

fn f16_add(a: u64, b: u64) -> u64 {
    u64::from(f32_to_f16(f16_to_f32(a as u16) + f16_to_f32(b as u16)))
}

fn bf16_add(a: u64, b: u64) -> u64 {
    let sum = f64::from(bf16_to_f32(a as u16)) + f64::from(bf16_to_f32(b as u16));
    BF16.encode(sum, Rounding::Nearest, false)
}

impl AtomicOp {
    /// The operation `name` on values of type `ty`.
    pub(crate) fn parse(name: &str, ty: Type) -> Option<Self> {
        use Type::*;
        let f: fn(u64, u64, u64) -> u64 = match (name, ty) {
            ("and", B32 | B64) => |a, b, _| a & b,
            ("or", B32 | B64) => |a, b, _| a | b,
            ("xor", B32 | B64) => |a, b, _| a ^ b,
            ("exch", B32 | B64) => |_, b, _| b,
            ("cas", B16 | B32 | B64) => |a, b, c| if a == b { c } else { a },
            ("add", U32 | S32 | U64 | S64) => |a, b, _| a.wrapping_add(b),
            ("inc", U32) => |a, b, _| if a >= b { 0 } else { a + 1 },
            ("dec", U32) => |a, b, _| if a == 0 || a > b { b } else { a - 1 },
            ("min", U32 | U64) => |a, b, _| a.min(b),
            ("max", U32 | U64) => |a, b, _| a.max(b),
            ("min", S32) => |a, b, _| (a as i32).min(b as i32) as u32 as u64,
            ("max", S32) => |a, b, _| (a as i32).max(b as i32) as u32 as u64,
            ("min", S64) => |a, b, _| (a as i64).min(b as i64) as u64,
            ("max", S64) => |a, b, _| (a as i64).max(b as i64) as u64,
            ("add", F32) => |a, b, _| f32_add(a, b),
            ("add", F64) => |a, b, _| (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
            ("add", F16) => |a, b, _| f16_add(a, b),
            ("add", BF16) => |a, b, _| bf16_add(a, b),
            ("add", F16x2) => {
                |a, b, _| f16_add(a & 0xffff, b & 0xffff) | f16_add(a >> 16, b >> 16) << 16
            }
            ("add", BF16x2) => |a, b, _| {
                bf16_add(a & 0xffff, b & 0xffff) | bf16_add(a >> 16, b >> 16) << 16
            },
            _ => return None,
        };
        Some(Self { f, bytes: u64::from(ty.bits() / 8) })
    }
}
