use std::collections::HashMap;

use super::*;
use crate::kernel::Params;

/// A device that writes down what it is asked for.
#[derive(Default)]
struct Recorder {
    next: u64,
    names: HashMap<u64, &'static str>,
    bytes: HashMap<u64, Vec<u8>>,
    launched: Vec<(&'static str, Vec<u8>)>,
    /// Launches that were made before each copy.
    copied: Vec<(usize, PlacedCopy)>,
    places: HashMap<u64, MemoryPlace>,
    /// Bytes that may be allocated.
    memory_bytes: u64,
    /// A function whose launches fail.
    broken: Option<&'static str>,
}

const MEMORY_IS_SHORT: &str = "memory is short";

impl Gpu for Recorder {
    type Error = &'static str;
    type Entry = ();
    type Report = usize;

    fn allocate(
        &mut self,
        place: MemoryPlace,
        parts: &[MemoryPart],
    ) -> Result<Vec<u64>, &'static str> {
        let mut addresses = Vec::new();
        for part in parts {
            if part.bytes > self.memory_bytes {
                return Err(MEMORY_IS_SHORT);
            }
            self.memory_bytes -= part.bytes;
            self.next += 0x1000;
            self.names.insert(self.next, part.name);
            self.places.insert(self.next, place);
            self.bytes.insert(self.next, vec![1; part.bytes as usize]);
            addresses.push(self.next);
        }
        Ok(addresses)
    }

    fn is_out_of_memory(error: &&'static str) -> bool {
        *error == MEMORY_IS_SHORT
    }

    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<(), &'static str> {
        self.bytes.get_mut(&address).unwrap().copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, address: u64, to: &mut [u8]) -> Result<(), &'static str> {
        to.copy_from_slice(&self.bytes[&address]);
        Ok(())
    }

    fn set(&mut self, address: u64, bytes: u64, value: u8) -> Result<(), &'static str> {
        self.upload(address, &vec![value; bytes as usize])
    }

    fn poison(&mut self, address: u64, bytes: u64) -> Result<(), &'static str> {
        self.set(address, bytes, 0xff)
    }

    fn copy(&mut self, copies: &[PlacedCopy]) -> Result<(), &'static str> {
        for copy in copies {
            self.copied.push((self.launched.len(), *copy));
        }
        if self.broken == Some("copy") { Err("the copy failed") } else { Ok(()) }
    }

    fn encode(&mut self, map: &ptxvm::TensorMap) -> Result<EncodedTensorMap, &'static str> {
        let mut encoded = EncodedTensorMap::UNUSED;
        encoded.0[..8].copy_from_slice(&map.address.to_le_bytes());
        Ok(encoded)
    }

    fn entry(&mut self, planned: PlannedLaunch<'_>) -> Result<(), &'static str> {
        if planned.launch.entry == "missing" {
            Err("there is no such function")
        } else {
            Ok(())
        }
    }

    fn launch(
        &mut self,
        (): &(),
        launch: &Launch,
        params: &ParamBytes,
    ) -> Result<usize, &'static str> {
        self.launched.push((launch.entry, params.bytes.clone()));
        if self.broken == Some(launch.entry) {
            return Err("the launch failed");
        }
        Ok(self.launched.len())
    }
}

fn recorder() -> Recorder {
    Recorder { memory_bytes: 1 << 20, ..Recorder::default() }
}

fn problem() -> Problem {
    "stream:access=copy,bytes=256".parse().unwrap()
}

/// Addresses of both tensors and of the scratch buffer, seed and slot.
fn launch(entry: &'static str) -> Launch {
    let params = Params::of(|bound| {
        let [source, target] = ["source", "target"].map(|name| bound.tensor(name));
        [source, target, bound.scratch("tickets"), bound.seed, bound.slot as u64]
    });
    Launch::new(entry, 1, 32, params)
}

