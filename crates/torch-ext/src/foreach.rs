//! Operations over a list of tensors in one call (`_foreach_*` and gradients).
//!
//! Owns scaling, dropping and the global norm, which is what gradients need.
//! Refuses to decide what to do about a norm that is not finite.
#![allow(unsafe_code)] // Calls the shim.

use tch::Tensor;

use crate::{Error, ffi};

/// Multiplies every element of every tensor by `factor`, in place and outside autograd.
///
/// # Errors
/// When a tensor is undefined, or libtorch refuses.
pub fn mul_scalar_(tensors: &mut [Tensor], factor: f64) -> Result<(), Error> {
    const OPERATION: &str = "_foreach_mul_";
    defined(OPERATION, tensors)?;
    if tensors.is_empty() {
        return Ok(());
    }
    let list = ffi::raw_list(tensors);
    // SAFETY: the list holds live, defined tensors, exclusively borrowed.
    unsafe {
        let message = ffi::quarry_foreach_mul_scalar(list.as_ptr(), list.len(), factor);
        ffi::check(OPERATION, message)
    }
}

/// Leaves the leaves without a gradient, so that its memory may serve something else until
/// the next backward pass (`zero_grad(set_to_none=True)` of PyTorch). Whoever still holds
/// a gradient keeps it.
///
/// # Errors
/// When a tensor is undefined or no leaf.
pub fn drop_gradients(leaves: &[Tensor]) -> Result<(), Error> {
    const OPERATION: &str = "drop_gradients";
    defined(OPERATION, leaves)?;
    if let Some(position) = leaves.iter().position(|leaf| !leaf.is_leaf()) {
        let reason = format!("tensor {position} is no leaf");
        return Err(Error::argument(OPERATION, reason));
    }
    let list = ffi::raw_list(leaves);
    // SAFETY: the list holds live, defined tensors; the shim changes their gradients alone,
    // which tch reads anew at each call.
    unsafe {
        ffi::check(
            OPERATION,
            ffi::quarry_drop_gradients(list.as_ptr(), list.len()),
        )
    }
}

/// The 2-norm of all elements of all tensors together: a scalar on the tensors'
/// device, so that reading it (which waits for a GPU) is the caller's choice.
/// f16 and bf16 are accumulated in f32.
///
/// # Errors
/// When the list is empty, a tensor is undefined, kinds or devices are mixed, or libtorch refuses.
pub fn global_norm(tensors: &[Tensor]) -> Result<Tensor, Error> {
    const OPERATION: &str = "_foreach_norm";
    defined(OPERATION, tensors)?;
    let Some(first) = tensors.first() else {
        return Err(Error::argument(OPERATION, "no tensors to take the norm of"));
    };
    let alike = |t: &Tensor| t.kind() == first.kind() && t.device() == first.device();
    if let Some(position) = tensors.iter().position(|t| !alike(t)) {
        let reason = format!("tensor {position} differs from the first in kind or device");
        return Err(Error::argument(OPERATION, reason));
    }
    let list = ffi::raw_list(tensors);
    let mut norm = std::ptr::null_mut();
    // SAFETY: the list holds live, defined tensors; `norm` is adopted once, on success.
    unsafe {
        let message = ffi::quarry_foreach_global_norm(list.as_ptr(), list.len(), &mut norm);
        ffi::check(OPERATION, message)?;
        Ok(ffi::adopt(norm))
    }
}

/// Scales the gradients so that their global norm is at most `max_norm`, and returns
/// the norm they had (Pascanu et al., arXiv 1211.5063; PyTorch's `clip_grad_norm_`
/// with its ε of 1e-6). A norm that is not finite is returned with the gradients
/// untouched: whoever takes the step must refuse it.
///
/// # Errors
/// As for [`global_norm`] and [`mul_scalar_`], or when `max_norm` is not positive.
pub fn clip_global_norm_(grads: &mut [Tensor], max_norm: f64) -> Result<f64, Error> {
    if max_norm.is_nan() || max_norm <= 0.0 {
        let reason = format!("max_norm is {max_norm}, it must be positive");
        return Err(Error::argument("clip_grad_norm_", reason));
    }
    let norm = global_norm(grads)?.double_value(&[]);
    let factor = max_norm / (norm + 1e-6);
    if norm.is_finite() && factor < 1.0 {
        mul_scalar_(grads, factor)?;
    }
    Ok(norm)
}

fn defined(operation: &'static str, tensors: &[Tensor]) -> Result<(), Error> {
    match tensors.iter().position(|tensor| !tensor.defined()) {
        None => Ok(()),
        Some(position) => Err(Error::argument(
            operation,
            format!("tensor {position} is undefined"),
        )),
    }
}
