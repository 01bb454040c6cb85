//! One optimizer step: encode, contrast, differentiate, clip, update.
//!
//! Owns: the order of the operations of a step and the refusal of a step whose
//! loss or gradient is not finite (law 8). Refuses: deciding what is in a batch,
//! when to swap, and where anything is stored. On a GPU the refusal is guard.rs's.

use crate::guard::{Begun, Guard};
use crate::loader::MicroBatch;
use crate::optimizer::Optimizer;
use crate::random::dropout_seed;
use anyhow::Result;
use quarry_model::loss::{Contrast, info_nce, pairwise_nll};
use quarry_model::{Dropout, DualEncoder, TrainedPair};
use quarry_recipe::{Loss, Recipe};
use quarry_torch_ext::upload;
use tch::{Device, Tensor};
use thiserror::Error;

/// A step that must not change the weights.
#[derive(Debug, Error, PartialEq)]
#[error(
    "step {step}: the {what} is {value}, so training stops before it reaches the weights; --resume would repeat it, so start a new run from an earlier checkpoint (`quarry export --checkpoint STEP`) with a lower train.learning_rate or train.precision = \"f32\""
)]
pub struct NotFinite {
    /// The step, from 0.
    pub step: u64,
    /// `loss` or `gradient norm`.
    pub what: &'static str,
    /// NaN or an infinity.
    pub value: f64,
}

impl NotFinite {
    pub(crate) fn check(step: u64, what: &'static str, value: f64) -> Result<(), Self> {
        match value.is_finite() {
            true => Ok(()),
            false => Err(Self { step, what, value }),
        }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Mean loss of the global batch, before the update.
    pub loss: f64,
    /// Global L2 norm of the gradients, before clipping.
    pub grad_norm: f64,
    /// Share of (query, negative) pairs masked as false negatives.
    pub masked_fraction: f64,
    /// False when nothing was left to contrast: the weights stayed as they were.
    pub updated: bool,
}

/// The model in training.
pub struct Learner {
    encoder: DualEncoder,
    optimizer: Optimizer,
    device: Device,
    /// Whether steps are judged on the device and reported late.
    late: bool,
    /// On the device: 1 once a step was refused.
    refused: Option<Tensor>,
    seed: u64,
    loss: Loss,
    temperature: f64,
    negatives: i64,
    dropout: Option<Dropout>,
}

impl Learner {
    /// Fresh optimizer state over the weights of `encoder`, which lies on `device`.
    #[must_use]
    pub fn new(encoder: DualEncoder, recipe: &Recipe, device: Device) -> Self {
        let train = &recipe.train;
        let dropout = Dropout {
            hidden: train.dropout.hidden,
            attention: train.dropout.attention,
        };
        Self {
            optimizer: Optimizer::new(encoder.parameters(), train),
            encoder,
            device,
            late: device.is_cuda(),
            refused: None,
            seed: recipe.seed,
            loss: train.loss,
            temperature: train.temperature,
            negatives: train.negatives as i64,
            dropout: (dropout.hidden > 0.0 || dropout.attention > 0.0).then_some(dropout),
        }
    }

    /// Judges steps on the device and reports them late, or not: a GPU does, the processor
    /// does not.
    #[must_use]
    pub fn reporting_late(mut self, late: bool) -> Self {
        self.late = late;
        self
    }

    /// Where the weights are.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// The weights.
    #[must_use]
    pub fn encoder(&self) -> &DualEncoder {
        &self.encoder
    }

    /// The optimizer's state.
    #[must_use]
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// The optimizer's state, to restore it.
    pub fn optimizer_mut(&mut self) -> &mut Optimizer {
        &mut self.optimizer
    }

    /// Trains on the micro-batches of `step` at learning rate `rate`.
    ///
    /// # Errors
    /// [`NotFinite`], with the weights untouched; or a refusal by the model.
    pub fn step(&mut self, step: u64, micros: &[MicroBatch], rate: f64) -> Result<StepReport> {
        self.begin(step, micros, rate)?.finish()
    }

