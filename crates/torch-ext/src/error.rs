//! The one error type of this crate. Owns its wording; refuses to carry C++ types.

/// Why a call into libtorch did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libtorch threw; `message` is its own, without the backtrace.
    #[error("libtorch refused {operation}: {message}")]
    Torch {
        /// The operation asked for, in its torch name.
        operation: &'static str,
        /// What libtorch said.
        message: String,
    },
    /// The arguments were refused here, before libtorch saw them.
    #[error("{operation} was called with unusable arguments: {reason}")]
    Argument {
        /// The operation asked for, in its torch name.
        operation: &'static str,
        /// What is wrong with them.
        reason: String,
    },
    /// `libtorch_cuda.so` is there, but the loader refuses it.
    #[error(
        "{path} exists but cannot be loaded, check that it is of the same libtorch and that its CUDA libraries are on the library path: {reason}"
    )]
    Library {
        /// The file found.
        path: String,
        /// What the loader said.
        reason: String,
    },
}

impl Error {
    /// Arguments refused before libtorch saw them.
    pub(crate) fn argument(operation: &'static str, reason: impl Into<String>) -> Self {
        Self::Argument {
            operation,
            reason: reason.into(),
        }
    }
}
