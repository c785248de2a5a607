//! The device on a driver that is no driver: `tests/mock_driver.c`, built on
//! the spot. A process loads libcuda once, so each test runs itself again in a
//! process of its own whose loader finds the mock.

use std::path::Path;
use std::process::Command;

use super::driver::{
    Buffer, DriverError, Event, HostPage, Shape, Unavailable, encode, load,
};
use super::timing::one_warp;
use super::*;
use crate::kernel::TensorMap;

/// Names under which the loader looks for the driver.
const NAMES: [&str; 6] = [
    "libcuda.so",
    "libcuda.so.1",
    "libcuda.so.9",
    "libcuda.so.10",
    "libcuda.so.11",
    "libcuda.so.12",
];

/// Puts a mock of the driver into a folder.
fn build(folder: &Path, macros: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mock_driver.c");
    let library = folder.join(NAMES[0]);
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-w", "-o"]).arg(&library).arg(source);
    let status = cc.args(macros.iter().map(|m| format!("-D{m}"))).status();
    assert!(status.expect("`cc` builds the mock driver; install a C compiler").success());
    for name in &NAMES[1..] {
        std::fs::copy(&library, folder.join(name)).unwrap();
    }
}

/// Whether this is the process with the mock. If not, makes one that runs
/// `test` and expects it to pass.
fn on_mock(test: &str, fill: impl Fn(&Path)) -> bool {
    const MARK: &str = "RIDGEPOINT_TEST_ON_MOCK_DRIVER";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("device::cuda::tests::{test}"), "--nocapture"])
        .env(MARK, "1")
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        printed.contains("1 passed"),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

/// What is said where the driver is made with `macros`.
macro_rules! unavailable {
    ($test:ident, $macros:expr, $expected:pat, $($part:literal),+) => {
        #[test]
        fn $test() {
            if on_mock(stringify!($test), |folder| build(folder, &$macros)) {
                let error = gpu_count().unwrap_err();
                assert!(matches!(error, $expected), "{error:?}");
                let text = error.to_string();
                $(assert!(text.contains($part), "{text}");)+
                assert!(!text.contains('\n'));
                // Asking for it is an error; leaving the choice is not.
                let options = Options::default();
                let asked = crate::device::open("cuda:0", &options).err().unwrap();
                assert!(format!("{asked:#}").contains($($part),+), "{asked:#}");
                let chosen = crate::device::open("auto", &options).unwrap();
                assert_eq!(chosen.device.info().backend, "cpu");
                assert!(chosen.why.contains($($part),+), "{}", chosen.why);
            }
        }
    };
}

unavailable!(a_driver_without_a_gpu, ["INIT_ERROR=100"], Unavailable::NoGpu, "no GPU");
unavailable!(a_count_of_no_gpus, ["GPUS=0"], Unavailable::NoGpu, "nvidia-smi");
unavailable!(
    an_old_driver,
    ["VERSION=11040"],
    Unavailable::OldDriver { version: 11040 },
    "CUDA 11.4"
);
unavailable!(
    a_driver_without_a_function,
    ["WITHOUT_LAUNCH"],
    Unavailable::MissingSymbol { symbol: "cuLaunchKernelEx" },
    "no function cuLaunchKernelEx"
);
unavailable!(
    a_driver_that_does_not_start,
    ["INIT_ERROR=803"],
    Unavailable::Broken(_),
    "unsupported display driver"
);

#[test]
fn no_driver() {
    // Files that are no libraries hide a driver that this machine may have.
    let hide = |folder: &Path| {
        for name in NAMES {
            std::fs::write(folder.join(name), "no library").unwrap();
        }
    };
    if on_mock("no_driver", hide) {
        assert_eq!(gpu_count(), Err(Unavailable::NoDriver));
    }
}

#[test]
fn a_gpu_that_does_not_exist() {
    if on_mock("a_gpu_that_does_not_exist", |folder| build(folder, &["GPUS=2"])) {
        assert_eq!(gpu_count(), Ok(2));
        let error = Context::open(2).unwrap_err();
        assert_eq!(error, Unavailable::NoSuchGpu { wanted: 2, count: 2 });
        assert!(error.to_string().contains("numbered from 0"));
    }
}

#[test]
fn memory_goes_there_and_back() {
    if on_mock("memory_goes_there_and_back", |folder| build(folder, &["MEMORY_BYTES=4096"]))
    {
        let context = Context::open(0).unwrap();
        let stream = Stream::new(&context).unwrap();
        let buffer = Buffer::new(&context, 1000).unwrap();
        buffer.set(&stream, 0, 1000, 0xff).unwrap();
        buffer.upload(&stream, 10, &[1, 2, 3]).unwrap();
        let mut back = [0; 5];
        buffer.download(&stream, 9, &mut back).unwrap();
        assert_eq!(back, [0xff, 1, 2, 3, 0xff]);
        assert_eq!(context.memory_bytes().unwrap(), (3096, 4096));
        let error = Buffer::new(&context, 3097).unwrap_err();
        assert!(error.is_out_of_memory() && !error.is_final());
        assert_eq!(
            error.to_string(),
            "cuMemAlloc_v2 answered CUDA_ERROR_OUT_OF_MEMORY (out of memory)"
        );
        drop(buffer);
        assert_eq!(context.memory_bytes().unwrap().0, 4096);
        let page = HostPage::new(&context).unwrap();
        page.store(3, 77);
        assert_eq!((page.load(3), page.load(4)), (77, 0));
        assert_eq!(page.address(3) - page.address(0), 12);
    }
}

