//! Carries a specification out.

use std::collections::BTreeMap;

use ptxvm::{
    FindingKind, Launch, Memory, Module, Options, OutOfBoundsFill, Swizzle, TensorElement,
    TensorMap,
};

use crate::format::{Format, Number};
use crate::outcome::Outcome;
use crate::spec::{Map, Param, Spec};
use crate::{Failure, Result, buffer, usage};

/// Runs the kernel once for each seed.
pub fn run(ptx: &str, spec: &Spec) -> Result<Outcome> {
    let module = match Module::parse(ptx) {
        Ok(module) => module,
        Err(error) => return Err(Failure::Refused(error.to_string())),
    };
    let entry = entry(&module, spec)?;
    let mut outcome = Outcome {
        kernel: entry.clone(),
        target: target(ptx),
        seeds: spec.seeds.clone(),
        findings: Vec::new(),
        faults: Vec::new(),
        mismatches: BTreeMap::new(),
        printed: Vec::new(),
        counts: None,
        lines: Vec::new(),
    };
    for &seed in &spec.seeds {
        one(&module, spec, (&entry, seed), &mut outcome)?;
    }
    Ok(outcome)
}

fn target(ptx: &str) -> String {
    let line = ptx.lines().find_map(|line| line.trim().strip_prefix(".target "));
    line.unwrap_or_default().trim().to_owned()
}

/// The kernel to launch.
fn entry(module: &Module, spec: &Spec) -> Result<String> {
    let names: Vec<&str> = module.kernels().collect();
    let refused: Vec<_> = module.refused().collect();
    match (&spec.entry, names.as_slice()) {
        (Some(wanted), _) => {
            if let Some((_, error)) = refused.iter().find(|(name, _)| name == wanted) {
                return Err(Failure::Refused(format!("kernel {wanted}: {error}")));
            }
            if !names.contains(&wanted.as_str()) {
                return usage(format!(
                    "the module has no kernel '{wanted}', but {}",
                    names.join(", ")
                ));
            }
            Ok(wanted.clone())
        }
        (None, [only]) if refused.is_empty() => Ok((*only).to_owned()),
        (None, _) => {
            let others = refused.iter().map(|(name, _)| *name);
            let all: Vec<&str> = names.iter().copied().chain(others).collect();
            usage(format!("'entry' must name one of the kernels: {}", all.join(", ")))
        }
    }
}

fn one(
    module: &Module,
    spec: &Spec,
    (entry, seed): (&str, u64),
    outcome: &mut Outcome,
) -> Result<()> {
    let mut memory = Memory::new();
    let mut addresses = BTreeMap::new();
    for (name, buffer) in &spec.buffer {
        let bytes = buffer::elements(name, buffer)? * buffer.format.bytes();
        let address = memory.alloc(bytes as u64, name);
        if let Some(contents) = buffer::initial(spec, name, buffer)? {
            memory.write(address, &contents);
        }
        if buffer.settled {
            memory.settle(address);
        }
        addresses.insert(name.as_str(), address);
    }
    let default = Options::default();
    let launch = Launch {
        grid: spec.grid.all(),
        block: spec.block.all(),
        cluster: spec.cluster.all(),
        shared_bytes: spec.shared_bytes,
        dynamic_shared_limit: spec.shared_limit,
        non_portable_cluster: spec.non_portable_cluster,
        cooperative: spec.cooperative,
        overlaps_previous: spec.overlaps_previous,
        registers: spec.registers,
        device: spec.device.as_deref(),
        params: params(module, spec, entry, &addresses)?,
        seed,
        options: Options {
            lines: true,
            budget: spec.budget.unwrap_or(default.budget),
            ..default
        },
        ..Launch::new(entry)
    };
    let (findings, printed) = match module.launch(&mut memory, &launch) {
        Err(fault) if fault.cause.kind == FindingKind::BadLaunch => {
            return Err(Failure::Refused(format!("the launch: {}", fault.cause.detail)));
        }
        Err(fault) => {
            Outcome::add(&mut outcome.faults, *fault.cause, seed);
            (fault.findings, fault.printed)
        }
        Ok(report) => {
            compare(spec, &memory, &addresses, seed, outcome)?;
            if outcome.counts.is_none() {
                (outcome.counts, outcome.lines) = (Some(report.counts), report.lines);
            }
            (report.findings, report.printed)
        }
    };
    if seed == outcome.seeds[0] {
        outcome.printed = printed;
    }
    findings.into_iter().for_each(|found| Outcome::add(&mut outcome.findings, found, seed));
    Ok(())
}

fn compare(
    spec: &Spec,
    memory: &Memory,
    addresses: &BTreeMap<&str, u64>,
    seed: u64,
    outcome: &mut Outcome,
) -> Result<()> {
    for (name, expect) in &spec.expect {
        let (wanted, address) = (&spec.buffer[name], addresses[name.as_str()]);
        let size = wanted.format.bytes();
        let bytes = memory.read(address, buffer::elements(name, wanted)? * size);
        let written =
            |n: usize| memory.is_written(address + (n * size) as u64, size as u64);
        let wrong = buffer::compare(spec, name, (wanted, expect), &bytes, written)?;
        if !wrong.is_empty() {
            outcome.mismatches.entry(seed).or_default().extend(wrong);
        }
    }
    Ok(())
}

