//! Weights as the forward pass wants them: laid out for the device's matrix kernels, the
//! three attention projections joined. What is trainable passes its gradients on to the
//! masters.

use super::apart::Apart;
use super::lanes::Lanes;
use super::linear::{Linear, fused, joined};
use crate::config::Config;
use crate::error::ModelError;
use crate::weights::Weights;
use quarry_torch_ext::{LayerForm, LayerWeights, PackedLayers};
use tch::{Device, Kind, Tensor};

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

/// One transformer block.
pub(super) struct Layer {
    /// `[3h, h]`: query, key, value.
    pub projections: Linear,
    /// `[h, h]`, and the norm behind its residual sum.
    pub output: Linear,
    pub attention_norm: Norm,
    /// `[inner, h]` and `[h, inner]`, and the norm behind their residual sum.
    pub inner: Linear,
    pub outer: Linear,
    pub norm: Norm,
}

impl Layer {
    fn shallow_clone(&self) -> Self {
        Self {
            projections: self.projections.shallow_clone(),
            output: self.output.shallow_clone(),
            attention_norm: self.attention_norm.shallow_clone(),
            inner: self.inner.shallow_clone(),
            outer: self.outer.shallow_clone(),
            norm: self.norm.shallow_clone(),
        }
    }

    fn apart(&self, leaves: &mut Vec<Apart>) -> Result<Option<Self>, ModelError> {
        let attention_norm = self.attention_norm.apart(leaves)?;
        let norm = self.norm.apart(leaves)?;
        let mut linear = |layer: &Linear| layer.apart(leaves);
        let layers = (linear(&self.projections)?, linear(&self.output)?);
        let (Some(projections), Some(output)) = layers else {
            return Ok(None);
        };
        let (Some(inner), Some(outer)) = (linear(&self.inner)?, linear(&self.outer)?) else {
            return Ok(None);
        };
        Ok(Some(Self {
            projections,
            output,
            attention_norm,
            inner,
            outer,
            norm,
        }))
    }
}

/// A transformer's blocks.
pub(super) enum Layers {
    /// As one operation, where the processor can and nothing is trained.
    Packed(PackedLayers),
    Single(Vec<Layer>),
}

