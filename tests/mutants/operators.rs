//! What can be altered in a statement of PTX, one thing at a time.

use crate::ptx::Statement;

/// What kind of thing is altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Waits, barriers, fences, mbarriers, atomics.
    Order,
    /// Whether an access of memory happens.
    Guard,
    /// Where it happens.
    Index,
    /// The order of chunks within rows of shared memory.
    Swizzle,
    /// What a copy fills with zeros.
    Fill,
    /// Anything else: comparisons, constants, arithmetic. Not judged.
    Wider,
}

/// A way to alter statements.
pub struct Operator {
    /// In tables, and in the list of survivors.
    pub name: &'static str,
    /// Its kind.
    pub class: Class,
    /// The texts to put in place of a statement; none where it has nothing to
    /// alter.
    pub mutants: fn(&Statement) -> Vec<String>,
}

/// All operators. Those without a site in today's kernels are for the next ones.
pub const OPERATORS: &[Operator] = &[
    new(Class::Order, "wait for a group fewer", wait_for_fewer),
    new(Class::Order, "no wait", |s| removed_if(is_wait(s))),
    new(Class::Order, "no commit", |s| {
        let names =
            ["cp.async.commit_group", "cp.async.bulk.commit_group", "wgmma.commit_group"];
        removed_if(is_any(s, &names))
    }),
    new(Class::Order, "no barrier", |s| {
        removed_if(is_any(s, &["bar", "barrier"]) && !s.has("warp"))
    }),
    new(Class::Order, "no warp barrier", |s| removed_if(s.is("bar.warp"))),
    new(Class::Order, "no fence", |s| {
        removed_if(is_any(s, &["membar", "fence"]) && !is_async_fence(s))
    }),
    new(Class::Order, "no async fence", |s| removed_if(is_async_fence(s))),
    new(Class::Order, "plain instead of atomic", plain_atomic),
    new(Class::Order, "weaker atomic", weaker_atomic),
    new(Class::Order, "narrow scope", narrow_scope),
    new(Class::Order, "registers kept", |s| removed_if(s.is("setmaxnreg") && s.has("dec"))),
    new(Class::Order, "no mbarrier init", |s| removed_if(s.is("mbarrier.init"))),
    new(Class::Order, "no arrival", |s| removed_if(s.is("mbarrier.arrive"))),
    new(Class::Order, "no wait for an mbarrier", no_mbarrier_wait),
    new(Class::Order, "other count of an mbarrier", other_count),
    new(Class::Order, "other parity", other_parity),
    new(Class::Order, "shorter bulk copy", shorter_bulk),
    new(Class::Guard, "guard dropped", guard_dropped),
    new(Class::Guard, "guard negated", guard_negated),
    new(Class::Index, "other shared address", |s| moved_on(s, true)),
    new(Class::Index, "other global address", |s| moved_on(s, false)),
    new(Class::Swizzle, "no swizzle", no_swizzle),
    new(Class::Swizzle, "other swizzle", other_swizzle),
    new(Class::Fill, "no fill", |s| other_fill(s, "16")),
    new(Class::Fill, "all filled", |s| other_fill(s, "0")),
    new(Class::Wider, "always taken", |s| when(is_branch(s), || branch(s, true))),
    new(Class::Wider, "never taken", |s| when(is_branch(s), || branch(s, false))),
    new(Class::Wider, "other comparison", other_comparison),
    new(Class::Wider, "bound off by one", bound_off_by_one),
    new(Class::Wider, "other mask or shift", other_mask_or_shift),
    new(Class::Wider, "other integer constant", other_constant),
    new(Class::Wider, "other integer operation", other_integer_operation),
    new(Class::Wider, "other transposition", other_transposition),
    new(Class::Wider, "no product", no_product),
    new(Class::Wider, "other lane", other_lane),
    new(Class::Wider, "other vote or reduction", other_vote),
    new(Class::Wider, "other float operation", other_float_operation),
    new(Class::Wider, "operands swapped", operands_swapped),
    new(Class::Wider, "no store", |s| removed_if(s.is("st"))),
];

type Mutants = fn(&Statement) -> Vec<String>;

const fn new(class: Class, name: &'static str, mutants: Mutants) -> Operator {
    Operator { name, class, mutants }
}

fn is_any(s: &Statement, names: &[&str]) -> bool {
    names.iter().any(|name| s.is(name))
}

fn when(applies: bool, text: impl FnOnce() -> String) -> Vec<String> {
    if applies { vec![text()] } else { Vec::new() }
}

