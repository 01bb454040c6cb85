//! What can go wrong between a model folder and an embedding.

use std::path::PathBuf;

/// Every failure of this crate outside `loss`; each message is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {path}: {reason}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file is there but does not say what it should.
    #[error("{path}: {}", .reason.trim().replace(char::is_control, " "))]
    Invalid {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The weights file lacks a tensor of the architecture.
    #[error(
        "{path} has no tensor {name:?}, which the config asks for; use the weights this config came with"
    )]
    MissingTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor, in the family's own naming.
        name: String,
    },
    /// A tensor does not fit the config.
    #[error("{path}: tensor {name:?} is {found:?} but the config asks for {expected:?}")]
    TensorShape {
        /// The weights file.
        path: PathBuf,
        /// The tensor, as the file calls it.
        name: String,
        /// Shape in the file.
        found: Vec<i64>,
        /// Shape the config implies.
        expected: Vec<i64>,
    },
    /// A text could not be split into tokens.
    #[error("tokenizer: {}", .0.replace(char::is_control, " "))]
    Tokenizer(String),
    /// A batch the encoder cannot take.
    #[error("batch: {0}")]
    Batch(String),
    /// An embedding holds NaN or infinity.
    #[error("embedding of sequence {0} is not finite; the weights are damaged or have diverged")]
    NotFinite(usize),
    /// A kernel beyond tch's bindings refused an operation.
    #[error(transparent)]
    Kernel(#[from] quarry_torch_ext::Error),
    /// libtorch refused an operation.
    #[error("libtorch: {}", first_line(.0))]
    Torch(#[from] tch::TchError),
}

impl ModelError {
    pub(crate) fn invalid(path: &std::path::Path, reason: impl Into<String>) -> Self {
        Self::Invalid {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}

/// libtorch appends a C++ backtrace of dozens of lines to every message.
pub(crate) fn first_line(error: &tch::TchError) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}
