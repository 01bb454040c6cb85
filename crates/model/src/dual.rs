//! Two towers: one set of weights for queries and passages, or one each.

use crate::copy::ModelCopy;
use crate::encoder::{Dropout, Embedded, Encoder, Pooling, Precision, Setting};
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::packed::PackedBatch;
use std::path::Path;
use tch::{Device, Tensor};

/// How to load a model.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Where weights live and run.
    pub device: Device,
    /// Arithmetic of matrix products.
    pub precision: Precision,
    /// Overrides the folder's pooling.
    pub pooling: Option<Pooling>,
    /// Overrides the folder's normalisation.
    pub normalize: Option<bool>,
    /// Whether weights collect gradients.
    pub trainable: bool,
}

impl Default for LoadOptions {
    /// A frozen f32 model on the CPU, pooled as its folder says.
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            precision: Precision::F32,
            pooling: None,
            normalize: None,
            trainable: false,
        }
    }
}

/// One trainable tensor.
pub struct Parameter {
    /// Hugging Face BERT name, behind `query.` or `passage.` if the towers are separate.
    pub name: String,
    /// The f32 master, shared with the encoder.
    pub tensor: Tensor,
    /// Whether weight decay applies: matrices yes, biases and LayerNorm no.
    pub decay: bool,
}

/// A query encoder and a passage encoder.
pub struct DualEncoder {
    query: Encoder,
    /// `None` while the query tower serves both.
    passage: Option<Encoder>,
}

/// The queries and passages of a training step, embedded.
#[must_use = "without its backward pass no weight learns"]
pub struct TrainedPair {
    /// `[B, D]` f32, differentiable.
    pub queries: Tensor,
    /// `[N, D]` f32, differentiable.
    pub passages: Tensor,
    towers: Vec<Embedded>,
}

impl TrainedPair {
    /// Whether threads have shared out what either tower embedded.
    pub fn is_shared_out(&self) -> bool {
        self.towers.iter().any(Embedded::is_shared_out)
    }

    /// Adds the gradients of `loss`, a scalar computed from the vectors, to those of the
    /// weights.
    ///
    /// # Errors
    /// If libtorch refuses, or no thread can be started.
    pub fn backward(self, loss: &Tensor) -> Result<(), ModelError> {
        loss.f_backward()?;
        self.towers.into_iter().try_for_each(Embedded::backward)
    }
}

impl DualEncoder {
    /// Loads shared towers from a sentence-transformers or Hugging Face folder, or
    /// separate ones from a folder with `query` and `passage` inside.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        let (query, passage) = (dir.join("query"), dir.join("passage"));
        if !(query.is_dir() && passage.is_dir()) {
            return Ok(Self {
                query: tower(dir, options)?,
                passage: None,
            });
        }
        let towers = (tower(&query, options)?, tower(&passage, options)?);
        if towers.0.dim() != towers.1.dim() {
            let reason = format!(
                "the query tower has width {} and the passage tower {}; they cannot be compared",
                towers.0.dim(),
                towers.1.dim()
            );
            return Err(ModelError::invalid(dir, reason));
        }
        Ok(Self {
            query: towers.0,
            passage: Some(towers.1),
        })
    }

    /// The encoder of queries.
    pub fn query(&self) -> &Encoder {
        &self.query
    }

    /// The encoder of passages.
    pub fn passage(&self) -> &Encoder {
        self.passage.as_ref().unwrap_or(&self.query)
    }

    /// Whether both towers are one set of weights.
    pub fn shared(&self) -> bool {
        self.passage.is_none()
    }

    /// Gives the passage tower its own copy of shared weights. Parameters taken
    /// before belong to the query tower.
    pub fn untie(&mut self) -> Result<(), ModelError> {
        if self.passage.is_none() {
            self.passage = Some(self.query.duplicate()?);
        }
        Ok(())
    }

    /// Begins to copy the weights to main memory: what a checkpoint writes while training
    /// goes on. Nobody waits for a GPU here, and work enqueued later may change the weights
    /// there; on the CPU they are copied before this returns.
    ///
    /// # Errors
    /// If libtorch refuses, as without memory.
    pub fn begin_copy(&self) -> Result<ModelCopy, ModelError> {
        let passage = self.passage.as_ref();
        Ok(ModelCopy {
            query: self.query.begin_copy()?,
            passage: passage.map(Encoder::begin_copy).transpose()?,
        })
    }

    /// Embeds the queries and passages of a training step. Shared towers take one forward
    /// pass for both; on a CPU threads share the sequences out.
    ///
    /// # Errors
    /// As [`Encoder::embed_in_training`].
    pub fn embed_pair(
        &self,
        queries: &PackedBatch,
        passages: &PackedBatch,
        dropout: Option<Dropout>,
    ) -> Result<TrainedPair, ModelError> {
        if let Some(passage) = &self.passage {
            let towers = [
                self.query.embed_in_training(queries, dropout)?,
                passage.embed_in_training(passages, dropout)?,
            ];
            let [queries, passages] = towers.each_ref().map(|t| t.vectors.shallow_clone());
            return Ok(TrainedPair {
                queries,
                passages,
                towers: towers.into(),
            });
        }
        let all = PackedBatch::concat(queries, passages);
        let tower = self.query.embed_in_training(&all, dropout)?;
        let sizes = [queries.len() as i64, passages.len() as i64];
        let mut parts = tower.vectors.f_split_with_sizes(sizes, 0)?;
        let passages = parts.remove(1);
        Ok(TrainedPair {
            queries: parts.remove(0),
            passages,
            towers: vec![tower],
        })
    }

    /// Every master weight once, in an order that depends on the model alone.
    pub fn parameters(&self) -> Vec<Parameter> {
        let towers = match &self.passage {
            None => vec![("", &self.query)],
            Some(passage) => vec![("query.", &self.query), ("passage.", passage)],
        };
        let mut all = Vec::new();
        for (prefix, tower) in towers {
            for (name, tensor) in tower.masters() {
                all.push(Parameter {
                    name: format!("{prefix}{name}"),
                    decay: tensor.dim() > 1,
                    tensor,
                });
            }
        }
        all
    }

    /// Writes a sentence-transformers folder; for separate towers two of them,
    /// `query` and `passage`. Equal weights give equal bytes.
    pub fn save(&self, dir: &Path) -> Result<(), ModelError> {
        match &self.passage {
            None => self.query.save(dir),
            Some(passage) => {
                self.query.save(&dir.join("query"))?;
                passage.save(&dir.join("passage"))
            }
        }
    }

    /// Width `D` of an embedding.
    pub fn dim(&self) -> i64 {
        self.query.dim()
    }

    /// Longest sequence both towers take, in tokens, specials included.
    pub fn max_length(&self) -> usize {
        self.query.max_length().min(self.passage().max_length())
    }
}

fn tower(dir: &Path, options: &LoadOptions) -> Result<Encoder, ModelError> {
    let folder = ModelFolder::open(dir)?;
    let pooling = options.pooling.or(folder.pooling).unwrap_or_else(|| {
        tracing::warn!(folder = %dir.display(), "the folder does not say how to pool; taking the first token (cls)");
        Pooling::Cls
    });
    let setting = Setting {
        device: options.device,
        precision: options.precision,
        pooling,
        normalize: options.normalize.unwrap_or(folder.normalize),
        trainable: options.trainable,
    };
    Encoder::load(folder, setting)
}
