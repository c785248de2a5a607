//! Plans, executed: the same for every device that has memory and launches kernels.
//!
//! An [`Executor`] allocates what the launches of a [`Plan`] need, fills it, binds the
//! parameters of every slot and runs the launches in order. What differs between devices
//! is in their implementations of [`Gpu`].

use std::fmt;

use thiserror::Error;

use super::{LaunchError, PrepareError, Refusal};
use crate::data::Key;
use crate::format::{Role, Tensor};
use crate::kernel::{Bound, Content, EncodedTensorMap, Launch, ParamBytes, Plan, Scratch};
use crate::op::Problem;

/// The memory and the launches of a GPU, real or virtual, with one kernel loaded.
///
/// Addresses are those of the device. A range of addresses that is passed to a method
/// lies within one part that [`Gpu::allocate`] gave out; methods panic where it does not.
pub trait Gpu {
    /// Why something failed.
    type Error: fmt::Display;
    /// A function of the loaded kernel, ready to be launched.
    type Entry;
    /// What a launch reports.
    type Report;

    /// Allocates parts and returns the address of each, in order. Each begins at a
    /// multiple of 256.
    ///
    /// # Errors
    /// Memory that is short, see [`Gpu::is_out_of_memory`].
    fn allocate(&mut self, parts: &[MemoryPart]) -> Result<Vec<u64>, Self::Error>;

    /// Whether an error says that memory is short.
    fn is_out_of_memory(error: &Self::Error) -> bool;

    /// Copies bytes to an address.
    ///
    /// # Errors
    /// A copy that the device reports as failed.
    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Copies bytes from an address.
    ///
    /// # Errors
    /// A copy that the device reports as failed.
    fn download(&mut self, address: u64, to: &mut [u8]) -> Result<(), Self::Error>;

    /// Sets every byte of a range to a value.
    ///
    /// # Errors
    /// A write that the device reports as failed.
    fn set(&mut self, address: u64, bytes: u64, value: u8) -> Result<(), Self::Error>;

    /// Makes a range hold nothing that a kernel may rely on: every byte is 0xff, a NaN in
    /// all floating-point formats, and a device that can tell regards it as not written.
    ///
    /// # Errors
    /// A write that the device reports as failed.
    fn poison(&mut self, address: u64, bytes: u64) -> Result<(), Self::Error>;

    /// Fills an input tensor with what `key` draws for its format.
    ///
    /// # Errors
    /// A copy or a launch that the device reports as failed.
    fn fill(&mut self, tensor: &Tensor, address: u64, key: Key) -> Result<(), Self::Error> {
        let mut bytes = vec![0; tensor.bytes() as usize];
        key.fill(tensor.format, &mut bytes);
        self.upload(address, &bytes)
    }

    /// Makes of a tensor map what the hardware takes.
    ///
    /// # Errors
    /// A map that the hardware does not take.
    fn encode(&mut self, map: &ptxvm::TensorMap) -> Result<EncodedTensorMap, Self::Error>;

    /// Finds the function of a launch of `plan` and makes it ready for all launches of the
    /// plan that use it.
    ///
    /// # Errors
    /// A function that the loaded kernel does not have or that cannot be configured.
    fn entry(&mut self, plan: &Plan, launch: &Launch) -> Result<Self::Entry, Self::Error>;

    /// Launches a function, or queues the launch after those that are queued.
    ///
    /// # Errors
    /// Parameters of another size than the function declares, a launch that the device
    /// reports as failed.
    fn launch(
        &mut self,
        entry: &Self::Entry,
        launch: &Launch,
        params: &ParamBytes,
    ) -> Result<Self::Report, Self::Error>;
}