    /// As [`Learner::step`], but does not wait for a GPU: a step that is not finite is
    /// refused there, and noticed when [`Begun::finish`] reads the report. The next step
    /// may be begun before.
    ///
    /// # Errors
    /// As [`Learner::step`].
    pub fn begin(&mut self, step: u64, micros: &[MicroBatch], rate: f64) -> Result<Begun> {
        let masked: usize = micros.iter().map(|m| m.columns.false_negatives).sum();
        let pairs: usize = micros.iter().map(|m| m.columns.pairs).sum();
        let mut report = StepReport {
            loss: 0.0,
            grad_norm: 0.0,
            masked_fraction: masked as f64 / pairs.max(1) as f64,
            updated: pairs > masked,
        };
        if !report.updated {
            return Ok(Begun::known(step, report));
        }
        let loss = self.gradients(step, micros)?;
        if self.late
            && let Some(loss) = &loss
        {
            let norm = self.optimizer.gradient_norm()?;
            let clip_norm = self.optimizer.clip_norm();
            let guard = Guard::judge(loss, &norm, clip_norm, self.refused.as_ref())?;
            self.optimizer.step_guarded(rate, &guard)?;
            self.optimizer.drop_gradients()?;
            let begun = Begun::judged(step, report, &guard)?;
            self.refused = Some(guard.refused);
            return Ok(begun);
        }
        report.loss = loss.map_or(0.0, |sum| sum.double_value(&[]));
        let taken = self.take(step, &mut report, rate);
        // After a refusal too: the next step must not add to what was refused.
        self.optimizer.drop_gradients()?;
        taken?;
        Ok(Begun::known(step, report))
    }

    /// Clips and updates, if loss and gradients are finite.
    fn take(&mut self, step: u64, report: &mut StepReport, rate: f64) -> Result<()> {
        NotFinite::check(step, "loss", report.loss)?;
        report.grad_norm = self.optimizer.clip_gradients()?;
        NotFinite::check(step, "gradient norm", report.grad_norm)?;
        self.optimizer.step(rate)
    }

    /// Accumulates the gradient of the global batch's mean loss, and returns that loss.
    fn gradients(&self, step: u64, micros: &[MicroBatch]) -> Result<Option<Tensor>> {
        let weights = self.micro_weights(micros);
        let mut total: Option<Tensor> = None;
        for (number, (micro, weight)) in micros.iter().zip(weights).enumerate() {
            if weight == 0.0 {
                continue;
            }
            tch::manual_seed(dropout_seed(self.seed, step, number as u64));
            let loss = self.micro_gradients(micro, weight)?;
            total = Some(match total {
                Some(sum) => sum.f_add(&loss)?,
                None => loss,
            });
        }
        Ok(total)
    }

    /// Each micro-batch's share of the global mean: InfoNCE is a mean over queries,
    /// of which all micro-batches have equally many; the pairwise loss is a mean
    /// over unmasked pairs, of which they have not.
    fn micro_weights(&self, micros: &[MicroBatch]) -> Vec<f64> {
        match self.loss {
            Loss::InfoNce => vec![1.0 / micros.len() as f64; micros.len()],
            Loss::Pairwise => {
                let open = |m: &MicroBatch| m.columns.open_pairs() as f64;
                let all: f64 = micros.iter().map(open).sum();
                micros.iter().map(|m| open(m) / all).collect()
            }
        }
    }

    /// Adds the gradient of a micro-batch's loss, `weight` times, and returns that.
    fn micro_gradients(&self, micro: &MicroBatch, weight: f64) -> Result<Tensor> {
        let pair = self
            .encoder
            .embed_pair(&micro.queries, &micro.passages, self.dropout)?;
        let loss = self.micro_loss(micro, &pair)?.f_mul_scalar(weight)?;
        pair.backward(&loss)?;
        Ok(loss.f_detach()?)
    }

    fn micro_loss(&self, micro: &MicroBatch, pair: &TrainedPair) -> Result<Tensor> {
        let columns = &micro.columns;
        let (b, n) = (columns.queries.len() as i64, columns.width() as i64);
        let place = upload(&columns.passage_of, self.device)?;
        let passages = pair.passages.f_index_select(0, &place)?;
        let targets = upload(&columns.targets, self.device)?;
        let masked = upload(&columns.masked, self.device)?.f_view([b, n])?;
        let contrast = Contrast {
            queries: &pair.queries,
            passages: &passages,
            targets: &targets,
            masked: columns.masked.contains(&true).then_some(&masked),
            temperature: self.temperature,
        };
        let output = match self.loss {
            Loss::InfoNce => info_nce(&contrast)?,
            Loss::Pairwise => pairwise_nll(&contrast, self.negatives)?,
        };
        Ok(output.loss)
    }
}
