//! The ends of a transformer's two branches in inference: projection or feed-forward part,
//! residual sum and LayerNorm in one pass over a few rows at a time (bf16, CPU).
//!
//! Owns the packed weights and the fused forward passes. Refuses training, other kinds and
//! other devices: callers keep single layers there.
#![allow(unsafe_code)] // Calls the shim.

use tch::{Device, Kind, Tensor};

use crate::{Activation, Error, ffi};

const PACK: &str = "packed branch";
const PROJECTION: &str = "projection branch";
const FEED_FORWARD: &str = "feed-forward branch";
/// Widths are multiples of this: rows are whole vectors of the kernels.
const LANE: i64 = 16;

/// A bf16 layer laid out for a branch, its bias in f32.
#[derive(Debug)]
struct Layer {
    weight: Tensor,
    bias: Tensor,
}

/// Scale and shift of the LayerNorm that ends a branch, `[h]` each, f32.
#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

/// `LN(x + a Wᵀ + b)`, the end of attention.
#[derive(Debug)]
pub struct ProjectionBranch {
    layer: Layer,
    norm: Norm,
}

/// `LN(x + gelu(x W1ᵀ + b1) W2ᵀ + b2)`, the feed-forward part. Unlike that of a chain of
/// single layers its inner state is never rounded but once, after GELU.
#[derive(Debug)]
pub struct FeedForwardBranch {
    inner: Layer,
    outer: Layer,
    tanh: bool,
    norm: Norm,
}

impl ProjectionBranch {
    /// Packs a layer's weight `[h, in]` (bf16) and bias `[h]`, and keeps `norm`, the
    /// LayerNorm's weight and bias `[h]` with its epsilon.
    ///
    /// # Errors
    /// When shapes, kinds or devices are not as above, a width is no multiple of 16, or
    /// this processor has no such products: keep single layers then.
    pub fn pack(layer: (&Tensor, &Tensor), norm: (&Tensor, &Tensor, f64)) -> Result<Self, Error> {
        let layer = Layer::pack(layer, true)?;
        let norm = Norm::new(norm, layer.out())?;
        let branch = Self { layer, norm };
        let zeros = |width| Tensor::zeros([1, width], (Kind::BFloat16, Device::Cpu));
        // libtorch says by refusing what the processor cannot do.
        let _ = branch.forward(&zeros(branch.layer.width()), &zeros(branch.layer.out()))?;
        Ok(branch)
    }

    /// `[T, h]` of `a` `[T, in]` and `x` `[T, h]`, bf16, outside autograd.
    ///
    /// # Errors
    /// When the inputs are not as above, or libtorch refuses.
    pub fn forward(&self, a: &Tensor, x: &Tensor) -> Result<Tensor, Error> {
        check(PROJECTION, a, self.layer.width())?;
        check(PROJECTION, x, self.layer.out())?;
        if a.size()[0] != x.size()[0] {
            return Err(Error::argument(PROJECTION, "the inputs differ in rows"));
        }
        let mut out = std::ptr::null_mut();
        // SAFETY: kinds, shapes and layout were checked here and in `pack`, so that the kernel
        // stays inside the tensors, which live through the call; `out` is adopted once, on
        // success.
        unsafe {
            let message = ffi::quarry_projection_branch(
                ffi::raw(a),
                ffi::raw(x),
                ffi::raw(&self.layer.weight),
                ffi::raw(&self.layer.bias),
                ffi::raw(&self.norm.weight),
                ffi::raw(&self.norm.bias),
                self.norm.epsilon,
                &mut out,
            );
            ffi::check(PROJECTION, message)?;
            Ok(ffi::adopt(out))
        }
    }

    /// The same branch for another thread, sharing the weights.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        Self {
            layer: self.layer.shallow_clone(),
            norm: self.norm.shallow_clone(),
        }
    }
}

impl FeedForwardBranch {
    /// Packs the weights `[inner, h]` and `[h, inner]` (bf16) with their biases, and keeps
    /// `norm` as [`ProjectionBranch::pack`] does. `activation` is a form of GELU.
    ///
    /// # Errors
    /// As [`ProjectionBranch::pack`]; and when the layers do not fit each other.
    pub fn pack(
        inner: (&Tensor, &Tensor),
        outer: (&Tensor, &Tensor),
        activation: Activation,
        norm: (&Tensor, &Tensor, f64),
    ) -> Result<Self, Error> {
        let tanh = match activation {
            Activation::Gelu => false,
            Activation::GeluTanh => true,
            _ => return Err(Error::argument(PACK, "the activation is not GELU")),
        };
        let (inner, outer) = (Layer::pack(inner, false)?, Layer::pack(outer, true)?);
        if inner.out() != outer.width() || inner.width() != outer.out() {
            return Err(Error::argument(PACK, "the layers do not fit each other"));
        }
        let norm = Norm::new(norm, outer.out())?;
        let branch = Self {
            inner,
            outer,
            tanh,
            norm,
        };
        let _ = branch.forward(&Tensor::zeros(
            [1, branch.outer.out()],
            (Kind::BFloat16, Device::Cpu),
        ))?;
        Ok(branch)
    }

