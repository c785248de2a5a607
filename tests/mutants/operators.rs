//! What can be altered in a statement of PTX, one thing at a time.

use crate::ptx::Statement;

/// What kind of thing is altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Waits, barriers, fences, atomics.
    Order,
    /// Predicates, branches, comparisons.
    Control,
    /// Addresses, swizzles, fills.
    Address,
    /// What is computed, exchanged and stored.
    Value,
}

/// A way to alter statements.
pub struct Operator {
    /// In tables, and in the list of survivors.
    pub name: &'static str,
    /// Its kind.
    pub class: Class,
    /// Whether the standing test plants each of its mutants.
    pub all: bool,
    /// The texts to put in place of a statement; none where it has nothing to
    /// alter.
    pub mutants: fn(&Statement) -> Vec<String>,
}

/// All operators. Those without a site in today's kernels are for the next ones.
pub const OPERATORS: &[Operator] = &[
    order("wait for a group fewer", wait_for_fewer),
    order("no wait", |s| removed_if(is_wait(s), s)),
    order("no commit", |s| {
        let names =
            ["cp.async.commit_group", "cp.async.bulk.commit_group", "wgmma.commit_group"];
        removed_if(is_any(s, &names), s)
    }),
    order("no barrier", |s| {
        removed_if(is_any(s, &["bar", "barrier"]) && !s.has("warp"), s)
    }),
    order("no warp barrier", |s| removed_if(s.is("bar.warp"), s)),
    order("no fence", |s| {
        removed_if(is_any(s, &["membar", "fence"]) && !is_async_fence(s), s)
    }),
    order("no async fence", |s| removed_if(is_async_fence(s), s)),
    order("plain instead of atomic", plain_atomic),
    order("weaker atomic", weaker_atomic),
    order("no arrival", |s| removed_if(s.is("mbarrier.arrive"), s)),
    order("other count of an mbarrier", other_count),
    order("other parity", other_parity),
    order("shorter bulk copy", shorter_bulk),
    Operator { all: false, ..control("guard dropped", guard_dropped) },
    control("guard negated", guard_negated),
    control("always taken", |s| when(is_branch(s), || branch(s, true))),
    control("never taken", |s| when(is_branch(s), || branch(s, false))),
    control("other comparison", other_comparison),
    control("bound off by one", bound_off_by_one),
    address("other shared address", |s| moved_on(s, true)),
    address("other global address", |s| moved_on(s, false)),
    address("other swizzle", other_swizzle),
    address("other mask or shift", other_mask_or_shift),
    address("other integer constant", other_constant),
    address("other integer operation", other_integer_operation),
    address("other fill", other_fill),
    value("other transposition", other_transposition),
    value("no product", no_product),
    value("other lane", other_lane),
    value("other vote or reduction", other_vote),
    value("other float operation", other_float_operation),
    value("operands swapped", operands_swapped),
    value("no store", |s| removed_if(s.is("st"), s)),
];

type Mutants = fn(&Statement) -> Vec<String>;

const fn order(name: &'static str, mutants: Mutants) -> Operator {
    Operator { name, class: Class::Order, all: true, mutants }
}

const fn control(name: &'static str, mutants: Mutants) -> Operator {
    Operator { name, class: Class::Control, all: false, mutants }
}

const fn address(name: &'static str, mutants: Mutants) -> Operator {
    Operator { name, class: Class::Address, all: false, mutants }
}

const fn value(name: &'static str, mutants: Mutants) -> Operator {
    Operator { name, class: Class::Value, all: false, mutants }
}

fn is_any(s: &Statement, names: &[&str]) -> bool {
    names.iter().any(|name| s.is(name))
}

fn when(applies: bool, text: impl FnOnce() -> String) -> Vec<String> {
    if applies { vec![text()] } else { Vec::new() }
}

fn removed_if(applies: bool, _: &Statement) -> Vec<String> {
    when(applies, String::new)
}

/// An integer operand.
fn number(operand: &str) -> Option<i64> {
    match operand.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => operand.parse().ok(),
    }
}

// --- Order -------------------------------------------------------------------

fn is_wait(s: &Statement) -> bool {
    let names = [
        "cp.async.wait_group",
        "cp.async.wait_all",
        "cp.async.bulk.wait_group",
        "wgmma.wait_group",
    ];
    is_any(s, &names)
}

fn is_async_fence(s: &Statement) -> bool {
    is_any(s, &["fence.proxy", "fence.mbarrier_init", "wgmma.fence"])
}

