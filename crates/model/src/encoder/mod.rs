//! The encoder: token ids to vectors, differentiable or not.
//!
//! Owns precision and the choice of compute copies; the maths of a block is in
//! `block`, of a vector from token states in `pooling`, the cut into batches in `encode`.

mod apart;
mod block;
mod dropout;
mod encode;
mod lanes;
mod linear;
mod pass;
mod pooling;
mod prepared;

pub use encode::{CPU_TOKEN_BUDGET, GPU_TOKEN_BUDGET};
pub use lanes::MOST_LANES;
pub use pooling::Pooling;

use crate::config::Config;
use crate::copy::TowerCopy;
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::names;
use crate::packed::{PackedBatch, inverse};
use crate::weights::{self, Weights};
use lanes::{Lanes, Pending};
use pass::{Pass, Plan};
use prepared::Prepared;
use quarry_torch_ext::{FlashAttention, PackedAttention, upload};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Arithmetic of matrix products and token states. Masters, LayerNorm
/// statistics, pooling and outputs stay f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// bfloat16 products with f32 accumulation.
    Bf16,
}

impl Precision {
    fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

/// Dropout probabilities, where Hugging Face applies them. Masks come from
/// libtorch's generator: seed it (`tch::manual_seed`) before a step to replay the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// After the embeddings and on each residual branch before it is added.
    pub hidden: f64,
    /// On attention probabilities; above 0 a CPU does not use its fused attention kernel.
    pub attention: f64,
}

/// What an encoder is made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub device: Device,
    pub precision: Precision,
    pub pooling: Pooling,
    pub normalize: bool,
    pub trainable: bool,
}

/// Tokens that go through the layers at once on a CPU, where no lanes share them out: their
/// states then stay near the processor.
const CPU_CHUNK_TOKENS: usize = 2048;

/// A batch of a training step, embedded, with the backward pass that its loss will need.
#[must_use = "without its backward pass no weight learns"]
pub struct Embedded {
    /// `[B, D]` f32 in the caller's order, differentiable.
    pub vectors: Tensor,
    /// What autograd does not reach from there.
    pending: Option<Pending>,
}

impl Embedded {
    /// Whether threads have shared the batch out.
    pub fn is_shared_out(&self) -> bool {
        self.pending.is_some()
    }

    /// The rest of the backward pass: to be called once the loss's own has reached
    /// [`Embedded::vectors`].
    ///
    /// # Errors
    /// If libtorch refuses, or no thread can be started.
    pub fn backward(self) -> Result<(), ModelError> {
        self.pending.map_or(Ok(()), Pending::back)
    }
}

/// One tower.
pub struct Encoder {
    folder: ModelFolder,
    weights: Weights,
    setting: Setting,
    /// Compute copies of frozen weights; of trainable ones they are made for every batch.
    frozen: Option<Prepared>,
    packed_attention: Option<PackedAttention>,
    flash: Option<FlashAttention>,
}

impl Encoder {
    pub(crate) fn load(folder: ModelFolder, setting: Setting) -> Result<Self, ModelError> {
        let weights = weights::read(&folder.weights, &folder.config, setting.device)?;
        let kernels = kernels(&folder.config, &setting);
        Self::new(folder, weights, setting, kernels)
    }

    fn new(
        folder: ModelFolder,
        weights: Weights,
        setting: Setting,
        (packed_attention, flash): Kernels,
    ) -> Result<Self, ModelError> {
        for tensor in weights.tensors.values() {
            let _ = tensor.f_set_requires_grad(setting.trainable)?;
        }
        let mut encoder = Self {
            folder,
            weights,
            setting,
            frozen: None,
            packed_attention,
            flash,
        };
        if !setting.trainable {
            encoder.frozen = Some(encoder.prepare(Lanes::SINGLE)?);
        }
        Ok(encoder)
    }

    /// Sizes and family.
    pub fn config(&self) -> &Config {
        &self.folder.config
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.setting.device
    }

    /// Width `D` of an embedding.
    pub fn dim(&self) -> i64 {
        self.folder.config.hidden_size
    }

