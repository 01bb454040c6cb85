//! AdamW with decoupled weight decay, all parameters in one kernel call.
//!
//! Owns the step. Refuses schedules, parameter groups and the keeping of state: those
//! belong to the trainer's optimizer.
#![allow(unsafe_code)] // Calls the shim.

use crate::step::{Raw, StepGuard, StepState};
use crate::{Error, ffi};

const OPERATION: &str = "_fused_adamw_";

/// The hyper-parameters of one step, in the notation of Loshchilov & Hutter,
/// *Decoupled Weight Decay Regularization* (arXiv 1711.05101), algorithm 2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate η·α of this step.
    pub lr: f64,
    /// β₁, decay of the first moment.
    pub beta1: f64,
    /// β₂, decay of the second moment.
    pub beta2: f64,
    /// λ, decoupled weight decay: weights shrink by `lr · weight_decay` before the update.
    pub weight_decay: f64,
    /// ε, added to the square root of the second moment.
    pub eps: f64,
}

impl Default for AdamW {
    /// PyTorch's defaults.
    fn default() -> Self {
        Self {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            weight_decay: 0.01,
            eps: 1e-8,
        }
    }
}

/// Takes one AdamW step:
/// θ ← θ − ηλθ;  m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;
/// θ ← θ − η · (m / (1−β₁ᵗ)) / (√(v / (1−β₂ᵗ)) + ε).
///
/// Runs outside autograd: the parameters may be leaves that require gradients.
///
/// # Errors
/// When the slices do not match each other as [`StepState`] asks (then nothing has
/// changed), or when libtorch refuses.
pub fn fused_adamw(state: StepState<'_>, hyper: &AdamW) -> Result<(), Error> {
    step(state, hyper, None)
}

/// [`fused_adamw`], if the device finds that the step may be taken.
///
/// # Errors
/// As for [`fused_adamw`]; and a guard that is not two f32 scalars on the parameters' device.
pub fn fused_adamw_guarded(
    state: StepState<'_>,
    hyper: &AdamW,
    guard: &StepGuard<'_>,
) -> Result<(), Error> {
    step(state, hyper, Some(guard))
}

fn step(state: StepState<'_>, hyper: &AdamW, guard: Option<&StepGuard<'_>>) -> Result<(), Error> {
    let Some(raw) = Raw::checked(OPERATION, &state, guard)? else {
        return Ok(());
    };
    // SAFETY: the five lists are of one length and hold live tensors, which the
    // kernel may walk side by side: `Raw::checked` saw shapes, kinds and layout. The guard
    // is null or two live f32 scalars on their device.
    unsafe {
        ffi::check(
            OPERATION,
            ffi::quarry_fused_adamw(
                raw.params.as_ptr(),
                raw.grads.as_ptr(),
                raw.exp_avgs.as_ptr(),
                raw.exp_avg_sqs.as_ptr(),
                raw.steps.as_ptr(),
                raw.params.len(),
                hyper.lr,
                hyper.beta1,
                hyper.beta2,
                hyper.weight_decay,
                hyper.eps,
                raw.divisor,
                raw.refused,
            ),
        )
    }
}
