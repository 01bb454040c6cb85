//! Layers in training whose backward pass adds to the f32 masters' gradients itself (CPU).
//!
//! Owns the linear layer, two of them with GELU between, and the embeddings that do so. Refuses devices other than the
//! CPU and leaves that are not f32: callers keep libtorch's operations there.
//!
//! By way of autograd every chunk of a batch would allocate each gradient anew, cast it
//! and add it; of the word table, 47 MB for a few thousand rows. The price: a gradient
//! is found in [`Tensor::grad`] after a backward pass, and nowhere else. A master that
//! does not require a gradient gets none.
#![allow(unsafe_code)] // Calls the shim.

use tch::{Device, Kind, Tensor};

use crate::{Activation, Error, PackedLinear, ffi};

const LINEAR: &str = "trained linear";
const FEED_FORWARD: &str = "trained feed-forward branch";
const EMBEDDINGS: &str = "trained embeddings";

/// `y = x Wᵀ + b` over compute copies of masters that collect the gradients.
#[derive(Debug)]
pub struct TrainedLinear {
    /// `W`, and `Wᵀ` for the backward pass.
    forth: PackedLinear,
    back: PackedLinear,
    /// Weight, bias, weight, bias, …
    leaves: Vec<Tensor>,
}

impl TrainedLinear {
    /// Layers of one input joined into one: `masters` are their weights `[out_i, in]` and
    /// biases `[out_i]`, f32 leaves. Products run in `kind` (f32 or bf16) over copies
    /// taken now: make a new one after the masters have changed. `rows` is a typical
    /// number of input rows.
    ///
    /// # Errors
    /// When shapes, kinds or devices are not as above, or when this libtorch or CPU
    /// cannot (bf16 needs AVX-512): keep libtorch's layer then.
    pub fn new(masters: &[(&Tensor, &Tensor)], kind: Kind, rows: i64) -> Result<Self, Error> {
        for (weight, bias) in masters {
            check_leaf(LINEAR, weight, 2)?;
            check_leaf(LINEAR, bias, 1)?;
            if weight.size()[0] != bias.size()[0] {
                let reason = format!("a weight {:?} has a bias {:?}", weight.size(), bias.size());
                return Err(Error::argument(LINEAR, reason));
            }
        }
        let torch = |e: tch::TchError| Error::argument(LINEAR, e.to_string());
        let joined = |parts: Vec<&Tensor>| {
            let parts: Vec<_> = parts.into_iter().map(Tensor::detach).collect();
            Tensor::f_cat(&parts, 0).and_then(|whole| whole.f_to_kind(kind))
        };
        let weight = joined(masters.iter().map(|(w, _)| *w).collect()).map_err(torch)?;
        let bias = joined(masters.iter().map(|(_, b)| *b).collect()).map_err(torch)?;
        let turned = weight
            .f_transpose(0, 1)
            .and_then(|t| t.f_contiguous())
            .map_err(torch)?;
        let leaves = masters.iter().flat_map(|(w, b)| [w, b]);
        Ok(Self {
            forth: PackedLinear::pack(&weight, Some(&bias), Some(rows))?,
            back: PackedLinear::pack(&turned, None, Some(rows))?,
            leaves: leaves.map(|leaf| leaf.shallow_clone()).collect(),
        })
    }

    /// The same layer, sharing weights and masters.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        Self {
            forth: self.forth.shallow_clone(),
            back: self.back.shallow_clone(),
            leaves: self.leaves.iter().map(Tensor::shallow_clone).collect(),
        }
    }

    /// The leaves that collect the gradients: weight, bias, weight, bias, …
    pub fn leaves(&self) -> &[Tensor] {
        &self.leaves
    }

    /// The same layer with gradients in other leaves, of the masters' shapes and in their
    /// order: those of another thread.
    ///
    /// # Errors
    /// When a leaf is not as its master.
    pub fn collecting_in(self, leaves: Vec<Tensor>) -> Result<Self, Error> {
        let like = |(leaf, master): (&Tensor, &Tensor)| {
            check_leaf(LINEAR, leaf, master.dim())?;
            match leaf.size() == master.size() {
                true => Ok(()),
                false => Err(Error::argument(
                    LINEAR,
                    "a leaf has another shape than its master",
                )),
            }
        };
        if leaves.len() != self.leaves.len() {
            return Err(Error::argument(
                LINEAR,
                "there is not one leaf for each master",
            ));
        }
        leaves.iter().zip(&self.leaves).try_for_each(like)?;
        Ok(Self { leaves, ..self })
    }

    /// `[T, in]` → `[T, out]`, of the layer's kind.
    ///
    /// # Errors
    /// When the input is not `[T, in]` of that kind on the CPU, or libtorch refuses.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, Error> {
        self.forth.check(input)?;
        check_rows(LINEAR, input)?;
        let (packed, bias) = self.forth.tensors();
        let bias = bias.ok_or_else(|| Error::argument(LINEAR, "there is no bias"))?;
        let leaves = ffi::raw_list(&self.leaves);
        let mut out = std::ptr::null_mut();
        // SAFETY: all tensors live through the call, and autograd shares in those it keeps;
        // shapes and kinds were checked here and in `new`; `out` is adopted once, on success.
        unsafe {
            let message = ffi::quarry_trained_linear(
                ffi::raw(input),
                ffi::raw(packed),
                ffi::raw(bias),
                ffi::raw(self.back.tensors().0),
                leaves.as_ptr(),
                leaves.len(),
                &mut out,
            );
            ffi::check(LINEAR, message)?;
            Ok(ffi::adopt(out))
        }
    }
}

