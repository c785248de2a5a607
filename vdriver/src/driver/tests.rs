#![allow(unsafe_code, reason = "memory of the host is given as the C interface gives it")]

use super::*;

/// Kernels: one adds 1 to a word, one waits for a word that is not 0, one writes to an
/// address, one reads the wall clock.
const PTX: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry add(.param .u64 at)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [at];
    ld.global.u32 %r1, [%rd1];
    add.u32 %r1, %r1, 1;
    st.global.u32 [%rd1], %r1;
    ret;
}
.visible .entry wait(.param .u64 at)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    .reg .pred p;
    ld.param.u64 %rd1, [at];
AGAIN:
    ld.volatile.global.u32 %r1, [%rd1];
    setp.eq.u32 p, %r1, 0;
    @p bra AGAIN;
    ret;
}
.visible .entry timer(.param .u64 at)
{
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [at];
    mov.u64 %rd2, %globaltimer;
    st.global.u64 [%rd1], %rd2;
    ret;
}";

const ONE: Shape = Shape { grid: [1; 3], block: [1; 3], cluster: [1; 3], shared_bytes: 0 };

/// A driver with a stream, the module, and 64 bytes of zeros.
struct Fixture {
    driver: Driver,
    stream: Handle,
    module: Handle,
    address: u64,
}

impl Fixture {
    fn new(faults: &'static str) -> Self {
        let variable = |name: &str| (name == "FAULTS").then(|| faults.to_owned());
        let mut driver = Driver::new(Settings::read(variable).unwrap());
        driver.start();
        let stream = driver.new_stream();
        let module = driver.load(PTX).unwrap();
        let address = driver.allocate(64).unwrap();
        driver.set(stream, address, 64, 0).unwrap();
        Fixture { driver, stream, module, address }
    }

    fn launch(&mut self, entry: &str, at: u64) -> Result {
        let function = self.driver.find(self.module, entry).unwrap();
        self.driver.launch(self.stream, function, ONE, |places, block| {
            assert_eq!(places, [KernelParam { offset: 0, bytes: 8 }]);
            block.copy_from_slice(&at.to_le_bytes());
        })
    }

    /// The first word, read in stream order.
    fn word(&mut self) -> u64 {
        let mut word = 0u64;
        // SAFETY: pageable memory is copied before the call returns.
        let to = unsafe { HostRange::new((&raw mut word).cast(), 8) };
        let copy = Entry::CopyOut { to, from: self.address };
        self.driver.copy(self.stream, self.address, copy).unwrap();
        word
    }
}

#[test]
fn entries_run_in_order_when_somebody_waits() {
    let mut f = Fixture::new("");
    for _ in 0..3 {
        f.launch("add", f.address).unwrap();
    }
    assert_eq!(f.word(), 3);
    let event = f.driver.new_event(true);
    f.driver.record(event, f.stream).unwrap();
    assert_eq!(f.driver.elapsed_ms(event, event), Err(Code::NOT_READY));
    f.driver.synchronize(f.stream).unwrap();
    assert_eq!(f.driver.elapsed_ms(event, event), Ok(0.0));
}

#[test]
fn a_stream_waits_for_an_event_of_another() {
    let mut f = Fixture::new("");
    let (first, event) = (f.stream, f.driver.new_event(false));
    f.launch("add", f.address).unwrap();
    f.driver.record(event, first).unwrap();
    f.stream = f.driver.new_stream();
    f.driver.wait(f.stream, event).unwrap();
    f.driver.set(f.stream, f.address, 1, 7).unwrap();
    assert_eq!(f.word(), 7, "the kernel ran after what waits for it");
    assert_eq!(f.driver.elapsed_ms(event, event), Err(Code::INVALID_HANDLE), "untimed");
}

#[test]
fn a_graph_runs_as_often_as_it_is_launched() {
    let mut f = Fixture::new("");
    f.driver.begin_capture(f.stream).unwrap();
    f.launch("add", f.address).unwrap();
    f.launch("add", f.address).unwrap();
    let graph = f.driver.end_capture(f.stream).unwrap();
    assert_eq!(f.word(), 0, "it ran while it was recorded");
    let executable = f.driver.instantiate(graph).unwrap();
    f.driver.destroy_graph(graph).unwrap();
    f.driver.launch_graph(executable, f.stream).unwrap();
    f.driver.launch_graph(executable, f.stream).unwrap();
    assert_eq!(f.word(), 4);
    // Waiting spoils a recording.
    f.driver.begin_capture(f.stream).unwrap();
    assert_eq!(f.driver.synchronize(f.stream), Err(Code::CAPTURE_UNSUPPORTED));
    assert_eq!(f.driver.end_capture(f.stream), Err(Code::CAPTURE_INVALIDATED));
    f.driver.synchronize(f.stream).unwrap();
}

