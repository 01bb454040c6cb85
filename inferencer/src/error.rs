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
    /// The GPU serves this process no more; the message is that of the first task to notice.
    #[error("the GPU of this worker failed: {0}")]
    DeviceLost(String),
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
    /// Whether the task itself failed, as against a store that was away for a while or a
    /// GPU that broke: that says nothing about the task, which any worker may try again. An
    /// error of the GPU that the task's input can cause is the task's, or it would end one
    /// worker after the other.
    #[must_use]
    pub fn blames_task(&self) -> bool {
        match self {
            Self::DeviceLost(words) => input_may_cause(words),
            Self::Artifact(error) => !error.is_retryable(),
            _ => true,
        }
    }

    /// The same, as [`TaskError::DeviceLost`] if its words are those of a GPU that failed.
    pub(crate) fn judged(self) -> Self {
        let words = self.to_string();
        // libtorch's messages run over several lines; the first one says it.
        match words.lines().next() {
            Some(first) if loses_device(first) => Self::DeviceLost(first.to_owned()),
            _ => self,
        }
    }
}

/// Whether libtorch's `message` tells of an error after which the process can use its GPU
/// no more: CUDA repeats one (a failed assertion in a kernel, an illegal address, a memory
/// fault) at every later call. Too little memory, in CUDA's words or in cuBLAS's, passes.
fn loses_device(message: &str) -> bool {
    let passes = ["out of memory", "CUBLAS_STATUS_ALLOC_FAILED"];
    message.contains("CUDA error") && !passes.iter().any(|words| message.contains(words))
}

/// Whether the input of a task can be the reason of CUDA's `message`: an index or a size that
/// a kernel did not expect. What hardware or driver report is not, nor what nobody knows.
fn input_may_cause(message: &str) -> bool {
    [
        "device-side assert",
        "illegal memory access",
        "misaligned address",
        "invalid argument",
    ]
    .iter()
    .any(|words| message.contains(words))
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

    #[test]
    fn an_error_that_cuda_repeats_loses_the_device_and_blames_what_can_have_caused_it() {
        for (lost, blames) in [
            ("CUDA error: device-side assert triggered", true),
            ("CUDA error: an illegal memory access was encountered", true),
            ("CUDA error: misaligned address", true),
            ("CUDA error: invalid argument", true),
            ("CUDA error: uncorrectable ECC error encountered", false),
            ("CUDA error: unspecified launch failure", false),
            ("CUDA error: unknown error", false),
            (
                "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`",
                false,
            ),
        ] {
            let error = tch::TchError::Torch(format!("{lost}\nCUDA kernel errors might be"));
            let error = TaskError::from(ModelError::from(error)).judged();
            assert!(matches!(&error, TaskError::DeviceLost(_)), "{error}");
            assert_eq!(error.blames_task(), blames, "{error}");
            assert!(error.to_string().contains(lost), "{error}");
        }
        for passing in [
            "CUDA out of memory. Tried to allocate 2.00 GiB",
            "CUDA error: out of memory",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "shard 3 is damaged",
        ] {
            let error = TaskError::Panicked(passing.to_owned()).judged();
            assert!(matches!(&error, TaskError::Panicked(_)), "{error}");
            assert!(error.blames_task());
        }
    }
}
