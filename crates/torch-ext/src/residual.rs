//! The end of a transformer's branch in training: dropout, residual sum and LayerNorm in
//! one differentiable pass (CPU).
//!
//! Owns the fused operation and its masks. Refuses to draw seeds, and devices other than
//! the CPU: callers keep libtorch's operations there.
#![allow(unsafe_code)] // Calls the shim.

use tch::Tensor;

use crate::{Error, ffi, norm};

const OPERATION: &str = "residual_norm";

/// Which elements of a branch are zeroed: a pure function of `seed`, which is therefore
/// all that the backward pass needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeededDropout {
    /// Of each element to be zeroed, in `[0, 1)`; exact to 2⁻³².
    pub probability: f64,
    /// Give each branch another.
    pub seed: i64,
}

/// `LN(x + dropout(y))`: `[…, h]`, f32 or bf16, with `weight` and `bias` `[h]` in f32.
/// The sum and its statistics are f32 (Ba et al., arXiv 1607.06450); for the backward
/// pass the sum is kept in the kind of `x`.
///
/// # Errors
/// When kinds, shapes or devices are not as above, a tensor is not contiguous or has
/// 2³² elements or more, the probability is outside `[0, 1)`, or libtorch refuses.
pub fn residual_norm(
    x: &Tensor,
    y: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    epsilon: f64,
    dropout: Option<SeededDropout>,
) -> Result<Tensor, Error> {
    norm::check(OPERATION, [x, y], [weight, bias])?;
    if u32::try_from(x.numel()).is_err() {
        let reason = format!("{:?} has 2^32 elements or more", x.size());
        return Err(Error::argument(OPERATION, reason));
    }
    let (seed, probability) = dropout.map_or((0, 0.0), |d| (d.seed, d.probability));
    if !(0.0..1.0).contains(&probability) {
        let reason = format!("the probability {probability} is not in [0, 1)");
        return Err(Error::argument(OPERATION, reason));
    }
    // Saturates at 2³² − 1, which no probability below 1 is far from.
    let below = (probability * 4_294_967_296.0).round() as u32;
    let mut out = std::ptr::null_mut();
    // SAFETY: kinds, shapes and layout were checked, so that the kernel stays inside the
    // tensors, which live through the call; `out` is adopted once, on success.
    unsafe {
        let message = ffi::quarry_residual_norm(
            ffi::raw(x),
            ffi::raw(y),
            ffi::raw(weight),
            ffi::raw(bias),
            epsilon,
            seed,
            below,
            1.0 / (1.0 - probability),
            &mut out,
        );
        ffi::check(OPERATION, message)?;
        Ok(ffi::adopt(out))
    }
}
