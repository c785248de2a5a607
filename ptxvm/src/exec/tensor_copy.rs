//! Tensor copies.
