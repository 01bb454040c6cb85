//! What an optimizer's step reads and writes, all parameters at once, and what it heeds.
//!
//! Owns the checks that make such a step safe. Refuses its arithmetic, which is adamw.rs's
//! and lamb.rs's.

use tch::Tensor;

use crate::Error;
use crate::ffi::{self, RawTensor};

/// The tensors one step reads and writes: five slices of equal length, where the
/// tensors at one position have one shape, kind and device and are contiguous.
#[derive(Debug)]
pub struct StepState<'a> {
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

/// What a step heeds that only the device knows: both are f32 scalars on the parameters'
/// device, so that the host need not wait to decide.
#[derive(Debug)]
pub struct StepGuard<'a> {
    /// The gradients are divided by it, in place: at least 1 if it clips.
    pub divisor: &'a Tensor,
    /// 1 and the step is not taken: nothing but the gradients changes. Otherwise 0.
    pub refused: &'a Tensor,
}

/// A step as the shim takes it. Its pointers are valid while the step's tensors are borrowed.
pub(crate) struct Raw {
    pub params: Vec<RawTensor>,
    pub grads: Vec<RawTensor>,
    pub exp_avgs: Vec<RawTensor>,
    pub exp_avg_sqs: Vec<RawTensor>,
    pub steps: Vec<RawTensor>,
    /// Null without a guard, as `refused`.
    pub divisor: RawTensor,
    pub refused: RawTensor,
}

impl Raw {
    /// `None` for a step without parameters.
    ///
    /// # Errors
    /// When state or guard are not as their types ask.
    pub fn checked(
        operation: &'static str,
        state: &StepState<'_>,
        guard: Option<&StepGuard<'_>>,
    ) -> Result<Option<Self>, Error> {
        check_state(operation, state)?;
        let [divisor, refused] = match guard {
            Some(guard) => {
                check_guard(operation, state, guard)?;
                [ffi::raw(guard.divisor), ffi::raw(guard.refused)]
            }
            None => [std::ptr::null_mut(); 2],
        };
        if state.params.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            params: ffi::raw_list(state.params),
            grads: ffi::raw_list(state.grads),
            exp_avgs: ffi::raw_list(state.exp_avgs),
            exp_avg_sqs: ffi::raw_list(state.exp_avg_sqs),
            steps: ffi::raw_list(state.state_steps),
            divisor,
            refused,
        }))
    }
}

fn check_guard(
    operation: &'static str,
    state: &StepState<'_>,
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
            return Err(Error::argument(operation, reason));
        }
    }
    Ok(())
}

/// The kernel walks raw memory by the parameter's element count: what does not match is refused here.
fn check_state(operation: &'static str, state: &StepState<'_>) -> Result<(), Error> {
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
            return Err(Error::argument(operation, reason));
        }
    }
    for (position, param) in state.params.iter().enumerate() {
        contiguous(operation, "params", position, param)?;
        for (name, list) in &followers {
            contiguous(operation, name, position, &list[position])?;
            matches_param(operation, name, position, param, &list[position])?;
        }
        let step = &state.state_steps[position];
        if !step.defined() || step.numel() != 1 || step.kind() != tch::Kind::Float {
            let reason = format!("state_steps[{position}] is not one f32 number");
            return Err(Error::argument(operation, reason));
        }
    }
    Ok(())
}

fn contiguous(
    operation: &'static str,
    name: &str,
    position: usize,
    tensor: &Tensor,
) -> Result<(), Error> {
    if !tensor.defined() {
        let reason = format!("{name}[{position}] is undefined, run the backward pass first");
        return Err(Error::argument(operation, reason));
    }
    if !tensor.is_contiguous() {
        let reason = format!("{name}[{position}] is not contiguous");
        return Err(Error::argument(operation, reason));
    }
    Ok(())
}

fn matches_param(
    operation: &'static str,
    name: &str,
    position: usize,
    param: &Tensor,
    other: &Tensor,
) -> Result<(), Error> {
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
    Err(Error::argument(operation, reason))
}