/// The parameter block.
fn params(
    module: &Module,
    spec: &Spec,
    entry: &str,
    addresses: &BTreeMap<&str, u64>,
) -> Result<Vec<u8>> {
    let declared = module.params(entry).unwrap_or_default();
    if declared.len() != spec.params.len() {
        return usage(format!(
            "kernel {entry} has {} parameters, but 'params' has {}",
            declared.len(),
            spec.params.len()
        ));
    }
    let mut block = Vec::new();
    for (n, (param, declared)) in spec.params.iter().zip(declared).enumerate() {
        let bytes = param_bytes(spec, param, addresses)?;
        if bytes.len() != declared.bytes {
            return usage(format!(
                "parameter {n} of kernel {entry} has {} bytes, but params[{n}] has {}",
                declared.bytes,
                bytes.len()
            ));
        }
        block.resize(declared.offset, 0);
        block.extend(bytes);
    }
    Ok(block)
}

/// A parameter's bytes.
fn param_bytes(
    spec: &Spec,
    param: &Param,
    addresses: &BTreeMap<&str, u64>,
) -> Result<Vec<u8>> {
    let address = |name: &str| match addresses.get(name) {
        Some(address) => Ok(*address),
        None => usage(format!("there is no buffer '{name}'")),
    };
    match param {
        Param::Buffer { buffer, offset } => {
            Ok((address(buffer)? + offset).to_le_bytes().to_vec())
        }
        Param::Map { map } => {
            let Some(found) = spec.map.get(map) else {
                return usage(format!("there is no tensor map '{map}'"));
            };
            tensor_map(spec, (map, found), address(&found.buffer)?)
        }
        Param::Bytes { bytes } => Ok(bytes.clone()),
        Param::Scalar(scalar) => {
            let (Some((format, value)), 1) = (scalar.iter().next(), scalar.len()) else {
                return usage("a parameter must have one value, as { f32 = 0.5 }");
            };
            scalar_bytes(format, *value)
        }
    }
}

fn scalar_bytes(name: &str, value: Number) -> Result<Vec<u8>> {
    let deserializer =
        serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name);
    let Ok(format) = <Format as serde::Deserialize>::deserialize(deserializer) else {
        return usage(format!("'{name}' is not a format of a parameter"));
    };
    format.encode(value).or_else(|why| usage(format!("a parameter: {why}")))
}

fn tensor_map(spec: &Spec, (name, map): (&str, &Map), address: u64) -> Result<Vec<u8>> {
    let format = spec.buffer[&map.buffer].format;
    let element = match map.element.as_deref() {
        None => element(format),
        Some(name) => named_element(name),
    };
    let Some(element) = element else {
        return usage(format!("map.{name}: tensor maps do not have this element type"));
    };
    let size = element.bytes();
    let packed = || {
        let inner = map.dims.iter().take(map.dims.len().saturating_sub(1));
        inner.scan(size, |bytes, dim| {
            *bytes = bytes.saturating_mul(*dim);
            Some(*bytes)
        })
    };
    let swizzle = match map.swizzle {
        0 => Swizzle::None,
        32 => Swizzle::Bytes32,
        64 => Swizzle::Bytes64,
        128 => Swizzle::Bytes128,
        other => {
            return usage(format!("map.{name}: a swizzle of {other} bytes does not exist"));
        }
    };
    let tensor = TensorMap {
        element,
        address: address + map.offset,
        dims: map.dims.clone(),
        strides: map.strides.clone().unwrap_or_else(|| packed().collect()),
        box_dims: map.box_dims.clone(),
        swizzle,
        fill: if map.nan { OutOfBoundsFill::Nan } else { OutOfBoundsFill::Zero },
    };
    match tensor.encode() {
        Ok(bytes) => Ok(bytes.to_vec()),
        Err(error) => Err(Failure::Refused(format!("tensor map '{name}': {error}"))),
    }
}

fn element(format: Format) -> Option<TensorElement> {
    Some(match format {
        Format::U8 | Format::I8 => TensorElement::U8,
        Format::U16 | Format::I16 => TensorElement::U16,
        Format::U32 => TensorElement::U32,
        Format::I32 => TensorElement::I32,
        Format::U64 => TensorElement::U64,
        Format::I64 => TensorElement::I64,
        Format::F16 => TensorElement::F16,
        Format::Bf16 => TensorElement::BF16,
        Format::F32 => TensorElement::F32,
        Format::F64 => TensorElement::F64,
    })
}

fn named_element(name: &str) -> Option<TensorElement> {
    TensorElement::ALL
        .into_iter()
        .find(|element| format!("{element:?}").eq_ignore_ascii_case(name))
}
