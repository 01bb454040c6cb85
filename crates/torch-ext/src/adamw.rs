//! AdamW with decoupled weight decay, all parameters in one kernel call.
//!
//! Owns the step and the checks that make it safe. Refuses schedules, parameter
//! groups and the keeping of state: those belong to the trainer's optimizer.
#![allow(unsafe_code)] // Calls the shim.

use tch::Tensor;

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

/// The tensors one step reads and writes: five slices of equal length, where the
/// tensors at one position have one shape, kind and device and are contiguous.
#[derive(Debug)]
pub struct AdamWState<'a> {
    /// The parameters θ, updated in place.
    pub params: &'a mut [Tensor],
    /// Their gradients.
    pub grads: &'a [Tensor],
    /// The first moments m, updated in place.
    pub exp_avgs: &'a mut [Tensor],
    /// The second moments v, updated in place.
    pub exp_avg_sqs: &'a mut [Tensor],
    /// Steps taken so far, one f32 scalar a parameter on its device; each rises by one.
    pub state_steps: &'a mut [Tensor],
}

/// Takes one AdamW step:
/// θ ← θ − ηλθ;  m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;
/// θ ← θ − η · (m / (1−β₁ᵗ)) / (√(v / (1−β₂ᵗ)) + ε).
///
/// Runs outside autograd: the parameters may be leaves that require gradients.
///
/// # Errors
/// When the slices do not match each other as [`AdamWState`] asks (then nothing has
/// changed), or when libtorch refuses.
pub fn fused_adamw(state: AdamWState<'_>, hyper: &AdamW) -> Result<(), Error> {
    step(state, hyper, None)
}

/// What a step heeds that only the device knows: both are f32 scalars on the parameters'
/// device, so that the host need not wait to decide.
#[derive(Debug)]
pub struct StepGuard<'a> {
    /// The gradients are divided by it, in place: at least 1 if it clips.
    pub divisor: &'a Tensor,
    /// 1 and the step is not taken: nothing changes. Otherwise 0.
    pub refused: &'a Tensor,
}

/// [`fused_adamw`], if the device finds that the step may be taken.
///
/// # Errors
/// As for [`fused_adamw`]; and a guard that is not two f32 scalars on the parameters' device.
pub fn fused_adamw_guarded(
    state: AdamWState<'_>,
    hyper: &AdamW,
    guard: &StepGuard<'_>,
) -> Result<(), Error> {
    let device = state.params.first().map(Tensor::device);
    for (name, scalar) in [("divisor", guard.divisor), ("refused", guard.refused)] {
        let (size, kind) = (scalar.size(), scalar.kind());
        let at_home = device.is_none_or(|device| device == scalar.device());
        if !size.is_empty() || kind != tch::Kind::Float || !at_home {
            let reason = format!(
                "{name} is {kind:?} {size:?} on {:?}, not one f32 number where the parameters are",
                scalar.device()
            );
            return Err(Error::argument(OPERATION, reason));
        }
    }
    step(state, hyper, Some(guard))
}

fn step(state: AdamWState<'_>, hyper: &AdamW, guard: Option<&StepGuard<'_>>) -> Result<(), Error> {
    validate(&state)?;
    if state.params.is_empty() {
        return Ok(());
    }
    let params = ffi::raw_list(state.params);
    let grads = ffi::raw_list(state.grads);
    let exp_avgs = ffi::raw_list(state.exp_avgs);
    let exp_avg_sqs = ffi::raw_list(state.exp_avg_sqs);
    let steps = ffi::raw_list(state.state_steps);
    let [divisor, refused] = match guard {
        Some(guard) => [ffi::raw(guard.divisor), ffi::raw(guard.refused)],
        None => [std::ptr::null_mut(); 2],
    };
    // SAFETY: the five lists are of one length and hold live tensors, which the
    // kernel may walk side by side: `validate` saw shapes, kinds and layout. The guard
    // is null or two live f32 scalars on their device.
    unsafe {
        ffi::check(
            OPERATION,
            ffi::quarry_fused_adamw(
                params.as_ptr(),
                grads.as_ptr(),
                exp_avgs.as_ptr(),
                exp_avg_sqs.as_ptr(),
                steps.as_ptr(),
                params.len(),
                hyper.lr,
                hyper.beta1,
                hyper.beta2,
                hyper.weight_decay,
                hyper.eps,
                divisor,
                refused,
            ),
        )
    }
}

/// The kernel walks raw memory by the parameter's element count: what does not match is refused here.
fn validate(state: &AdamWState<'_>) -> Result<(), Error> {
    let followers = [
        ("grads", state.grads),
        ("exp_avgs", &*state.exp_avgs),
        ("exp_avg_sqs", &*state.exp_avg_sqs),
    ];
    let count = state.params.len();
    for (name, list) in followers
        .iter()
        .chain(&[("state_steps", &*state.state_steps)])
    {
        if list.len() != count {
            let reason = format!("{count} params but {} {name}", list.len());
            return Err(Error::argument(OPERATION, reason));
        }
    }
    for (position, param) in state.params.iter().enumerate() {
        contiguous("params", position, param)?;
        for (name, list) in &followers {
            contiguous(name, position, &list[position])?;
            matches_param(name, position, param, &list[position])?;
        }
        let step = &state.state_steps[position];
        if !step.defined() || step.numel() != 1 || step.kind() != tch::Kind::Float {
            let reason = format!("state_steps[{position}] is not one f32 number");
            return Err(Error::argument(OPERATION, reason));
        }
    }
    Ok(())
}

fn contiguous(name: &str, position: usize, tensor: &Tensor) -> Result<(), Error> {
    if !tensor.defined() {
        let reason = format!("{name}[{position}] is undefined, run the backward pass first");
        return Err(Error::argument(OPERATION, reason));
    }
    if !tensor.is_contiguous() {
        let reason = format!("{name}[{position}] is not contiguous");
        return Err(Error::argument(OPERATION, reason));
    }
    Ok(())
}

fn matches_param(name: &str, position: usize, param: &Tensor, other: &Tensor) -> Result<(), Error> {
    if other.size() == param.size()
        && other.kind() == param.kind()
        && other.device() == param.device()
    {
        return Ok(());
    }
    let describe = |t: &Tensor| format!("{:?} {:?} on {:?}", t.kind(), t.size(), t.device());
    let reason = format!(
        "{name}[{position}] is {} where its parameter is {}",
        describe(other),
        describe(param)
    );
    Err(Error::argument(OPERATION, reason))
}
