//! One pass of one thread: packed ids to vectors.

use super::prepared::{Layers, Prepared};
use super::{Dropout, Setting, block, dropout, pooling};
use crate::config::Config;
use crate::error::ModelError;
use crate::packed::{PackedBatch, Run};
use quarry_torch_ext::{FlashAttention, PackedAttention, SequenceBounds, upload};
use tch::{Device, Tensor};

/// On a CPU the tokens of a pass through single layers are filled up to a multiple of this:
/// oneDNN compiles a product anew for each number of rows it has not seen.
const CPU_ROWS: usize = 16;

/// How a pass computes: everything but the weights, for any thread.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub config: &'a Config,
    pub setting: Setting,
    pub packed_attention: Option<PackedAttention>,
    pub flash: Option<FlashAttention>,
}

/// A plan and a thread's weights.
pub(super) struct Pass<'a> {
    pub plan: Plan<'a>,
    pub prepared: &'a Prepared,
}

/// A batch before its first layer. Its random numbers are drawn, but for those of attention
/// probabilities, so that any thread may take it through the layers.
pub(super) struct Entered {
    /// Embedded tokens `[T, h]`.
    pub states: Tensor,
    /// Sequences, without the one that fills the rows up.
    pub sequences: i64,
    course: Course,
}

/// What every layer is told about a batch.
struct Course {
    runs: Vec<Run>,
    bounds: Option<SequenceBounds>,
    dropout: Option<Dropout>,
    seeds: Vec<i64>,
}

impl Pass<'_> {
    /// `[B, D]` f32 in packed order.
    pub fn vectors(
        &self,
        batch: &PackedBatch,
        dropout: Option<Dropout>,
    ) -> Result<Tensor, ModelError> {
        self.through(&self.enter(batch, dropout)?)
    }

    /// Embeds the tokens of a batch.
    pub fn enter(
        &self,
        batch: &PackedBatch,
        dropout: Option<Dropout>,
    ) -> Result<Entered, ModelError> {
        let plan = &self.plan;
        let device = plan.setting.device;
        let filled;
        let full = match self.rows() {
            1 => batch,
            rows => {
                filled = batch.filled_up(rows, plan.config.pad_token_id);
                &filled
            }
        };
        let runs = full.runs();
        let drawn = device == Device::Cpu && dropout.is_some_and(|d| d.hidden > 0.0);
        let course = Course {
            bounds: plan.bounds(&runs)?,
            runs,
            dropout,
            seeds: dropout::seeds(if drawn { self.branches() } else { 0 })?,
        };
        let ids = upload(full.ids(), device)?;
        let positions = upload(&plan.positions(full), device)?;
        Ok(Entered {
            states: self.forward(&course).embeddings(&ids, &positions)?,
            sequences: batch.len() as i64,
            course,
        })
    }

    /// Takes an embedded batch through the layers: `[B, D]` f32 in packed order.
    pub fn through(&self, entered: &Entered) -> Result<Tensor, ModelError> {
        let (runs, bounds) = (&entered.course.runs, entered.course.bounds.as_ref());
        let forward = self.forward(&entered.course);
        let setting = &self.plan.setting;
        let reads = setting.pooling.reads(runs, bounds, self.rows())?;
        let states = forward.layers(&entered.states, runs, reads.as_ref())?;
        let vectors = setting.pooling.pool(&states, runs, bounds)?;
        let vectors = vectors.f_narrow(0, 0, entered.sequences)?;
        match setting.normalize {
            true => Ok(pooling::normalize(&vectors)?),
            false => Ok(vectors),
        }
    }

    /// What the number of rows in a product is filled up to a multiple of.
    fn rows(&self) -> usize {
        match (self.plan.setting.device, &self.prepared.layers) {
            (Device::Cpu, Layers::Single(_)) => CPU_ROWS,
            _ => 1,
        }
    }

    fn forward<'a>(&'a self, course: &'a Course) -> block::Forward<'a> {
        let plan = &self.plan;
        block::Forward {
            config: plan.config,
            prepared: self.prepared,
            kind: plan.setting.precision.kind(),
            dropout: course.dropout,
            seeds: &course.seeds,
            packed_attention: plan.packed_attention,
            flash: plan.flash.zip(course.bounds.as_ref()),
        }
    }

    /// Residual branches of all layers.
    fn branches(&self) -> usize {
        2 * self.plan.config.layers.unsigned_abs() as usize
    }
}

impl Plan<'_> {
    /// On a GPU, where the sequences begin: sent there once for all layers.
    fn bounds(&self, runs: &[Run]) -> Result<Option<SequenceBounds>, ModelError> {
        if self.setting.device == Device::Cpu {
            return Ok(None);
        }
        let lengths: Vec<i64> = runs.iter().flat_map(Run::lengths).collect();
        Ok(Some(SequenceBounds::new(&lengths, self.setting.device)?))
    }

    /// Position id of every token. RoBERTa counts the tokens that are not
    /// padding, and gives a padding id inside a text the padding position.
    fn positions(&self, batch: &PackedBatch) -> Vec<i64> {
        let first = self.config.first_position();
        let counted = first > 0;
        let pad = self.config.pad_token_id;
        let mut positions = Vec::with_capacity(batch.tokens());
        for (_, ids) in batch.sequences() {
            let mut next = first;
            for &id in ids {
                let padding = counted && id == pad;
                positions.push(if padding { pad } else { next });
                next += i64::from(!padding);
            }
        }
        positions
    }
}

/// Refuses a batch that the encoder's tables do not cover.
pub(super) fn check(batch: &PackedBatch, config: &Config) -> Result<(), ModelError> {
    let vocab = config.vocab_size;
    if batch.is_empty() {
        return Err(ModelError::Batch("it holds no sequence".to_owned()));
    }
    if let Some(id) = batch.ids().iter().find(|id| !(0..vocab).contains(*id)) {
        return Err(ModelError::Batch(format!(
            "token id {id} is outside the vocabulary of {vocab}; tokenise with this model's tokenizer"
        )));
    }
    let most = config.max_tokens();
    if batch.longest() > most {
        return Err(ModelError::Batch(format!(
            "a sequence of {} tokens exceeds the model's {most} positions; lower the maximum length",
            batch.longest()
        )));
    }
    Ok(())
}
