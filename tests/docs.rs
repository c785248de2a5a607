//! The documentation: its links lead somewhere, the commands that it shows parse, and the
//! examples work.

mod common;
#[path = "../examples/own_kernel.rs"]
mod own_kernel;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::need;
use ridgepoint::claims::QUANTITIES;
use ridgepoint::model::machine::Machines;
use ridgepoint::op::PairKind;
use ridgepoint::summary;
use ridgepoint::toolchain::nvrtc::Nvrtc;
use ridgepoint::toolchain::search::{NVRTC, SearchPath};

/// A document: its path below the root, and its text.
struct Document {
    path: PathBuf,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Markdown files of the project: in the root and in the folders that have any.
fn documents() -> Vec<Document> {
    let mut folders = vec![root().to_owned()];
    folders.extend(["docs", "ptxvm", "results"].map(|name| root().join(name)));
    let campaigns = fs::read_dir(root().join("results")).into_iter().flatten();
    folders.extend(campaigns.map(|entry| entry.unwrap().path()));
    let files =
        folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
    let paths = files.map(|file| file.unwrap().path());
    let markdown = paths.filter(|path| path.extension().is_some_and(|e| e == "md"));
    let read = |path: PathBuf| Document { text: fs::read_to_string(&path).unwrap(), path };
    let documents: Vec<Document> = markdown.map(read).collect();
    assert!(documents.len() >= 8, "the documentation is not where it is looked for");
    documents
}

impl Document {
    /// Lines in code blocks, or outside of them.
    fn lines(&self, code: bool) -> impl Iterator<Item = &str> {
        let mut inside = false;
        self.text.lines().filter(move |line| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            !fence && inside == code
        })
    }

    /// Targets of links and images.
    fn links(&self) -> impl Iterator<Item = &str> {
        self.lines(false)
            .flat_map(|line| line.split("](").skip(1))
            .filter_map(|rest| rest.split(')').next())
    }

    /// Anchors of the headings, as GitHub makes them.
    fn anchors(&self) -> Vec<String> {
        let headings = self.lines(false).filter(|line| line.starts_with('#'));
        let anchor = |heading: &str| {
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        headings.map(anchor).collect()
    }

    /// Arguments of each `ridgepoint` that a code block shows, without comments and
    /// redirections.
    fn commands(&self) -> Vec<Vec<String>> {
        let code: Vec<&str> = self.lines(true).collect();
        let joined = code.join("\n").replace("\\\n", " ");
        let command = |line: &str| {
            // A word in quotes has no blanks here.
            let words =
                line.split_whitespace().map(|word| word.trim_matches('\'').to_owned());
            let mut words = words.take_while(|word| !word.starts_with(['#', '>', '|']));
            let program = words.next()?;
            (Path::new(&program).file_name()? == "ridgepoint").then(|| words.collect())
        };
        joined.lines().filter_map(command).collect()
    }
}

fn ridgepoint(arguments: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
    command.current_dir(root()).args(arguments).output().unwrap()
}

#[test]
fn relative_links_lead_to_files_and_headings() {
    let documents = documents();
    let mut dead = Vec::new();
    let mut checked = 0;
    for document in &documents {
        for link in document.links().filter(|link| !link.contains("://")) {
            checked += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.path.clone(),
                file => document.path.parent().unwrap().join(file),
            };
            let heading = || {
                let target = target.canonicalize().unwrap();
                let found = documents.iter().find(|d| d.path == target);
                found.is_some_and(|d| d.anchors().iter().any(|a| a == anchor))
            };
            if !target.exists() || !anchor.is_empty() && !heading() {
                dead.push(format!("{}: {link}", document.path.display()));
            }
        }
    }
    assert!(checked >= 20, "only {checked} links were found");
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

#[test]
fn commands_of_the_documentation_parse() {
    // A word that is a placeholder, and a value that parses in its place.
    let point = "stream:access=read,bytes=4096@cpu_stream@hot";
    let mut wrong = Vec::new();
    let mut checked = 0;
    for document in documents() {
        for mut arguments in document.commands() {
            checked += 1;
            arguments
                .iter_mut()
                .filter(|a| *a == "POINT")
                .for_each(|a| *a = point.to_owned());
            // Everything before it is parsed, and nothing is run.
            arguments.push("--help".to_owned());
            let output = ridgepoint(&arguments);
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr);
                let command = arguments.join(" ");
                wrong.push(format!("{}: {command}\n{why}", document.path.display()));
            }
        }
    }
    assert!(checked >= 20, "only {checked} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn commands_that_do_not_parse_are_found() {
    for wrong in ["meassure quick", "predict step --tasks", "verdict --out x"] {
        let text = format!("```sh\nridgepoint {wrong}   # comment\n```\n");
        let document = Document { path: PathBuf::new(), text };
        let [arguments] = &document.commands()[..] else { panic!("{wrong}: not found") };
        let output = ridgepoint(&[&arguments[..], &["--help".to_owned()]].concat());
        assert!(!output.status.success(), "{wrong}");
    }
}

