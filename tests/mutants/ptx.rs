//! PTX text as statements, each with its place in the CUDA source.

use std::collections::{HashMap, HashSet};

use ridgepoint::kernel::{HEADERS, Kernel};

/// One instruction of a kernel.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    /// Line of the PTX, from 0.
    pub line: usize,
    /// The entry that it is part of.
    pub entry: String,
    /// `%p1` or `!%p1` of `@%p1`.
    pub guard: Option<String>,
    /// `ld.global.u32`.
    pub opcode: String,
    /// What follows, cut at commas outside of brackets.
    pub operands: Vec<String>,
    /// The line of CUDA that it comes from.
    pub source: String,
    /// The line of CUDA that this is inlined into, or nothing.
    pub caller: String,
    /// Whether it is a branch forward that, not taken, leads to an access of
    /// memory before any other branch or label.
    pub skips_access: bool,
    /// Operands that are registers of one value that the PTX gives: this one.
    pub known: HashMap<String, String>,
}

impl Statement {
    /// Whether the opcode is `name`, with whatever modifiers.
    pub fn is(&self, name: &str) -> bool {
        let rest = self.opcode.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ':']))
    }

    /// Whether the opcode has a modifier.
    pub fn has(&self, modifier: &str) -> bool {
        self.opcode.split('.').any(|part| part == modifier)
    }

    /// Whether it reads or writes global or shared memory.
    pub fn accesses_memory(&self) -> bool {
        let names = ["ld", "st", "ldmatrix", "stmatrix", "cp.async", "atom", "red"];
        names.iter().any(|name| self.is(name))
            && self.operands.len() > 1
            && !["param", "local", "const"].iter().any(|space| self.has(space))
    }

    /// Text of other instructions under the same guard.
    pub fn guarded(&self, instructions: &[String]) -> String {
        let guard = self.guard.as_ref().map_or(String::new(), |p| format!("@{p} "));
        let all: Vec<String> =
            instructions.iter().map(|text| format!("{guard}{text};")).collect();
        all.join(" ")
    }

    /// Text of the statement with another opcode.
    pub fn with_opcode(&self, opcode: &str) -> String {
        self.guarded(&[format!("{opcode} {}", self.operands.join(", "))])
    }

    /// Text of the statement with another operand.
    pub fn with_operand(&self, at: usize, operand: &str) -> String {
        let mut operands = self.operands.clone();
        operands[at] = operand.to_owned();
        self.guarded(&[format!("{} {}", self.opcode, operands.join(", "))])
    }

    /// The statement without names of registers and labels, which change with
    /// every compilation.
    pub fn normalised(&self) -> String {
        let guard = self.guard.as_ref().map_or(String::new(), |p| format!("@{p} "));
        let text = format!("{guard}{} {}", self.opcode, self.operands.join(", "));
        normalised(text.trim_end())
    }
}

/// `%r12` as `%r`, `$L__BB0_2` as `$L`.
pub fn normalised(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['%', '$']) {
        let (before, name) = rest.split_at(at);
        let end = name[1..]
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .map_or(name.len(), |end| end + 1);
        let name_only = if name.starts_with('$') { "$L" } else { &name[..end] };
        out.push_str(before);
        out.push_str(name_only.trim_end_matches(|c: char| c.is_ascii_digit()));
        rest = &name[end..];
    }
    out.push_str(rest);
    out
}