#[test]
fn clusters_and_overlap_reach_the_driver() {
    if on_mock("clusters_and_overlap_reach_the_driver", |folder| build(folder, &[])) {
        let context = Context::open(0).unwrap();
        let stream = Stream::new(&context).unwrap();
        let functions = load(&context, b"\x7fELF", &["report_attributes"]).unwrap();
        let seen = Buffer::new(&context, 64).unwrap();
        let report = |shape: &Shape| {
            let address = [seen.address()];
            stream.launch(&functions[0], shape, bytemuck::cast_slice(&address)).unwrap();
            let mut words = [0u32; 11];
            seen.download(&stream, 0, bytemuck::cast_slice_mut(&mut words)).unwrap();
            words
        };
        assert_eq!(report(&one_warp(4))[0], 0);
        let cluster = Shape { cluster: [2, 1, 1], ..one_warp(4) };
        assert_eq!(report(&cluster)[..5], [1, 4, 2, 1, 1]);
        let both = Shape { overlaps_previous: true, ..cluster };
        assert_eq!(report(&both)[..7], [2, 4, 2, 1, 1, 0, 6]);
        assert_eq!(report(&both)[7], 1);
        // Shared memory beyond 48 KiB has to be asked for.
        let large = Shape { shared_bytes: 100 << 10, ..one_warp(1) };
        let address = [seen.address()];
        let params = bytemuck::cast_slice(&address);
        assert!(stream.launch(&functions[0], &large, params).is_err());
        functions[0].allow_shared_bytes(100 << 10).unwrap();
        stream.launch(&functions[0], &large, params).unwrap();
    }
}

#[test]
fn tensor_maps_are_encoded_by_the_driver() {
    if on_mock("tensor_maps_are_encoded_by_the_driver", |folder| build(folder, &[])) {
        let _context = Context::open(0).unwrap();
        let map = TensorMap {
            name: "tiles",
            tensor: "a",
            element_bytes: 2,
            extents: vec![128, 40],
            strides_bytes: vec![256],
            tile: vec![64, 16],
            swizzle_bytes: 128,
        };
        let encoded = encode(&map.over(0x1000)).unwrap();
        let words: [u64; 16] = bytemuck::cast(encoded.0);
        assert_eq!(words[..7], [0x1000, 1, 2, 40, 256, 16, 3]);
        let deep = TensorMap {
            extents: vec![1; 6],
            strides_bytes: vec![16; 5],
            tile: vec![1; 6],
            ..map
        };
        let error = encode(&deep.over(0x1000)).unwrap_err();
        assert_eq!(error.call, "cuTensorMapEncodeTiled");
    }
}

#[test]
fn images_and_entries_that_are_wrong_are_errors() {
    if on_mock("images_and_entries_that_are_wrong_are_errors", |folder| build(folder, &[]))
    {
        let context = Context::open(0).unwrap();
        let name = |error: DriverError| error.name;
        assert_eq!(
            load(&context, b"text", &["a"]).map_err(name).unwrap_err(),
            "CUDA_ERROR_INVALID_IMAGE"
        );
        assert_eq!(
            load(&context, b"\x7fELF", &["missing"]).map_err(name).unwrap_err(),
            "CUDA_ERROR_NOT_FOUND"
        );
    }
}

#[test]
fn graphs_replay_what_was_queued() {
    if on_mock("graphs_replay_what_was_queued", |folder| build(folder, &[])) {
        let context = Context::open(0).unwrap();
        let stream = Stream::new(&context).unwrap();
        let functions = load(&context, b"\x7fELF", &["stream_write"]).unwrap();
        let target = Buffer::new(&context, 64).unwrap();
        target.set(&stream, 0, 64, 0).unwrap();
        let params = [0, 0, target.address(), 0, 0, 0, 1, 0x0505_0505u64];
        let graph = stream
            .capture(|| {
                stream.launch(&functions[0], &one_warp(1), bytemuck::cast_slice(&params))
            })
            .unwrap();
        let mut word = [0; 4];
        target.download(&stream, 0, &mut word).unwrap();
        assert_eq!(word, [0; 4], "recording runs nothing");
        stream.launch_graph(&graph).unwrap();
        target.download(&stream, 0, &mut word).unwrap();
        assert_eq!(word, [5; 4]);
        let earlier = Event::new(&context).unwrap();
        earlier.record(&stream).unwrap();
        let later = Event::new(&context).unwrap();
        later.record(&stream).unwrap();
        assert!(later.seconds_since(&earlier).unwrap() >= 0.0);
    }
}