fn wait_for_fewer(s: &Statement) -> Vec<String> {
    let groups = s.operands.first().and_then(|operand| number(operand));
    let groups = groups.filter(|_| is_wait(s));
    groups.map(|groups| s.with_operand(0, &(groups + 1).to_string())).into_iter().collect()
}

/// Reads, adds and writes one after the other.
fn plain_atomic(s: &Statement) -> Vec<String> {
    let [old, address, value] = s.operands.as_slice() else { return Vec::new() };
    when(s.is("atom") && s.has("add") && s.has("u32"), || {
        s.guarded(&[
            format!("ld.global.u32 {old}, {address}"),
            format!("add.u32 {old}, {old}, {value}"),
            format!("st.global.u32 {address}, {old}"),
            format!("sub.u32 {old}, {old}, {value}"),
        ])
    })
}

fn weaker_atomic(s: &Statement) -> Vec<String> {
    let orders = ["acquire", "release", "relaxed"];
    let weaker = |order: &&str| s.with_opcode(&s.opcode.replace("acq_rel", order));
    match s.is("atom") && s.has("acq_rel") {
        true => orders.iter().map(weaker).collect(),
        false => Vec::new(),
    }
}

/// The statement with `operation` applied to an operand, a register or not.
fn with_computed(s: &Statement, at: usize, operation: &str, by: &str) -> String {
    let altered = s.with_operand(at, "%altered");
    let value = &s.operands[at];
    format!("{{ .reg .b32 %altered; {operation} %altered, {value}, {by}; {altered} }}")
}

fn other_count(s: &Statement) -> Vec<String> {
    let names = ["mbarrier.init", "mbarrier.arrive", "mbarrier.expect_tx"];
    let bytes = s.opcode.contains("expect_tx");
    let counts = is_any(&s.clone(), &names) && (bytes || s.is("mbarrier.init"));
    when(counts && !s.operands.is_empty(), || {
        with_computed(s, s.operands.len() - 1, "add.u32", if bytes { "16" } else { "1" })
    })
}

fn other_parity(s: &Statement) -> Vec<String> {
    let waits = is_any(s, &["mbarrier.try_wait", "mbarrier.test_wait"]) && s.has("parity");
    when(waits && s.operands.len() > 2, || with_computed(s, 2, "xor.b32", "1"))
}

/// 16 bytes less than the mbarrier or the group waits for.
fn shorter_bulk(s: &Statement) -> Vec<String> {
    let copies = s.is("cp.async.bulk") && !s.has("tensor") && s.operands.len() > 2;
    when(copies, || with_computed(s, 2, "sub.u32", "16"))
}

// --- Control -----------------------------------------------------------------

fn is_branch(s: &Statement) -> bool {
    s.is("bra") && s.guard.is_some()
}

fn guard_dropped(s: &Statement) -> Vec<String> {
    let without = Statement { guard: None, ..s.clone() };
    when(s.guard.is_some() && !s.is("bra"), || without.with_opcode(&s.opcode))
}

fn guard_negated(s: &Statement) -> Vec<String> {
    let Some(guard) = &s.guard else { return Vec::new() };
    let negated = match guard.strip_prefix('!') {
        Some(name) => name.to_owned(),
        None => format!("!{guard}"),
    };
    vec![Statement { guard: Some(negated), ..s.clone() }.with_opcode(&s.opcode)]
}

fn branch(s: &Statement, taken: bool) -> String {
    let always = Statement { guard: None, ..s.clone() };
    if taken { always.with_opcode(&s.opcode) } else { String::new() }
}

fn other_comparison(s: &Statement) -> Vec<String> {
    let others = [
        ("lt", "le"),
        ("le", "lt"),
        ("gt", "ge"),
        ("ge", "gt"),
        ("eq", "ne"),
        ("ne", "eq"),
        ("ltu", "leu"),
        ("leu", "ltu"),
        ("gtu", "geu"),
        ("geu", "gtu"),
        ("equ", "neu"),
        ("neu", "equ"),
    ];
    let other = others.iter().find(|(from, _)| s.has(from)).filter(|_| s.is("setp"));
    let with = |(from, to): &(&str, &str)| {
        s.with_opcode(&s.opcode.replacen(&format!(".{from}"), &format!(".{to}"), 1))
    };
    other.map(with).into_iter().collect()
}

