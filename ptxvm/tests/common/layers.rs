//! Which module of a crate imports which, and whether that follows a table of layers.
//!
//! The table is a code block below a heading of a text (the crate's documentation or a
//! Markdown file). Each line names the modules of one layer, separated by commas, and
//! after two spaces says what they are. The highest layer comes first:
//!
//! ```text
//! launch        starts kernels
//! decode, exec  two modules that do not import one another
//! syntax        the bottom
//! ```
//!
//! A module imports only from layers below its own. A directory is one module of the
//! table; the files in it must not import one another in a circle.
//!
//! What counts as an import is a `use` or a path that starts with `crate`, `self`, `super`
//! or a child module of the file, outside of `#[cfg(test)]`. Method calls are not seen.
//! A declaration `mod x;` is not an import, and neither is a `pub use` of what lies below
//! the file itself: whoever imports that name imports from the module that defines it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Imports by module; modules are named by their path, as `exec::memory`, and the crate
/// root by the empty name.
pub type Imports = BTreeMap<String, BTreeSet<String>>;

/// A crate's modules, with the tokens of their code.
#[derive(Debug, Default)]
pub struct Modules {
    code: BTreeMap<String, Vec<String>>,
}

impl Modules {
    /// Reads the modules that are declared from the file `root` on, as `src/lib.rs`.
    ///
    /// # Panics
    /// If a file of a declared module cannot be read.
    pub fn read(root: &Path) -> Self {
        let mut modules = Self::default();
        let folder = root.parent().expect("the root is a file in a directory");
        modules.read_file(String::new(), root, folder);
        modules
    }

    fn read_file(&mut self, name: String, file: &Path, folder: &Path) {
        let text = fs::read_to_string(file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.add(&name, &text);
        for child in self.children(&name) {
            let flat = folder.join(format!("{child}.rs"));
            let below = folder.join(&child);
            let file = if flat.exists() { flat } else { below.join("mod.rs") };
            self.read_file(join(&name, &child), &file, &below);
        }
    }

    /// Adds a module with this source text.
    pub fn add(&mut self, name: &str, text: &str) {
        self.code.insert(name.to_owned(), without_tests(&tokens(text)));
    }

    /// The modules that `name` declares with `mod child;`.
    fn children(&self, name: &str) -> BTreeSet<String> {
        let declarations = self.code[name].windows(3);
        declarations
            .filter(|w| w[0] == "mod" && w[2] == ";")
            .map(|w| w[1].clone())
            .collect()
    }

    /// Which module imports from which.
    pub fn imports(&self) -> Imports {
        let files: BTreeMap<&str, FileImports> =
            self.code.keys().map(|name| (name.as_str(), self.file_imports(name))).collect();
        let mut imports = Imports::new();
        for (name, file) in &files {
            let found = imports.entry((*name).to_owned()).or_default();
            file.used.iter().for_each(|path| self.follow(&files, path, 0, found));
            found.remove(*name);
        }
        imports
    }

    /// Adds the modules that define what `path` names, through re-exports.
    fn follow(
        &self,
        files: &BTreeMap<&str, FileImports>,
        path: &[String],
        depth: usize,
        found: &mut BTreeSet<String>,
    ) {
        let module = self.module_of(path);
        let inside = if module.is_empty() { 0 } else { module.split("::").count() };
        let shown = path.get(inside).and_then(|name| files[&*module].shown.get(name));
        match shown {
            Some(targets) if depth < 8 => {
                for target in targets {
                    let target = [target, &path[inside + 1..]].concat();
                    self.follow(files, &target, depth + 1, found);
                }
            }
            _ => {
                found.insert(module);
            }
        }
    }

    /// The innermost module on a path from the crate root.
    fn module_of(&self, path: &[String]) -> String {
        let names = (0..=path.len()).rev().map(|n| path[..n].join("::"));
        names.into_iter().find(|name| self.code.contains_key(name)).unwrap_or_default()
    }

    fn file_imports(&self, name: &str) -> FileImports {
        let (code, children) = (&self.code[name], self.children(name));
        let mut file = FileImports::default();
        let mut at = 0;
        while at < code.len() {
            let before = at.checked_sub(1).map_or("", |n| code[n].as_str());
            if code[at] == "use" && !["::", ".", "+", "<"].contains(&before) {
                let public = is_public(&code[..at]);
                at += 1;
                for (path, alias) in use_tree(code, &mut at) {
                    self.add_use(name, &children, (path, alias, public), &mut file);
                }
            } else if code.get(at + 1).is_some_and(|next| next == "::") {
                let path = inline_path(code, &mut at);
                if !["::", "."].contains(&before) {
                    file.used.extend(absolute(name, &children, &path));
                }
            } else {
                at += 1;
            }
        }
        file
    }

    fn add_use(
        &self,
        name: &str,
        children: &BTreeSet<String>,
        (mut path, alias, public): (Vec<String>, Option<String>, bool),
        file: &mut FileImports,
    ) {
        if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
            path.pop();
        }
        let Some(full) = absolute(name, children, &path) else { return };
        let shown = alias.or(path.last().cloned()).unwrap_or_default();
        let own = name.is_empty()
            || join(&self.module_of(&full), "").starts_with(&join(name, ""));
        if public {
            file.shown.entry(shown).or_default().push(full.clone());
        }
        if !(public && own) {
            file.used.push(full);
        }
    }
}

