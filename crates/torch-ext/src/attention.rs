//! Attention over packed sequences (CPU), forward and backward.
//!
//! Owns the kernel whose scores stay in the processor's cache: no padding, no mask, one
//! call for sequences of any lengths. Refuses dropout of attention probabilities and
//! devices other than the CPU: callers keep libtorch's operations for both.
#![allow(unsafe_code)] // Calls the shim.

use tch::{Device, Kind, Tensor};

use crate::{Error, ffi};

const FORWARD: &str = "packed attention";

/// Multi-head attention in which every sequence sees itself alone.
#[derive(Debug, Clone, Copy)]
pub struct PackedAttention {
    heads: i64,
    kind: Kind,
}

impl PackedAttention {
    /// For `heads` heads of `width` numbers each, f32 or bf16.
    ///
    /// # Errors
    /// When this processor or libtorch cannot (bf16 needs AVX-512 with bf16, or AMX; an
    /// odd or non-positive width): keep libtorch's operations then.
    pub fn new(heads: i64, width: i64, kind: Kind) -> Result<Self, Error> {
        if heads < 1 || width < 2 || width % 2 != 0 {
            return Err(Error::argument(
                FORWARD,
                format!(
                    "{heads} heads of {width} numbers; at least one of an even width is needed"
                ),
            ));
        }
        if !matches!(kind, Kind::Float | Kind::BFloat16) {
            return Err(Error::argument(
                FORWARD,
                format!("{kind:?} is not f32 or bf16"),
            ));
        }
        let attention = Self { heads, kind };
        // libtorch says by refusing what the processor cannot do.
        let _no_grad = tch::no_grad_guard();
        let zeros = Tensor::f_zeros([2, 3 * heads * width], (kind, Device::Cpu))
            .map_err(|e| Error::argument(FORWARD, e.to_string()))?;
        let _ = attention.forward(&zeros, &[2])?;
        Ok(attention)
    }

    /// `softmax(Q Kᵀ / √d) V` inside each sequence: `[T, h]` from `projections` `[T, 3h]`
    /// (queries, keys and values side by side, heads side by side in each) of sequences
    /// of `lengths` tokens, one after the other. Differentiable; the backward pass
    /// computes the probabilities again rather than keep them (Dao et al., arXiv 2205.14135).
    ///
    /// # Errors
    /// When the projections are not as above, the lengths do not add up to `T` or one is
    /// below 1, or libtorch refuses.
    pub fn forward(&self, projections: &Tensor, lengths: &[i64]) -> Result<Tensor, Error> {
        self.check(projections, lengths)?;
        let projections = projections
            .f_contiguous()
            .map_err(|e| Error::argument(FORWARD, e.to_string()))?;
        let mut context = std::ptr::null_mut();
        // SAFETY: kind, shape, layout and lengths were checked, so that the kernel stays
        // inside the tensor, which lives through the call; `context` is adopted once, on
        // success.
        unsafe {
            let message = ffi::quarry_packed_attention(
                ffi::raw(&projections),
                lengths.as_ptr(),
                lengths.len(),
                self.heads,
                &mut context,
            );
            ffi::check(FORWARD, message)?;
            Ok(ffi::adopt(context))
        }
    }

    fn check(&self, projections: &Tensor, lengths: &[i64]) -> Result<(), Error> {
        let size = projections.size();
        let (kind, device) = (projections.kind(), projections.device());
        let &[tokens, columns] = size.as_slice() else {
            return Err(Error::argument(
                FORWARD,
                format!("the projections are {size:?}, not [T, 3h]"),
            ));
        };
        if kind != self.kind
            || device != Device::Cpu
            || columns < 1
            || columns % (6 * self.heads) != 0
        {
            let reason = format!(
                "the projections are {kind:?} {size:?} on {device:?}, not {:?} [T, 3h] on the cpu, h an even multiple of {} heads",
                self.kind, self.heads
            );
            return Err(Error::argument(FORWARD, reason));
        }
        check_lengths(FORWARD, lengths, tokens)
    }
}

/// Refuses lengths that are not those of sequences of `tokens` tokens together.
pub(crate) fn check_lengths(
    operation: &'static str,
    lengths: &[i64],
    tokens: i64,
) -> Result<(), Error> {
    let sum = lengths.iter().try_fold(0i64, |sum, &length| match length {
        1.. => sum.checked_add(length),
        _ => None,
    });
    if sum == Some(tokens) && tokens > 0 {
        return Ok(());
    }
    let reason = format!(
        "{} lengths do not add up to {tokens} tokens, each at least 1",
        lengths.len()
    );
    Err(Error::argument(operation, reason))
}