/// The feed-forward branch of a transformer, `gelu(x W1ᵀ + b1) W2ᵀ + b2`: `[T, in]` → `[T, out]`
/// through `inner` and `outer`, of their kind. GELU's output is computed again in the
/// backward pass instead of being kept, which takes a quarter from a layer's memory.
///
/// # Errors
/// When the input is not `[T, in]` of the layers' kind on the CPU, the layers do not fit
/// each other, the activation is not GELU, or libtorch refuses.
pub fn trained_feed_forward(
    input: &Tensor,
    inner: &TrainedLinear,
    outer: &TrainedLinear,
    activation: Activation,
) -> Result<Tensor, Error> {
    let refused = |reason: &str| Err(Error::argument(FEED_FORWARD, reason));
    let tanh = match activation {
        Activation::Gelu => false,
        Activation::GeluTanh => true,
        _ => return refused("the activation is not GELU"),
    };
    inner.forth.check(input)?;
    check_rows(FEED_FORWARD, input)?;
    let [(forth1, bias1), (forth2, bias2)] = [inner, outer].map(|layer| layer.forth.tensors());
    let (Some(bias1), Some(bias2)) = (bias1, bias2) else {
        return refused("there is no bias");
    };
    if !outer.forth.takes(&bias1.size(), bias1.kind()) {
        return refused("the outer layer does not take what the inner one gives");
    }
    let leaves: Vec<_> = inner
        .leaves
        .iter()
        .chain(&outer.leaves)
        .map(ffi::raw)
        .collect();
    let mut out = std::ptr::null_mut();
    // SAFETY: all tensors live through the call, and autograd shares in those it keeps;
    // shapes and kinds were checked here and in `new`; `out` is adopted once, on success.
    unsafe {
        let message = ffi::quarry_trained_feed_forward(
            ffi::raw(input),
            ffi::raw(forth1),
            ffi::raw(bias1),
            ffi::raw(inner.back.tensors().0),
            ffi::raw(forth2),
            ffi::raw(bias2),
            ffi::raw(outer.back.tensors().0),
            tanh,
            inner.leaves.len(),
            leaves.as_ptr(),
            leaves.len(),
            &mut out,
        );
        ffi::check(FEED_FORWARD, message)?;
        Ok(ffi::adopt(out))
    }
}

/// Refuses an input that is not `[T, in]`: the backward pass takes its rows as tokens.
fn check_rows(operation: &'static str, input: &Tensor) -> Result<(), Error> {
    match input.dim() {
        2 => Ok(()),
        _ => {
            let reason = format!("the input is {:?}, not [T, in]", input.size());
            Err(Error::argument(operation, reason))
        }
    }
}

/// Embedding tables, f32 leaves; rows of a padding id get no gradient (-1: none is).
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingTables<'a> {
    /// `[vocabulary, h]`.
    pub word: &'a Tensor,
    /// `[positions, h]`.
    pub position: &'a Tensor,
    /// `[types, h]`, of which row 0 is added.
    pub token_type: Option<&'a Tensor>,
    /// Padding id of words.
    pub word_pad: i64,
    /// Padding id of positions.
    pub position_pad: i64,
}

/// `word[ids] + position[positions] + token_type[0]`: `[T, h]` f32 of `[T]` int64 ids and
/// positions. Gradients are added row by row in the order of the tokens.
///
/// # Errors
/// When kinds, shapes or devices are not as above, an id is outside its table, or
/// libtorch refuses.
pub fn trained_embeddings(
    ids: &Tensor,
    positions: &Tensor,
    tables: EmbeddingTables<'_>,
) -> Result<Tensor, Error> {
    let leaves: Vec<&Tensor> = [tables.word, tables.position]
        .into_iter()
        .chain(tables.token_type)
        .collect();
    for leaf in &leaves {
        check_leaf(EMBEDDINGS, leaf, 2)?;
        if leaf.size()[1] != tables.word.size()[1] {
            return Err(Error::argument(EMBEDDINGS, "tables differ in width"));
        }
    }
    for rows in [ids, positions] {
        let fits = rows.size().len() == 1 && rows.size() == ids.size() && rows.is_contiguous();
        if !fits || rows.kind() != Kind::Int64 || rows.device() != Device::Cpu {
            let reason = "ids or positions are not [T] int64 on the cpu, equally many";
            return Err(Error::argument(EMBEDDINGS, reason));
        }
    }
    let leaves: Vec<_> = leaves.into_iter().map(ffi::raw).collect();
    let mut out = std::ptr::null_mut();
    // SAFETY: kinds and layouts were checked; libtorch's forward pass refuses a row
    // outside a table, and so does the backward pass; all tensors live through the call;
    // `out` is adopted once, on success.
    unsafe {
        let message = ffi::quarry_trained_embeddings(
            ffi::raw(ids),
            ffi::raw(positions),
            tables.word_pad,
            tables.position_pad,
            leaves.as_ptr(),
            leaves.len(),
            &mut out,
        );
        ffi::check(EMBEDDINGS, message)?;
        Ok(ffi::adopt(out))
    }
}

/// The backward passes write into gradients shaped and laid out as their leaves.
fn check_leaf(operation: &'static str, leaf: &Tensor, dimensions: usize) -> Result<(), Error> {
    let fits = leaf.size().len() == dimensions && leaf.is_contiguous();
    if fits && leaf.kind() == Kind::Float && leaf.device() == Device::Cpu && leaf.is_leaf() {
        return Ok(());
    }
    let reason = format!(
        "a master is {:?} {:?} on {:?}, not a contiguous f32 leaf of {dimensions} dimensions on the cpu",
        leaf.kind(),
        leaf.size(),
        leaf.device()
    );
    Err(Error::argument(operation, reason))
}