#[test]
fn a_kernel_sees_what_the_host_wrote_before_somebody_waits() {
    let mut f = Fixture::new("");
    let mut page = [0u32; 16];
    let start = page.as_mut_ptr();
    // SAFETY: the page outlives the driver, and is written between its calls only.
    f.driver.pin(unsafe { HostRange::new(start.cast(), 64) });
    let mapped = f.driver.map(start.addr()).unwrap();
    f.launch("wait", mapped).unwrap();
    // SAFETY: nothing else uses it now.
    unsafe { start.write_volatile(1) };
    f.driver.synchronize(f.stream).unwrap();
    // SAFETY: as above.
    unsafe { start.write_volatile(0) };
    f.launch("wait", mapped).unwrap();
    assert_eq!(f.driver.synchronize(f.stream), Err(Code::LAUNCH_TIMEOUT));
    assert_eq!(f.driver.context(), Err(Code::LAUNCH_TIMEOUT), "the context is lost");
}

#[test]
fn a_fault_is_answered_from_then_on() {
    let mut f = Fixture::new("");
    f.launch("add", f.address + 64).unwrap();
    assert_eq!(f.driver.context(), Ok(()), "it has not run yet");
    assert_eq!(f.driver.synchronize(f.stream), Err(Code::ILLEGAL_ADDRESS));
    assert_eq!(f.driver.context(), Err(Code::ILLEGAL_ADDRESS));
    let mut f = Fixture::new("kernel add:2=715");
    f.launch("add", f.address).unwrap();
    assert_eq!(f.word(), 1);
    f.launch("add", f.address).unwrap();
    assert_eq!(f.driver.synchronize(f.stream), Err(Code::ILLEGAL_INSTRUCTION));
}

#[test]
fn kernels_and_events_read_one_clock() {
    let mut f = Fixture::new("");
    let mut times = Vec::new();
    let events = [0, 1].map(|_| f.driver.new_event(true));
    for event in events {
        f.launch("timer", f.address).unwrap();
        times.push(f.word());
        f.driver.record(event, f.stream).unwrap();
    }
    f.driver.synchronize(f.stream).unwrap();
    let elapsed_ns = 1e6 * f64::from(f.driver.elapsed_ms(events[0], events[1]).unwrap());
    let by_kernels_ns = (times[1] - times[0]) as f64;
    assert!((elapsed_ns - by_kernels_ns).abs() < 100.0, "{elapsed_ns}, {by_kernels_ns}");
}

#[test]
fn what_cannot_be_launched_is_refused_at_once() {
    let mut f = Fixture::new("load add.u32:2=218");
    let function = f.driver.find(f.module, "add").unwrap();
    let mut launch = |shape: Shape| f.driver.launch(f.stream, function, shape, |_, _| {});
    for shape in [
        Shape { block: [1025, 1, 1], ..ONE },
        Shape { grid: [0, 1, 1], ..ONE },
        Shape { grid: [3, 1, 1], cluster: [2, 1, 1], ..ONE },
        Shape { shared_bytes: (48 << 10) + 1, ..ONE },
    ] {
        assert_eq!(launch(shape), Err(Code::INVALID_VALUE), "{shape:?}");
    }
    let clusters =
        |blocks: u32| Shape { grid: [2 * blocks, 1, 1], cluster: [blocks, 1, 1], ..ONE };
    for blocks in [9, 16, 17] {
        assert_eq!(launch(clusters(blocks)), Err(Code::INVALID_CLUSTER_SIZE), "{blocks}");
    }
    assert_eq!(launch(clusters(8)), Ok(()));
    f.driver.set_attribute(function, 14, 1).unwrap();
    let mut launch = |shape: Shape| f.driver.launch(f.stream, function, shape, |_, _| {});
    assert_eq!(launch(clusters(17)), Err(Code::INVALID_CLUSTER_SIZE));
    assert_eq!(launch(clusters(16)), Ok(()));
    assert_eq!(f.driver.set_attribute(function, 14, 2), Err(Code::INVALID_VALUE));
    assert_eq!(f.driver.set_attribute(function, 9, 0), Ok(()));
    assert_eq!(f.driver.set_attribute(function, 9, 101), Err(Code::INVALID_VALUE));
    f.driver.set_attribute(function, 8, 200 << 10).unwrap();
    assert_eq!(f.driver.function(function).unwrap().blocks_per_sm(32, 200 << 10), 1);
    assert_eq!(f.driver.find(f.module, "none"), Err(Code::NOT_FOUND));
    assert_eq!(f.driver.load(PTX).unwrap_err().0, Code::INVALID_PTX);
    assert_eq!(f.driver.load("text").unwrap_err().0, Code::INVALID_PTX);
    assert_eq!(f.driver.allocate(1 << 31), Err(Code::OUT_OF_MEMORY));
}
