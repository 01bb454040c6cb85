//! One pass of one thread: packed ids to vectors.

use super::prepared::Prepared;
use super::{Dropout, Setting, block, pooling};
use crate::config::Config;
use crate::error::ModelError;
use crate::packed::{PackedBatch, Run};
use quarry_torch_ext::{FlashAttention, PackedAttention, SequenceBounds, upload};
use tch::{Device, Tensor};

/// On a CPU the tokens of a pass are filled up to a multiple of this: oneDNN compiles a
/// product anew for each number of rows it has not seen.
const CPU_ROWS: usize = 16;

/// What a pass reads.
pub(super) struct Pass<'a> {
    pub config: &'a Config,
    pub setting: Setting,
    pub packed_attention: Option<PackedAttention>,
    pub flash: Option<FlashAttention>,
    pub prepared: &'a Prepared,
}

impl Pass<'_> {
    /// `[B, D]` f32 in packed order.
    pub fn vectors(
        &self,
        batch: &PackedBatch,
        dropout: Option<Dropout>,
    ) -> Result<Tensor, ModelError> {
        let sequences = batch.len() as i64;
        let filled;
        let batch = match self.setting.device {
            Device::Cpu => {
                filled = batch.filled_up(CPU_ROWS, self.config.pad_token_id);
                &filled
            }
            _ => batch,
        };
        let runs = batch.runs();
        let bounds = self.bounds(&runs)?;
        let forward = block::Forward {
            config: self.config,
            prepared: self.prepared,
            kind: self.setting.precision.kind(),
            dropout,
            packed_attention: self.packed_attention,
            flash: self.flash.zip(bounds.as_ref()),
        };
        let device = self.setting.device;
        let ids = upload(batch.ids(), device)?;
        let positions = upload(&self.positions(batch), device)?;
        let states = forward.states(&ids, &positions, &runs)?;
        let vectors = self.setting.pooling.pool(&states, &runs, bounds.as_ref())?;
        let vectors = vectors.f_narrow(0, 0, sequences)?;
        match self.setting.normalize {
            true => Ok(pooling::normalize(&vectors)?),
            false => Ok(vectors),
        }
    }

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