/// Every instruction of a kernel's PTX.
pub fn statements(ptx: &str, kernel: &Kernel) -> Vec<Statement> {
    let files = files(ptx);
    let mut place = (String::new(), String::new());
    let mut entry = String::new();
    let mut all: Vec<Statement> = Vec::new();
    // The label that the last branch goes to, until what it decides about ends.
    let mut branch: Option<usize> = None;
    let mut labels = HashSet::new();
    for (number, line) in ptx.lines().enumerate() {
        let line = line.split("//").next().unwrap_or_default().trim();
        if let Some(at) = line.find(".entry ") {
            let name = line[at + ".entry ".len()..].trim();
            entry = name.trim_end_matches('(').trim().to_owned();
        } else if let Some(loc) = line.strip_prefix(".loc") {
            place = place_of(loc, &files, kernel);
        } else if let Some(label) = line.strip_suffix(':').filter(|l| l.contains("__BB")) {
            labels.insert(label.to_owned());
            branch = None;
        } else if let Some(found) = statement(line) {
            let (source, caller) = place.clone();
            let entry = entry.clone();
            if found.is("bra") {
                let back = found.operands.iter().any(|label| labels.contains(label));
                branch = (found.guard.is_some() && !back).then_some(all.len());
            } else if found.accesses_memory()
                && let Some(at) = branch
            {
                all[at].skips_access = true;
            }
            all.push(Statement { line: number, entry, source, caller, ..found });
        }
    }
    find_constants(&mut all);
    all
}

/// Notes which operands of copies are registers that one `mov` of a number sets.
fn find_constants(all: &mut [Statement]) {
    let mut values: HashMap<(String, String), Vec<Option<String>>> = HashMap::new();
    for s in all.iter().filter(|s| !s.operands.is_empty()) {
        let number = s.is("mov") && s.operands[1].parse::<u32>().is_ok();
        let value = number.then(|| s.operands[1].clone());
        let key = (s.entry.clone(), s.operands[0].clone());
        values.entry(key).or_default().push(value);
    }
    for s in all.iter_mut().filter(|s| s.is("cp.async")) {
        for operand in &s.operands {
            let key = (s.entry.clone(), operand.clone());
            if let Some([Some(value)]) = values.get(&key).map(Vec::as_slice) {
                s.known.insert(operand.clone(), value.clone());
            }
        }
    }
}

/// The statement that a line is, if it is one.
fn statement(line: &str) -> Option<Statement> {
    let mut text = line.strip_suffix(';')?.trim();
    let mut guard = None;
    if let Some(rest) = text.strip_prefix('@') {
        let (name, rest) = rest.split_once(char::is_whitespace)?;
        guard = Some(name.to_owned());
        text = rest.trim();
    }
    let (opcode, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if !opcode.starts_with(|c: char| c.is_ascii_lowercase()) {
        return None;
    }
    let operands = cut(operands);
    Some(Statement { guard, opcode: opcode.to_owned(), operands, ..Statement::default() })
}

/// Cuts operands at the commas outside of brackets.
fn cut(operands: &str) -> Vec<String> {
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for c in operands.chars() {
        match c {
            '[' | '{' | '(' => depth += 1,
            ']' | '}' | ')' => depth -= 1,
            _ => {}
        }
        match parts.last_mut() {
            Some(last) if c != ',' || depth > 0 => last.push(c),
            _ => parts.push(String::new()),
        }
    }
    parts.iter().map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect()
}

/// Numbers and names of `.file` directives.
fn files(ptx: &str) -> HashMap<String, String> {
    let file = |line: &str| {
        let (number, name) = line.trim().strip_prefix(".file")?.trim().split_once(' ')?;
        let name = name.trim().trim_matches('"');
        let base = name.rsplit('/').next().unwrap_or(name);
        Some((number.to_owned(), base.to_owned()))
    };
    ptx.lines().filter_map(file).collect()
}

/// The line of the source and the line it is inlined into:
/// `2 14 3, function_name $L__info_string0, inlined_at 1 56 7`.
fn place_of(
    loc: &str,
    files: &HashMap<String, String>,
    kernel: &Kernel,
) -> (String, String) {
    let text_at = |place: &str| {
        let mut words = place.split_whitespace();
        let name = files.get(words.next()?)?;
        let number: usize = words.next()?.parse().ok()?;
        let header = HEADERS.iter().find(|(header, _)| header == name);
        let text = header.map(|(_, text)| *text).or(kernel.source)?;
        Some(text.lines().nth(number.checked_sub(1)?)?.trim().to_owned())
    };
    let caller = loc.split("inlined_at").nth(1).and_then(text_at);
    (text_at(loc).unwrap_or_default(), caller.unwrap_or_default())
}
