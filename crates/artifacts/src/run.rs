//! The run's document, `run.json`: what a store's run is, written once at its
//! start and read by every process that joins.

use serde::{Deserialize, Serialize};

use crate::checkpoint::CheckpointRef;
use crate::corpus::CorpusLocation;
use crate::create::Created;
use crate::digest::Digest;
use crate::document::{create_json, read_json};
use crate::error::{ArtifactError, Result};
use crate::layout;
use crate::store::Store;
use crate::versions::VersionLog;

const KIND: &str = "run document";

/// What a run is: recipe, data and first model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunDocument {
    /// Version of this document's form.
    pub version: u32,
    /// The whole recipe.
    pub recipe: serde_json::Value,
    /// The prepared corpus.
    pub corpus: CorpusLocation,
    /// Sha256 of `tokenizer.json`.
    pub tokenizer_digest: Digest,
    /// The model training starts from.
    pub initial_checkpoint: CheckpointRef,
    /// Seconds since 1970, for people only.
    pub created: u64,
    /// The version log this run repeats; unset for a run of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<VersionLog>,
}

impl RunDocument {
    /// The version this crate writes and reads.
    pub const VERSION: u32 = 1;

    /// Creates `run.json`.
    ///
    /// # Errors
    /// If the store fails. [`Created::Exists`] is no error: another run owns the
    /// store, or the same one is being resumed.
    pub async fn publish(&self, store: &Store) -> Result<Created> {
        create_json(store, layout::run_json(), KIND, self).await
    }

    /// Reads `run.json`.
    ///
    /// # Errors
    /// [`ArtifactError::NotFound`] if the store holds no run, or
    /// [`ArtifactError::Invalid`] if the document is of another version.
    pub async fn read(store: &Store) -> Result<Self> {
        let run: Self = read_json(store, layout::run_json(), KIND).await?;
        if run.version != Self::VERSION {
            return Err(ArtifactError::Invalid {
                path: layout::run_json().to_string(),
                kind: KIND,
                reason: format!(
                    "version is {}, this program reads {}",
                    run.version,
                    Self::VERSION
                ),
            });
        }
        Ok(run)
    }
}