/// A launch whose parameters do not have the sizes that the compiled kernel declares.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "kernel {kernel}, entry {entry}: the compiled kernel declares {} of parameters, and the \
     launch passes {}{}; give the struct and the parameter in the kernel's source the same \
     fields",
    sum(.declared), sum(.passed), names(.structs)
)]
pub struct ParamMismatch {
    /// Name of the kernel's source.
    pub kernel: String,
    /// The function in it.
    pub entry: String,
    /// Bytes of each parameter that the compiled function declares.
    pub declared: Vec<usize>,
    /// Bytes of each parameter that the launch passes.
    pub passed: Vec<usize>,
    /// The structs whose bytes are passed.
    pub structs: Vec<&'static str>,
}

impl ParamMismatch {
    /// Compares the parameters of a launch with those that the function `entry` of a
    /// compiled kernel declares.
    ///
    /// # Errors
    /// Another number of parameters, or one of another size.
    pub fn check(
        kernel: &str,
        entry: &str,
        declared: &[usize],
        passed: &[ParamBytes],
    ) -> Result<(), Self> {
        let sizes = || passed.iter().map(|params| params.bytes.len());
        if sizes().eq(declared.iter().copied()) {
            return Ok(());
        }
        Err(ParamMismatch {
            kernel: kernel.to_owned(),
            entry: entry.to_owned(),
            declared: declared.to_vec(),
            passed: sizes().collect(),
            structs: passed.iter().map(|params| params.struct_name).collect(),
        })
    }
}

/// `72 bytes`, or for several parameters `8 + 8 + 128 bytes`.
fn sum(bytes: &[usize]) -> String {
    match bytes {
        [] => "no bytes".to_owned(),
        bytes => {
            let bytes: Vec<String> = bytes.iter().map(usize::to_string).collect();
            format!("{} bytes", bytes.join(" + "))
        }
    }
}

/// ` (HoldParams)`, or nothing without parameters.
fn names(structs: &[&str]) -> String {
    if structs.is_empty() { String::new() } else { format!(" ({})", structs.join(", ")) }
}

/// A range of device memory to allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPart {
    /// Name in messages.
    pub name: &'static str,
    /// Size in bytes.
    pub bytes: u64,
}

/// A tensor in device memory.
#[derive(Clone, Copy, Debug)]
pub struct PlacedTensor {
    /// Which.
    pub tensor: Tensor,
    /// Where it begins.
    pub address: u64,
}

/// A problem in the memory of a GPU, ready to launch.
pub struct Executor<G: Gpu> {
    gpu: G,
    plan: Plan,
    /// By launch.
    entries: Vec<G::Entry>,
    slots: Vec<BoundSlot>,
    /// Position of the output among the tensors.
    output: usize,
}

/// An instance of the problem.
struct BoundSlot {
    tensors: Vec<PlacedTensor>,
    /// By launch.
    params: Vec<ParamBytes>,
}

impl<G: Gpu> Executor<G> {
    /// Allocates `slots` instances of a problem, fills their inputs and poisons their
    /// outputs, makes the scratch buffers and binds the parameters of every launch.
    /// Launches nothing of the plan.
    ///
    /// # Errors
    /// A refusal without slots or where memory is short; a failure that the device reports.
    pub fn new(
        mut gpu: G,
        problem: &Problem,
        plan: Plan,
        slots: usize,
        seed: u64,
    ) -> Result<Self, PrepareError> {
        if slots == 0 {
            return Err(Refusal(format!("{problem} needs at least one slot, not 0")).into());
        }
        let tensors = problem.tensors();
        let output = output(problem, &tensors)?;
        let failed = |error| PrepareError::from(failure(problem, error));
        let scratch = plan.scratch.iter().map(|s| make_scratch(&mut gpu, problem, s));
        let scratch = scratch.collect::<Result<Vec<u64>, _>>()?;
        let placed = place(&mut gpu, problem, &tensors, slots)?;
        let mut bound = Vec::with_capacity(slots);
        for (slot, tensors) in placed.into_iter().enumerate() {
            fill(&mut gpu, &tensors, slot, seed).map_err(failed)?;
            let addresses = tensors.iter().map(|t| (t.tensor.name, t.address));
            let names = Bound::new(seed, slot, addresses);
            let params = plan.params(names, &scratch, |map| gpu.encode(map));
            bound.push(BoundSlot { params: params.map_err(failed)?, tensors });
        }
        let entries = plan.launches.iter().map(|launch| gpu.entry(&plan, launch));
        let entries = entries.collect::<Result<_, _>>().map_err(failed)?;
        Ok(Executor { gpu, plan, entries, slots: bound, output })
    }

