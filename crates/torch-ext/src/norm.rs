//! LayerNorm of a residual sum in one pass (CPU).
//!
//! Owns the fused operation of inference. Refuses autograd and devices other than the
//! CPU: callers keep libtorch's operations for both.
#![allow(unsafe_code)] // Calls the shim.

use tch::{Device, Kind, Tensor};

use crate::{Error, ffi};

const OPERATION: &str = "add_norm";

/// `LN(x + y)` in the place of `y`, which it returns: `[…, h]`, f32 or bf16, with `weight`
/// and `bias` `[h]` in f32. The sum and its statistics are f32 (Ba et al., arXiv 1607.06450).
///
/// # Errors
/// When kinds, shapes or devices are not as above, a tensor is not contiguous, one
/// requires a gradient while gradients are on, or libtorch refuses.
pub fn add_norm(
    x: &Tensor,
    y: Tensor,
    weight: &Tensor,
    bias: &Tensor,
    epsilon: f64,
) -> Result<Tensor, Error> {
    check(OPERATION, [x, &y], [weight, bias])?;
    // SAFETY: kinds, shapes and layout were checked, so that the kernel stays inside the
    // tensors, which live through the call; `y` is ours, and no row is read after it is
    // written.
    unsafe {
        let message = ffi::quarry_add_norm_(
            ffi::raw(x),
            ffi::raw(&y),
            ffi::raw(weight),
            ffi::raw(bias),
            epsilon,
        );
        ffi::check(OPERATION, message)?;
    }
    Ok(y)
}

/// Refuses what the kernels of a residual sum cannot take: `branches` `[…, h]`, f32 or
/// bf16, and `scales` `[h]` in f32.
pub(crate) fn check(
    operation: &'static str,
    branches: [&Tensor; 2],
    scales: [&Tensor; 2],
) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::argument(operation, reason));
    let [x, y] = branches;
    let size = y.size();
    let row = size.last().copied().unwrap_or(0);
    if row < 1 || x.size() != size || x.kind() != y.kind() {
        return refuse(format!(
            "x is {:?} {:?} and y {:?} {size:?}; they must be alike, with at least one column",
            x.kind(),
            x.size(),
            y.kind()
        ));
    }
    if !matches!(y.kind(), Kind::Float | Kind::BFloat16) {
        return refuse("y is neither f32 nor bf16".to_owned());
    }
    for scale in scales {
        if scale.kind() != Kind::Float || scale.size() != [row] {
            return refuse(format!("weight or bias is not f32 [{row}]"));
        }
    }
    for tensor in [x, y].into_iter().chain(scales) {
        if tensor.device() != Device::Cpu || !tensor.is_contiguous() {
            return refuse("a tensor is not on the cpu or not contiguous".to_owned());
        }
    }
    Ok(())
}
