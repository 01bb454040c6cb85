//! Weights as the forward pass wants them: laid out for the device's matrix kernels, the
//! three attention projections joined. What is trainable passes its gradients on to the
//! masters.

use super::branch::{AttentionEnd, FeedForward};
use super::lanes::Lanes;
use super::linear::{Linear, fused};
use crate::config::Config;
use crate::error::ModelError;
use crate::weights::Weights;
use quarry_torch_ext::{Error, FeedForwardBranch, ProjectionBranch};
use tch::{Device, Kind, TchError, Tensor};

/// LayerNorm's scale and shift, `[h]` each.
pub(super) struct Norm {
    pub weight: Tensor,
    pub bias: Tensor,
}

impl Norm {
    pub fn shallow_clone(&self) -> Self {
        Self {
            weight: self.weight.shallow_clone(),
            bias: self.bias.shallow_clone(),
        }
    }
}

/// A leaf of another thread beside its master: the same memory, a gradient of its own.
pub(super) struct Apart {
    master: Tensor,
    leaf: Tensor,
}

impl Apart {
    fn of(master: &Tensor) -> Result<Self, TchError> {
        let leaf = master
            .f_detach()?
            .f_set_requires_grad(master.requires_grad())?;
        Ok(Self {
            master: master.shallow_clone(),
            leaf,
        })
    }

    /// Adds what the leaf has collected to the master's gradient.
    pub fn join(self) -> Result<(), ModelError> {
        let (part, mut whole) = (self.leaf.f_grad()?, self.master.f_grad()?);
        if !part.defined() {
            return Ok(());
        }
        if !whole.defined() {
            let reason = "one thread has a gradient for a weight that has none".to_owned();
            return Err(ModelError::Batch(reason));
        }
        let _ = whole.f_add_(&part)?;
        Ok(())
    }
}

impl Norm {
    fn apart(&self, leaves: &mut Vec<Apart>) -> Result<Self, TchError> {
        let pair = [Apart::of(&self.weight)?, Apart::of(&self.bias)?];
        let [weight, bias] = pair.each_ref().map(|apart| apart.leaf.shallow_clone());
        leaves.extend(pair);
        Ok(Self { weight, bias })
    }
}

impl Linear {
    /// `None` for a layer whose gradients only autograd can collect.
    fn apart(&self, leaves: &mut Vec<Apart>) -> Result<Option<Self>, ModelError> {
        let Self::Trained(layer) = self else {
            return Ok(None);
        };
        let pairs = layer.leaves().iter().map(Apart::of);
        let pairs: Vec<Apart> = pairs.collect::<Result<_, _>>()?;
        let own = pairs.iter().map(|apart| apart.leaf.shallow_clone());
        let layer = layer.shallow_clone().collecting_in(own.collect())?;
        leaves.extend(pairs);
        Ok(Some(Self::Trained(layer)))
    }
}

/// One transformer block.
pub(super) struct Layer {
    /// `[3h, h]`: query, key, value.
    pub attention: Linear,
    pub attention_end: AttentionEnd,
    pub feed_forward: FeedForward,
}

impl Layer {
    fn shallow_clone(&self) -> Self {
        Self {
            attention: self.attention.shallow_clone(),
            attention_end: self.attention_end.shallow_clone(),
            feed_forward: self.feed_forward.shallow_clone(),
        }
    }

    fn apart(&self, leaves: &mut Vec<Apart>) -> Result<Option<Self>, ModelError> {
        let AttentionEnd::Parts { output, norm } = &self.attention_end else {
            return Ok(None);
        };
        let attention_norm = norm.apart(leaves)?;
        let FeedForward::Parts { inner, outer, norm } = &self.feed_forward else {
            return Ok(None);
        };
        let norm = norm.apart(leaves)?;
        let mut linear = |layer: &Linear| layer.apart(leaves);
        let layers = (linear(&self.attention)?, linear(output)?);
        let (Some(attention), Some(output)) = layers else {
            return Ok(None);
        };
        let (Some(inner), Some(outer)) = (linear(inner)?, linear(outer)?) else {
            return Ok(None);
        };
        Ok(Some(Self {
            attention,
            attention_end: AttentionEnd::Parts {
                output,
                norm: attention_norm,
            },
            feed_forward: FeedForward::Parts { inner, outer, norm },
        }))
    }
}

