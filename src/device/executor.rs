//! Plans, executed: the same for every device that has memory and launches kernels.
//!
//! An [`Executor`] allocates what the copies and launches of a [`Plan`] need, fills it, binds
//! the parameters of every slot and runs the copies, then the launches in order. What differs between devices
//! is in their implementations of [`Gpu`].

use std::collections::BTreeSet;
use std::fmt;

use thiserror::Error;

use super::{LaunchError, PrepareError, Refusal};
use crate::data::Key;
use crate::format::{HostMemory, MemoryPlace, Role, Tensor};
use crate::kernel::{
    Bound, Content, EncodedTensorMap, Launch, ParamBytes, Plan, PlannedLaunch, Scratch,
    TensorCopy,
};
use crate::op::Problem;
use crate::resource::LinkDirection;

/// The memory and the launches of a GPU, real or virtual, with what one plan launches loaded.
///
/// Addresses are those of the device, or of the host where a part was allocated there; no
/// address is both. A range of addresses that is passed to a method lies within one part
/// that [`Gpu::allocate`] gave out; methods panic where it does not. Methods take ranges in
/// either memory, except where they say otherwise.
pub trait Gpu {
    /// Why something failed.
    type Error: fmt::Display;
    /// A function of the loaded kernel, ready to be launched.
    type Entry;
    /// What a launch reports.
    type Report;

    /// Allocates parts in one memory and returns the address of each, in order. Each begins
    /// at a multiple of 256.
    ///
    /// # Errors
    /// Memory that is short, see [`Gpu::is_out_of_memory`].
    fn allocate(
        &mut self,
        place: MemoryPlace,
        parts: &[MemoryPart],
    ) -> Result<Vec<u64>, Self::Error>;

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

    /// Fills tensors, in any order.
    ///
    /// # Errors
    /// As [`Gpu::fill`] and [`Gpu::poison`].
    fn fill_all(&mut self, fillings: &[Filling]) -> Result<(), Self::Error> {
        fillings.iter().try_for_each(|filling| {
            let PlacedTensor { tensor, address } = filling.placed;
            match filling.key {
                Some(key) => self.fill(&tensor, address, key),
                None => self.poison(address, tensor.bytes()),
            }
        })
    }

    /// Learns that no launch writes to a part that [`Gpu::allocate`] gave out, so that launches
    /// which overlap the one before them may read it at once.
    fn settle(&mut self, address: u64) {
        let _ = address;
    }

    /// Makes copies between the memory of the host and that of the device, or queues them
    /// after what is queued: those of both directions at the same time. What is queued
    /// later begins when all are done. Where [`PlacedCopy::waits_for_host`], the device may
    /// make the host wait until everything that is queued before is done.
    ///
    /// # Errors
    /// A copy that the device reports as failed.
    fn copy(&mut self, copies: &[PlacedCopy]) -> Result<(), Self::Error>;

    /// Makes of a tensor map what the hardware takes.
    ///
    /// # Errors
    /// A map that the hardware does not take.
    fn encode(&mut self, map: &ptxvm::TensorMap) -> Result<EncodedTensorMap, Self::Error>;

    /// Finds the function of a launch and makes it ready for all launches of its plan that use
    /// it.
    ///
    /// # Errors
    /// A function that the loaded kernel does not have or that cannot be configured.
    fn entry(&mut self, launch: PlannedLaunch<'_>) -> Result<Self::Entry, Self::Error>;

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

/// A range of memory to allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPart {
    /// Name in messages.
    pub name: &'static str,
    /// Size in bytes.
    pub bytes: u64,
}

/// A tensor in the memory that it belongs in.
#[derive(Clone, Copy, Debug)]
pub struct PlacedTensor {
    /// Which.
    pub tensor: Tensor,
    /// Where it begins.
    pub address: u64,
}

/// What a tensor is to hold before a launch.
#[derive(Clone, Copy, Debug)]
pub struct Filling {
    /// Which, and where.
    pub placed: PlacedTensor,
    /// What its values are drawn from; `None` for nothing that a kernel may rely on, see
    /// [`Gpu::poison`].
    pub key: Option<Key>,
}

/// A copy of a plan, with addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedCopy {
    /// Which way it goes, seen from the device.
    pub direction: LinkDirection,
    /// How the host's side is allocated.
    pub memory: HostMemory,
    /// Where the host's side begins.
    pub host: u64,
    /// Where the device's side begins.
    pub device: u64,
    /// Size in bytes.
    pub bytes: u64,
}

impl PlacedCopy {
    /// Whether the host takes part in it, so that it cannot be queued for later.
    pub const fn waits_for_host(&self) -> bool {
        matches!(self.memory, HostMemory::Pageable)
    }
}

/// A problem in the memory of a GPU, ready to launch.
pub struct Executor<G: Gpu> {
    gpu: G,
    plan: Plan,
    /// By launch.
    entries: Vec<G::Entry>,
    slots: Vec<BoundSlot>,
    /// Positions of the outputs among the tensors.
    outputs: Vec<usize>,
}

