//! A linear layer with its activation fused into the matrix product (oneDNN, CPU).
//!
//! Owns the packed weight and its forward pass. Refuses training (there is no
//! backward) and devices other than the CPU: callers keep the plain layer for both.
#![allow(unsafe_code)] // Calls the shim.

use std::ffi::CStr;

use tch::{Device, Kind, Tensor};

use crate::{Error, ffi};

const PACK: &str = "mkldnn::_reorder_linear_weight";
const FORWARD: &str = "mkldnn::_linear_pointwise";

/// What is applied to `x Wᵀ + b` before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// GELU by the error function (Hendrycks & Gimpel, arXiv 1606.08415).
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// max(0, x).
    Relu,
    /// Hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// The operator's name of the activation, and of the algorithm where it has several.
    const fn names(self) -> (&'static CStr, Option<&'static CStr>) {
        match self {
            Self::Identity => (c"none", None),
            Self::Gelu => (c"gelu", Some(c"none")),
            Self::GeluTanh => (c"gelu", Some(c"tanh")),
            Self::Relu => (c"relu", None),
            Self::Tanh => (c"tanh", None),
        }
    }
}

/// A linear layer whose weight was laid out once for the CPU's matrix kernels.
#[derive(Debug)]
pub struct PackedLinear {
    packed: Tensor,
    bias: Option<Tensor>,
    in_features: i64,
    kind: Kind,
}

impl PackedLinear {
    /// Packs `weight` `[out, in]` (f32 or bf16, CPU) and keeps `bias` `[out]` of the same
    /// kind. `rows` is a typical number of input rows to lay the weight out for.
    ///
    /// # Errors
    /// When shape, kind or device are not as above, or when this libtorch or CPU
    /// cannot (bf16 needs AVX-512): keep the plain layer then.
    pub fn pack(weight: &Tensor, bias: Option<&Tensor>, rows: Option<i64>) -> Result<Self, Error> {
        let size = weight.size();
        let kind = weight.kind();
        let usable = |t: &Tensor| t.device() == Device::Cpu && t.kind() == kind;
        let &[out_features, in_features] = size.as_slice() else {
            return Err(Error::argument(
                PACK,
                format!("the weight is {size:?}, not [out, in]"),
            ));
        };
        if !usable(weight) || !matches!(kind, Kind::Float | Kind::BFloat16) {
            return Err(Error::argument(
                PACK,
                "the weight is not f32 or bf16 on the CPU",
            ));
        }
        if bias.is_some_and(|b| !usable(b) || b.size() != [out_features]) {
            return Err(Error::argument(
                PACK,
                "the bias is not [out] of the weight's kind",
            ));
        }
        let mut packed = std::ptr::null_mut();
        // SAFETY: the weight lives; `packed` is adopted once, on success.
        let packed = unsafe {
            let message = ffi::quarry_linear_pack(ffi::raw(weight), rows.unwrap_or(0), &mut packed);
            ffi::check(PACK, message)?;
            ffi::adopt(packed)
        };
        let bias = bias.map(|b| b.detach().contiguous());
        Ok(Self {
            packed,
            bias,
            in_features,
            kind,
        })
    }

    /// The same layer, sharing the weight: a tensor may not be used from two threads,
    /// two handles on it may.
    pub fn shallow_clone(&self) -> Self {
        Self {
            packed: self.packed.shallow_clone(),
            bias: self.bias.as_ref().map(Tensor::shallow_clone),
            in_features: self.in_features,
            kind: self.kind,
        }
    }

    /// `activation(x Wᵀ + b)`: `[…, in]` → `[…, out]`, of the weight's kind, outside autograd.
    ///
    /// # Errors
    /// When the input is not `[…, in]` of the weight's kind on the CPU, or libtorch refuses.
    pub fn forward(&self, input: &Tensor, activation: Activation) -> Result<Tensor, Error> {
        self.check(input)?;
        let (name, algorithm) = activation.names();
        let bias = self.bias.as_ref().map_or(std::ptr::null_mut(), ffi::raw);
        let mut output = std::ptr::null_mut();
        // SAFETY: all tensors live through the call; the names are static C strings;
        // `output` is adopted once, on success.
        unsafe {
            let message = ffi::quarry_linear_forward(
                ffi::raw(input),
                ffi::raw(&self.packed),
                bias,
                name.as_ptr(),
                algorithm.map_or(std::ptr::null(), CStr::as_ptr),
                &mut output,
            );
            ffi::check(FORWARD, message)?;
            Ok(ffi::adopt(output))
        }
    }

    /// The packed weight, and the bias.
    pub(crate) fn tensors(&self) -> (&Tensor, Option<&Tensor>) {
        (&self.packed, self.bias.as_ref())
    }

    /// Whether rows of a tensor of this size and kind are inputs.
    pub(crate) fn takes(&self, size: &[i64], kind: Kind) -> bool {
        size.last() == Some(&self.in_features) && kind == self.kind
    }

    /// Refuses an input that is not `[…, in]` of the weight's kind on the CPU.
    pub(crate) fn check(&self, input: &Tensor) -> Result<(), Error> {
        let size = input.size();
        let fits = size.len() >= 2 && self.takes(&size, input.kind());
        if !fits || input.device() != Device::Cpu {
            let reason = format!(
                "the input is {:?} {size:?} on {:?}, not {:?} […, {}] on the cpu",
                input.kind(),
                input.device(),
                self.kind,
                self.in_features
            );
            return Err(Error::argument(FORWARD, reason));
        }
        Ok(())
    }
}
