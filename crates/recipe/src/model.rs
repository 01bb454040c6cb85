//! `[model]`: the dual encoder.

use serde::{Deserialize, Serialize};

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// One set of weights for queries and passages, or one each (DPR).
    pub towers: Towers,
    /// How token states become one vector; `auto` follows the model folder.
    pub pooling: Pooling,
    /// L2-normalise the vector; unset follows the model folder.
    pub normalize: Option<bool>,
    /// Text put before every query, as the model was trained (E5: `query: `).
    pub query_prefix: String,
    /// Text put before every passage (E5: `passage: `).
    pub passage_prefix: String,
    /// Longest query in tokens, specials included.
    pub query_length: usize,
    /// Longest passage in tokens when the corpus is encoded; 0 takes the model
    /// folder's own maximum.
    pub passage_length: usize,
    /// Arithmetic of encoding: `auto` is bf16 where the device has it.
    pub precision: Precision,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            towers: Towers::Shared,
            pooling: Pooling::Auto,
            normalize: None,
            query_prefix: String::new(),
            passage_prefix: String::new(),
            query_length: 64,
            passage_length: 0,
            precision: Precision::Auto,
        }
    }
}

/// Whether queries and passages share their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Towers {
    /// One set of weights; its gradient is the sum over both uses.
    Shared,
    /// Two sets, equal at the start, that move apart (DPR).
    Separate,
}

/// How token states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// What the model folder says.
    Auto,
    /// State of the first token.
    Cls,
    /// Mean over all real tokens.
    Mean,
}

/// Arithmetic of matrix products. Master weights, losses and pooling stay f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 where the processor multiplies it natively, else f32.
    Auto,
    /// 32-bit floats.
    F32,
    /// bfloat16 products, f32 accumulation.
    Bf16,
}