    /// `[T, h]` of `x` `[T, h]`, bf16, outside autograd.
    ///
    /// # Errors
    /// When the input is not as above, or libtorch refuses.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        check(FEED_FORWARD, x, self.outer.out())?;
        let mut out = std::ptr::null_mut();
        // SAFETY: as in `ProjectionBranch::forward`.
        unsafe {
            let message = ffi::quarry_feed_forward_branch(
                ffi::raw(x),
                ffi::raw(&self.inner.weight),
                ffi::raw(&self.inner.bias),
                ffi::raw(&self.outer.weight),
                ffi::raw(&self.outer.bias),
                self.tanh,
                ffi::raw(&self.norm.weight),
                ffi::raw(&self.norm.bias),
                self.norm.epsilon,
                &mut out,
            );
            ffi::check(FEED_FORWARD, message)?;
            Ok(ffi::adopt(out))
        }
    }

    /// The same branch for another thread, sharing the weights.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        Self {
            inner: self.inner.shallow_clone(),
            outer: self.outer.shallow_clone(),
            tanh: self.tanh,
            norm: self.norm.shallow_clone(),
        }
    }
}

impl Layer {
    /// `last`: as the last product of a branch reads its weight, not the first.
    fn pack((weight, bias): (&Tensor, &Tensor), last: bool) -> Result<Self, Error> {
        let size = weight.size();
        let fits = |&width: &i64| width > 0 && width % LANE == 0;
        if size.len() != 2 || !size.iter().all(fits) {
            let reason = format!("the weight is {size:?}, not [out, in] in multiples of {LANE}");
            return Err(Error::argument(PACK, reason));
        }
        if weight.kind() != Kind::BFloat16 || weight.device() != Device::Cpu {
            return Err(Error::argument(PACK, "the weight is not bf16 on the cpu"));
        }
        let bias = row(bias, size[0])?;
        let mut packed = std::ptr::null_mut();
        // SAFETY: the weight lives and is bf16 [out, in], `in` even; `packed` is adopted once,
        // on success.
        let weight = unsafe {
            let message = ffi::quarry_branch_pack(ffi::raw(weight), last, &mut packed);
            ffi::check(PACK, message)?;
            ffi::adopt(packed)
        };
        Ok(Self { weight, bias })
    }

    fn out(&self) -> i64 {
        self.weight.size()[0]
    }

    fn width(&self) -> i64 {
        self.weight.size()[1]
    }

    fn shallow_clone(&self) -> Self {
        Self {
            weight: self.weight.shallow_clone(),
            bias: self.bias.shallow_clone(),
        }
    }
}

impl Norm {
    fn new((weight, bias, epsilon): (&Tensor, &Tensor, f64), width: i64) -> Result<Self, Error> {
        Ok(Self {
            weight: row(weight, width)?,
            bias: row(bias, width)?,
            epsilon,
        })
    }

    fn shallow_clone(&self) -> Self {
        Self {
            weight: self.weight.shallow_clone(),
            bias: self.bias.shallow_clone(),
            epsilon: self.epsilon,
        }
    }
}

/// `[width]` f32 on the CPU.
fn row(tensor: &Tensor, width: i64) -> Result<Tensor, Error> {
    if tensor.size() != [width] || tensor.device() != Device::Cpu {
        let reason = format!("{:?} is not [{width}] on the cpu", tensor.size());
        return Err(Error::argument(PACK, reason));
    }
    let row = tensor.detach().f_to_kind(Kind::Float);
    row.and_then(|row| row.f_contiguous())
        .map_err(|e| Error::argument(PACK, e.to_string()))
}

/// Refuses an input that is not `[T, width]` bf16, contiguous, on the CPU, outside autograd.
fn check(operation: &'static str, input: &Tensor, width: i64) -> Result<(), Error> {
    let size = input.size();
    let fits = size.len() == 2 && size[1] == width && input.kind() == Kind::BFloat16;
    if !fits || input.device() != Device::Cpu || !input.is_contiguous() || input.requires_grad() {
        let reason = format!(
            "the input is {:?} {size:?}, not contiguous bf16 [T, {width}] on the cpu outside autograd",
            input.kind()
        );
        return Err(Error::argument(operation, reason));
    }
    Ok(())
}
