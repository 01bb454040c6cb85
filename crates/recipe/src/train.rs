//! `[train]`: loss, batch, optimizer, schedule.

use crate::Precision;
use serde::{Deserialize, Serialize};

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// `infonce` (DPR, in-batch and hard columns) or `pairwise` (ANCE's NLL).
    pub loss: Loss,
    /// Logits are similarities divided by this; 1 for plain dot products.
    pub temperature: f64,
    /// Hard negatives of each query in a batch.
    pub negatives: usize,
    /// Whether other queries' passages are negatives too (`infonce` only).
    pub in_batch: bool,
    /// Distinct queries of one optimizer step.
    pub batch_size: usize,
    /// Micro-batches of one optimizer step; divides `batch_size`. In-batch
    /// negatives come from the micro-batch.
    pub accumulation: usize,
    /// Passes over the training queries.
    pub epochs: f64,
    /// Steps of the run; 0 follows from `epochs`.
    pub max_steps: u64,
    /// Longest passage in tokens while training, specials included.
    pub passage_length: usize,
    /// `adamw` or `lamb`.
    pub optimizer: Optimizer,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay; never on biases and LayerNorm.
    pub weight_decay: f64,
    /// Exponential decay of the first moment.
    pub beta1: f64,
    /// Exponential decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Shape of the learning rate after warm-up.
    pub schedule: Schedule,
    /// Share of the steps spent warming up linearly from 0.
    pub warmup_ratio: f64,
    /// Global L2 norm to which gradients are clipped; 0 is off.
    pub clip_norm: f64,
    /// Dropout while training.
    pub dropout: Dropout,
    /// Arithmetic of training; master weights are always f32.
    pub precision: Precision,
    /// Steps between two checkpoints.
    pub checkpoint_every: u64,
    /// Checkpoints kept besides those a kept generation stems from.
    pub keep_checkpoints: usize,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            loss: Loss::InfoNce,
            temperature: 0.05,
            negatives: 1,
            in_batch: true,
            batch_size: 32,
            accumulation: 1,
            epochs: 1.0,
            max_steps: 0,
            passage_length: 160,
            optimizer: Optimizer::AdamW,
            learning_rate: 2e-5,
            weight_decay: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            schedule: Schedule::Linear,
            warmup_ratio: 0.1,
            clip_norm: 1.0,
            dropout: Dropout::default(),
            precision: Precision::Auto,
            checkpoint_every: 50,
            keep_checkpoints: 2,
        }
    }
}

impl Train {
    /// Whether a query is contrasted with its own negatives alone.
    #[must_use]
    pub fn contrasts_own(&self) -> bool {
        self.loss == Loss::Pairwise || !self.in_batch
    }
}

/// The training loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Softmax cross-entropy over all columns (van den Oord 2018; DPR).
    InfoNce,
    /// Pairwise negative log-likelihood over own negatives (ANCE).
    Pairwise,
}

/// The optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW,
    /// Layer-wise adaptive moments, as ANCE and STAR use it (You et al. 2020).
    Lamb,
}

/// Shape of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Linearly down to 0 at the last step.
    Linear,
    /// Constant.
    Constant,
    /// Half a cosine down to 0 at the last step.
    Cosine,
}

/// `[train.dropout]`
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dropout {
    /// On embeddings and on each residual branch.
    pub hidden: f64,
    /// On attention probabilities; not 0 forgoes the fused attention kernel.
    pub attention: f64,
}

impl Default for Dropout {
    fn default() -> Self {
        Self {
            hidden: 0.1,
            attention: 0.0,
        }
    }
}
