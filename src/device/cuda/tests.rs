//! The device on a mock of the driver: `tests/mock_driver.c`, built on
//! the spot. A process loads libcuda once, so each test runs itself again in a
//! process of its own whose loader finds the mock.

use std::path::Path;
use std::process::Command;

use super::driver::{
    Buffer, Context, CudaStream, DriverError, Event, HostBuffer, HostCopy, HostPage,
    LaunchShape, Unavailable, encode, load, load_ptx,
};
use super::*;
use crate::device::*;
use crate::format::HostMemory;
use crate::kernel::{ParamBytes, TensorMap};
use crate::resource::LinkDirection;
use crate::toolchain::library;

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
                let options = DeviceOptions::default();
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
    if library::on_loader_path("libcuda.so.1".as_ref()).is_some() {
        eprintln!("NOT RUN: this machine has a driver, which cannot be hidden");
    } else if on_mock("no_driver", |_| ()) {
        assert_eq!(gpu_count(), Err(Unavailable::NoDriver));
    }
}

/// Containers without the runtime of the GPU have an empty file in its place.
#[test]
fn a_driver_that_is_no_library() {
    let write = |folder: &Path| {
        for name in NAMES {
            std::fs::write(folder.join(name), "no library").unwrap();
        }
    };
    if on_mock("a_driver_that_is_no_library", write) {
        let error = gpu_count().unwrap_err();
        assert!(matches!(error, Unavailable::NotLoaded { .. }), "{error}");
        let told = error.to_string();
        assert!(
            told.contains("libcuda.so.1: file too short; install the driver"),
            "{told}"
        );
    }
}

/// A download that broke off would end the process with a signal where it is loaded.
#[test]
fn a_management_library_that_is_cut() {
    let cut = |folder: &Path| {
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        std::fs::write(folder.join("libnvidia-ml.so.1"), &whole[..whole.len() / 2])
            .unwrap();
    };
    if on_mock("a_management_library_that_is_cut", cut) {
        let why = nvml::Nvidia::open("07070707070707070707070707070707").err().unwrap();
        assert!(why.contains("libnvidia-ml.so.1 is cut: it has "), "{why}");
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
        let stream = CudaStream::new(&context).unwrap();
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
        let stream = CudaStream::new(&context).unwrap();
        let functions =
            load(&context, "streams", b"\x7fELF", &["report_attributes"]).unwrap();
        let seen = Buffer::new(&context, 64).unwrap();
        let report = |shape: &LaunchShape| {
            let params = [ParamBytes::of(&seen.address())];
            stream.launch(&functions[0], shape, &params).unwrap();
            let mut words = [0u32; 11];
            seen.download(&stream, 0, bytemuck::cast_slice_mut(&mut words)).unwrap();
            words
        };
        assert_eq!(report(&LaunchShape::warps(4))[0], 0);
        let cluster = LaunchShape { cluster: [2, 1, 1], ..LaunchShape::warps(4) };
        assert_eq!(report(&cluster)[..5], [1, 4, 2, 1, 1]);
        let both = LaunchShape { overlaps_previous: true, ..cluster };
        assert_eq!(report(&both)[..7], [2, 4, 2, 1, 1, 0, 6]);
        assert_eq!(report(&both)[7], 1);
        // Shared memory beyond 48 KiB has to be asked for.
        let large = LaunchShape { shared_bytes: 100 << 10, ..LaunchShape::warps(1) };
        let params = [ParamBytes::of(&seen.address())];
        assert!(stream.launch(&functions[0], &large, &params).is_err());
        functions[0].allow_shared_bytes(100 << 10).unwrap();
        stream.launch(&functions[0], &large, &params).unwrap();
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
        let error = encode(&deep.over(0x1000)).unwrap_err().to_string();
        assert!(error.starts_with("cuTensorMapEncodeTiled answered"), "{error}");
    }
}

#[test]
fn images_and_entries_that_are_wrong_are_errors() {
    if on_mock("images_and_entries_that_are_wrong_are_errors", |folder| build(folder, &[]))
    {
        let context = Context::open(0).unwrap();
        let loaded = |image, entry| load(&context, "streams", image, &[entry]).unwrap_err();
        assert!(loaded(b"text", "a").is("CUDA_ERROR_INVALID_IMAGE"));
        assert!(loaded(b"\x7fELF", "missing").is("CUDA_ERROR_NOT_FOUND"));
    }
}