fn plan(entries: &[&'static str]) -> Plan {
    Plan {
        launches: entries.iter().map(|entry| launch(entry)).collect(),
        scratch: vec![
            Scratch::zeros("tickets", 8),
            Scratch::unset("partials", 4),
            Scratch::of("list", &[7u16]),
        ],
        ..Plan::of(launch(entries[0]))
    }
}

fn executor(entries: &[&'static str]) -> Executor<Recorder> {
    Executor::new(recorder(), &problem(), plan(entries), 2, 5).unwrap()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytemuck::pod_collect_to_vec(bytes)
}

#[test]
fn tensors_and_scratch_buffers_hold_what_launches_rely_on() {
    let mut executor = executor(&["a"]);
    for slot in 0..2 {
        let [source, target] = executor.tensors(slot)[..] else { panic!("two tensors") };
        assert_eq!((source.tensor.role, target.tensor.role), (Role::Input, Role::Output));
        let outputs: Vec<u64> =
            executor.output_tensors(slot).map(|placed| placed.address).collect();
        assert_eq!(outputs, [target.address]);
        let mut drawn = vec![0; 128];
        Key::new(5, slot, 0).fill(source.tensor.format, &mut drawn);
        let gpu = executor.gpu();
        assert_eq!(gpu.bytes[&source.address], drawn);
        assert_eq!(gpu.bytes[&target.address], [0xff; 128]);
        assert_eq!(gpu.names[&target.address], "target");
    }
    let gpu = executor.gpu();
    let of = |name| {
        let found = gpu.names.iter().find(|(_, other)| **other == name);
        &gpu.bytes[found.unwrap().0]
    };
    assert_eq!(of("tickets"), &[0; 8]);
    assert_eq!(of("partials"), &[0xff; 4]);
    assert_eq!(of("list"), &[7, 0]);
    assert!(gpu.launched.is_empty());
}

#[test]
fn launches_run_in_order_with_the_parameters_of_their_slot() {
    let mut executor = executor(&["a", "b"]);
    assert_eq!(executor.run(1), Ok(vec![1, 2]));
    let [source, target] = executor.tensors(1) else { panic!("two tensors") };
    let mut expected = vec![source.address, target.address, 0x1000, 5, 1];
    let gpu = executor.gpu();
    assert_eq!(gpu.names[&0x1000], "tickets");
    for ((entry, params), name) in gpu.launched.iter().zip(["a", "b"]) {
        assert_eq!((*entry, words(params)), (name, expected.clone()));
    }
    expected[4] = 0;
    assert_eq!(executor.run(0), Ok(vec![3, 4]));
    assert_ne!(words(&executor.gpu().launched[2].1)[..2], expected[..2]);
    assert_eq!(words(&executor.gpu().launched[2].1)[2..], expected[2..]);
}

#[test]
fn a_launch_that_fails_is_the_last() {
    let mut executor = executor(&["a", "b", "c"]);
    executor.gpu().broken = Some("b");
    assert_eq!(executor.run(0), Err("the launch failed"));
    assert_eq!(executor.gpu().launched.len(), 2);
}

const BOTH: &str = "transfer:direction=both,memory=pageable,bytes=512";

fn transfer(copies: Vec<TensorCopy>) -> Result<Executor<Recorder>, PrepareError> {
    let plan = Plan { launches: vec![launch_of_nothing()], ..Plan::of_copies(copies) };
    Executor::new(recorder(), &BOTH.parse().unwrap(), plan, 2, 5)
}

fn launch_of_nothing() -> Launch {
    Launch::new("after", 1, 32, Params::of(|_| 0u64))
}

const TO_DEVICE: TensorCopy = TensorCopy { from: "host_source", to: "device_target" };
const TO_HOST: TensorCopy = TensorCopy { from: "device_source", to: "host_target" };

#[test]
fn copies_of_a_slot_are_made_before_its_launches() {
    let mut executor = transfer(vec![TO_DEVICE, TO_HOST]).unwrap();
    assert!(executor.waits_for_host());
    assert_eq!(executor.entries_per_run(), 1 + 2 * 3);
    assert_eq!(executor.run(1), Ok(vec![1]));
    let at = |name| executor.address(1, name);
    let [from, to, out_from, out_to] =
        ["host_source", "device_target", "device_source", "host_target"].map(at);
    let copy = |direction, host, device| {
        (
            0,
            PlacedCopy {
                direction,
                memory: HostMemory::Pageable,
                host,
                device,
                bytes: 256,
            },
        )
    };
    let gpu = executor.gpu();
    let expected =
        [copy(LinkDirection::In, from, to), copy(LinkDirection::Out, out_to, out_from)];
    assert_eq!(gpu.copied, expected);
    let host = MemoryPlace::Host(HostMemory::Pageable);
    let places = [from, to, out_from, out_to].map(|address| gpu.places[&address]);
    assert_eq!(places, [host, MemoryPlace::Device, MemoryPlace::Device, host]);
    gpu.broken = Some("copy");
    assert_eq!(executor.run(0), Err("the copy failed"));
    assert_eq!(executor.gpu().launched.len(), 1);
}

#[test]
fn outputs_in_several_places_are_returned_one_after_the_other() {
    let mut executor = transfer(vec![TO_DEVICE, TO_HOST]).unwrap();
    let [device, host] =
        ["device_target", "host_target"].map(|name| executor.address(0, name));
    executor.gpu().set(device, 256, 1).unwrap();
    executor.gpu().set(host, 256, 2).unwrap();
    assert_eq!(executor.output(0), Ok([[1; 256], [2; 256]].concat()));
    executor.poison().unwrap();
    assert_eq!(executor.output(0), Ok(vec![0xff; 512]));
}

#[test]
fn copies_that_cannot_be_are_bugs_of_the_host_half() {
    for (from, to, why) in [
        ("host_source", "device_targets", "names a tensor that there is not"),
        ("host_source", "host_target", "is not between the host and the device"),
    ] {
        let error = transfer(vec![TensorCopy { from, to }]).err().unwrap().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn outputs_are_poisoned_and_copied() {
    let mut executor = executor(&["a"]);
    let address = executor.output_tensors(1).next().unwrap().address;
    executor.gpu().set(address, 128, 3).unwrap();
    assert_eq!(executor.output(1), Ok(vec![3; 128]));
    executor.poison().unwrap();
    assert_eq!(executor.output(1), Ok(vec![0xff; 128]));
    let error = executor.output(2).unwrap_err().to_string();
    assert_eq!(error, "there is no slot 2, only 2 slots");
}

#[test]
fn what_cannot_be_laid_out_says_why() {
    let new = |memory_bytes, entry, slots| {
        let gpu = Recorder { memory_bytes, ..Recorder::default() };
        let executor = Executor::new(gpu, &problem(), plan(&[entry]), slots, 1);
        executor.err().expect("an error")
    };
    let refused = |error: &PrepareError| matches!(error, PrepareError::Refused(_));
    let error = new(1 << 20, "a", 0);
    assert!(refused(&error) && error.to_string().contains("at least one slot, not 0"));
    let error = new(300, "a", 2);
    assert!(refused(&error), "{error}");
    let text = "needs 512 bytes of GPU memory, more than is free; make it smaller";
    assert!(error.to_string().ends_with(text), "{error}");
    let error = new(1 << 20, "missing", 1);
    assert!(!refused(&error), "{error}");
    assert!(error.to_string().ends_with(": there is no such function"), "{error}");
}

#[test]
fn the_output_is_the_tensor_that_is_not_an_input() {
    let mut tensors = problem().tensors();
    tensors.swap(0, 1);
    assert_eq!(outputs(&problem(), &tensors), Ok(vec![0]));
    assert_eq!(outputs(&problem(), &[tensors[0]; 2]), Ok(vec![0, 1]));
    let update = Tensor { role: Role::Update, ..tensors[0] };
    assert_eq!(outputs(&problem(), &[tensors[0], update]), Ok(vec![0, 1]));
    assert!(outputs(&problem(), &[update, tensors[0]]).is_err());
    let error = outputs(&problem(), &tensors[1..]).unwrap_err().to_string();
    assert!(error.contains("has 0 tensors that are not inputs"), "{error}");
    let witness = Tensor { role: Role::Witness, ..tensors[0] };
    let error = outputs(&problem(), &[tensors[0], witness]).unwrap_err().to_string();
    assert!(error.contains("has 2 tensors that are not inputs"), "{error}");
}

#[test]
fn parameters_have_the_sizes_that_are_declared() {
    let passed = [ParamBytes::of(&1u64), ParamBytes::of(&[1u32; 3])];
    let check = |declared: &[usize]| ParamMismatch::check("k", "e", declared, &passed);
    assert_eq!(check(&[8, 12]), Ok(()));
    for declared in [&[][..], &[8], &[20], &[12, 8], &[8, 16], &[8, 12, 4]] {
        let error = check(declared).unwrap_err();
        assert_eq!(error.passed, [8, 12]);
        assert_eq!(error.declared, declared);
    }
    assert_eq!(
        check(&[16]).unwrap_err().to_string(),
        "kernel k, entry e: the compiled kernel declares 16 bytes of parameters, and the \
         launch passes 8 + 12 bytes (u64, [u32; 3]); give the struct and the parameter in \
         the kernel's source the same fields"
    );
    let none = ParamMismatch::check("k", "e", &[8], &[]).unwrap_err().to_string();
    assert!(none.contains("the launch passes no bytes; give"), "{none}");
}