#[test]
fn the_example_suite_is_planned() {
    let words = ["list", "examples/my-suite.toml", "--device", "cpu", "--format", "csv"];
    let output = ridgepoint(&words.map(str::to_owned));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("decode_attention:").count(), 6, "{text}");
}

/// Every quantity of claims, and every kind of pair, is described with the keys that it needs.
#[test]
fn quantities_of_claims_are_described() {
    let text = fs::read_to_string(root().join("docs/USAGE.md")).unwrap();
    let section = text.split("## Claims of your own").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    for facts in &QUANTITIES {
        let name = format!("`{}`", facts.name);
        let row =
            section.lines().find(|line| line.starts_with("| `") && line.contains(&name));
        let row = row.unwrap_or_else(|| panic!("{name} is in no row"));
        for key in facts.needs {
            assert!(row.contains(&format!("`{key}`")), "{name} needs {key}: {row}");
        }
    }
    for pair in PairKind::KEYS {
        assert!(section.contains(&format!("`{pair}`")), "{pair}");
    }
}

#[test]
fn the_example_kernel_runs() {
    let found = Nvrtc::find(&SearchPath::of_this_machine(&NVRTC), None);
    if need(found).is_some() {
        own_kernel::main().unwrap();
    }
}

/// Lines of a source file that are part of the program, from 1, without what stands below
/// `#[cfg(test)]`.
fn lines_of_program(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let tests = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    (1..).zip(text[..tests].lines())
}

/// All files of the program's source below a folder, without files of tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs")
            && !["tests.rs", "truth_table.rs"].iter().any(|name| path.ends_with(name))
        {
            found.push(path);
        }
    }
    found
}

/// Messages are for people: none has a value as Rust's `Debug` spells it, such as
/// `Some(1.0)`.
#[test]
fn messages_are_not_spelled_as_rust_values() {
    let files = sources(&root().join("src"));
    assert!(files.len() > 100, "{} files", files.len());
    let mut found = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in lines_of_program(&text) {
            // The driver's own names of its codes; what only a bug of the program shows.
            let is_meant = line.contains("name: format!(\"{code:?}\")")
                || ["panic!(", "unreachable!(", "assert"]
                    .iter()
                    .any(|of| line.contains(of));
            if (line.contains(":?}") || line.contains(":#?}")) && !is_meant {
                found.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// What documents quote of campaigns is what their records say today.
#[test]
fn quoted_results_are_current() {
    let machines = Machines::load(None).unwrap();
    let mut quoting = 0;
    for Document { path, text } in documents() {
        let made = summary::updated(&text, path.parent().unwrap(), &machines)
            .unwrap_or_else(|why| panic!("{}: {why:#}", path.display()));
        let path = path.strip_prefix(root()).unwrap().display();
        assert_eq!(made, text, "run `ridgepoint results --update {path}`");
        quoting += usize::from(made.contains("<!-- results: "));
    }
    assert!(quoting >= 2, "README.md and results/README.md quote campaigns");
}
