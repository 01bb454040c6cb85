//! The ends of a block's two branches: fused where the processor can and nothing is trained,
//! else as single layers and a norm.

use super::linear::Linear;
use super::prepared::Norm;
use quarry_torch_ext::{FeedForwardBranch, ProjectionBranch};

/// `LN(x + context Wo + bo)`.
pub(super) enum AttentionEnd {
    Fused(ProjectionBranch),
    Parts { output: Linear, norm: Norm },
}

/// `LN(x + gelu(x W1 + b1) W2 + b2)`.
pub(super) enum FeedForward {
    Fused(FeedForwardBranch),
    Parts {
        inner: Linear,
        outer: Linear,
        norm: Norm,
    },
}

impl AttentionEnd {
    /// The same for another thread, sharing the weights.
    pub fn shallow_clone(&self) -> Self {
        match self {
            Self::Fused(branch) => Self::Fused(branch.shallow_clone()),
            Self::Parts { output, norm } => Self::Parts {
                output: output.shallow_clone(),
                norm: norm.shallow_clone(),
            },
        }
    }
}

impl FeedForward {
    /// The same for another thread, sharing the weights.
    pub fn shallow_clone(&self) -> Self {
        match self {
            Self::Fused(branch) => Self::Fused(branch.shallow_clone()),
            Self::Parts { inner, outer, norm } => Self::Parts {
                inner: inner.shallow_clone(),
                outer: outer.shallow_clone(),
                norm: norm.shallow_clone(),
            },
        }
    }
}