    /// What launches are made on.
    pub fn gpu(&mut self) -> &mut G {
        &mut self.gpu
    }

    /// What is executed.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The functions of the plan's launches, in order.
    pub fn entries(&self) -> &[G::Entry] {
        &self.entries
    }

    /// How many instances of the problem there are.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The tensors of a slot, in the order of [`Problem::tensors`].
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn tensors(&self, slot: usize) -> &[PlacedTensor] {
        &self.slots[slot].tensors
    }

    /// Where a tensor of a slot lies.
    ///
    /// # Panics
    /// If the problem has no tensor of this name: the operation and its reference disagree.
    pub fn address(&self, slot: usize, name: &str) -> u64 {
        let found = self.tensors(slot).iter().find(|placed| placed.tensor.name == name);
        match found {
            Some(placed) => placed.address,
            None => panic!("the problem has no tensor `{name}`"),
        }
    }

    /// The output of a slot: the tensor that is not an input.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn output_tensor(&self, slot: usize) -> PlacedTensor {
        self.slots[slot].tensors[self.output]
    }

    /// Makes or queues the launches of a slot, in order, and returns what each reports.
    ///
    /// # Errors
    /// The first launch that fails; those after it are left out.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn run(&mut self, slot: usize) -> Result<Vec<G::Report>, G::Error> {
        let Executor { gpu, plan, entries, slots, .. } = self;
        let launches = plan.launches.iter().zip(entries).zip(&slots[slot].params);
        launches
            .map(|((launch, entry), params)| gpu.launch(entry, launch, params))
            .collect()
    }

    /// Poisons the outputs of all slots, see [`Gpu::poison`].
    ///
    /// # Errors
    /// A write that the device reports as failed.
    pub fn poison(&mut self) -> Result<(), G::Error> {
        let Executor { gpu, slots, output, .. } = self;
        slots
            .iter()
            .map(|slot| slot.tensors[*output])
            .try_for_each(|placed| gpu.poison(placed.address, placed.tensor.bytes()))
    }

    /// The bytes of a slot's output.
    ///
    /// # Errors
    /// A slot that does not exist, a copy that the device reports as failed.
    pub fn output(&mut self, slot: usize) -> Result<Vec<u8>, LaunchError> {
        let count = self.slots.len();
        if slot >= count {
            return Err(LaunchError(format!(
                "there is no slot {slot}, only {count} slots"
            )));
        }
        let placed = self.output_tensor(slot);
        let mut bytes = vec![0; placed.tensor.bytes() as usize];
        let copied = self.gpu.download(placed.address, &mut bytes);
        copied.map_err(|error| LaunchError(error.to_string()))?;
        Ok(bytes)
    }
}

fn failure(problem: &Problem, error: impl fmt::Display) -> LaunchError {
    LaunchError(format!("{problem}: {error}"))
}

/// The position of the one tensor that is not an input.
fn output(problem: &Problem, tensors: &[Tensor]) -> Result<usize, LaunchError> {
    let outputs = tensors.iter().enumerate().filter(|(_, t)| t.role != Role::Input);
    match outputs.map(|(position, _)| position).collect::<Vec<_>>()[..] {
        [position] => Ok(position),
        ref outputs => Err(LaunchError(format!(
            "{problem} has {} tensors that are not inputs, and a device returns one; this is a \
             bug, please report it",
            outputs.len()
        ))),
    }
}

