//! The order of the modules: the table in DESIGN.md, and what is imported.

#[path = "../ptxvm/tests/common/layers.rs"]
mod layers;

use std::path::Path;

use layers::{Modules, circles, problems, table};

#[test]
fn modules_import_from_layers_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let design = std::fs::read_to_string(root.join("DESIGN.md")).unwrap();
    let imports = Modules::read(&root.join("src/lib.rs")).imports();
    let problems = problems(&imports, &table(&design, "## Layers"));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!(circles(&imports), Vec::<Vec<String>>::new());
}

#[test]
fn the_virtual_driver_has_layers_too() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("vdriver/src/lib.rs");
    let table = table(&std::fs::read_to_string(&root).unwrap(), "# Layers");
    let imports = Modules::read(&root).imports();
    let problems = problems(&imports, &table);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!(circles(&imports), Vec::<Vec<String>>::new());
}

/// The reader of imports sees this crate's modules: an empty list would pass the test.
#[test]
fn imports_are_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let imports = Modules::read(&root).imports();
    let of = |name: &str| imports.get(name).unwrap_or_else(|| panic!("no {name}"));
    assert!(of("op::gemm").iter().any(|to| to == "resource"));
    assert!(of("device::vm").iter().any(|to| to == "device::executor"));
}