fn removed_if(applies: bool) -> Vec<String> {
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

/// Orders only within the block what is to be ordered within the GPU.
fn narrow_scope(s: &Statement) -> Vec<String> {
    let orders = is_any(s, &["atom", "red", "fence", "ld", "st"]) && s.has("gpu");
    match () {
        () if s.is("membar.gl") => vec![s.with_opcode("membar.cta")],
        () => when(orders, || s.with_opcode(&s.opcode.replace(".gpu", ".cta"))),
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

/// Goes on whether or not the phase has ended.
fn no_mbarrier_wait(s: &Statement) -> Vec<String> {
    let waits = is_any(s, &["mbarrier.try_wait", "mbarrier.test_wait"]);
    let passed = || s.guarded(&[format!("setp.eq.b64 {0}, 0, 0", s.operands[0])]);
    when(waits, passed)
}

/// 16 bytes less than the mbarrier or the group waits for.
fn shorter_bulk(s: &Statement) -> Vec<String> {
    let copies = s.is("cp.async.bulk") && !s.has("tensor") && s.operands.len() > 2;
    when(copies, || with_computed(s, 2, "sub.u32", "16"))
}

// --- Guard -------------------------------------------------------------------

fn is_branch(s: &Statement) -> bool {
    s.is("bra") && s.guard.is_some()
}

/// Whether a predicate decides about an access: its own, or a branch around it.
fn is_guard(s: &Statement) -> bool {
    s.guard.is_some() && (s.accesses_memory() || s.skips_access)
}

fn guard_dropped(s: &Statement) -> Vec<String> {
    when(is_guard(s), || match s.is("bra") {
        true => String::new(),
        false => Statement { guard: None, ..s.clone() }.with_opcode(&s.opcode),
    })
}

fn guard_negated(s: &Statement) -> Vec<String> {
    let Some(guard) = s.guard.as_ref().filter(|_| is_guard(s)) else { return Vec::new() };
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

/// The next place instead of this one; of a tensor the next row, or head, or page.
fn moved_on(s: &Statement, shared: bool) -> Vec<String> {
    let shared_of = |at: usize| match s.is("cp.async") {
        true => (at == 0) == (is_to_shared(s) || !is_bulk(s)),
        false => s.opcode.contains(".shared"),
    };
    if !s.accesses_memory() {
        return Vec::new();
    }
    // What follows the two places of a bulk copy is its mbarrier.
    let addresses =
        s.operands.iter().enumerate().take(2).filter(|(_, o)| o.starts_with('['));
    addresses
        .filter(|(at, _)| shared_of(*at) == shared)
        .map(|(at, operand)| match last_coordinate(operand) {
            Some((before, last)) => {
                let altered = s.with_operand(at, &format!("{before} %altered}}]"));
                format!("{{ .reg .b32 %altered; add.u32 %altered, {last}, 1; {altered} }}")
            }
            None => s.with_operand(at, &further(operand, bytes_of(s))),
        })
        .collect()
}

fn is_bulk(s: &Statement) -> bool {
    s.is("cp.async.bulk")
}

/// Whether a bulk copy is to shared memory: the first of the two that its opcode names.
fn is_to_shared(s: &Statement) -> bool {
    let [to, from] = [".shared", ".global"].map(|space| s.opcode.find(space));
    is_bulk(s) && to.is_some_and(|to| from.is_none_or(|from| to < from))
}

/// The last coordinate of a place in a tensor, `[%rd1, {%r1, %r2}]`, and what is before it.
fn last_coordinate(operand: &str) -> Option<(&str, &str)> {
    let (before, last) = operand.strip_suffix("}]")?.rsplit_once(',')?;
    Some((&operand[..before.len() + 1], last.trim()))
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

/// Lines of `tile.cuh` and `weights.cuh` that exchange chunks of a row by their numbers,
/// and by their addresses.
const CHUNK_SWIZZLES: [&str; 3] = ["(chunk ^ row", "(chunk ^ line", "(chunk ^ token"];
const ADDRESS_SWIZZLES: [&str; 4] =
    ["(address ^ pairs", "return address ^ blocks", "address ^ half", "(address ^ load"];

/// Whether it exchanges chunks of a row.
fn is_swizzle(s: &Statement) -> bool {
    let mut lines = CHUNK_SWIZZLES.iter().chain(&ADDRESS_SWIZZLES);
    s.is("xor") && s.operands.len() == 3 && lines.any(|line| s.source.contains(line))
}

fn no_swizzle(s: &Statement) -> Vec<String> {
    let kind = s.opcode.rsplit('.').next().unwrap_or_default();
    when(is_swizzle(s), || {
        s.guarded(&[format!("mov.{kind} {}, {}", s.operands[0], s.operands[1])])
    })
}

/// The bit of the next chunk more or less, of an address or of a chunk's number.
fn other_swizzle(s: &Statement) -> Vec<String> {
    let of_chunks = CHUNK_SWIZZLES.iter().any(|line| s.source.contains(line));
    let bit = if of_chunks { 1 } else { 16 };
    when(is_swizzle(s), || match number(&s.operands[2]) {
        Some(by) => s.with_operand(2, &(by ^ bit).to_string()),
        None => {
            let (d, from, by) = (&s.operands[0], &s.operands[1], &s.operands[2]);
            let opcode = &s.opcode;
            s.guarded(&[
                format!("{opcode} {d}, {from}, {by}"),
                format!("{opcode} {d}, {d}, {bit}"),
            ])
        }
    })
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

/// A copy of so many bytes whatever it should fill.
fn other_fill(s: &Statement, bytes: &str) -> Vec<String> {
    let copies = s.is("cp.async.cg") || s.is("cp.async.ca");
    let size = s.operands.get(3).map(|operand| s.known.get(operand).unwrap_or(operand));
    let fills = size.is_some_and(|size| size != bytes);
    when(copies && fills, || s.with_operand(3, bytes))
}

// --- Wider -------------------------------------------------------------------

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