/// A whole encoder. Embedding tables stay f32: gathering a few rows is cheaper
/// than casting the table.
pub(super) struct Prepared {
    pub word: Tensor,
    pub position: Tensor,
    /// `[types, h]`; a single text uses row 0 alone.
    pub token_type: Option<Tensor>,
    pub norm: Norm,
    pub layers: Vec<Layer>,
}

impl Prepared {
    /// Lays `weights` out; the threads of `lanes` share that work.
    pub fn new(
        weights: &Weights,
        config: &Config,
        kind: Kind,
        device: Device,
        frozen: bool,
        lanes: Lanes,
    ) -> Result<Self, ModelError> {
        let source = Source {
            weights,
            config,
            kind,
            frozen,
            on_cpu: device == Device::Cpu,
        };
        let token_type = match config.type_rows {
            0 => None,
            _ => Some(source.get("embeddings.token_type_embeddings.weight")?),
        };
        Ok(Self {
            word: source
                .get("embeddings.word_embeddings.weight")?
                .shallow_clone(),
            position: source
                .get("embeddings.position_embeddings.weight")?
                .shallow_clone(),
            token_type: token_type.map(Tensor::shallow_clone),
            norm: source.norm("embeddings.LayerNorm")?,
            layers: source.layers(lanes)?,
        })
    }

    /// The same weights for another thread.
    pub fn shallow_clone(&self) -> Self {
        Self {
            word: self.word.shallow_clone(),
            position: self.position.shallow_clone(),
            token_type: self.token_type.as_ref().map(Tensor::shallow_clone),
            norm: self.norm.shallow_clone(),
            layers: self.layers.iter().map(Layer::shallow_clone).collect(),
        }
    }

    /// The same weights for another thread, whose layers collect gradients in `leaves`;
    /// `None` if they cannot. Embeddings are the masters.
    pub fn apart(&self, leaves: &mut Vec<Apart>) -> Result<Option<Self>, ModelError> {
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            match layer.apart(leaves)? {
                Some(layer) => layers.push(layer),
                None => return Ok(None),
            }
        }
        Ok(Some(Self {
            layers,
            ..self.shallow_clone()
        }))
    }
}

struct Source<'a> {
    weights: &'a Weights,
    config: &'a Config,
    kind: Kind,
    frozen: bool,
    on_cpu: bool,
}

