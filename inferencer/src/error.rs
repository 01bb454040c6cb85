//! Why a task ended without an output. Each message is one sentence, because it
//! travels to the coordinator as the reason of a returned lease.

use quarry_artifacts::ArtifactError;
use quarry_corpus::CorpusError;
use quarry_eval::EvalError;
use quarry_index::IndexError;
use quarry_model::ModelError;

/// This crate's result.
pub type Result<T, E = TaskError> = std::result::Result<T, E>;

/// Why a task ended without an output.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The coordinator gave the task to another worker or has no more use for it.
    #[error("the task was cancelled")]
    Cancelled,
    /// The task's inputs do not fit together, or its result would be wrong.
    #[error("{0}")]
    Refused(String),
    /// The computation died; the message is that of the panic.
    #[error("the computation failed: {0}")]
    Panicked(String),
    /// An object could not be fetched, verified or written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A corpus, embeddings or candidates file could not be read.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// The model could not be loaded or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An index could not be built, read or searched.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The dev queries could not be scored.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A scratch file could not be written.
    #[error(
        "cannot write to the cache folder {folder}: {source}; free space there or choose another with --cache"
    )]
    Scratch {
        /// Folder of the file.
        folder: String,
        /// The operating system's words.
        source: std::io::Error,
    },
}

impl TaskError {
    /// Whether the task itself failed, as against a store that was away for a
    /// while: that says nothing about the task, which any worker may try again.
    #[must_use]
    pub fn blames_task(&self) -> bool {
        !matches!(self, Self::Artifact(error) if error.is_retryable())
    }
}

/// Shorthand for [`TaskError::Refused`].
pub(crate) fn refuse<T>(sentence: impl Into<String>) -> Result<T> {
    Err(TaskError::Refused(sentence.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_away_does_not_blame_the_task() {
        let away = ArtifactError::Unavailable {
            url: "s3://bucket".to_owned(),
            path: "run.json".to_owned(),
            reason: "timeout".to_owned(),
        };
        assert!(!TaskError::from(away).blames_task());
        assert!(TaskError::Refused("a NaN".to_owned()).blames_task());
    }
}