/// A whole encoder. Embedding tables stay f32: gathering a few rows is cheaper
/// than casting the table.
pub(super) struct Prepared {
    pub word: Tensor,
    pub position: Tensor,
    /// `[types, h]`; a single text uses row 0 alone.
    pub token_type: Option<Tensor>,
    pub norm: Norm,
    pub layers: Layers,
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
            layers: match &self.layers {
                Layers::Packed(packed) => Layers::Packed(packed.shallow_clone()),
                Layers::Single(layers) => {
                    Layers::Single(layers.iter().map(Layer::shallow_clone).collect())
                }
            },
        }
    }

    /// The same weights for another thread, whose layers collect gradients in `leaves`;
    /// `None` if they cannot. Embeddings are the masters.
    pub fn apart(&self, leaves: &mut Vec<Apart>) -> Result<Option<Self>, ModelError> {
        let Layers::Single(single) = &self.layers else {
            return Ok(None);
        };
        let mut layers = Vec::with_capacity(single.len());
        for layer in single {
            match layer.apart(leaves)? {
                Some(layer) => layers.push(layer),
                None => return Ok(None),
            }
        }
        Ok(Some(Self {
            layers: Layers::Single(layers),
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

    fn single(&self, lanes: Lanes) -> Result<Vec<Layer>, ModelError> {
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
        let names = Names::of(index);
        let one = |path: &String| self.linear(std::slice::from_ref(path));
        Ok(Layer {
            projections: self.linear(&names.projections)?,
            output: one(&names.output)?,
            attention_norm: self.norm(&names.attention_norm)?,
            inner: one(&names.inner)?,
            outer: one(&names.outer)?,
            norm: self.norm(&names.norm)?,
        })
    }

    /// Packed, of frozen weights on a CPU, if its kernels take them.
    fn layers(&self, lanes: Lanes) -> Result<Layers, ModelError> {
        if self.frozen && self.on_cpu {
            match self.packed() {
                Ok(packed) => return Ok(Layers::Packed(packed)),
                // What else is wrong with the weights, single layers meet again.
                Err(error) => tracing::debug!(%error, "layers run one operation at a time"),
            }
        }
        Ok(Layers::Single(self.single(lanes)?))
    }

    fn packed(&self) -> Result<PackedLayers, ModelError> {
        let form = LayerForm {
            heads: self.config.heads,
            activation: fused(self.config.activation),
            epsilon: self.config.layer_norm_eps,
        };
        let mut packed = PackedLayers::new(self.config.hidden_size, self.kind, form)?;
        for index in 0..self.config.layers {
            self.push(&mut packed, &Names::of(index))?;
        }
        Ok(packed)
    }

    fn push(&self, layers: &mut PackedLayers, names: &Names) -> Result<(), ModelError> {
        let projections = self.compute_copy(&names.projections)?;
        let one = |path: &String| self.compute_copy(std::slice::from_ref(path));
        let (output, inner, outer) = (one(&names.output)?, one(&names.inner)?, one(&names.outer)?);
        let norms = [self.norm(&names.attention_norm)?, self.norm(&names.norm)?];
        let [attention_norm, norm] = norms.each_ref().map(|n| (&n.weight, &n.bias));
        let [projections, output, inner, outer] =
            [&projections, &output, &inner, &outer].map(|(weight, bias)| (weight, bias));
        Ok(layers.push(&LayerWeights {
            projections,
            output,
            attention_norm,
            inner,
            outer,
            norm,
        })?)
    }

    /// The weights of `paths`, one after the other, in the kind of the products, and their
    /// biases.
    fn compute_copy(&self, paths: &[String]) -> Result<(Tensor, Tensor), ModelError> {
        let all = |part: &str| {
            let tensors = paths.iter().map(|path| self.get(&format!("{path}.{part}")));
            let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
            Ok::<_, ModelError>(joined(tensors.into_iter())?)
        };
        Ok((all("weight")?.f_to_kind(self.kind)?, all("bias")?))
    }
}

/// Where a layer's weights are.
struct Names {
    projections: [String; 3],
    output: String,
    attention_norm: String,
    inner: String,
    outer: String,
    norm: String,
}

impl Names {
    fn of(layer: i64) -> Self {
        let path = |part: &str| format!("encoder.layer.{layer}.{part}");
        Self {
            projections: ["query", "key", "value"].map(|p| path(&format!("attention.self.{p}"))),
            output: path("attention.output.dense"),
            attention_norm: path("attention.output.LayerNorm"),
            inner: path("intermediate.dense"),
            outer: path("output.dense"),
            norm: path("output.LayerNorm"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::{Encoder, Pooling, Precision, Setting};
    use crate::folder::ModelFolder;
    use crate::packed::{PackedBatch, Specials};
    use std::path::Path;

    /// What a processor without the kernels does, and a model whose widths they do not take.
    #[test]
    fn single_layers_of_frozen_weights_end_as_the_packed_ones_do() {
        let precisions = [(Precision::F32, 1e-6), (Precision::Bf16, 0.02)];
        let poolings = [Pooling::Mean, Pooling::Cls];
        let all = precisions.map(|p| poolings.map(|pooling| (p, pooling)));
        for ((precision, most), pooling) in all.into_iter().flatten() {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bert");
            let setting = Setting {
                device: Device::Cpu,
                precision,
                pooling,
                normalize: true,
                trainable: false,
            };
            let encoder = Encoder::load(ModelFolder::open(&dir).unwrap(), setting).unwrap();
            let packed = encoder.frozen.as_ref().unwrap();
            if !matches!(packed.layers, Layers::Packed(_)) {
                eprintln!("SKIPPED: this processor has no products in {precision:?}");
                continue;
            }
            let source = Source {
                weights: &encoder.weights,
                config: encoder.config(),
                kind: precision.kind(),
                frozen: true,
                on_cpu: true,
            };
            let single = Prepared {
                layers: Layers::Single(source.single(Lanes::SINGLE).unwrap()),
                ..packed.shallow_clone()
            };
            let specials = Specials { first: 2, last: 3 };
            let contents = [5u32, 30, 7, 12].map(|n| (5..5 + n).collect::<Vec<_>>());
            let batch = PackedBatch::new(contents.iter().map(Vec::as_slice), specials, 38);
            let [one, other] = [packed, &single].map(|prepared| {
                let pass = encoder.pass(prepared);
                tch::no_grad(|| pass.vectors(&batch, None).unwrap())
            });
            assert_eq!(one.size(), [4, encoder.dim()]);
            let worst = (one - other).abs().max().double_value(&[]);
            assert!(worst < most, "{precision:?} {pooling:?}: {worst}");
        }
    }
}
