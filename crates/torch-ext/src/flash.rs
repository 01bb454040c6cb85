//! Attention over packed sequences on a GPU, forward and backward.
//!
//! Owns the call of libtorch's flash attention (Dao, arXiv 2307.08691) and the bounds of the
//! sequences, which go to the GPU once a batch. Refuses f32, which the kernel cannot, and the CPU: [`crate::PackedAttention`] is there.
//!
//! The backward pass adds up ∂Q by atomic operations, in any order. After
//! [`crate::set_deterministic`] it does not: libtorch's operator asks that setting itself,
//! and then sums in a fixed order, with more memory.
#![allow(unsafe_code)] // Calls the shim.

use tch::{Device, Kind, Tensor};

use crate::{Error, ffi, upload};

const OPERATION: &str = "_flash_attention_forward";

/// The widest head that the kernel takes.
const WIDEST: i64 = 256;

/// Where each sequence of a packed batch begins and ends, on a device.
#[derive(Debug)]
pub struct SequenceBounds {
    /// `[B + 1]` i32: 0, then the sums of the lengths so far.
    cumulative: Tensor,
    tokens: i64,
    longest: i64,
}

impl SequenceBounds {
    /// For sequences of `lengths` tokens, one after the other. On a GPU the bounds are on
    /// their way when this returns; operations enqueued later find them there.
    ///
    /// # Errors
    /// When there is no sequence, one is shorter than 1, they have 2³¹ tokens or more, or
    /// libtorch refuses the copy.
    pub fn new(lengths: &[i64], device: Device) -> Result<Self, Error> {
        let mut cumulative = Vec::with_capacity(lengths.len() + 1);
        cumulative.push(0i32);
        let mut tokens = 0i64;
        for &length in lengths {
            tokens = tokens.saturating_add(length.max(0));
            match i32::try_from(tokens) {
                Ok(end) if length > 0 => cumulative.push(end),
                _ => {
                    let reason = format!(
                        "a length of {length} after {} tokens, each must be at least 1 and all less than 2^31",
                        cumulative.last().copied().unwrap_or(0)
                    );
                    return Err(Error::argument(OPERATION, reason));
                }
            }
        }
        let Some(&longest) = lengths.iter().max() else {
            return Err(Error::argument(OPERATION, "there is no sequence"));
        };
        Ok(Self {
            cumulative: upload(&cumulative, device)?,
            tokens,
            longest,
        })
    }

    /// `[B + 1]` i32 on the device: 0, then the sums of the lengths so far. A copy: the
    /// kernel trusts ours.
    pub fn cumulative(&self) -> Tensor {
        self.cumulative.copy()
    }
}

/// Multi-head attention on a GPU in which every sequence sees itself alone.
#[derive(Debug, Clone, Copy)]
pub struct FlashAttention {
    heads: i64,
    width: i64,
    kind: Kind,
    device: Device,
}

impl FlashAttention {
    /// For `heads` heads of `width` numbers each, bf16 or f16, on the GPU `device`. Runs a
    /// tiny pass forward and backward and waits for it, so that what this GPU cannot do is
    /// found here and not inside a run.
    ///
    /// # Errors
    /// When this GPU or libtorch cannot (it wants compute capability 8.0, and a libtorch
    /// built with flash attention), or heads, width and kind are not as above, the width a
    /// multiple of 8 up to 256: keep libtorch's other operations then.
    pub fn new(heads: i64, width: i64, kind: Kind, device: Device) -> Result<Self, Error> {
        let refuse = |reason: String| Err(Error::argument(OPERATION, reason));
        if !device.is_cuda() {
            return refuse(format!("{device:?} is no GPU"));
        }
        if heads < 1 || width < 8 || width % 8 != 0 || width > WIDEST {
            return refuse(format!(
                "{heads} heads of {width} numbers; at least one of a multiple of 8 up to {WIDEST} is needed"
            ));
        }
        if !matches!(kind, Kind::BFloat16 | Kind::Half) {
            return refuse(format!("{kind:?} is neither bf16 nor f16"));
        }
        let attention = Self {
            heads,
            width,
            kind,
            device,
        };
        attention.probe()?;
        Ok(attention)
    }

    /// libtorch says by refusing what the GPU cannot do; a kernel that is missing in the
    /// file may only be noticed when the result is read.
    fn probe(&self) -> Result<(), Error> {
        let torch = |e: tch::TchError| Error::argument(OPERATION, e.to_string());
        let bounds = SequenceBounds::new(&[2, 1], self.device)?;
        let slope = tch::with_grad(|| {
            let columns = 3 * self.heads * self.width;
            let zeros = Tensor::f_zeros([3, columns], (self.kind, self.device)).map_err(torch)?;
            let leaf = zeros.f_set_requires_grad(true).map_err(torch)?;
            let context = self.forward(&leaf, &bounds, 0.0)?;
            let sum = context.f_sum(Kind::Float).map_err(torch)?;
            sum.f_backward().map_err(torch)?;
            leaf.f_grad().map_err(torch)
        })?;
        let finite = slope.f_isfinite().and_then(|t| t.f_all()).map_err(torch)?;
        match bool::try_from(finite).map_err(torch)? {
            true => Ok(()),
            false => Err(Error::argument(
                OPERATION,
                "the gradient of zeros is not finite",
            )),
        }
    }

    /// `softmax(Q Kᵀ / √d) V` inside each sequence: `[T, h]` from `projections` `[T, 3h]`
    /// (queries, keys and values side by side, heads side by side in each). `dropout` is
    /// that of the probabilities, from libtorch's generator. Differentiable.
    ///
    /// # Errors
    /// When the projections are not as above or of another kind, device or number of tokens
    /// than announced, or libtorch refuses.
    pub fn forward(
        &self,
        projections: &Tensor,
        bounds: &SequenceBounds,
        dropout: f64,
    ) -> Result<Tensor, Error> {
        self.check(projections, bounds, dropout)?;
        let projections = projections
            .f_contiguous()
            .map_err(|e| Error::argument(OPERATION, e.to_string()))?;
        let mut context = std::ptr::null_mut();
        // SAFETY: kind, shape and bounds were checked, so that the kernel stays inside the
        // tensors, which live through the call; `context` is adopted once, on success.
        unsafe {
            let message = ffi::quarry_flash_attention(
                ffi::raw(&projections),
                ffi::raw(&bounds.cumulative),
                bounds.longest,
                self.heads,
                dropout,
                &mut context,
            );
            ffi::check(OPERATION, message)?;
            Ok(ffi::adopt(context))
        }
    }

    fn check(&self, projections: &Tensor, bounds: &SequenceBounds, p: f64) -> Result<(), Error> {
        let (size, device) = (projections.size(), projections.device());
        let expected = [bounds.tokens, 3 * self.heads * self.width];
        if size != expected || projections.kind() != self.kind || device != self.device {
            let reason = format!(
                "the projections are {:?} {size:?} on {device:?}, not {:?} {expected:?} on {:?}",
                projections.kind(),
                self.kind,
                self.device
            );
            return Err(Error::argument(OPERATION, reason));
        }
        if bounds.cumulative.device() != self.device || !(0.0..1.0).contains(&p) {
            let reason = format!(
                "the bounds are on {:?} and dropout is {p}; they must be on {:?} and in [0, 1)",
                bounds.cumulative.device(),
                self.device
            );
            return Err(Error::argument(OPERATION, reason));
        }
        Ok(())
    }
}
