//! LAMB without bias correction, a list of parameters in a few tens of operations.
//!
//! Owns the step. Refuses schedules, parameter groups and the keeping of state: those
//! belong to the trainer's optimizer; and kinds other than f32.
#![allow(unsafe_code)] // Calls the shim.

use tch::Kind;

use crate::step::{Raw, StepGuard, StepState};
use crate::{Error, ffi};

const OPERATION: &str = "lamb";

/// The hyper-parameters of one step, in the notation of You et al., *Large Batch
/// Optimization for Deep Learning* (arXiv 1904.00962), algorithm 2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lamb {
    /// Learning rate η of this step.
    pub lr: f64,
    /// β₁, decay of the first moment.
    pub beta1: f64,
    /// β₂, decay of the second moment.
    pub beta2: f64,
    /// λ, times the weights a part of the update; 0 for none.
    pub weight_decay: f64,
    /// ε, added to the square root of the second moment.
    pub eps: f64,
    /// The bound on the norm of a parameter's weights in its trust ratio.
    pub most_weight_norm: f64,
}

/// Takes one LAMB step as ANCE and STAR do, without bias correction:
/// m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  u = m / (√v + ε) + λθ;
/// θ ← θ − η · min(‖θ‖₂, bound) / ‖u‖₂ · u for each parameter, where the ratio is 1 if a
/// norm is 0.
///
/// Runs outside autograd. While it runs it holds about three lists of the parameters' size
/// more: where memory counts more than calls, give it few parameters at a time. The bits do
/// not depend on that on a CPU.
///
/// # Errors
/// When the slices do not match each other as [`StepState`] asks or are not f32 (then
/// nothing has changed), or when libtorch refuses.
pub fn lamb(state: StepState<'_>, hyper: &Lamb) -> Result<(), Error> {
    step(state, hyper, None)
}

/// [`lamb`], if the device finds that the step may be taken. If not, no bit of weights and
/// moments changes, whatever the gradients are; a NaN may become another NaN.
///
/// # Errors
/// As for [`lamb`]; and a guard that is not two f32 scalars on the parameters' device.
pub fn lamb_guarded(
    state: StepState<'_>,
    hyper: &Lamb,
    guard: &StepGuard<'_>,
) -> Result<(), Error> {
    step(state, hyper, Some(guard))
}

fn step(state: StepState<'_>, hyper: &Lamb, guard: Option<&StepGuard<'_>>) -> Result<(), Error> {
    let Some(raw) = Raw::checked(OPERATION, &state, guard)? else {
        return Ok(());
    };
    // A refused step is told from a taken one by the 32 bits of each number.
    if let Some(position) = state.params.iter().position(|p| p.kind() != Kind::Float) {
        let reason = format!(
            "params[{position}] is {:?}, not f32",
            state.params[position].kind()
        );
        return Err(Error::argument(OPERATION, reason));
    }
    // SAFETY: the five lists are of one length and hold live tensors of equal shapes and
    // kinds, as `Raw::checked` saw. The guard is null or two live f32 scalars on their device.
    unsafe {
        ffi::check(
            OPERATION,
            ffi::quarry_lamb(
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
                hyper.most_weight_norm,
                raw.divisor,
                raw.refused,
            ),
        )
    }
}
