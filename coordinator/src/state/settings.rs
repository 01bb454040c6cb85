//! What a run is: the recipe and the shape of its corpus, fixed by `run.json`.

use quarry_artifacts::{Digest, RunDocument, VersionLog};
use quarry_recipe::Recipe;
use serde::Deserialize;
use std::collections::BTreeMap;
use thiserror::Error;

/// The facts every decision rests on; they never change during a run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The whole recipe.
    pub recipe: Recipe,
    /// Digest of the prepared corpus.
    pub corpus: Digest,
    /// Sizes of its parts.
    pub shape: CorpusShape,
    /// The version log this run repeats.
    pub script: Option<VersionLog>,
}

/// Of the corpus manifest, only what planning needs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CorpusShape {
    /// Shards, in row order.
    pub shards: Vec<ShardShape>,
    /// Query sets by split.
    pub queries: BTreeMap<String, QueriesShape>,
}

/// Size of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct ShardShape {
    /// Passages in it.
    pub passages: u32,
}

/// Size of a split's query set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct QueriesShape {
    /// Queries in it.
    pub queries: u32,
}

/// Why a run cannot be coordinated.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// `run.json` holds something else than this version writes.
    #[error("run.json, key `{key}`: {reason}; prepare the run again with this version of quarry")]
    Unreadable {
        /// Key of `run.json`.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The corpus lacks what the recipe names.
    #[error(
        "the prepared corpus has no queries in split `{split}`; set data.{key} to one of: {known}"
    )]
    NoSplit {
        /// The split the recipe names.
        split: String,
        /// Key of the recipe, `train` or `dev`.
        key: &'static str,
        /// The splits there are.
        known: String,
    },
    /// The corpus is empty.
    #[error("the prepared corpus has no passages; prepare the data again")]
    NoPassages,
}

impl Settings {
    /// Settings from recipe and corpus shape.
    ///
    /// # Errors
    /// [`SettingsError`] if the corpus lacks a split that the recipe names.
    pub fn new(recipe: Recipe, corpus: Digest, shape: CorpusShape) -> Result<Self, SettingsError> {
        let settings = Self {
            recipe,
            corpus,
            shape,
            script: None,
        };
        settings.require_split("train", &settings.recipe.data.train)?;
        settings.require_split("dev", &settings.recipe.data.dev)?;
        if settings.shape.shards.iter().all(|s| s.passages == 0) {
            return Err(SettingsError::NoPassages);
        }
        Ok(settings)
    }

    /// Settings of the run that `run.json` describes.
    ///
    /// # Errors
    /// [`SettingsError`] naming the key.
    pub fn from_run(run: &RunDocument) -> Result<Self, SettingsError> {
        let unreadable = |key| {
            move |e: serde_json::Error| SettingsError::Unreadable {
                key,
                reason: e.to_string(),
            }
        };
        let recipe = Recipe::deserialize(&run.recipe).map_err(unreadable("recipe"))?;
        let shape = CorpusShape::deserialize(&run.corpus.manifest)
            .map_err(unreadable("corpus.manifest"))?;
        let settings = Self::new(recipe, run.corpus.digest.clone(), shape)?;
        Ok(Self {
            script: run.replay.clone(),
            ..settings
        })
    }

    /// Milliseconds without a heartbeat after which a lease lapses.
    #[must_use]
    pub fn lease_ms(&self) -> u64 {
        self.recipe.fleet.lease_seconds.saturating_mul(1000)
    }

    /// Queries of a split.
    pub(crate) fn queries(&self, split: &str) -> u32 {
        self.shape.queries.get(split).map_or(0, |q| q.queries)
    }

    fn require_split(&self, key: &'static str, split: &str) -> Result<(), SettingsError> {
        if self.queries(split) > 0 {
            return Ok(());
        }
        let known: Vec<&str> = self.shape.queries.keys().map(String::as_str).collect();
        Err(SettingsError::NoSplit {
            split: split.to_owned(),
            key,
            known: known.join(", "),
        })
    }
}