/// An instance of the problem.
struct BoundSlot {
    tensors: Vec<PlacedTensor>,
    copies: Vec<PlacedCopy>,
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
        let outputs = outputs(problem, &tensors)?;
        let failed = |error| PrepareError::from(failure(problem, error));
        let scratch = plan.all_scratch().map(|s| make_scratch(&mut gpu, problem, s));
        let scratch = scratch.collect::<Result<Vec<u64>, _>>()?;
        let placed = place(&mut gpu, problem, &tensors, slots)?;
        gpu.fill_all(&fillings(&placed, seed)).map_err(failed)?;
        let settled = placed.iter().flatten().filter(|placed| placed.tensor.settled);
        settled.for_each(|placed| gpu.settle(placed.address));
        let mut bound = Vec::with_capacity(slots);
        for (slot, tensors) in placed.into_iter().enumerate() {
            let addresses = tensors.iter().map(|t| (t.tensor.name, t.address));
            let names = Bound::new(seed, slot, addresses);
            let params = plan.params(names, &scratch, |map| gpu.encode(map));
            let copies = plan.copies.iter().map(|copy| place_copy(problem, copy, &tensors));
            let copies = copies.collect::<Result<_, _>>()?;
            bound.push(BoundSlot { params: params.map_err(failed)?, copies, tensors });
        }
        let entries = plan.all_launches().map(|launch| gpu.entry(launch));
        let entries = entries.collect::<Result<_, _>>().map_err(failed)?;
        Ok(Executor { gpu, plan, entries, slots: bound, outputs })
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

    /// The outputs of a slot: the tensors that are not inputs, in order.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn output_tensors(&self, slot: usize) -> impl Iterator<Item = PlacedTensor> {
        let tensors = &self.slots[slot].tensors;
        self.outputs.iter().map(move |&position| tensors[position])
    }

    /// Entries that one run adds to the queue of a device, at most: each launch is one, and
    /// each copy has a mark before it and one after it.
    pub fn entries_per_run(&self) -> usize {
        self.entries.len() + 3 * self.plan.copies.len()
    }

    /// Whether the host takes part in a run, so that runs cannot be queued for later, see
    /// [`Gpu::copy`].
    pub fn waits_for_host(&self) -> bool {
        self.slots.iter().any(|slot| slot.copies.iter().any(PlacedCopy::waits_for_host))
    }

    /// Makes or queues the copies of a slot, then its launches in order, and returns what
    /// each launch reports.
    ///
    /// # Errors
    /// The first copy or launch that fails; those after it are left out.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn run(&mut self, slot: usize) -> Result<Vec<G::Report>, G::Error> {
        let Executor { gpu, plan, entries, slots, .. } = self;
        if !slots[slot].copies.is_empty() {
            gpu.copy(&slots[slot].copies)?;
        }
        let launches = plan.all_launches().zip(entries).zip(&slots[slot].params);
        launches
            .map(|((planned, entry), params)| gpu.launch(entry, planned.launch, params))
            .collect()
    }

    /// Poisons the outputs of all slots, see [`Gpu::poison`].
    ///
    /// # Errors
    /// A write that the device reports as failed.
    pub fn poison(&mut self) -> Result<(), G::Error> {
        let Executor { gpu, slots, outputs, .. } = self;
        let outputs: &[usize] = outputs;
        let poisoned = |placed| Filling { placed, key: None };
        let of_slot = |slot: &BoundSlot| -> Vec<Filling> {
            outputs.iter().map(|&position| poisoned(slot.tensors[position])).collect()
        };
        gpu.fill_all(&slots.iter().flat_map(of_slot).collect::<Vec<_>>())
    }

    /// The bytes of a slot's output, or of its outputs one after the other.
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
        let outputs: Vec<PlacedTensor> = self.output_tensors(slot).collect();
        let total: u64 = outputs.iter().map(|placed| placed.tensor.bytes()).sum();
        let mut bytes = vec![0; total as usize];
        let mut rest = &mut bytes[..];
        for PlacedTensor { tensor, address } in outputs {
            let (of_tensor, after) = rest.split_at_mut(tensor.bytes() as usize);
            let copied = self.gpu.download(address, of_tensor);
            copied.map_err(|error| LaunchError(error.to_string()))?;
            rest = after;
        }
        Ok(bytes)
    }
}

fn failure(problem: &Problem, error: impl fmt::Display) -> LaunchError {
    LaunchError(format!("{problem}: {error}"))
}