/// What one file imports, and what it re-exports.
#[derive(Debug, Default)]
struct FileImports {
    /// Paths from the crate root.
    used: Vec<Vec<String>>,
    /// The paths that a public name stands for.
    shown: BTreeMap<String, Vec<Vec<String>>>,
}

fn join(parent: &str, child: &str) -> String {
    if parent.is_empty() { child.to_owned() } else { format!("{parent}::{child}") }
}

/// A path of the file `name` as a path from the crate root; none where it leads outside.
fn absolute(
    name: &str,
    children: &BTreeSet<String>,
    path: &[String],
) -> Option<Vec<String>> {
    let mut base: Vec<String> =
        name.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let (head, mut rest) = path.split_first()?;
    match head.as_str() {
        "crate" => base.clear(),
        "self" => {}
        "super" => {
            base.pop();
            while rest.first().is_some_and(|part| part == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        child if children.contains(child) => rest = path,
        _ => return None,
    }
    base.extend(rest.iter().cloned());
    Some(base)
}

fn is_public(before: &[String]) -> bool {
    match before.last().map(String::as_str) {
        Some("pub") => true,
        Some(")") => {
            let open = before.iter().rposition(|token| token == "(");
            open.is_some_and(|at| at > 0 && before[at - 1] == "pub")
        }
        _ => false,
    }
}

/// The paths of a `use` tree that begins at `at`, each with the name after `as`.
fn use_tree(code: &[String], at: &mut usize) -> Vec<(Vec<String>, Option<String>)> {
    if code[*at] == "::" {
        *at += 1;
    }
    if code[*at] == "{" {
        *at += 1;
        let mut paths = Vec::new();
        while code[*at] != "}" {
            paths.extend(use_tree(code, at));
            *at += usize::from(code[*at] == ",");
        }
        *at += 1;
        return paths;
    }
    let head = code[*at].clone();
    *at += 1;
    if code[*at] == "::" {
        *at += 1;
        let mut paths = use_tree(code, at);
        paths.iter_mut().for_each(|(path, _)| path.insert(0, head.clone()));
        return paths;
    }
    let alias = (code[*at] == "as").then(|| code[*at + 1].clone());
    *at += 2 * usize::from(alias.is_some());
    vec![(vec![head], alias)]
}

/// The names of a path `a::b::c` that begins at `at`, which moves after it.
fn inline_path(code: &[String], at: &mut usize) -> Vec<String> {
    let mut path = vec![code[*at].clone()];
    *at += 1;
    while code.get(*at).is_some_and(|token| token == "::")
        && code.get(*at + 1).is_some_and(|token| token.starts_with(is_name))
    {
        path.push(code[*at + 1].clone());
        *at += 2;
    }
    *at += usize::from(code.get(*at).is_some_and(|token| token == "::"));
    path
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Names, numbers, `::` and single characters; comments and the contents of literals
/// are left out.
fn tokens(text: &str) -> Vec<String> {
    let (mut rest, mut out) = (text, Vec::new());
    while let Some(first) = rest.chars().next() {
        if let Some(length) = skipped(rest) {
            rest = &rest[length..];
        } else if is_name(first) {
            let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            out.push(rest[..length].to_owned());
            rest = &rest[length..];
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            out.push(rest[..length].to_owned());
            rest = &rest[length..];
        }
    }
    out
}

/// The length of the white space, comment or literal at the start of `rest`.
fn skipped(rest: &str) -> Option<usize> {
    let first = rest.chars().next()?;
    if first.is_whitespace() {
        return Some(first.len_utf8());
    }
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(comment_length(rest));
    }
    let prefix = rest.find(|c| !"brc".contains(c)).unwrap_or(rest.len());
    let (prefix, literal) = rest.split_at(prefix.min(2));
    let hashes = literal.len() - literal.trim_start_matches('#').len();
    if prefix.contains('r') && literal[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let from = prefix.len() + hashes + 1;
        return Some(rest[from..].find(&end).map_or(rest.len(), |n| from + n + end.len()));
    }
    if literal.starts_with('"') {
        return Some(prefix.len() + quoted_length(literal, '"'));
    }
    if prefix.is_empty() && literal.starts_with('\'') {
        let mut inside = literal[1..].chars();
        let (one, two) = (inside.next(), inside.next());
        // `'a` without a closing quote is a lifetime.
        let is_char = one == Some('\\') || two == Some('\'');
        return Some(if is_char { quoted_length(literal, '\'') } else { 1 });
    }
    None
}

fn comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn quoted_length(literal: &str, quote: char) -> usize {
    let mut escaped = true;
    for (at, c) in literal.char_indices() {
        if !escaped && c == quote {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    literal.len()
}

/// The place after the group of brackets that opens at `at`.
fn group_end(code: &[String], mut at: usize) -> usize {
    let mut depth = 0;
    while at < code.len() {
        match code[at].as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    at
}

/// The code without items under `#[cfg(test)]`.
fn without_tests(code: &[String]) -> Vec<String> {
    let (mut out, mut at) = (Vec::new(), 0);
    let is_attribute = |at: usize| {
        code.get(at).is_some_and(|t| t == "#") && code.get(at + 1).is_some_and(|t| t == "[")
    };
    while at < code.len() {
        if !is_attribute(at) {
            out.push(code[at].clone());
            at += 1;
            continue;
        }
        let end = group_end(code, at + 1);
        let attribute = &code[at + 2..end - 1];
        let has = |name: &str| attribute.iter().any(|token| token == name);
        at = end;
        if !(attribute[0] == "cfg" && has("test") && !has("not")) {
            continue;
        }
        while is_attribute(at) {
            at = group_end(code, at + 1);
        }
        // One item: up to its semicolon, or to the end of its braces.
        while at < code.len() && code[at] != ";" && code[at] != "{" {
            at =
                if ["(", "["].contains(&&*code[at]) { group_end(code, at) } else { at + 1 };
        }
        at = if code.get(at).is_some_and(|t| t == "{") {
            group_end(code, at)
        } else {
            at + 1
        };
    }
    out
}

/// The table of layers below the line `heading` of a text: the modules of each layer, the
/// highest first. The text is Markdown, or Rust with the table in `//!` comments.
///
/// # Panics
/// If there is no such heading with a code block after it.
pub fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let strip = |line: &str| {
        let line = line
            .strip_prefix("//!")
            .map_or(line, |doc| doc.strip_prefix(' ').unwrap_or(doc));
        line.to_owned()
    };
    let lines: Vec<String> = text.lines().map(strip).collect();
    let start = lines.iter().position(|line| line == heading);
    let start = start.unwrap_or_else(|| panic!("there is no heading '{heading}'"));
    let is_fence = |line: &&String| line.starts_with("```");
    let block = lines[start..].iter().skip_while(|line| !is_fence(line)).skip(1);
    let rows = block.take_while(|line| !is_fence(line));
    let rows = rows.filter(|line| !line.is_empty() && !line.starts_with(' '));
    let names = |line: &String| {
        let names = line.split("  ").next().unwrap_or_default();
        names.split(',').map(|name| name.trim().to_owned()).collect()
    };
    let table: Vec<Vec<String>> = rows.map(names).collect();
    assert!(!table.is_empty(), "there is no table after the heading '{heading}'");
    table
}

/// What is wrong with the imports, by the table: modules that it does not name, or names
/// twice, names without a module, imports that do not go down, and circles.
pub fn problems(imports: &Imports, table: &[Vec<String>]) -> Vec<String> {
    let top = |name: &str| name.split("::").next().unwrap_or_default().to_owned();
    let modules: BTreeSet<String> =
        imports.keys().map(|name| top(name)).filter(|name| !name.is_empty()).collect();
    let mut layers = BTreeMap::new();
    let mut problems = Vec::new();
    for (layer, name) in
        table.iter().enumerate().flat_map(|(n, row)| row.iter().map(move |name| (n, name)))
    {
        if !modules.contains(name) {
            problems.push(format!("the table names '{name}', which is not a module"));
        }
        if layers.insert(name.clone(), layer).is_some() {
            problems.push(format!("the table names '{name}' twice"));
        }
    }
    for name in modules.iter().filter(|name| !layers.contains_key(*name)) {
        problems.push(format!("the table does not name the module '{name}'"));
    }
    for (from, targets) in imports.iter().filter(|(from, _)| !from.is_empty()) {
        for to in targets.iter().filter(|to| top(to) != top(from)) {
            let (own, other) = (layers.get(&top(from)), layers.get(&top(to)));
            if to.is_empty() {
                problems.push(format!(
                    "'{from}' imports something that the crate root defines"
                ));
            } else if let (Some(own), Some(other)) = (own, other)
                && other <= own
            {
                problems
                    .push(format!("'{from}' imports from '{to}', which is not below it"));
            }
        }
    }
    problems.extend(circles(imports).iter().map(|names| {
        format!("these modules import one another in a circle: {}", names.join(", "))
    }));
    problems
}

/// The modules that reach each other through imports, where there is more than one.
pub fn circles(imports: &Imports) -> Vec<Vec<String>> {
    let reached = |from: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(name) = open.pop() {
            let next = imports.get(name).into_iter().flatten();
            open.extend(next.filter(|target| seen.insert((*target).clone())));
        }
        seen
    };
    let reach: BTreeMap<&String, BTreeSet<String>> =
        imports.keys().map(|name| (name, reached(name))).collect();
    let mut circles = BTreeSet::new();
    for (&name, targets) in &reach {
        if targets.contains(name) {
            let mutual =
                |other: &&String| targets.contains(*other) && reach[*other].contains(name);
            circles.insert(imports.keys().filter(mutual).cloned().collect::<Vec<_>>());
        }
    }
    circles.into_iter().collect()
}
