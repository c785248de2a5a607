//! What the script is asked: a round of a point, with all that it takes to draw its inputs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::campaign::rows::Scheduled;
use crate::data::Key;
use crate::format::{Role, Tensor, TensorFormat};
use crate::measure::{Rotation, Settings};
use crate::op::{DecodeAttention, MlaDecode, OfProblem, Problem, SCORE_WIDTH};

/// A request with the files that belong to it.
pub(super) struct Asked {
    pub id: u64,
    pub scheduled: Scheduled,
    pub rotation: Rotation,
    /// Slots whose output is checked, and where the script writes it.
    pub outputs: Vec<(usize, PathBuf)>,
    tensors: Vec<Value>,
    tables: Vec<PathBuf>,
}

/// The request of a round. Page tables, whose order no other language draws, are written to
/// `folder`.
///
/// # Errors
/// A file that cannot be written.
pub(super) fn request_of(
    (id, scheduled): (u64, &Scheduled),
    rotation: Rotation,
    seed: u64,
    folder: &Path,
) -> Result<Asked> {
    let (mut tensors, mut tables) = (Vec::new(), Vec::new());
    for (position, tensor) in scheduled.point.problem.tensors().iter().enumerate() {
        let keys: Vec<Key> =
            (0..rotation.slots).map(|slot| Key::new(seed, slot, position)).collect();
        let mut told = tensor_json(tensor);
        if tensor.format == TensorFormat::PageTable {
            let mut files = Vec::new();
            for (slot, key) in keys.iter().enumerate() {
                let path = folder.join(format!("{id}-{slot}-{}", tensor.name));
                let table = key.page_table(tensor.elements as usize);
                fs::write(&path, bytemuck::cast_slice::<u32, u8>(&table))
                    .with_context(|| format!("cannot write {}", path.display()))?;
                files.push(path);
            }
            told["files"] = json!(files);
            tables.extend(files);
        } else {
            told["keys"] = keys.iter().map(|key| key.raw()).collect();
        }
        tensors.push(told);
    }
    let outputs = checked_slots(rotation.slots, scheduled.round == 0).into_iter();
    let outputs = outputs.map(|slot| (slot, folder.join(format!("{id}-{slot}-output"))));
    Ok(Asked {
        id,
        scheduled: scheduled.clone(),
        rotation,
        outputs: outputs.collect(),
        tensors,
        tables,
    })
}

/// The slot of the last launch, and in a point's first round one half a rotation away.
fn checked_slots(slots: usize, is_first: bool) -> Vec<usize> {
    let mut checked = vec![slots - 1];
    if is_first && slots > 1 {
        checked.push((slots - 1 + slots / 2) % slots);
    }
    checked
}

impl Asked {
    /// As the script reads it.
    pub fn json(&self, device: &str, settings: &Settings, job_limit_s: f64) -> Value {
        let point = &self.scheduled.point;
        json!({
            "id": self.id,
            "point": point.to_string(),
            "peer": point.kernel.to_string(),
            "round": self.scheduled.round,
            "device": device,
            "op": point.problem.op().name(),
            "fields": fields(&point.problem),
            "lengths": lengths(&point.problem),
            "score_width": SCORE_WIDTH,
            "slots": self.rotation.slots,
            "tensors": self.tensors,
            "outputs": self.outputs,
            "settings": {
                "warmup_s": settings.warmup_s,
                "min_samples": settings.min_samples,
                "min_sample_s": settings.min_sample_s,
                "max_sample_s": settings.max_sample_s,
                "max_launch_s": settings.max_launch_s,
            },
            "limit_s": job_limit_s,
        })
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        for path in self.tables.iter().chain(self.outputs.iter().map(|(_, path)| path)) {
            // What was never written is not there.
            let _ = fs::remove_file(path);
        }
    }
}

/// Every key of the problem with its value, those that have their default too.
fn fields(problem: &Problem) -> Value {
    let keys = problem.op().keys().map(str::to_owned);
    let values = problem.operation().values().into_iter().map(Value::String);
    Value::Object(keys.zip(values).collect())
}

/// Cached tokens of each request; null where there is no cache.
fn lengths(problem: &Problem) -> Option<Vec<u64>> {
    if let Some(p) = DecodeAttention::of(problem) {
        return Some((0..p.batch).map(|request| p.kv().length(request)).collect());
    }
    let p = MlaDecode::of(problem)?;
    Some((0..p.batch).map(|request| p.length(request)).collect())
}

