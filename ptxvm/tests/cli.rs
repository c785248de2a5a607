//! The program: what it prints, and its exit status.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/own");

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("ptxvm-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn command(kernel: &Path, spec: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ptxvm"));
    command.arg("run").arg(kernel).arg("--launch").arg(spec);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr)
}

/// Runs a command, which must end with `status` and say all of `wanted`.
#[track_caller]
fn says(mut command: Command, status: i32, wanted: &[&str]) -> String {
    let output = command.output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(status), "{text}");
    for wanted in wanted {
        assert!(text.contains(wanted), "no '{wanted}' in:\n{text}");
    }
    text
}

fn example(file: &str) -> PathBuf {
    Path::new(EXAMPLE).join(file)
}

#[test]
fn the_example_is_right() {
    says(
        command(&example("tile_sum.ptx"), &example("tile_sum.toml")),
        0,
        &[
            "tile_sum (sm_90a), schedules 0, 1, 2, 3",
            "asynchronous bytes                     12288",
            "tile_sum.cu:52                    64         128    50%  st.global.f32",
            "tile_sum.cu:45                 12288         384          96   4.0  ld.shared.f32",
            "nothing is wrong: 0 faults, 0 findings, 0 unexpected values",
        ],
    );
}

/// A reader that stops early is no error, and output that cannot be written is one.
#[cfg(target_os = "linux")]
#[test]
fn output_that_nobody_takes() {
    let run = |format: &str| {
        let mut command = command(&example("tile_sum.ptx"), &example("tile_sum.toml"));
        command.args(["--format", format]);
        command
    };
    for format in ["text", "json"] {
        // The reader is dropped here.
        let closed = std::io::pipe().unwrap().1;
        let output = run(format).stdout(closed).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert!(output.stderr.is_empty(), "{}", text(&output));
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut full = run(format).stdout(full).output().unwrap();
        full.stdout.clear();
        let told = "ptxvm: cannot write to standard output: No space left on device";
        assert_eq!(full.status.code(), Some(1), "{}", text(&full));
        assert!(text(&full).starts_with(told), "{}", text(&full));
    }
}

#[test]
fn the_example_as_json() {
    let mut command = command(&example("tile_sum.ptx"), &example("tile_sum.toml"));
    command.args(["--format", "json"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["fine"], true);
    assert_eq!(value["counts"]["async_bytes"], 12288);
    let lines = value["lines"].as_array().unwrap();
    let load = lines.iter().find(|line| line["line"] == 45).unwrap();
    assert_eq!((&load["passes"], &load["fewest_passes"]), (&384.into(), &96.into()));
}

#[test]
fn planted_mistakes_are_found() {
    let folder = Folder::new("mistakes");
    let ptx = std::fs::read_to_string(example("tile_sum.ptx")).unwrap();
    let spec = example("tile_sum.toml");
    // The buffer is read before its copy is complete.
    let early =
        folder.write("early.ptx", ptx.replace("@!done bra AGAIN", "@!done bra ON;\nON:"));
    let early_text = std::fs::read_to_string(&early).unwrap();
    assert!(early_text.contains("bra ON"));
    says(command(&early, &spec), 1, &["AsyncRace", "not right"]);
    // The copy's last bytes are never announced: the threads wait for ever, or go on early.
    let count = folder.write("count.ptx", ptx.replacen(", 2048;", ", 4096;", 1));
    says(command(&count, &spec), 1, &["fault (schedules 0, 1, 2, 3): Deadlock"]);
    let output = command(&early, &spec).args(["--format", "json"]).output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["fine"], false);
    assert_eq!(value["findings"][0]["kind"], "AsyncRace");
    assert_eq!(value["findings"][0]["file"], "tile_sum.cu");
}

#[test]
fn unexpected_values() {
    let folder = Folder::new("values");
    let spec = std::fs::read_to_string(example("tile_sum.toml")).unwrap();
    let wrong =
        folder.write("wrong.toml", spec.replace("constant = 720", "constant = 721"));
    let wanted =
        ["16 unexpected values (schedule 0)", "sums[0]: 720, expected 721", "and 6 more"];
    says(command(&example("tile_sum.ptx"), &wrong), 1, &wanted);
    let near = spec.replace("constant = 720", "constant = 721").replace("1e-6", "0.01");
    let near = folder.write("near.toml", near);
    says(command(&example("tile_sum.ptx"), &near), 0, &[]);
}

