//! What can go wrong with an artifact, told in one sentence that names the
//! object and the remedy. Owns the reading of a backend's errors: which are
//! worth another attempt, which mean a full disk, which a missing object.

use std::io::ErrorKind;
use std::path::Path;

/// Where a machine of AWS asks for its role: the backend's last resort for S3, when
/// the environment holds no credentials.
const METADATA_SERVICE: &str = "http://169.254.169.254/";

/// This crate's result.
pub type Result<T> = std::result::Result<T, ArtifactError>;

/// Why an artifact could not be written, read or trusted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArtifactError {
    /// The object is not in the store.
    #[error(
        "no object {path} in the store {url}; check the store's address and whether the object was collected"
    )]
    NotFound {
        /// The store's address.
        url: String,
        /// Path below the store's root.
        path: String,
    },
    /// The bytes are not the ones the reference promised.
    #[error(
        "object {path} in the store {url} has {what} {actual} but its reference says {expected}; it is truncated or damaged, publish it again or choose another generation"
    )]
    Mismatch {
        /// The store's address.
        url: String,
        /// Path below the store's root.
        path: String,
        /// Which property differs: `size`, `sha256`, …
        what: &'static str,
        /// What the reference says.
        expected: String,
        /// What was found.
        actual: String,
    },
    /// Another object already has this name (nothing is overwritten).
    #[error(
        "object {path} already exists in the store {url} with other content; nothing is overwritten, so use a new store or remove the old run"
    )]
    Exists {
        /// The store's address.
        url: String,
        /// Path below the store's root.
        path: String,
    },
    /// The store cannot do what the run's safety rests on.
    #[error(
        "the store {url} cannot be used: {reason}; use a local folder, S3, GCS or Azure with conditional writes"
    )]
    Unsupported {
        /// The store's address.
        url: String,
        /// What it lacks.
        reason: String,
    },
    /// The store or a local disk is full.
    #[error(
        "no space left while writing {path} to {url}; free space or choose another place, then resume"
    )]
    NoSpace {
        /// The store's address, or `local disk`.
        url: String,
        /// What was being written.
        path: String,
    },
    /// Reading or writing a file failed for good.
    #[error("cannot access {path} in {url}: {reason}; check the path and its permissions")]
    Io {
        /// The store's address, or `local disk`.
        url: String,
        /// The object or file.
        path: String,
        /// The operating system's or the backend's words.
        reason: String,
    },
    /// The credentials do not permit the operation.
    #[error(
        "the store {url} denied access to {path}: {reason}; check the credentials and their permissions"
    )]
    Denied {
        /// The store's address.
        url: String,
        /// The object.
        path: String,
        /// The backend's words.
        reason: String,
    },
    /// There is nothing to log in to the store with.
    #[error(
        "no credentials for the store {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a machine whose role answers (profiles in ~/.aws are not read); asking for a role gave: {reason}"
    )]
    NoCredentials {
        /// The store's address.
        url: String,
        /// The backend's words.
        reason: String,
    },
    /// The store did not answer, also after several attempts.
    #[error(
        "the store {url} did not complete the request for {path}: {reason}; check that it is reachable and try again"
    )]
    Unavailable {
        /// The store's address.
        url: String,
        /// The object.
        path: String,
        /// The backend's words.
        reason: String,
    },
    /// A store address that cannot be understood or opened.
    #[error(
        "cannot open the store {url}: {reason}; give a folder, file:///, s3://, gs:// or az://"
    )]
    Address {
        /// The address as given.
        url: String,
        /// Why it cannot be opened.
        reason: String,
    },
    /// A name from outside that is not a safe object path.
    #[error(
        "unsafe object path {path:?}: {reason}; use relative names of letters, digits and . _ - = + @"
    )]
    UnsafePath {
        /// The path as given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Text that is not a sha256 digest.
    #[error("{text:?} is not a sha256 digest; it must be 64 lowercase hexadecimal digits")]
    NotADigest {
        /// The text as given.
        text: String,
    },
    /// A document that does not read as what it should be.
    #[error(
        "{path} is not a valid {kind}: {}; it was written by another version or damaged",
        .reason.replace(char::is_control, " ")
    )]
    Invalid {
        /// The document's path or name.
        path: String,
        /// Kind of document.
        kind: &'static str,
        /// What is wrong, naming the key.
        reason: String,
    },
}

impl ArtifactError {
    /// Whether the same request may succeed a little later. A role that does not
    /// answer may, on a machine that has one.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NoCredentials { .. })
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// An error of a local file, outside any store.
    pub(crate) fn local(path: &Path, error: &std::io::Error) -> Self {
        let url = "the local disk".to_string();
        let path = path.display().to_string();
        if is_full(error.kind()) {
            return Self::NoSpace { url, path };
        }
        Self::Io {
            url,
            path,
            reason: error.to_string(),
        }
    }

    /// Reads a backend's error about `path`.
    pub(crate) fn from_backend(url: &str, path: &str, error: object_store::Error) -> Self {
        use object_store::Error as E;
        let (url, path) = (url.to_string(), path.to_string());
        let reason = first_line(&error.to_string());
        match &error {
            E::NotFound { .. } => Self::NotFound { url, path },
            E::AlreadyExists { .. } | E::Precondition { .. } => Self::Exists { url, path },
            E::NotImplemented { .. } | E::NotSupported { .. } => Self::Unsupported { url, reason },
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                Self::Denied { url, path, reason }
            }
            E::InvalidPath { .. } | E::UnknownConfigurationKey { .. } | E::JoinError { .. } => {
                Self::Io { url, path, reason }
            }
            E::Generic { store, .. } => match io_kind(&error) {
                Some(kind) if is_full(kind) => Self::NoSpace { url, path },
                Some(ErrorKind::PermissionDenied) => Self::Denied { url, path, reason },
                _ if *store == "LocalFileSystem" => Self::Io { url, path, reason },
                _ if *store == "S3" && reason.contains(METADATA_SERVICE) => {
                    Self::NoCredentials { url, reason }
                }
                _ => Self::Unavailable { url, path, reason },
            },
            _ => Self::Unavailable { url, path, reason },
        }
    }
}

fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// The operating system's error behind a backend's error, if there is one.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

/// Backends quote whole XML answers; one line of at most 300 characters says enough.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::Retry;
    use std::cell::Cell;

    fn of_s3(said: &str) -> ArtifactError {
        let error = object_store::Error::Generic {
            store: "S3",
            source: said.to_owned().into(),
        };
        ArtifactError::from_backend("s3://bucket/run", "run.json", error)
    }

    #[tokio::test]
    async fn a_role_that_does_not_answer_means_no_credentials() {
        let error = of_s3("Error performing PUT http://169.254.169.254/latest/api/token in 4 ms");
        let said = error.to_string();
        assert!(
            said.starts_with("no credentials for the store s3://bucket/run: set AWS_ACCESS_KEY_ID"),
            "{said}"
        );
        // Those who wait for a store go on waiting; a request is not repeated at once.
        assert!(error.is_retryable());
        let asked = Cell::new(0);
        let request = || {
            asked.set(asked.get() + 1);
            std::future::ready(Err::<(), _>(error.clone()))
        };
        assert!(Retry::default().run("run.json", request).await.is_err());
        assert_eq!(asked.get(), 1);

        let error = of_s3("Error performing GET https://bucket.s3.amazonaws.com/run in 4 ms");
        assert!(
            matches!(error, ArtifactError::Unavailable { .. }),
            "{error}"
        );
    }
}