/// Name, role, format and size of a tensor; `format` and `dtype` are what the generator of
/// inputs needs.
pub(super) fn tensor_json(tensor: &Tensor) -> Value {
    let role = match tensor.role {
        Role::Input => "input",
        Role::Output => "output",
        Role::Update => "update",
        Role::Witness => "witness",
    };
    let mut told = format_json(tensor.format);
    told["name"] = json!(tensor.name);
    told["role"] = json!(role);
    told["bytes"] = json!(tensor.bytes());
    told
}

fn format_json(format: TensorFormat) -> Value {
    let (kind, dtype) = match format {
        TensorFormat::Values(dtype) => ("values", dtype),
        TensorFormat::Gains(dtype) => ("gains", dtype),
        TensorFormat::Scales(dtype) => ("scales", dtype),
        TensorFormat::InverseScales(dtype) => ("inverse_scales", dtype),
        TensorFormat::HalfScales(dtype) => ("half_scales", dtype),
        TensorFormat::PowerScales(dtype) => ("power_scales", dtype),
        TensorFormat::ByteScales(dtype) => ("byte_scales", dtype),
        TensorFormat::Words => return json!({"format": "words"}),
        TensorFormat::PageTable => return json!({"format": "page_table"}),
        TensorFormat::LatentRecords { latent_dim, rope_dim } => {
            return json!({
                "format": "latent_records",
                "latent_dim": latent_dim,
                "rope_dim": rope_dim,
            });
        }
    };
    json!({"format": kind, "dtype": dtype.name()})
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::format::DType;

    /// Formats of all tensors that problems have, but for page tables, which are sent.
    fn formats() -> Vec<TensorFormat> {
        let mut formats = vec![
            TensorFormat::Words,
            TensorFormat::LatentRecords { latent_dim: 512, rope_dim: 64 },
            TensorFormat::LatentRecords { latent_dim: 256, rope_dim: 4 },
        ];
        // Only peaks and products of tf32 have the others, which peers do not get.
        let is_of_peers =
            |dtype: &DType| !matches!(dtype, DType::Tf32 | DType::Fp8E5m2 | DType::F64);
        for dtype in DType::ALL.into_iter().filter(is_of_peers) {
            formats.push(TensorFormat::Values(dtype));
            if dtype.is_scaled() {
                formats.extend([
                    TensorFormat::Scales(dtype),
                    TensorFormat::InverseScales(dtype),
                    TensorFormat::HalfScales(dtype),
                    TensorFormat::PowerScales(dtype),
                    TensorFormat::ByteScales(dtype),
                ]);
            }
        }
        formats
    }

    /// Standard output of the script's `--draw` mode.
    fn drawn(requests: &[Value]) -> Vec<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/peers.py");
        let mut python = Command::new("python3")
            .arg(&script)
            .arg("--draw")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test needs python3 (3.9 or later, no packages) on the path");
        let mut stdin = python.stdin.take().unwrap();
        let text: String = requests.iter().map(|request| format!("{request}\n")).collect();
        let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()).unwrap());
        let output = python.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success(), "python3 {} --draw failed", script.display());
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// The script draws the bytes that ridgepoint draws, in every format, from the first
    /// byte over the ends of its chunks to a tail that is no whole draw.
    #[test]
    fn python_draws_the_same_inputs() {
        let cases: Vec<(TensorFormat, Key, usize)> = formats()
            .into_iter()
            .enumerate()
            .map(|(i, format)| {
                let bytes = if i % 2 == 0 { 8 * 4096 + 2 * 656 + 8 } else { 1235 * 4 };
                (format, Key::new(41 + i as u64, i % 3, i % 5), bytes)
            })
            .collect();
        let request = |(format, key, bytes): &(TensorFormat, Key, usize)| {
            let mut told = format_json(*format);
            told["key"] = json!(key.raw());
            told["bytes"] = json!(bytes);
            told
        };
        let requests: Vec<Value> = cases.iter().map(request).collect();
        let answers = drawn(&requests);
        assert_eq!(answers.len(), cases.len());
        for ((format, key, bytes), answer) in cases.into_iter().zip(answers) {
            let mut expected = vec![0; bytes];
            key.fill(format, &mut expected);
            let hex: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(answer == hex, "{format:?}: {} {}", &answer[..64], &hex[..64]);
        }
    }

    #[test]
    fn outputs_of_two_slots_are_checked_in_the_first_round() {
        assert_eq!(checked_slots(1, true), [0]);
        assert_eq!(checked_slots(6, true), [5, 2]);
        assert_eq!(checked_slots(6, false), [5]);
    }
}
