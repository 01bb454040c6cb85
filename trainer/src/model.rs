//! From a checkpoint folder to a model in training.
//!
//! Owns: the recipe's choices of towers, pooling, lengths and arithmetic.
//! Refuses: the forward pass, which is the model crate's.

use crate::hardware;
use crate::loader::Framing;
use anyhow::{Result, ensure};
use quarry_model::{DualEncoder, LoadOptions, Pooling, TextTokenizer};
use quarry_recipe::{Recipe, Towers};
use std::path::Path;
use tch::Device;

/// Loads the weights of `folder` onto `device`, trainable, as `recipe` says.
///
/// # Errors
/// A folder that is no model, or a refusal by libtorch.
pub fn load(folder: &Path, recipe: &Recipe, device: Device) -> Result<DualEncoder> {
    let options = LoadOptions {
        device,
        precision: hardware::precision(recipe.train.precision, device),
        pooling: match recipe.model.pooling {
            quarry_recipe::Pooling::Auto => None,
            quarry_recipe::Pooling::Cls => Some(Pooling::Cls),
            quarry_recipe::Pooling::Mean => Some(Pooling::Mean),
        },
        normalize: recipe.model.normalize,
        trainable: true,
    };
    let mut encoder = DualEncoder::load(folder, &options)?;
    match recipe.model.towers {
        Towers::Separate => encoder.untie()?,
        Towers::Shared => ensure!(
            encoder.shared(),
            "{} holds two towers but model.towers is \"shared\"; set it to \"separate\"",
            folder.display()
        ),
    }
    Ok(encoder)
}

/// How rows become sequences: the recipe's lengths, bounded by the model's.
///
/// # Errors
/// A folder without a tokenizer.
pub fn framing(folder: &Path, recipe: &Recipe, encoder: &DualEncoder) -> Result<Framing> {
    let longest = encoder.max_length();
    for (key, length) in [
        ("model.query_length", recipe.model.query_length),
        ("train.passage_length", recipe.train.passage_length),
    ] {
        if length > longest {
            tracing::warn!(
                key,
                length,
                longest,
                "longer than the model takes, so texts are cut at its maximum"
            );
        }
    }
    Ok(Framing {
        specials: TextTokenizer::from_dir(folder)?.specials(),
        query_length: recipe.model.query_length.min(longest),
        passage_length: recipe.train.passage_length.min(longest),
    })
}