/// Parameters of a `stream_write` that declares one of `bytes`, as a launch passes 64.
fn launch_declared(bytes: usize) -> Result<(), DriverError> {
    let context = Context::open(0).unwrap();
    let stream = CudaStream::new(&context).unwrap();
    let target = Buffer::new(&context, 64).unwrap();
    let params = ParamBytes::of(&[0, 0, target.address(), 0, 0, 1, 1, 5]);
    let functions = load(&context, "stream", b"\x7fELF", &["stream_write"]).unwrap();
    let shape = LaunchShape::warps(1);
    for params in [&[][..], &[params.clone(), params.clone()]] {
        let error = stream.launch(&functions[0], &shape, params).unwrap_err();
        assert!(matches!(error, DriverError::Params(_)), "{error}");
    }
    let launched = stream.launch(&functions[0], &shape, &[params]);
    if let Err(error) = &launched {
        let text = error.to_string();
        for part in [
            "kernel stream, entry stream_write: the compiled kernel declares ",
            &format!("{bytes} bytes of parameters"),
            "the launch passes 64 bytes ([u64; 8])",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
    launched
}

#[test]
fn parameters_of_the_declared_size_are_launched() {
    if on_mock("parameters_of_the_declared_size_are_launched", |folder| build(folder, &[]))
    {
        launch_declared(64).unwrap();
    }
}

#[test]
fn parameters_that_are_too_small_are_not_launched() {
    let larger = |folder: &Path| build(folder, &["STREAM_PARAM_BYTES=72"]);
    if on_mock("parameters_that_are_too_small_are_not_launched", larger) {
        assert!(launch_declared(72).is_err());
    }
}

#[test]
fn parameters_that_are_too_large_are_not_launched() {
    let smaller = |folder: &Path| build(folder, &["STREAM_PARAM_BYTES=56"]);
    if on_mock("parameters_that_are_too_large_are_not_launched", smaller) {
        assert!(launch_declared(56).is_err());
    }
}

/// A driver before CUDA 12.4 does not tell parameters; PTX and images do.
#[test]
fn a_driver_that_does_not_tell_parameters() {
    let old = |folder: &Path| build(folder, &["WITHOUT_PARAM_INFO"]);
    if on_mock("a_driver_that_does_not_tell_parameters", old) {
        let context = Context::open(0).unwrap();
        let stream = CudaStream::new(&context).unwrap();
        let ptx = ".version 8.0\n.visible .entry k(.param .u64 in, .param .u32 n)\n{\n}";
        let function = &load_ptx(&context, "p", ptx, &["k"]).unwrap()[0];
        let launch =
            |params: &[ParamBytes]| stream.launch(function, &LaunchShape::warps(1), params);
        launch(&[ParamBytes::of(&1u64), ParamBytes::of(&1u32)]).unwrap();
        let error = launch(&[ParamBytes::of(&1u64), ParamBytes::of(&1u64)]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("declares 8 + 4 bytes of parameters"), "{text}");
        assert!(text.contains("passes 8 + 8 bytes (u64, u64)"), "{text}");
        let error = load(&context, "p", b"\x7fELF", &["k"]).unwrap_err();
        assert!(matches!(error, DriverError::UnknownParams { .. }), "{error}");
        assert!(error.to_string().contains("not a whole ELF file"), "{error}");
    }
}

#[test]
fn graphs_replay_what_was_queued() {
    if on_mock("graphs_replay_what_was_queued", |folder| build(folder, &[])) {
        let context = Context::open(0).unwrap();
        let stream = CudaStream::new(&context).unwrap();
        let functions = load(&context, "streams", b"\x7fELF", &["stream_write"]).unwrap();
        let target = Buffer::new(&context, 64).unwrap();
        target.set(&stream, 0, 64, 0).unwrap();
        let params = [0, 0, target.address(), 0, 0, 1, 1, 0x0505_0505u64];
        let params = [ParamBytes::of(&params)];
        let graph = stream
            .capture(|| stream.launch(&functions[0], &LaunchShape::warps(1), &params))
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

#[test]
fn both_directions_are_copied_and_replayed() {
    if on_mock("both_directions_are_copied_and_replayed", |folder| build(folder, &[])) {
        let context = Context::open(0).unwrap();
        let stream = CudaStream::new(&context).unwrap();
        let [to, from] = [(); 2].map(|()| Buffer::new(&context, 64).unwrap());
        for memory in HostMemory::ALL {
            let host = std::rc::Rc::new(HostBuffer::new(&context, memory, 128).unwrap());
            let copy = |direction, at, device| HostCopy {
                direction,
                host: (&host, at),
                device: (device, 4),
                bytes: 8,
            };
            let copies =
                [copy(LinkDirection::In, 8, &to), copy(LinkDirection::Out, 24, &from)];
            let found = || {
                let (mut device, mut back) = ([0; 8], [0; 8]);
                to.download(&stream, 4, &mut device).unwrap();
                host.read(24, &mut back).unwrap();
                (device, back)
            };
            let reset = || {
                host.set(0, 128, 0).unwrap();
                host.write(8, &[1; 8]).unwrap();
                to.set(&stream, 0, 64, 0).unwrap();
                from.set(&stream, 0, 64, 2).unwrap();
            };
            reset();
            stream.copy(&copies).unwrap();
            assert_eq!(found(), ([1; 8], [2; 8]));
            reset();
            let recorded = stream.capture(|| stream.copy(&copies));
            match memory {
                HostMemory::Pinned => {
                    let graph = recorded.unwrap();
                    assert_eq!(found(), ([0; 8], [0; 8]), "recording copies nothing");
                    stream.launch_graph(&graph).unwrap();
                    assert_eq!(found(), ([1; 8], [2; 8]));
                    assert_eq!(std::rc::Rc::strong_count(&host), 3, "the graph keeps it");
                }
                HostMemory::Pageable => {
                    let error = recorded.unwrap_err().to_string();
                    assert!(error.contains("STREAM_CAPTURE_UNSUPPORTED"), "{error}");
                }
            }
            let read = |at| host.read(at, &mut [0; 8]);
            assert!(
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(121)))
                    .is_err()
            );
        }
    }
}

#[test]
fn a_gpu_with_less_shared_memory_than_kernels_are_compiled_for_is_an_error() {
    let test = "a_gpu_with_less_shared_memory_than_kernels_are_compiled_for_is_an_error";
    if on_mock(test, |folder| build(folder, &["SHARED_BYTES=101376"])) {
        let options = crate::device::DeviceOptions::default();
        let error = super::CudaDevice::open(0, &options).err().unwrap();
        let error = format!("{error:#}");
        for part in ["at most 101376 bytes", "the documented 232448"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