    /// Longest sequence in tokens, specials included.
    pub fn max_length(&self) -> usize {
        self.folder.max_length
    }

    /// How token states become one vector.
    pub fn pooling(&self) -> Pooling {
        self.setting.pooling
    }

    /// Whether embeddings have unit length: dot product is then cosine.
    pub fn normalize(&self) -> bool {
        self.setting.normalize
    }

    /// The folder this encoder came from: prompts, maximum length.
    pub fn folder(&self) -> &ModelFolder {
        &self.folder
    }

    /// Embeds a batch: `[B, D]` f32 in the caller's order, differentiable if the
    /// encoder is trainable and gradients are on. `dropout` is `None` outside training.
    ///
    /// # Errors
    /// An empty batch, an id outside the vocabulary, a sequence longer than the
    /// position table, dropout of a frozen encoder, or a refusal by libtorch.
    pub fn embed(
        &self,
        batch: &PackedBatch,
        dropout: Option<Dropout>,
    ) -> Result<Tensor, ModelError> {
        pass::check(batch, self.config())?;
        let drops = dropout.is_some_and(|d| d.hidden > 0.0 || d.attention > 0.0);
        if drops && !self.setting.trainable {
            let reason = "dropout needs a trainable encoder; load it so".to_owned();
            return Err(ModelError::Batch(reason));
        }
        let prepared = match &self.frozen {
            Some(prepared) => prepared,
            None => &self.prepare(Lanes::SINGLE)?,
        };
        self.embed_whole(prepared, batch, dropout)
    }

    fn embed_whole(
        &self,
        prepared: &Prepared,
        batch: &PackedBatch,
        dropout: Option<Dropout>,
    ) -> Result<Tensor, ModelError> {
        let pass = self.pass(prepared);
        let mut parts = Vec::new();
        for chunk in batch.chunks(self.chunk_tokens()) {
            parts.push(pass.vectors(&chunk, dropout)?);
        }
        self.in_callers_order(&parts, batch.order())
    }

    /// As [`Encoder::embed`], in a training step: on a CPU libtorch's threads share the
    /// sequences out, forth and back. The number of threads decides which gradients are
    /// added first, so that it changes their last bits.
    ///
    /// # Errors
    /// As [`Encoder::embed`].
    pub fn embed_in_training(
        &self,
        batch: &PackedBatch,
        dropout: Option<Dropout>,
    ) -> Result<Embedded, ModelError> {
        let lanes = self.lanes(batch, dropout);
        if lanes.is_single() {
            return Ok(Embedded {
                vectors: self.embed(batch, dropout)?,
                pending: None,
            });
        }
        pass::check(batch, self.config())?;
        let prepared = self.prepare(lanes)?;
        let shared = lanes.forth(&self.pass(&prepared), batch, dropout)?;
        Ok(match shared {
            Some((pending, order)) => Embedded {
                vectors: self.in_callers_order(&pending.ends(), &order)?,
                pending: Some(pending),
            },
            None => Embedded {
                vectors: self.embed_whole(&prepared, batch, dropout)?,
                pending: None,
            },
        })
    }

    /// Dropout of attention probabilities draws inside the layers, where the order of
    /// threads would show.
    fn lanes(&self, batch: &PackedBatch, dropout: Option<Dropout>) -> Lanes {
        let drawing = dropout.is_some_and(|d| d.attention > 0.0);
        let shared = self.setting.device == Device::Cpu && self.setting.trainable && !drawing;
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
        let threads = if shared { threads } else { 1 };
        Lanes::of(batch.tokens(), batch.len(), threads)
    }

    /// `[B, D]` in the caller's order of vectors whose places `order` gives.
    fn in_callers_order(&self, parts: &[Tensor], order: &[i64]) -> Result<Tensor, ModelError> {
        let vectors = Tensor::f_cat(parts, 0)?;
        Ok(match inverse(order) {
            Some(inverse) => {
                let places = upload(&inverse, self.setting.device)?;
                vectors.f_index_select(0, &places)?
            }
            None => vectors,
        })
    }