impl Source<'_> {
    fn get(&self, name: &str) -> Result<&Tensor, ModelError> {
        let tensor = self.weights.tensors.get(name);
        tensor.ok_or_else(|| ModelError::Batch(format!("the encoder has no tensor {name:?}")))
    }

    /// In f32 on any device: a LayerNorm is never computed in less.
    fn norm(&self, path: &str) -> Result<Norm, ModelError> {
        let kind = Kind::Float;
        Ok(Norm {
            weight: self.get(&format!("{path}.weight"))?.f_to_kind(kind)?,
            bias: self.get(&format!("{path}.bias"))?.f_to_kind(kind)?,
        })
    }

    /// The layers of `paths`, which read the same input, as one.
    fn linear(&self, paths: &[String]) -> Result<Linear, ModelError> {
        let masters = paths
            .iter()
            .map(|path| {
                let weight = self.get(&format!("{path}.weight"))?;
                Ok((weight, self.get(&format!("{path}.bias"))?))
            })
            .collect::<Result<Vec<_>, ModelError>>()?;
        Ok(match (self.frozen, self.on_cpu) {
            (true, _) => Linear::frozen(&masters, self.kind)?,
            (false, true) => Linear::trained(&masters, self.kind)?,
            (false, false) => Linear::plain(&masters, self.kind)?,
        })
    }

    fn layers(&self, lanes: Lanes) -> Result<Vec<Layer>, ModelError> {
        let layers: Vec<i64> = (0..self.config.layers).collect();
        let parts = layers.chunks(layers.len().div_ceil(lanes.count()).max(1));
        // A tensor may be used by one thread: each has its own handles.
        let parts = parts.map(|part| (self.weights.shallow_clone(), part));
        let (config, kind) = (self.config, self.kind);
        let (frozen, on_cpu) = (self.frozen, self.on_cpu);
        let parts = lanes.on_threads(parts.collect(), |(weights, part)| {
            let source = Source {
                weights: &weights,
                config,
                kind,
                frozen,
                on_cpu,
            };
            part.iter().map(|&index| source.layer(index)).collect()
        })?;
        Ok(parts
            .into_iter()
            .flat_map(|part: Vec<Layer>| part)
            .collect())
    }

    fn layer(&self, index: i64) -> Result<Layer, ModelError> {
        let path = |part: &str| format!("encoder.layer.{index}.{part}");
        let projections = ["query", "key", "value"].map(|p| path(&format!("attention.self.{p}")));
        Ok(Layer {
            attention: self.linear(&projections)?,
            attention_end: self.attention_end(&path("attention.output"))?,
            feed_forward: self.feed_forward(&path("intermediate"), &path("output"))?,
        })
    }

    fn attention_end(&self, path: &str) -> Result<AttentionEnd, ModelError> {
        let (output, norm) = (format!("{path}.dense"), format!("{path}.LayerNorm"));
        if self.fuses() {
            let (weight, bias) = self.compute_copy(&output)?;
            let norm = self.norm(&norm)?;
            let norm = (&norm.weight, &norm.bias, self.config.layer_norm_eps);
            match ProjectionBranch::pack((&weight, &bias), norm) {
                Ok(branch) => return Ok(AttentionEnd::Fused(branch)),
                Err(error) => single(&error),
            }
        }
        Ok(AttentionEnd::Parts {
            output: self.linear(&[output])?,
            norm: self.norm(&norm)?,
        })
    }

    fn feed_forward(&self, inner: &str, outer: &str) -> Result<FeedForward, ModelError> {
        let (inner, norm) = (format!("{inner}.dense"), format!("{outer}.LayerNorm"));
        let outer = format!("{outer}.dense");
        if self.fuses() {
            let (w1, b1) = self.compute_copy(&inner)?;
            let (w2, b2) = self.compute_copy(&outer)?;
            let norm = self.norm(&norm)?;
            let norm = (&norm.weight, &norm.bias, self.config.layer_norm_eps);
            let gelu = fused(self.config.activation);
            match FeedForwardBranch::pack((&w1, &b1), (&w2, &b2), gelu, norm) {
                Ok(branch) => return Ok(FeedForward::Fused(branch)),
                Err(error) => single(&error),
            }
        }
        Ok(FeedForward::Parts {
            inner: self.linear(&[inner])?,
            outer: self.linear(&[outer])?,
            norm: self.norm(&norm)?,
        })
    }

    fn fuses(&self) -> bool {
        self.frozen && self.on_cpu && self.kind == Kind::BFloat16
    }

    /// A layer's weight in the kind of the products, and its bias.
    fn compute_copy(&self, path: &str) -> Result<(Tensor, Tensor), ModelError> {
        let weight = self.get(&format!("{path}.weight"))?.f_to_kind(self.kind)?;
        Ok((weight, self.get(&format!("{path}.bias"))?.shallow_clone()))
    }
}

fn single(error: &Error) {
    tracing::debug!(%error, "the end of a branch runs as single layers");
}
