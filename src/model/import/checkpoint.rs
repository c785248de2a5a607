//! The index of a checkpoint's weights, held against the formulas.

use serde_json::Value;

use super::config::whole;
use crate::format::DType;
use crate::model::llm::Llm;
use crate::model::step::{Formats, Step, StepShape, Weights};

/// What `model.safetensors.index.json` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Bytes of all tensors.
    pub bytes: Option<u64>,
    /// Parameters, where the index states them.
    pub parameters: Option<u64>,
    /// Tensors.
    pub tensors: u64,
}

impl Checkpoint {
    /// Reads an index.
    ///
    /// # Errors
    /// A text that is no index.
    pub fn of(value: &Value) -> Result<Self, String> {
        let map = value.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or("has no `weight_map`; it is not an index of safetensors")?;
        let stated = |key: &str| {
            let value = value.get("metadata").and_then(|metadata| metadata.get(key));
            value.map(|value| whole(key, value)).transpose()
        };
        Ok(Checkpoint {
            bytes: stated("total_size")?,
            parameters: stated("total_parameters")?,
            tensors: map.len() as u64,
        })
    }

    /// Bytes that the formulas count for a model's weights as they are shipped, vectors
    /// included.
    ///
    /// # Errors
    /// As of [`Step::of`].
    pub fn counted_bytes(model: &Llm) -> Result<u64, String> {
        let weights = model.weights.unwrap_or(Weights::all(DType::Bf16.into()));
        let formats = Formats { weights, ..Formats::plain(DType::Bf16) };
        let shape = StepShape::of_one_token(formats);
        let vectors = DType::Bf16.bytes_of(model.vector_parameters());
        Ok(Step::of(model, &shape)?.resident_weight_bytes() + vectors)
    }
}
