//! A linear layer, plain or packed.
//!
//! Frozen weights on a CPU are laid out once for its matrix kernels, with GELU
//! fused into the product; trainable ones and those on a GPU stay plain.

use crate::config::Activation;
use crate::error::ModelError;
use quarry_torch_ext::{Activation as Fused, PackedLinear};
use tch::{TchError, Tensor};

/// Rows a packed weight is laid out for: a batch of the usual token budget.
const PACKED_ROWS: i64 = 1024;

/// `y = x Wᵀ + b`; `W` is `[out, in]`.
pub(super) enum Linear {
    Plain { weight: Tensor, bias: Tensor },
    Packed(PackedLinear),
}

impl Linear {
    /// A layer that autograd can follow.
    pub fn plain(weight: Tensor, bias: Tensor) -> Self {
        Self::Plain { weight, bias }
    }

    /// A layer for inference; plain where the processor cannot do better.
    pub fn packed(weight: Tensor, bias: Tensor) -> Self {
        match PackedLinear::pack(&weight, Some(&bias), Some(PACKED_ROWS)) {
            Ok(packed) => Self::Packed(packed),
            Err(error) => {
                tracing::debug!(%error, "linear layer stays plain");
                Self::plain(weight, bias)
            }
        }
    }

    /// The same layer for another thread, sharing the weights.
    pub fn shallow_clone(&self) -> Self {
        match self {
            Self::Plain { weight, bias } => {
                Self::plain(weight.shallow_clone(), bias.shallow_clone())
            }
            Self::Packed(packed) => Self::Packed(packed.shallow_clone()),
        }
    }

    /// `[T, in]` → `[T, out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        match self {
            Self::Plain { weight, bias } => Ok(x.f_linear(weight, Some(bias))?),
            Self::Packed(packed) => Ok(packed.forward(x, Fused::Identity)?),
        }
    }

    /// `gelu(x Wᵀ + b)`.
    pub fn forward_gelu(&self, x: &Tensor, form: Activation) -> Result<Tensor, ModelError> {
        match self {
            Self::Plain { weight, bias } => Ok(gelu(x.f_linear(weight, Some(bias))?, form)?),
            Self::Packed(packed) => Ok(packed.forward(x, fused(form))?),
        }
    }
}

fn gelu(mut x: Tensor, form: Activation) -> Result<Tensor, TchError> {
    // The backward pass needs GELU's input; without one it is spare memory.
    match x.requires_grad() {
        true => x.f_gelu(form.approximate()),
        false => x.f_gelu_(form.approximate()),
    }
}

fn fused(form: Activation) -> Fused {
    match form {
        Activation::Erf => Fused::Gelu,
        Activation::Tanh => Fused::GeluTanh,
    }
}
