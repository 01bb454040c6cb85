//! All layers of a transformer of the BERT family in inference, as one operation (f32 or
//! bf16, CPU): a few sequences go through a layer before the next ones do, so that neither what
//! lies between two of its operations nor its weights come from memory each time.
//!
//! Owns the packed weights and the forward pass. Refuses training, other devices and widths
//! that are no multiples of 16: callers keep single layers there.
#![allow(unsafe_code)] // Calls the shim.

use tch::{Device, Kind, Tensor};

use crate::attention::check_lengths;
use crate::{Activation, Error, ffi};

const PACK: &str = "packed layers";
const FORWARD: &str = "layers";
/// Rows are whole vectors of the kernels.
const LANE: i64 = 16;

/// A linear layer's weight `[out, in]` and bias `[out]`.
pub type LinearWeights<'a> = (&'a Tensor, &'a Tensor);

/// A LayerNorm's weight and bias, `[h]` each.
pub type NormWeights<'a> = (&'a Tensor, &'a Tensor);

/// One layer's weights: linear ones are f32 or bf16, all of a model of the same kind.
#[derive(Debug, Clone, Copy)]
pub struct LayerWeights<'a> {
    /// `[3h, h]`: queries, keys and values.
    pub projections: LinearWeights<'a>,
    /// `[h, h]`, behind attention.
    pub output: LinearWeights<'a>,
    /// Behind the output and its residual sum.
    pub attention_norm: NormWeights<'a>,
    /// `[inner, h]`, before GELU.
    pub inner: LinearWeights<'a>,
    /// `[h, inner]`, behind GELU.
    pub outer: LinearWeights<'a>,
    /// Behind the outer layer and its residual sum.
    pub norm: NormWeights<'a>,
}

/// What a model's layers share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerForm {
    /// Heads of attention.
    pub heads: i64,
    /// A form of GELU.
    pub activation: Activation,
    /// Epsilon of the LayerNorms.
    pub epsilon: f64,
}

/// ```text
/// x = LN(x + attention(x Wpᵀ + bp) Woᵀ + bo)
/// x = LN(x + gelu(x W1ᵀ + b1) W2ᵀ + b2)
/// ```
/// layer after layer. Sums stay in f32 until GELU and until LayerNorm has written; states
/// between, queries, keys, values and GELU's output are of the weights' kind.
#[derive(Debug)]
pub struct PackedLayers {
    /// Twelve a layer, in the order of [`LayerWeights`], weight and bias in turn.
    tensors: Vec<Tensor>,
    kind: Kind,
    hidden: i64,
    heads: i64,
    tanh: bool,
    epsilon: f64,
}

impl PackedLayers {
    /// No layer yet: for states of `hidden` numbers and weights of `kind`, f32 or bf16.
    ///
    /// # Errors
    /// When the states' width is no multiple of 16 or a head's is odd, the kind is another or the activation is
    /// no GELU: keep single layers then.
    pub fn new(hidden: i64, kind: Kind, form: LayerForm) -> Result<Self, Error> {
        let refused = |reason: String| Err(Error::argument(PACK, reason));
        let tanh = match form.activation {
            Activation::Gelu => false,
            Activation::GeluTanh => true,
            other => return refused(format!("{other:?} is no form of GELU")),
        };
        if !matches!(kind, Kind::Float | Kind::BFloat16) {
            return refused(format!("{kind:?} is not f32 or bf16"));
        }
        let heads = form.heads;
        if heads < 1 || hidden < 1 || hidden % LANE != 0 || hidden % (2 * heads) != 0 {
            return refused(format!(
                "{hidden} numbers are no multiple of {LANE}, or {heads} heads of an even width"
            ));
        }
        Ok(Self {
            tensors: Vec::new(),
            kind,
            hidden,
            heads,
            tanh,
            epsilon: form.epsilon,
        })
    }

    /// Lays out the weights of one more layer.
    ///
    /// # Errors
    /// When shapes, kinds or devices are not as in [`LayerWeights`], the inner width is no
    /// multiple of 16, or this processor has no such products (bf16 needs AVX-512
    /// with bf16, or AMX): keep single layers then.
    pub fn push(&mut self, layer: &LayerWeights<'_>) -> Result<(), Error> {
        let whole = self.tensors.len();
        let added = self.add(layer);
        if added.is_err() {
            // What was refused leaves nothing behind: the kernel counts on whole layers.
            self.tensors.truncate(whole);
        }
        added
    }