/// The positions of the tensors that are not inputs: one, or several that can be returned
/// as one array, of which the last is an update if any is.
fn outputs(problem: &Problem, tensors: &[Tensor]) -> Result<Vec<usize>, LaunchError> {
    let outputs: Vec<usize> =
        (0..tensors.len()).filter(|&at| tensors[at].role != Role::Input).collect();
    let kind = |at: usize| (tensors[at].role == Role::Witness, tensors[at].format);
    let is_update = |at: usize| tensors[at].role == Role::Update;
    match outputs[..] {
        [ref rest @ .., last]
            if rest.iter().all(|&at| kind(at) == kind(last))
                && (is_update(last) || !rest.iter().any(|&at| is_update(at))) =>
        {
            Ok(outputs)
        }
        _ => Err(LaunchError(format!(
            "{problem} has {} tensors that are not inputs, and a device returns one, or several \
             of one format; this is a bug, please report it",
            outputs.len()
        ))),
    }
}

/// The addresses of a copy between two tensors of a slot.
fn place_copy(
    problem: &Problem,
    copy: &TensorCopy,
    tensors: &[PlacedTensor],
) -> Result<PlacedCopy, LaunchError> {
    let bug = |why: &str| {
        let TensorCopy { from, to } = copy;
        LaunchError(format!(
            "the copy of `{from}` to `{to}` of {problem} {why}; this is a bug in the kernel's \
             host half, please report it"
        ))
    };
    let find = |name| tensors.iter().find(|placed| placed.tensor.name == name);
    let (Some(from), Some(to)) = (find(copy.from), find(copy.to)) else {
        return Err(bug("names a tensor that there is not"));
    };
    if from.tensor.bytes() != to.tensor.bytes() {
        return Err(bug("is between different sizes"));
    }
    let (direction, memory, host, device) = match (from.tensor.place, to.tensor.place) {
        (MemoryPlace::Host(memory), MemoryPlace::Device) => {
            (LinkDirection::In, memory, from, to)
        }
        (MemoryPlace::Device, MemoryPlace::Host(memory)) => {
            (LinkDirection::Out, memory, to, from)
        }
        _ => return Err(bug("is not between the host and the device")),
    };
    let (host, device) = (host.address, device.address);
    Ok(PlacedCopy { direction, memory, host, device, bytes: from.tensor.bytes() })
}

fn allocate<G: Gpu>(
    gpu: &mut G,
    problem: &Problem,
    place: MemoryPlace,
    parts: &[MemoryPart],
) -> Result<Vec<u64>, PrepareError> {
    gpu.allocate(place, parts).map_err(|error| match G::is_out_of_memory(&error) {
        true => Refusal(format!(
            "{problem} needs {} bytes of {}, more than is free; make it smaller",
            parts.iter().map(|part| part.bytes).sum::<u64>(),
            place.name()
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
    let address = allocate(gpu, problem, MemoryPlace::Device, &[part])?[0];
    let made = match &scratch.content {
        Content::Zeros(bytes) => gpu.set(address, *bytes, 0),
        Content::Unset(bytes) => gpu.poison(address, *bytes),
        Content::Bytes(bytes) => gpu.upload(address, bytes),
    };
    made.map_err(|error| failure(problem, error))?;
    if matches!(scratch.content, Content::Bytes(_)) {
        gpu.settle(address);
    }
    Ok(address)
}

/// Places the tensors of all slots in memory, by slot.
fn place<G: Gpu>(
    gpu: &mut G,
    problem: &Problem,
    tensors: &[Tensor],
    slots: usize,
) -> Result<Vec<Vec<PlacedTensor>>, PrepareError> {
    let all = &tensors.repeat(slots)[..];
    let mut addresses = vec![0; all.len()];
    let places: BTreeSet<MemoryPlace> = tensors.iter().map(|tensor| tensor.place).collect();
    for place in places {
        let here = || (0..all.len()).filter(move |&at| all[at].place == place);
        let part = |at: usize| MemoryPart { name: all[at].name, bytes: all[at].bytes() };
        let parts: Vec<MemoryPart> = here().map(part).collect();
        for (at, address) in here().zip(allocate(gpu, problem, place, &parts)?) {
            addresses[at] = address;
        }
    }
    let place = |addresses: &[u64]| {
        let placed = tensors.iter().zip(addresses);
        placed.map(|(&tensor, &address)| PlacedTensor { tensor, address }).collect()
    };
    Ok(addresses.chunks(tensors.len()).map(place).collect())
}

/// What the tensors of all slots are to hold: inputs what is drawn for them, others nothing.
fn fillings(slots: &[Vec<PlacedTensor>], seed: u64) -> Vec<Filling> {
    let of_slot = |(slot, tensors): (usize, &Vec<PlacedTensor>)| -> Vec<Filling> {
        let of_tensor = |(position, placed): (usize, &PlacedTensor)| {
            let is_input = placed.tensor.role == Role::Input;
            let key = is_input.then(|| Key::new(seed, slot, position));
            Filling { placed: *placed, key }
        };
        tensors.iter().enumerate().map(of_tensor).collect()
    };
    slots.iter().enumerate().flat_map(of_slot).collect()
}

#[cfg(test)]
mod tests;