fn allocate<G: Gpu>(
    gpu: &mut G,
    problem: &Problem,
    parts: &[MemoryPart],
) -> Result<Vec<u64>, PrepareError> {
    gpu.allocate(parts).map_err(|error| match G::is_out_of_memory(&error) {
        true => Refusal(format!(
            "{problem} needs {} bytes of GPU memory, more than is free; make it smaller",
            parts.iter().map(|part| part.bytes).sum::<u64>()
        ))
        .into(),
        false => failure(problem, error).into(),
    })
}

fn make_scratch<G: Gpu>(
    gpu: &mut G,
    problem: &Problem,
    scratch: &Scratch,
) -> Result<u64, PrepareError> {
    let part = MemoryPart { name: scratch.name, bytes: scratch.bytes() };
    let address = allocate(gpu, problem, &[part])?[0];
    let made = match &scratch.content {
        Content::Zeros(bytes) => gpu.set(address, *bytes, 0),
        Content::Unset(bytes) => gpu.poison(address, *bytes),
        Content::Bytes(bytes) => gpu.upload(address, bytes),
    };
    made.map_err(|error| failure(problem, error))?;
    Ok(address)
}

/// Places the tensors of all slots in memory, by slot.
fn place<G: Gpu>(
    gpu: &mut G,
    problem: &Problem,
    tensors: &[Tensor],
    slots: usize,
) -> Result<Vec<Vec<PlacedTensor>>, PrepareError> {
    let of_slot = tensors.iter().map(|t| MemoryPart { name: t.name, bytes: t.bytes() });
    let of_slot: Vec<MemoryPart> = of_slot.collect();
    let addresses = allocate(gpu, problem, &of_slot.repeat(slots))?;
    let place = |addresses: &[u64]| {
        let placed = tensors.iter().zip(addresses);
        placed.map(|(&tensor, &address)| PlacedTensor { tensor, address }).collect()
    };
    Ok(addresses.chunks(tensors.len()).map(place).collect())
}

/// Fills the inputs of a slot and poisons its output.
fn fill<G: Gpu>(
    gpu: &mut G,
    tensors: &[PlacedTensor],
    slot: usize,
    seed: u64,
) -> Result<(), G::Error> {
    for (position, PlacedTensor { tensor, address }) in tensors.iter().enumerate() {
        match tensor.role {
            Role::Input => gpu.fill(tensor, *address, Key::new(seed, slot, position))?,
            Role::Output | Role::Update | Role::Witness => {
                gpu.poison(*address, tensor.bytes())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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

        fn allocate(&mut self, parts: &[MemoryPart]) -> Result<Vec<u64>, &'static str> {
            let mut addresses = Vec::new();
            for part in parts {
                if part.bytes > self.memory_bytes {
                    return Err(MEMORY_IS_SHORT);
                }
                self.memory_bytes -= part.bytes;
                self.next += 0x1000;
                self.names.insert(self.next, part.name);
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

        fn encode(
            &mut self,
            map: &ptxvm::TensorMap,
        ) -> Result<EncodedTensorMap, &'static str> {
            let mut encoded = EncodedTensorMap::UNUSED;
            encoded.0[..8].copy_from_slice(&map.address.to_le_bytes());
            Ok(encoded)
        }

        fn entry(&mut self, _: &Plan, launch: &Launch) -> Result<(), &'static str> {
            if launch.entry == "missing" {
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
            let [source, target] = executor.tensors(slot)[..] else {
                panic!("two tensors")
            };
            assert_eq!(
                (source.tensor.role, target.tensor.role),
                (Role::Input, Role::Output)
            );
            assert_eq!(executor.output_tensor(slot).address, target.address);
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

    #[test]
    fn outputs_are_poisoned_and_copied() {
        let mut executor = executor(&["a"]);
        let address = executor.output_tensor(1).address;
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
        assert_eq!(output(&problem(), &tensors), Ok(0));
        let error = output(&problem(), &tensors[1..]).unwrap_err().to_string();
        assert!(error.contains("has 0 tensors that are not inputs"), "{error}");
        let error = output(&problem(), &[tensors[0]; 2]).unwrap_err().to_string();
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
}