    fn add(&mut self, layer: &LayerWeights<'_>) -> Result<(), Error> {
        let h = self.hidden;
        let inner = layer.inner.0.size().first().copied().unwrap_or(0);
        self.add_linear(layer.projections, [3 * h, h], h / self.heads)?;
        self.add_linear(layer.output, [h, h], h)?;
        self.add_norm(layer.attention_norm)?;
        self.add_linear(layer.inner, [inner, h], inner)?;
        self.add_linear(layer.outer, [h, inner], h)?;
        self.add_norm(layer.norm)?;
        // libtorch says by refusing what the processor cannot do.
        let zeros = Tensor::f_zeros([1, h], (self.kind, Device::Cpu));
        let zeros = zeros.map_err(|e| Error::argument(PACK, e.to_string()))?;
        self.forward(&zeros, &[1]).map(|_| ())
    }

    /// `part`: rows of the weight that a product goes through alone.
    fn add_linear(
        &mut self,
        (weight, bias): LinearWeights<'_>,
        size: [i64; 2],
        part: i64,
    ) -> Result<(), Error> {
        let fits = size.iter().all(|width| *width > 0 && width % LANE == 0);
        if !fits || weight.size() != size {
            let found = weight.size();
            let reason = format!("a weight is {found:?}, not {size:?} in multiples of {LANE}");
            return Err(Error::argument(PACK, reason));
        }
        if weight.kind() != self.kind || weight.device() != Device::Cpu {
            let reason = format!("a weight is not {:?} on the cpu", self.kind);
            return Err(Error::argument(PACK, reason));
        }
        let mut packed = std::ptr::null_mut();
        // SAFETY: the weight lives and is f32 or bf16 [out, in] on the CPU, `in` even; `packed`
        // is adopted once, on success.
        let packed = unsafe {
            let message = ffi::quarry_layers_pack(ffi::raw(weight), part, &mut packed);
            ffi::check(PACK, message)?;
            ffi::adopt(packed)
        };
        self.tensors.push(packed);
        self.tensors.push(row(bias, size[0])?);
        Ok(())
    }

    fn add_norm(&mut self, (weight, bias): NormWeights<'_>) -> Result<(), Error> {
        self.tensors.push(row(weight, self.hidden)?);
        self.tensors.push(row(bias, self.hidden)?);
        Ok(())
    }

    /// `[T, h]` of `x` `[T, h]`, of the weights' kind, outside autograd: sequences of
    /// `lengths` tokens, one after the other, each seeing itself alone. What a sequence
    /// becomes does not depend on the number of threads.
    ///
    /// # Errors
    /// When the input is not as above, there is no token, the lengths do not add up to `T` or
    /// one is below 1, or libtorch refuses.
    pub fn forward(&self, x: &Tensor, lengths: &[i64]) -> Result<Tensor, Error> {
        self.through(x, lengths, false)
    }

    /// What becomes of every sequence's first token, `[B, h]`: the rows of
    /// [`PackedLayers::forward`] that CLS pooling reads, to the bit. Of the last layer other
    /// tokens go through keys and values alone, a sixth of its products.
    ///
    /// # Errors
    /// As [`PackedLayers::forward`], and without a layer.
    pub fn forward_first(&self, x: &Tensor, lengths: &[i64]) -> Result<Tensor, Error> {
        if self.tensors.is_empty() {
            return Err(Error::argument(
                FORWARD,
                "there is no layer: push one first",
            ));
        }
        self.through(x, lengths, true)
    }

    fn through(&self, x: &Tensor, lengths: &[i64], firsts: bool) -> Result<Tensor, Error> {
        self.check(x)?;
        check_lengths(FORWARD, lengths, x.size()[0])?;
        let tensors = ffi::raw_list(&self.tensors);
        let mut out = std::ptr::null_mut();
        // SAFETY: kinds, shapes, layout and lengths were checked here and in `push`, so that
        // the kernel stays inside the tensors, which live through the call; `out` is adopted
        // once, on success.
        unsafe {
            let message = ffi::quarry_layers_forward(
                ffi::raw(x),
                lengths.as_ptr(),
                lengths.len(),
                tensors.as_ptr(),
                tensors.len(),
                self.heads,
                self.tanh,
                self.epsilon,
                firsts,
                &mut out,
            );
            ffi::check(FORWARD, message)?;
            Ok(ffi::adopt(out))
        }
    }

    /// The same layers for another thread, sharing the weights.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        Self {
            tensors: self.tensors.iter().map(Tensor::shallow_clone).collect(),
            ..*self
        }
    }

    /// Refuses an input that is not `[T, h]`, contiguous, on the CPU, outside autograd.
    fn check(&self, x: &Tensor) -> Result<(), Error> {
        let (size, kind) = (x.size(), self.kind);
        let fits = size.len() == 2 && size[1] == self.hidden && x.kind() == kind;
        if !fits || x.device() != Device::Cpu || !x.is_contiguous() || x.requires_grad() {
            let reason = format!(
                "the input is {:?} {size:?}, not contiguous {kind:?} [T, {}] on the cpu outside autograd",
                x.kind(),
                self.hidden
            );
            return Err(Error::argument(FORWARD, reason));
        }
        Ok(())
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
