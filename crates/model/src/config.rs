//! `config.json`: which family, which sizes.
//!
//! Refuses every architecture whose forward pass differs from the ones here,
//! because a near miss loads without complaint and embeds nonsense.

use crate::encoder::Dropout;
use serde::Deserialize;

/// Families that share the post-LayerNorm block of BERT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// BERT, MiniLM, Contriever, BGE, E5.
    Bert,
    /// RoBERTa, XLM-R, multilingual E5, BGE-M3: positions start after the pad id.
    Roberta,
    /// DistilBERT: no token types, no dropout on the attention branch.
    DistilBert,
}

/// Form of GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `0.5 x (1 + erf(x / sqrt 2))`
    Erf,
    /// The tanh approximation (`gelu_new`).
    Tanh,
}

impl Activation {
    /// libtorch's name of the form.
    pub(crate) fn approximate(self) -> &'static str {
        match self {
            Self::Erf => "none",
            Self::Tanh => "tanh",
        }
    }
}

/// The sizes of an encoder, in the words of BERT's config whatever the family.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Family: names of tensors, position ids, dropout places.
    pub family: Family,
    /// Rows of the word embedding.
    pub vocab_size: i64,
    /// Width `h`.
    pub hidden_size: i64,
    /// Transformer blocks.
    pub layers: i64,
    /// Attention heads; divides `hidden_size`.
    pub heads: i64,
    /// Inner width of the feed-forward part.
    pub intermediate_size: i64,
    /// GELU form.
    pub activation: Activation,
    /// Added to the variance in LayerNorm.
    pub layer_norm_eps: f64,
    /// Rows of the position embedding.
    pub position_rows: i64,
    /// Rows of the token-type embedding; 0 where the family has none.
    pub type_rows: i64,
    /// Id of the padding token; RoBERTa counts positions from the next number.
    pub pad_token_id: i64,
    /// Dropout the model was trained with.
    pub dropout: Dropout,
}

/// Union of the families' keys, as they stand in the file.
#[derive(Deserialize)]
struct Raw {
    model_type: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    vocab_size: i64,
    #[serde(alias = "dim")]
    hidden_size: i64,
    #[serde(alias = "n_layers")]
    num_hidden_layers: i64,
    #[serde(alias = "n_heads")]
    num_attention_heads: i64,
    #[serde(alias = "hidden_dim")]
    intermediate_size: i64,
    #[serde(alias = "activation")]
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
    max_position_embeddings: i64,
    type_vocab_size: Option<i64>,
    pad_token_id: Option<i64>,
    position_embedding_type: Option<String>,
    #[serde(alias = "dropout")]
    hidden_dropout_prob: Option<f64>,
    #[serde(alias = "attention_dropout")]
    attention_probs_dropout_prob: Option<f64>,
    is_decoder: Option<bool>,
}

impl Config {
    /// Reads the text of a `config.json`. The error is the reason alone; the
    /// caller knows the path.
    pub fn parse(text: &str) -> Result<Self, String> {
        let raw: Raw = serde_json::from_str(text)
            .map_err(|e| format!("not the config of a BERT-like encoder: {e}"))?;
        let family = family(&raw)?;
        let activation = activation(raw.hidden_act.as_deref().unwrap_or("gelu"))?;
        refuse_variants(&raw)?;
        let distil = family == Family::DistilBert;
        let config = Self {
            family,
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            intermediate_size: raw.intermediate_size,
            activation,
            // DistilBERT's is fixed in its code, whatever the file says.
            layer_norm_eps: raw.layer_norm_eps.filter(|_| !distil).unwrap_or(1e-12),
            position_rows: raw.max_position_embeddings,
            type_rows: if distil {
                0
            } else {
                raw.type_vocab_size.unwrap_or(2)
            },
            pad_token_id: raw
                .pad_token_id
                .unwrap_or(i64::from(family == Family::Roberta)),
            dropout: Dropout {
                hidden: raw.hidden_dropout_prob.unwrap_or(0.1),
                attention: raw.attention_probs_dropout_prob.unwrap_or(0.1),
            },
        };
        config.check_sizes()?;
        Ok(config)
    }

