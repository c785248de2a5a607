//! The addresses that the parameter of a launch is made from, by name.

use super::tensor_map::EncodedTensorMap;
use crate::op::Operand;

/// What the parameter struct of a launch is made from: for one rotation slot, the addresses
/// of the problem's tensors and of the plan's scratch buffers, and encoded tensor maps.
///
/// Tensors have the names of [`Tensor::name`](crate::format::Tensor::name) in
/// [`Problem::tensors`](crate::op::Problem::tensors), scratch buffers those of
/// [`Scratch::name`](super::Scratch::name), tensor maps those of
/// [`TensorMap::name`](super::TensorMap::name).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Seed of the inputs.
    pub seed: u64,
    /// Rotation slot.
    pub slot: usize,
    tensors: Vec<(&'static str, u64)>,
    scratch: Vec<(&'static str, u64)>,
    tensor_maps: Vec<(&'static str, EncodedTensorMap)>,
}

impl Bound {
    /// A slot with its tensors' names and device addresses; no scratch buffers and no
    /// tensor maps yet.
    pub fn new(
        seed: u64,
        slot: usize,
        tensors: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> Self {
        let tensors = tensors.into_iter().collect();
        Bound { seed, slot, tensors, scratch: Vec::new(), tensor_maps: Vec::new() }
    }

    /// With the names and device addresses of scratch buffers.
    pub fn with_scratch(
        mut self,
        scratch: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> Self {
        self.scratch.extend(scratch);
        self
    }

    /// With one more encoded tensor map.
    pub fn with_tensor_map(mut self, name: &'static str, map: EncodedTensorMap) -> Self {
        self.tensor_maps.push((name, map));
        self
    }

    /// What a stage's launches are made from: tensors of its own problem, which lie in
    /// tensors or scratch buffers of this one.
    ///
    /// # Panics
    /// Where there is no such tensor and no such buffer; see [`Bound::tensor`].
    pub(super) fn operands(&self, operands: &[Operand]) -> Bound {
        let place = |operand: &Operand| {
            let within = find(operand.within, &self.tensors)
                .unwrap_or_else(|| self.scratch(operand.within));
            (operand.tensor, within + operand.offset_bytes)
        };
        Bound::new(self.seed, self.slot, operands.iter().map(place))
    }

    /// Device address of a tensor that every problem of the kernel has.
    ///
    /// # Panics
    /// Where the problem has no such tensor: a bug in the kernel's host half. The test
    /// of the inventory binds every kernel in every configuration of the suites.
    pub fn tensor(&self, name: &str) -> u64 {
        required("tensor", name, &self.tensors)
    }

    /// Device address of a tensor, or 0 where the problem does without, such as a page
    /// table.
    pub fn tensor_or_null(&self, name: &str) -> u64 {
        find(name, &self.tensors).unwrap_or(0)
    }

    /// Device address of a scratch buffer of the plan.
    ///
    /// # Panics
    /// Where the plan has no such buffer; see [`Bound::tensor`].
    pub fn scratch(&self, name: &str) -> u64 {
        required("scratch buffer", name, &self.scratch)
    }

    /// An encoded tensor map of the plan.
    ///
    /// # Panics
    /// Where the plan has no such map; see [`Bound::tensor`].
    pub fn tensor_map(&self, name: &str) -> EncodedTensorMap {
        required("tensor map", name, &self.tensor_maps)
    }

    /// An encoded tensor map, or zeros where the plan does without.
    pub fn tensor_map_or_unused(&self, name: &str) -> EncodedTensorMap {
        find(name, &self.tensor_maps).unwrap_or(EncodedTensorMap::UNUSED)
    }
}

fn find<T: Copy>(name: &str, items: &[(&'static str, T)]) -> Option<T> {
    items.iter().find(|(other, _)| *other == name).map(|(_, item)| *item)
}

fn required<T: Copy>(kind: &str, name: &str, items: &[(&'static str, T)]) -> T {
    find(name, items).unwrap_or_else(|| {
        let known: Vec<&str> = items.iter().map(|(name, _)| *name).collect();
        panic!(
            "the parameter of a launch asks for {kind} `{name}`, and there is only [{}]; this \
             is a bug in the kernel's host half, please report it",
            known.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound() -> Bound {
        Bound::new(1, 2, [("k", 256), ("v", 512)])
            .with_scratch([("tickets", 1024)])
            .with_tensor_map("boxes", EncodedTensorMap([7; 128]))
    }

    #[test]
    fn addresses_are_found_by_name() {
        let bound = bound();
        assert_eq!((bound.tensor("k"), bound.tensor("v")), (256, 512));
        assert_eq!((bound.tensor_or_null("v"), bound.tensor_or_null("q")), (512, 0));
        assert_eq!(bound.scratch("tickets"), 1024);
        assert_eq!(bound.tensor_map("boxes").0, [7; 128]);
        assert_eq!(bound.tensor_map_or_unused("boxes").0, [7; 128]);
        assert_eq!(bound.tensor_map_or_unused("q"), EncodedTensorMap::UNUSED);
    }

    #[test]
    #[should_panic(expected = "asks for tensor `q`, and there is only [k, v]")]
    fn an_unknown_tensor_is_a_bug() {
        bound().tensor("q");
    }

    #[test]
    #[should_panic(expected = "asks for scratch buffer `k`, and there is only [tickets]")]
    fn tensors_are_not_scratch_buffers() {
        bound().scratch("k");
    }
}
