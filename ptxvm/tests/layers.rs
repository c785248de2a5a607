//! The order of the modules: the table in the crate's documentation, and what is imported.

#[path = "common/layers.rs"]
mod layers;

use std::path::Path;

use layers::{Modules, circles, problems, table};

#[test]
fn modules_import_from_layers_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let table = table(&std::fs::read_to_string(&root).unwrap(), "# Layers");
    let problems = problems(&Modules::read(&root).imports(), &table);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// A crate of four modules, of which `low` has this text.
fn example(low: &str) -> Modules {
    let mut modules = Modules::default();
    modules.add("", "mod high;\nmod low;\npub use high::Engine;\n");
    modules.add(
        "high",
        "mod part;\nuse crate::low::{Bits, Flags as F};\npub use part::Engine;\n",
    );
    modules.add("high::part", "use super::super::low;\npub struct Engine;");
    modules.add("low", low);
    modules
}

fn complaints(low: &str) -> Vec<String> {
    let table = table("# Order\n\n```text\nhigh  runs\nlow   bits\n```\n", "# Order");
    problems(&example(low).imports(), &table)
}

#[test]
fn what_goes_down_is_allowed() {
    assert_eq!(complaints("pub struct Bits; // use crate::high::Engine;"), [""; 0]);
    assert_eq!(
        complaints("const A: &str = \"crate::high::x\"; const B: char = '\\'';"),
        [""; 0]
    );
    assert_eq!(
        complaints("fn f<'a>(x: &'a u8) {} #[cfg(test)] mod t { use crate::high; }"),
        [""; 0]
    );
}

#[test]
fn what_goes_up_is_found() {
    for text in [
        "use crate::high::Engine;",
        "use crate::{high::part::Engine as E};",
        "use crate::Engine;",
        "pub(crate) use super::high::Engine;",
        "fn f() { super::high::run() }",
        "macro_rules! m { () => { $crate::high::run() } }",
        "fn f<'a>() { let q = '\"'; crate::high::run() } // \"",
    ] {
        let found = complaints(text).join("\n");
        assert!(found.contains("'low' imports from 'high"), "{text}: {found}");
        assert!(found.contains("in a circle"), "{text}: {found}");
    }
}

#[test]
fn files_of_a_directory_must_not_form_a_circle() {
    let mut modules = example("");
    modules.add("high", "mod part;\nmod other;\nfn f() { part::run() }");
    modules.add("high::other", "use super::part;");
    modules.add("high::part", "use super::other;");
    assert_eq!(circles(&modules.imports()), [["high::other", "high::part"]]);
}

#[test]
fn the_table_names_every_module_once() {
    let complain = |text: &str| problems(&example("").imports(), &table(text, "# Order"));
    let found = complain("# Order\n```text\nhigh  runs\n```");
    assert_eq!(found, ["the table does not name the module 'low'"]);
    let found = complain(
        "//! # Order\n//! ```text\n//! high, gone  runs\n//! low  x\n//! low  y\n//! ```",
    );
    assert!(
        found.contains(&"the table names 'gone', which is not a module".to_owned()),
        "{found:?}"
    );
    assert!(found.contains(&"the table names 'low' twice".to_owned()), "{found:?}");
}