fn bound_off_by_one(s: &Statement) -> Vec<String> {
    let bound = s.operands.get(2).and_then(|operand| number(operand));
    let Some(bound) = bound.filter(|_| s.is("setp")) else { return Vec::new() };
    let unsigned = s.has("u16") || s.has("u32") || s.has("u64");
    [bound - 1, bound + 1]
        .iter()
        .filter(|bound| **bound >= 0 || !unsigned)
        .map(|bound| s.with_operand(2, &bound.to_string()))
        .collect()
}

// --- Address -----------------------------------------------------------------

/// Bytes of an access.
fn bytes_of(s: &Statement) -> u64 {
    let bits = s
        .opcode
        .rsplit('.')
        .next()
        .map(|kind| kind.trim_start_matches(char::is_alphabetic));
    let element = bits.and_then(|bits| bits.parse::<u64>().ok()).unwrap_or(128) / 8;
    let count = if s.has("v4") {
        4
    } else if s.has("v2") {
        2
    } else {
        1
    };
    if is_any(s, &["cp", "ldmatrix", "stmatrix"]) { 16 } else { element * count }
}

/// The next place instead of this one.
fn moved_on(s: &Statement, shared: bool) -> Vec<String> {
    let shared_of = |at: usize| match s.is("cp.async") {
        true => at == 0,
        false => s.opcode.contains(".shared"),
    };
    let accesses = is_any(s, &["ld", "st", "ldmatrix", "stmatrix", "cp.async", "atom"]);
    if !accesses || s.has("param") || s.has("local") || s.is("cp.async.bulk") {
        return Vec::new();
    }
    let addresses = s.operands.iter().enumerate().filter(|(_, o)| o.starts_with('['));
    addresses
        .filter(|(at, _)| shared_of(*at) == shared)
        .map(|(at, operand)| s.with_operand(at, &further(operand, bytes_of(s))))
        .collect()
}

/// `[%r1+8]` and 16 are `[%r1+24]`.
fn further(operand: &str, bytes: u64) -> String {
    let inner = operand.trim_matches(['[', ']']);
    let (base, offset) = match inner.split_once('+') {
        Some((base, offset)) => (base, number(offset).unwrap_or(0)),
        None => (inner, 0),
    };
    format!("[{base}+{}]", offset + bytes as i64)
}

/// One bit fewer or other, and none at all.
fn other_swizzle(s: &Statement) -> Vec<String> {
    let [_, from, by] = s.operands.as_slice() else { return Vec::new() };
    if !s.is("xor") || s.has("pred") {
        return Vec::new();
    }
    let kind = s.opcode.rsplit('.').next().unwrap_or_default();
    let none = s.guarded(&[format!("mov.{kind} {}, {from}", s.operands[0])]);
    let other = number(by).map(|by| s.with_operand(2, &(by ^ 16).to_string()));
    std::iter::once(none).chain(other).collect()
}

fn other_mask_or_shift(s: &Statement) -> Vec<String> {
    let by = s.operands.get(2).and_then(|operand| number(operand));
    let applies = is_any(s, &["and", "or", "shl", "shr"]) && !s.has("pred");
    let Some(by) = by.filter(|_| applies) else { return Vec::new() };
    // The lowest bit of a mask; a shift by one more.
    let lowest = by & by.wrapping_neg();
    let other = if is_any(s, &["shl", "shr"]) { by + 1 } else { by ^ lowest };
    vec![s.with_operand(2, &other.to_string())]
}

fn is_integer(s: &Statement) -> bool {
    let kinds = ["s16", "u16", "s32", "u32", "s64", "u64"];
    kinds.iter().any(|kind| s.has(kind))
}

fn other_constant(s: &Statement) -> Vec<String> {
    if !is_any(s, &["add", "sub", "mul", "mad", "min", "max", "mov", "selp"]) {
        return Vec::new();
    }
    if !is_integer(s) && !is_any(s, &["mov", "selp"]) || s.has("pred") {
        return Vec::new();
    }
    let altered = |(at, operand): (usize, &String)| {
        number(operand).map(|value| s.with_operand(at, &(value + 1).to_string()))
    };
    s.operands.iter().enumerate().skip(1).filter_map(altered).collect()
}

fn other_integer_operation(s: &Statement) -> Vec<String> {
    let constant = s.operands.iter().any(|operand| number(operand).is_some());
    let pairs = [("add.", "sub."), ("sub.", "add."), ("min.", "max."), ("max.", "min.")];
    let other = pairs.iter().find(|(from, _)| s.opcode.starts_with(from));
    let other =
        other.filter(|(from, _)| is_integer(s) && (!constant || from.starts_with('m')));
    other
        .map(|(from, to)| s.with_opcode(&s.opcode.replacen(from, to, 1)))
        .into_iter()
        .collect()
}