    /// Longest sequence in tokens, specials included.
    pub fn max_tokens(&self) -> usize {
        let first = self.first_position();
        usize::try_from(self.position_rows - first).unwrap_or(0)
    }

    /// Position id of the first token.
    pub(crate) fn first_position(&self) -> i64 {
        match self.family {
            Family::Roberta => self.pad_token_id + 1,
            Family::Bert | Family::DistilBert => 0,
        }
    }

    fn check_sizes(&self) -> Result<(), String> {
        let widest = 1 << 24;
        let sizes = [
            ("vocab_size", self.vocab_size, 1..=widest),
            ("hidden_size", self.hidden_size, 1..=widest),
            // Each layer costs memory before the weights show that it is not there.
            ("num_hidden_layers", self.layers, 1..=1024),
            ("num_attention_heads", self.heads, 1..=widest),
            ("intermediate_size", self.intermediate_size, 1..=widest),
            ("max_position_embeddings", self.position_rows, 1..=widest),
            ("type_vocab_size", self.type_rows, 0..=widest),
            ("pad_token_id", self.pad_token_id, 0..=widest),
        ];
        for (key, value, possible) in sizes {
            if !possible.contains(&value) {
                return Err(format!(
                    "{key} = {value} is not a number that an encoder has"
                ));
            }
        }
        let Dropout { hidden, attention } = self.dropout;
        for p in [hidden, attention] {
            if !(0.0..1.0).contains(&p) {
                return Err(format!("a dropout of {p} does not lie in [0, 1)"));
            }
        }
        if self.layer_norm_eps <= 0.0 {
            return Err(format!(
                "layer_norm_eps = {} is not positive",
                self.layer_norm_eps
            ));
        }
        if self.hidden_size % self.heads != 0 {
            return Err(format!(
                "hidden_size {} is not a multiple of num_attention_heads {}",
                self.hidden_size, self.heads
            ));
        }
        if self.max_tokens() < 3 {
            return Err(format!(
                "max_position_embeddings {} leaves no room for a text between two special tokens",
                self.position_rows
            ));
        }
        Ok(())
    }
}

fn family(raw: &Raw) -> Result<Family, String> {
    let architecture = raw
        .architectures
        .iter()
        .flatten()
        .next()
        .map_or("", String::as_str);
    match (raw.model_type.as_deref(), architecture) {
        (Some("bert"), _) => Ok(Family::Bert),
        (Some("roberta" | "xlm-roberta" | "camembert"), _) => Ok(Family::Roberta),
        (Some("distilbert"), _) => Ok(Family::DistilBert),
        (Some(other), _) => Err(format!(
            "model_type {other:?} is not supported; use bert, roberta, xlm-roberta, camembert or distilbert"
        )),
        (None, a) if a.starts_with("Bert") => Ok(Family::Bert),
        (None, a) if a.starts_with("Roberta") || a.starts_with("XLMRoberta") => Ok(Family::Roberta),
        (None, a) if a.starts_with("DistilBert") => Ok(Family::DistilBert),
        (None, a) => Err(format!(
            "no model_type, and architecture {a:?} is not supported; add model_type (bert, roberta, xlm-roberta or distilbert)"
        )),
    }
}

fn activation(name: &str) -> Result<Activation, String> {
    match name {
        "gelu" | "gelu_python" => Ok(Activation::Erf),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::Tanh),
        other => Err(format!(
            "hidden_act {other:?} is not supported; use gelu or gelu_new"
        )),
    }
}

fn refuse_variants(raw: &Raw) -> Result<(), String> {
    if let Some(kind) = raw.position_embedding_type.as_deref()
        && kind != "absolute"
    {
        return Err(format!(
            "position_embedding_type {kind:?} is not supported; only absolute positions are"
        ));
    }
    if raw.is_decoder == Some(true) {
        return Err("is_decoder is true, but only encoders are supported".to_owned());
    }
    Ok(())
}
