//! A linear layer, plain, packed or trained.
//!
//! On a CPU weights are laid out for its matrix kernels: frozen ones once, with GELU
//! fused into the product, trainable ones in every step. On a GPU, and where the
//! processor cannot, they stay plain.

use crate::config::Activation;
use crate::error::ModelError;
use quarry_torch_ext::{Activation as Fused, PackedLinear, TrainedLinear, trained_feed_forward};
use tch::{Device, Kind, TchError, Tensor};

/// Rows a packed weight is laid out for: a batch of the usual token budget.
const PACKED_ROWS: i64 = 1024;
/// The same of a chunk in training; a lane's is half as large.
const TRAINED_ROWS: i64 = super::CPU_CHUNK_TOKENS as i64;

/// `y = x Wᵀ + b`; `W` is `[out, in]`.
pub(super) enum Linear {
    /// Masters that are to be trained stay f32, and are cast at each use: the gradients
    /// of several uses then add up in f32.
    Plain {
        weight: Tensor,
        bias: Tensor,
        kind: Kind,
    },
    Packed(PackedLinear),
    Trained(TrainedLinear),
}

impl Linear {
    /// A layer of libtorch's operations, which autograd can follow.
    pub fn plain(masters: &[(&Tensor, &Tensor)], kind: Kind) -> Result<Self, TchError> {
        Ok(Self::Plain {
            weight: joined(masters.iter().map(|(weight, _)| *weight))?,
            bias: joined(masters.iter().map(|(_, bias)| *bias))?,
            kind,
        })
    }

    /// A layer for inference; plain where the processor cannot do better.
    pub fn frozen(masters: &[(&Tensor, &Tensor)], kind: Kind) -> Result<Self, TchError> {
        let weight = joined(masters.iter().map(|(weight, _)| *weight))?.f_to_kind(kind)?;
        let bias = joined(masters.iter().map(|(_, bias)| *bias))?.f_to_kind(kind)?;
        if weight.device() == Device::Cpu {
            match PackedLinear::pack(&weight, Some(&bias), Some(PACKED_ROWS)) {
                Ok(packed) => return Ok(Self::Packed(packed)),
                Err(error) => tracing::debug!(%error, "linear layer stays plain"),
            }
        }
        Ok(Self::Plain { weight, bias, kind })
    }

    /// A layer for one step of training; plain where the processor cannot do better.
    pub fn trained(masters: &[(&Tensor, &Tensor)], kind: Kind) -> Result<Self, TchError> {
        match TrainedLinear::new(masters, kind, TRAINED_ROWS) {
            Ok(trained) => Ok(Self::Trained(trained)),
            Err(error) => {
                tracing::debug!(%error, "linear layer is trained plain");
                Self::plain(masters, kind)
            }
        }
    }

    /// The same layer for another thread, sharing the weights.
    pub fn shallow_clone(&self) -> Self {
        match self {
            Self::Plain { weight, bias, kind } => Self::Plain {
                weight: weight.shallow_clone(),
                bias: bias.shallow_clone(),
                kind: *kind,
            },
            Self::Packed(packed) => Self::Packed(packed.shallow_clone()),
            Self::Trained(trained) => Self::Trained(trained.shallow_clone()),
        }
    }

    /// `[T, in]` → `[T, out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        match self {
            Self::Plain { weight, bias, kind } => {
                let (weight, bias) = (weight.f_to_kind(*kind)?, bias.f_to_kind(*kind)?);
                Ok(x.f_linear(&weight, Some(&bias))?)
            }
            Self::Packed(packed) => Ok(packed.forward(x, Fused::Identity)?),
            Self::Trained(trained) => Ok(trained.forward(x)?),
        }
    }

    /// `gelu(x Wᵀ + b)`.
    fn forward_gelu(&self, x: &Tensor, form: Activation) -> Result<Tensor, ModelError> {
        match self {
            Self::Packed(packed) => Ok(packed.forward(x, fused(form))?),
            _ => Ok(gelu(self.forward(x)?, form)?),
        }
    }
}

/// `gelu(x W1ᵀ + b1) W2ᵀ + b2`: `[T, h]` → `[T, h]` by way of `[T, inner]`.
pub(super) fn feed_forward(
    x: &Tensor,
    inner: &Linear,
    outer: &Linear,
    form: Activation,
) -> Result<Tensor, ModelError> {
    match (inner, outer) {
        (Linear::Trained(inner), Linear::Trained(outer)) => {
            Ok(trained_feed_forward(x, inner, outer, fused(form))?)
        }
        _ => outer.forward(&inner.forward_gelu(x, form)?),
    }
}

/// One matrix or vector of several, row after row.
pub(super) fn joined<'a>(parts: impl Iterator<Item = &'a Tensor>) -> Result<Tensor, TchError> {
    let parts: Vec<&Tensor> = parts.collect();
    match parts.as_slice() {
        [one] => Ok(one.shallow_clone()),
        many => Tensor::f_cat(many, 0),
    }
}

fn gelu(mut x: Tensor, form: Activation) -> Result<Tensor, TchError> {
    // The backward pass needs GELU's input; without one it is spare memory.
    match x.requires_grad() {
        true => x.f_gelu(form.approximate()),
        false => x.f_gelu_(form.approximate()),
    }
}

/// The same form in the words of the fused layers.
pub(super) fn fused(form: Activation) -> Fused {
    match form {
        Activation::Erf => Fused::Gelu,
        Activation::Tanh => Fused::GeluTanh,
    }
}
