use std::path::Path;

use super::*;

fn machines() -> Machines {
    Machines::load(None).unwrap()
}

/// The committed campaigns.
fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn blocks_are_made_and_all_else_stays() {
    let text =
        "# Title\n\n<!-- results: list results -->\nold\n<!-- results end -->\nafter\n";
    let made = updated(text, home(), &machines()).unwrap();
    assert!(made.starts_with("# Title\n\n<!-- results: list results -->\n\n| campaign |"));
    assert!(made.ends_with("|\n\n<!-- results end -->\nafter\n"), "{made}");
    assert!(!made.contains("old"));
    let folders = campaigns_in(&home().join("results")).unwrap();
    for folder in &folders {
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(made.contains(&format!("| [{name}](results/{name}) |")), "{name}");
    }
    assert_eq!(updated(&made, home(), &machines()).unwrap(), made);
}

#[test]
fn campaigns_stand_beside_each_other() {
    let (h100, h200) =
        ("2026-11-27-nvidia-h100-80gb-hbm3-headline", "2026-11-27-nvidia-h200-headline");
    let load = |name: &str| {
        let link = format!("results/{name}");
        Judged::load(&home().join(&link), &link, &machines()).unwrap()
    };
    let both = [load(h100), load(h200)];
    let lines = side_by_side(&both);
    let cells = |what: &str| {
        let found = lines.iter().find(|(name, _)| name.starts_with(what));
        found.unwrap_or_else(|| panic!("no line `{what}` in {lines:?}")).1.clone()
    };
    assert!(cells("reads from DRAM")[0].starts_with("3.14 TB/s, 9"), "{lines:?}");
    assert!(cells("reads from DRAM")[1].starts_with("4.59 TB/s, 9"), "{lines:?}");
    assert_eq!(cells("bf16 ridge"), ["233 FLOP/B", "207 FLOP/B"]);
    assert!(cells("Decode attention is memory bound.")[1].ends_with("(10 of 13)"));
    let headline = both[1].headline();
    assert!(headline.starts_with("reads at 4.59 TB/s; bf16 ridge 207 FLOP/B; decode"));
}

#[test]
fn mistakes_in_blocks_are_told_with_their_line() {
    for (text, part) in [
        ("a\n<!-- results: list results -->\nb\n", "line 2: "),
        ("<!-- results: graph results -->\n<!-- results end -->\n", "`list FOLDER`"),
        ("<!-- results: list nowhere -->\n<!-- results end -->\n", "nowhere"),
        ("<!-- results: beside src -->\n<!-- results end -->\n", "src"),
    ] {
        let error = updated(text, home(), &machines()).unwrap_err();
        assert!(format!("{error:#}").contains(part), "{text}: {error:#}");
    }
}