/// Copies a buffer of 8 32-bit words.
const COPY: &str = ".version 8.0\n.target sm_80\n.address_size 64\n\
     .visible .entry copy(.param .u64 x, .param .u64 y, .param .u32 n)\n{\n\
     .reg .pred %p;\n.reg .b32 %r<4>;\n.reg .b64 %rd<6>;\n\
     ld.param.u64 %rd1, [x];\nld.param.u64 %rd2, [y];\nld.param.u32 %r3, [n];\n\
     mov.u32 %r1, %tid.x;\nsetp.ge.u32 %p, %r1, %r3;\n@%p ret;\n\
     mul.wide.u32 %rd3, %r1, 4;\n\
     add.s64 %rd4, %rd1, %rd3;\nadd.s64 %rd5, %rd2, %rd3;\n\
     ld.global.u32 %r2, [%rd4];\nst.global.u32 [%rd5], %r2;\nret;\n}\n";

/// A launch of `copy` whose input begins with `init`, and whose output must be `expect`.
fn copy_spec(format: &str, init: &str, expect: &str) -> String {
    format!(
        "block = 32\nparams = [{{ buffer = \"x\" }}, {{ buffer = \"y\" }}, {{ u32 = 8 }}]\n\
         [buffer.x]\nformat = \"{format}\"\nshape = [2, 4]\ninit = {init}\n\
         [buffer.y]\nformat = \"{format}\"\nshape = [8]\n[expect.y]\n{expect}\n"
    )
}

#[test]
fn what_buffers_begin_with() {
    let folder = Folder::new("buffers");
    let copy = folder.write("copy.ptx", COPY);
    let file: Vec<u8> = (0..8u32).flat_map(|n| (n * n).to_le_bytes()).collect();
    folder.write("squares.bin", file);
    for (format, init, expect) in [
        ("u32", "\"zeros\"", "constant = 0"),
        ("f32", "{ constant = -1.5 }", "constant = -1.5"),
        (
            "i32",
            "{ counting = { start = -3, step = 2 } }",
            "values = [-3, -1, 1, 3, 5, 7, 9, 11]",
        ),
        ("i32", "{ values = [5, 4, 3, 2, 1, 0, -1, -2] }", "values = [0, -1]\nfrom = 5"),
        ("u32", "{ file = \"squares.bin\" }", "values = [0, 1, 4, 9, 16, 25, 36, 49]"),
        ("i32", "{ constant = 9 }", "file = \"nines.bin\""),
        (
            "f32",
            "{ random = { seed = 3, low = 2, high = 4 } }",
            "constant = 3\nabsolute = 1",
        ),
        ("u32", "{ random = { seed = 3, low = 7, high = 7 } }", "constant = 7"),
    ] {
        folder.write("nines.bin", 9u32.to_le_bytes().repeat(8));
        let spec = folder.write("spec.toml", copy_spec(format, init, expect));
        says(command(&copy, &spec), 0, &["global bytes read                         32"]);
    }
    // What is never written is found, and is no value.
    let spec = copy_spec("f32", "\"unwritten\"", "constant = 0");
    let spec = folder.write("spec.toml", spec);
    says(command(&copy, &spec), 1, &["Uninitialised"]);
    let half = copy_spec("u32", "\"zeros\"", "constant = 0").replace("u32 = 8", "u32 = 4");
    let spec = folder.write("spec.toml", half);
    says(
        command(&copy, &spec),
        1,
        &["4 unexpected values", "y[4]: never written, expected 0"],
    );
}