    /// Tokens that go through the layers at once.
    fn chunk_tokens(&self) -> usize {
        match self.setting.device {
            Device::Cpu => CPU_CHUNK_TOKENS,
            _ => usize::MAX,
        }
    }

    fn pass<'a>(&'a self, prepared: &'a Prepared) -> Pass<'a> {
        let plan = Plan {
            config: self.config(),
            setting: self.setting,
            packed_attention: self.packed_attention,
            flash: self.flash,
        };
        Pass { plan, prepared }
    }

    fn prepare(&self, lanes: Lanes) -> Result<Prepared, ModelError> {
        let kind = self.setting.precision.kind();
        let frozen = !self.setting.trainable;
        Prepared::new(
            &self.weights,
            self.config(),
            kind,
            self.setting.device,
            frozen,
            lanes,
        )
    }

    /// The f32 masters in the order of the computation: canonical name, tensor.
    pub(crate) fn masters(&self) -> Vec<(String, Tensor)> {
        let names = names::expected(self.config()).into_iter();
        names
            .filter_map(|(name, _)| {
                let tensor = self.weights.tensors.get(&name)?.shallow_clone();
                Some((name, tensor))
            })
            .collect()
    }

    /// An independent encoder with equal weights.
    pub(crate) fn duplicate(&self) -> Result<Self, ModelError> {
        let copy = |tensors: &BTreeMap<String, Tensor>| {
            let mut copies = BTreeMap::new();
            for (name, tensor) in tensors {
                let source = tensor.f_detach()?;
                let mut copy = Tensor::f_empty(source.size(), (source.kind(), source.device()))?;
                copy.f_copy_(&source)?;
                copies.insert(name.clone(), copy);
            }
            Ok::<_, tch::TchError>(copies)
        };
        let weights = Weights {
            tensors: copy(&self.weights.tensors)?,
            carried: copy(&self.weights.carried)?,
        };
        // Looking for kernels again would run and wait for a pass on a GPU.
        let kernels = (self.packed_attention, self.flash);
        Self::new(self.folder.clone(), weights, self.setting, kernels)
    }

    /// Begins to copy the weights to main memory.
    pub(crate) fn begin_copy(&self) -> Result<TowerCopy, ModelError> {
        Ok(TowerCopy {
            folder: self.folder.clone(),
            pooling: self.setting.pooling,
            normalize: self.setting.normalize,
            weights: self.weights.begin_copy()?,
        })
    }

    /// Writes a sentence-transformers folder.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), ModelError> {
        self.folder
            .write(dir, self.setting.pooling, self.setting.normalize)?;
        weights::write(&dir.join("model.safetensors"), self.config(), &self.weights)
    }
}

/// The kernels for packed sequences of a processor and of a GPU, where there are such.
type Kernels = (Option<PackedAttention>, Option<FlashAttention>);

fn kernels(config: &Config, setting: &Setting) -> Kernels {
    (
        packed_attention(config, setting),
        flash_attention(config, setting),
    )
}

/// The kernel for packed sequences, if this processor has it.
fn packed_attention(config: &Config, setting: &Setting) -> Option<PackedAttention> {
    if setting.device != Device::Cpu {
        return None;
    }
    let width = config.hidden_size / config.heads;
    PackedAttention::new(config.heads, width, setting.precision.kind())
        .inspect_err(|error| tracing::debug!(%error, "attention runs by libtorch's operations"))
        .ok()
}

/// The kernel for packed sequences of a GPU, if it has it: bf16 on compute capability 8.0
/// or newer. Tried once, here, so that no run changes its arithmetic half-way.
fn flash_attention(config: &Config, setting: &Setting) -> Option<FlashAttention> {
    if !setting.device.is_cuda() || setting.precision == Precision::F32 {
        return None;
    }
    let (width, kind) = (config.hidden_size / config.heads, setting.precision.kind());
    FlashAttention::new(config.heads, width, kind, setting.device)
        .inspect_err(|error| {
            tracing::warn!(%error, "this GPU has no flash attention for the model, so attention runs once for each length of a batch");
        })
        .ok()
}
