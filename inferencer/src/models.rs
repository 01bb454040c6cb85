//! The encoder of the checkpoint at hand: fetched and loaded once, dropped when
//! the next checkpoint comes.
//!
//! Refuses a model that does not fit the prepared corpus: its tokens would mean
//! something else.

use crate::depot::Depot;
use crate::error::{Result, refuse};
use quarry_artifacts::{CheckpointRef, Digest};
use quarry_corpus::Tokenize;
use quarry_model::{DualEncoder, LoadOptions, Specials, TextTokenizer};

/// A loaded checkpoint.
pub(crate) struct Model {
    digest: Digest,
    /// Query and passage towers.
    pub towers: DualEncoder,
    /// The tokens around every text.
    pub specials: Specials,
}

/// At most one loaded checkpoint.
pub(crate) struct Models {
    options: LoadOptions,
    tokenizer_digest: String,
    loaded: Option<Model>,
}

impl Models {
    /// Loads with `options`; the tokenizer must be the one with `tokenizer_digest`.
    pub fn new(options: LoadOptions, tokenizer_digest: String) -> Self {
        Self {
            options,
            tokenizer_digest,
            loaded: None,
        }
    }

    /// The model of `checkpoint`.
    pub fn get(&mut self, depot: &Depot, checkpoint: &CheckpointRef) -> Result<&Model> {
        // Dropped before the next is loaded: two models may not fit the device.
        let current = self.loaded.take().filter(|m| m.digest == checkpoint.digest);
        let model = match current {
            Some(model) => model,
            None => self.load(depot, checkpoint)?,
        };
        Ok(self.loaded.insert(model))
    }

    /// Forgets the loaded model.
    pub fn clear(&mut self) {
        self.loaded = None;
    }

    fn load(&self, depot: &Depot, checkpoint: &CheckpointRef) -> Result<Model> {
        let folder = depot.folder().join("checkpoint");
        let dir = depot.checkpoint(checkpoint, &folder)?;
        let tokenizer = TextTokenizer::from_dir(&dir)?;
        if tokenizer.digest() != self.tokenizer_digest {
            return refuse(format!(
                "checkpoint {} has a tokenizer with digest {} but the corpus was prepared with {}; prepare the corpus with this model",
                checkpoint.digest,
                tokenizer.digest(),
                self.tokenizer_digest
            ));
        }
        let towers = DualEncoder::load(&dir, &self.options)?;
        let (step, width) = (checkpoint.step, towers.dim());
        tracing::info!(
            step,
            digest = checkpoint.digest.short(),
            width,
            "model loaded"
        );
        Ok(Model {
            digest: checkpoint.digest.clone(),
            towers,
            specials: tokenizer.specials(),
        })
    }
}