#[test]
fn wrong_specifications() {
    let folder = Folder::new("wrong");
    let copy = folder.write("copy.ptx", COPY);
    let good = copy_spec("u32", "\"zeros\"", "constant = 0");
    for (from, to, wanted) in [
        ("block = 32", "blocks = 32", "unknown field `blocks`"),
        ("block = 32", "block = [1, 1, 1, 1]", "block has 4 extents"),
        ("block = 32", "seeds = []", "seeds must name"),
        ("block = 32", "entry = \"paste\"", "no kernel 'paste', but copy"),
        ("\"u32\"", "\"u33\"", "unknown variant `u33`"),
        (
            "u32 = 8",
            "u64 = 8",
            "parameter 2 of kernel copy has 4 bytes, but params[2] has 8",
        ),
        ("{ buffer = \"x\" }, ", "", "has 3 parameters, but 'params' has 2"),
        ("{ buffer = \"x\" }", "{ buffer = \"z\" }", "there is no buffer 'z'"),
        ("{ buffer = \"x\" }", "{ map = \"z\" }", "there is no tensor map 'z'"),
        ("[expect.y]", "[expect.z]", "expect.z: there is no buffer 'z'"),
        ("constant = 0", "from = 1", "expect.y must have one of"),
        ("constant = 0", "values = [1, 2]\nfrom = 7", "do not fit a buffer of 8 elements"),
        ("constant = 0", "constant = -1", "-1 does not fit into U32"),
        ("\"zeros\"", "{ values = [1] }", "1 values for 8 elements"),
        ("\"zeros\"", "{ file = \"none.bin\" }", "cannot read"),
        ("[2, 4]", "[0]", "the shape [0] is not possible"),
    ] {
        assert!(good.contains(from), "{from}");
        let spec = folder.write("spec.toml", good.replacen(from, to, 1));
        says(command(&copy, &spec), 2, &[wanted]);
    }
    says(
        command(&folder.0.join("none.ptx"), &folder.write("s.toml", &good)),
        2,
        &["none.ptx"],
    );
    says(command(&copy, &folder.0.join("none.toml")), 2, &["none.toml"]);
}

#[test]
fn what_is_refused() {
    let folder = Folder::new("refused");
    let copy = folder.write("copy.ptx", COPY);
    let good = copy_spec("u32", "\"zeros\"", "constant = 0");
    let spec = folder.write("spec.toml", &good);
    let large = folder.write("large.toml", good.replace("block = 32", "block = 2048"));
    says(command(&copy, &large), 3, &["refused: the launch", "2048"]);
    let bad =
        folder.write("bad.ptx", COPY.replace("ret;\n}", "elect.sync _|%p, -1;\nret;\n}"));
    says(command(&bad, &spec), 3, &["elect.sync", "needs .target sm_90"]);
    let bad = folder.write("bad.ptx", COPY.replace("ret;\n}", "frobnicate;\nret;\n}"));
    says(command(&bad, &spec), 3, &["PTX line 20", "frobnicate"]);
    let map = "[map.m]\nbuffer = \"x\"\ndims = [8]\nbox = [3]\n";
    let map = good.replace("{ buffer = \"x\" }", "{ map = \"m\" }") + map;
    let map = folder.write("map.toml", map);
    let wide = COPY.replace(".param .u64 x", ".param .align 64 .b8 x[128]");
    let wide = folder.write("wide.ptx", wide);
    says(command(&wide, &map), 3, &["tensor map 'm'", "multiple of 16"]);
}

#[cfg(unix)]
#[test]
fn sources_are_compiled() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("sources");
    let source = folder.write("copy.cu", "// CUDA C++");
    folder.write("copy.ptx", COPY);
    let spec = folder.write("spec.toml", copy_spec("u32", "\"zeros\"", "constant = 0"));
    // No compiler anywhere: a program without an environment.
    let mut bare = command(&source, &spec);
    bare.env_clear().env("PATH", &folder.0);
    if !Path::new("/usr/local/cuda").exists() {
        says(bare, 2, &["neither nvcc", "libnvrtc.so", "or give PTX"]);
    }
    let script = |name: &str, body: &str| {
        let path = folder.write(name, format!("#!/bin/sh\n{body}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let ptx = folder.0.join("copy.ptx");
    let nvcc = script("nvcc", &format!("echo \"$@\" > {0}.args; cat {0}", ptx.display()));
    let mut given = command(&source, &spec);
    given.arg("--nvcc").arg(&nvcc);
    says(given, 0, &["nothing is wrong"]);
    let arguments = std::fs::read_to_string(folder.0.join("copy.ptx.args")).unwrap();
    assert!(arguments.contains("--ptx -lineinfo -o - -arch=sm_90a"), "{arguments}");
    // It is also found by PATH.
    let mut found = command(&source, &spec);
    let path = format!("{}:/usr/bin:/bin", folder.0.display());
    found.env("PATH", path).env_remove("CUDA_HOME").env_remove("CUDA_PATH");
    says(found, 0, &["nothing is wrong"]);
    let broken = script("broken", "echo 'copy.cu(1): error: no' >&2; exit 1");
    let mut given = command(&source, &spec);
    given.arg("--nvcc").arg(&broken);
    says(given, 3, &["copy.cu does not compile", "copy.cu(1): error: no"]);
    let mut missing = command(&source, &spec);
    missing.arg("--nvcc").arg(folder.0.join("none"));
    says(missing, 2, &["none cannot run"]);
}