/// A copy that does not look whether it should fill, and one that always does.
fn other_fill(s: &Statement) -> Vec<String> {
    let copies = s.is("cp.async.cg") || s.is("cp.async.ca");
    match s.operands.get(3).filter(|_| copies) {
        Some(bytes) if number(bytes).is_some() => vec![s.with_operand(3, "0")],
        Some(_) => vec![s.with_operand(3, "16"), s.with_operand(3, "0")],
        None => Vec::new(),
    }
}

// --- Value -------------------------------------------------------------------

fn other_transposition(s: &Statement) -> Vec<String> {
    let opcode = match s.has("trans") {
        true => s.opcode.replace(".trans", ""),
        false => s.opcode.replace(".shared", ".trans.shared"),
    };
    when(is_any(s, &["ldmatrix", "stmatrix"]), || s.with_opcode(&opcode))
}

/// The sum as it was.
fn no_product(s: &Statement) -> Vec<String> {
    if s.is("wgmma.mma_async") {
        return vec![String::new()];
    }
    if !s.is("mma") || s.operands.len() < 4 {
        return Vec::new();
    }
    let names = |operand: &str| -> Vec<String> {
        let inner = operand.trim_matches(['{', '}']);
        inner.split(',').map(|name| name.trim().to_owned()).collect()
    };
    let pairs = names(&s.operands[0]).into_iter().zip(names(&s.operands[3]));
    let moves = pairs.filter(|(to, from)| to != from);
    let moves: Vec<String> =
        moves.map(|(to, from)| format!("mov.b32 {to}, {from}")).collect();
    vec![s.guarded(&moves)]
}

/// A shuffle from another lane.
fn other_lane(s: &Statement) -> Vec<String> {
    let at = s.operands.len().wrapping_sub(3);
    let lane = s.operands.get(at).filter(|_| s.is("shfl"));
    let Some(lane) = lane else { return Vec::new() };
    match number(lane) {
        Some(lane) => {
            vec![s.with_operand(at, &(if lane > 1 { lane / 2 } else { 2 }).to_string())]
        }
        None => vec![with_computed(s, at, "xor.b32", "1")],
    }
}

fn other_vote(s: &Statement) -> Vec<String> {
    let pairs = [(".all.", ".any."), (".any.", ".all."), (".add.", ".max.")];
    let other = pairs.iter().find(|(from, _)| s.opcode.contains(from));
    let other = other.filter(|_| is_any(s, &["vote", "redux"]));
    other
        .map(|(from, to)| s.with_opcode(&s.opcode.replacen(from, to, 1)))
        .into_iter()
        .collect()
}

fn other_float_operation(s: &Statement) -> Vec<String> {
    if !["f32", "f16", "bf16", "f16x2", "bf16x2", "f64"].iter().any(|kind| s.has(kind)) {
        return Vec::new();
    }
    let kind = s.opcode.rsplit('.').next().unwrap_or_default();
    let operands = s.operands.as_slice();
    match (s.opcode.split('.').next().unwrap_or_default(), operands) {
        ("fma", [d, a, b, c]) if kind == "f32" => vec![
            s.guarded(&[format!("mul.{kind} {d}, {a}, {b}")]),
            s.guarded(&[format!("mov.b32 {d}, {c}")]),
        ],
        ("fma", [d, _, _, c]) => vec![s.guarded(&[format!("mov.b32 {d}, {c}")])],
        ("mul", [..]) => vec![s.with_opcode(&s.opcode.replacen("mul", "add", 1))],
        ("add", [..]) => vec![s.with_opcode(&s.opcode.replacen("add", "sub", 1))],
        ("sub", [..]) => vec![s.with_opcode(&s.opcode.replacen("sub", "add", 1))],
        ("max", [..]) => vec![s.with_opcode(&s.opcode.replacen("max", "min", 1))],
        ("ex2" | "rcp", [d, a]) => vec![s.guarded(&[format!("mov.b32 {d}, {a}")])],
        _ => Vec::new(),
    }
}

/// Of a choice, and of two values packed into one register.
fn operands_swapped(s: &Statement) -> Vec<String> {
    let packs = s.is("cvt") && s.operands.len() == 3;
    when((s.is("selp") || packs) && s.operands[1] != s.operands[2], || {
        let mut swapped = s.clone();
        swapped.operands.swap(1, 2);
        swapped.with_opcode(&s.opcode)
    })
}
