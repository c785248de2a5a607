//! The loader against libraries built on the spot, so that every path is taken
//! on machines with and without CUDA.

use std::ffi::OsString;
use std::fs;
use std::process::Command;

use super::*;
use crate::toolchain::search::NVRTC;

/// A folder with a mock of NVRTC in it.
fn mock(root: &Path, major: u32, minor: u32, more: &[&str]) -> PathBuf {
    let folder = root.join(format!("{major}.{minor}"));
    fs::create_dir_all(&folder).unwrap();
    let library = folder.join(format!("libnvrtc.so.{major}"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/toolchain/nvrtc/mock.c");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .args([format!("-DMAJOR={major}"), format!("-DMINOR={minor}")])
        .args(more)
        .arg(source)
        .status()
        .expect("there is a C compiler, which Rust links with");
    assert!(status.success());
    folder
}

fn folders(folders: &[&PathBuf]) -> SearchPath {
    let folders = folders.iter().map(|folder| folder.to_path_buf()).collect();
    SearchPath { folders, ..SearchPath::nowhere(&NVRTC) }
}

const SOURCE: Source = Source { name: "k", text: "text", headers: &[("h.cuh", "text")] };

#[test]
fn the_newest_that_the_driver_takes_is_found() {
    let root = tempfile::tempdir().unwrap();
    let [old, new, newest] = [(12, 4), (12, 9), (13, 0)]
        .map(|(major, minor)| mock(root.path(), major, minor, &[]));
    let search = folders(&[&old, &newest, &new]);
    let found = |max_major| Nvrtc::find(&search, max_major).unwrap().version().to_string();
    assert_eq!(found(None), "13.0.7");
    assert_eq!(found(Some(13)), "13.0.7");
    assert_eq!(found(Some(12)), "12.9.7");
    let error = Nvrtc::find(&search, Some(11)).unwrap_err().to_string();
    assert!(
        error.contains("CUDA 11 and older") && error.contains("NVRTC 12.4.7"),
        "{error}"
    );
    // What the user chose is used alone, a folder or a file.
    let chosen = SearchPath { chosen: Some(old.clone()), ..search.clone() };
    assert_eq!(Nvrtc::find(&chosen, None).unwrap().path(), old.join("libnvrtc.so.12"));
    let file = SearchPath::only(&NVRTC, new.join("libnvrtc.so.12"));
    assert_eq!(Nvrtc::find(&file, None).unwrap().version().minor, 9);
}

#[test]
fn what_is_no_compiler_is_named_with_its_fault() {
    let root = tempfile::tempdir().unwrap();
    let old = mock(root.path(), 11, 0, &["-DOLD"]);
    let text = root.path().join("text");
    fs::create_dir(&text).unwrap();
    fs::write(text.join("libnvrtc.so"), "no library").unwrap();
    let error = Nvrtc::find(&folders(&[&old, &text]), None).unwrap_err().to_string();
    for part in ["it has no nvrtcGetCUBIN", "text/libnvrtc.so: ", "RIDGEPOINT_NVRTC"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    // One that works among them is enough.
    let good = mock(root.path(), 13, 0, &[]);
    assert!(Nvrtc::find(&folders(&[&old, &text, &good]), None).is_ok());
}

#[test]
fn where_there_is_none_the_error_says_where_it_looked() {
    let error = Nvrtc::find(&SearchPath::nowhere(&NVRTC), None).unwrap_err();
    assert!(matches!(error, NvrtcError::NotFound { .. }));
    let root = tempfile::tempdir().unwrap();
    let empty = root.path().to_owned();
    let error = Nvrtc::find(&folders(&[&empty]), None).unwrap_err().to_string();
    for part in [&*empty.to_string_lossy(), "scripts/install-nvrtc", "--kernels"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let chosen = Nvrtc::find(&SearchPath::only(&NVRTC, "/nonexistent/libnvrtc.so"), None);
    assert!(chosen.unwrap_err().to_string().contains("/nonexistent/libnvrtc.so"));
}

#[test]
fn environment_variables_name_folders() {
    let search = SearchPath::of(&NVRTC, |name| match name {
        "CUDA_HOME" => Some(OsString::from("/opt/cuda")),
        "RIDGEPOINT_NVRTC" => Some(OsString::new()),
        _ => None,
    });
    assert_eq!(search.chosen, None);
    assert!(search.folders.contains(&PathBuf::from("/opt/cuda/lib64")));
    assert!(search.loader && search.python);
    let root = tempfile::tempdir().unwrap();
    let packages = root.path().join("lib/python3.12/site-packages");
    fs::create_dir_all(&packages).unwrap();
    let prefix = root.path().as_os_str();
    let search =
        SearchPath::of(&NVRTC, |name| (name == "VIRTUAL_ENV").then(|| prefix.to_owned()));
    assert!(search.folders.contains(&packages.join("nvidia/cu13/lib")));
}

#[test]
fn every_outcome_of_a_compilation_is_told() {
    let root = tempfile::tempdir().unwrap();
    let folder = mock(root.path(), 12, 9, &[]);
    let nvrtc = Nvrtc::find(&SearchPath::only(&NVRTC, folder), None).unwrap();
    let cubin = nvrtc.compile(&SOURCE, &[], "sm_90a").unwrap();
    assert_eq!(cubin.image, b"image");
    assert_eq!((cubin.resources["k"].registers, cubin.resources["k"].param_bytes), (24, 8));
    assert!(nvrtc.ptx(&SOURCE, &[], "compute_90a").unwrap().contains(".entry k"));

    let compile = |source: &Source, arch: &str| {
        nvrtc.compile(source, &[], arch).unwrap_err().to_string()
    };
    let rejected = compile(&Source { text: "reject", ..SOURCE }, "sm_90a");
    assert!(rejected.contains("k does not compile for sm_90a: MOCK_ERROR"), "{rejected}");
    assert!(rejected.contains("ptxas info"), "the log is missing: {rejected}");
    let header = [("h.cuh", "reject")];
    compile(&Source { headers: &header, ..SOURCE }, "sm_90a");
    assert!(compile(&SOURCE, "compute_90a").contains("empty image"));
    let unknown = compile(&SOURCE, "sm_120");
    assert!(
        unknown.contains("NVRTC 12.9.7 does not compile for sm_120; it knows sm_80, sm_90")
    );
    assert!(compile(&SOURCE, "nonsense").contains("nonsense"));
    assert!(compile(&Source { text: "a\0b", ..SOURCE }, "sm_90a").contains("nul byte"));
}

#[test]
fn includes_of_headers_get_a_folder_and_others_none() {
    let text = "#include \"a.cuh\"\n#include \"b.cuh\"\n// a.cuh\n";
    let expected = "#include \"/ridgepoint/kernels/a.cuh\"\n#include \"b.cuh\"\n// a.cuh\n";
    assert_eq!(with_folder(text, &[("a.cuh", "")]), expected);
}
