//! Models on their way to main memory: what a checkpoint writes while training goes on.
//!
//! Owns what a folder is written from besides the weights. Refuses: computing with a copy.

use crate::encoder::Pooling;
use crate::error::ModelError;
use crate::folder::ModelFolder;
use crate::weights::{self, WeightsCopy};
use std::path::Path;

/// A model's weights as they were when the copy was begun; any thread may wait for it.
#[must_use = "a copy is read by saving it"]
pub struct ModelCopy {
    pub(crate) query: TowerCopy,
    /// `None` if the query tower serves both.
    pub(crate) passage: Option<TowerCopy>,
}

impl ModelCopy {
    /// Waits for the weights and writes what [`crate::DualEncoder::save`] would have written
    /// when the copy was begun.
    ///
    /// # Errors
    /// When work on the GPU failed, or a file cannot be written.
    pub fn save(self, dir: &Path) -> Result<(), ModelError> {
        match self.passage {
            None => self.query.save(dir),
            Some(passage) => {
                self.query.save(&dir.join("query"))?;
                passage.save(&dir.join("passage"))
            }
        }
    }
}

/// One tower of a [`ModelCopy`].
pub(crate) struct TowerCopy {
    pub folder: ModelFolder,
    pub pooling: Pooling,
    pub normalize: bool,
    pub weights: WeightsCopy,
}

impl TowerCopy {
    fn save(self, dir: &Path) -> Result<(), ModelError> {
        let weights = self.weights.wait()?;
        self.folder.write(dir, self.pooling, self.normalize)?;
        let path = dir.join("model.safetensors");
        weights::write(&path, &self.folder.config, &weights)
    }
}
