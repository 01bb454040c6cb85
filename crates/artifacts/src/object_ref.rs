//! References to objects: path, size and hash. Owns the check that a path from
//! outside stays below the store's root.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{ArtifactError, Result};

/// One immutable object of the store: where it is and what it must contain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct ObjectRef {
    /// Path relative to the store's root, with `/` between the parts.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Sha256 of the content.
    pub sha256: Digest,
}

impl ObjectRef {
    /// A reference with a checked path.
    ///
    /// # Errors
    /// If the path is unsafe (see [`check_path`]).
    pub fn new(path: impl Into<String>, size: u64, sha256: Digest) -> Result<Self> {
        let path = path.into();
        check_path(&path)?;
        Ok(Self { path, size, sha256 })
    }
}

/// The wire form, before its path is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    path: String,
    size: u64,
    sha256: Digest,
}

impl TryFrom<Unchecked> for ObjectRef {
    type Error = ArtifactError;

    fn try_from(raw: Unchecked) -> Result<Self> {
        Self::new(raw.path, raw.size, raw.sha256)
    }
}

/// Checks that `path` is a relative path below the store's root: parts of
/// `A-Z a-z 0-9 . _ - = + @`, separated by single slashes, none of them `.` or
/// `..` or hidden, 1024 bytes at most.
///
/// # Errors
/// [`ArtifactError::UnsafePath`] says what is wrong.
pub fn check_path(path: &str) -> Result<()> {
    let refuse = |reason| {
        Err(ArtifactError::UnsafePath {
            path: path.chars().take(200).collect(),
            reason,
        })
    };
    if path.is_empty() || path.len() > 1024 {
        return refuse("it is empty or longer than 1024 bytes");
    }
    if path.starts_with('/') {
        return refuse("it is absolute");
    }
    for part in path.split('/') {
        if part.is_empty() {
            return refuse("it has an empty part");
        }
        if part.starts_with('.') {
            return refuse("a part begins with a dot");
        }
        if !part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-=+@".contains(&b))
        {
            return refuse("it has a character that is not allowed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_are_refused() {
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a/./b",
            "a//b",
            "a/",
            "a\\b",
            "a b",
            "a\0b",
            "c:/x",
            "%2e%2e/x",
            "a#1",
            ".hidden",
            "é",
        ] {
            let error = check_path(path).unwrap_err();
            assert!(matches!(error, ArtifactError::UnsafePath { .. }), "{path}");
            let json = serde_json::json!({"path": path, "size": 0, "sha256": Digest::of(b"")});
            assert!(serde_json::from_value::<ObjectRef>(json).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_path_never_leaves_the_root(path in "[a-z./\\\\%]{0,12}") {
            if check_path(&path).is_ok() {
                let root = std::path::Path::new("/root");
                let joined = root.join(&path);
                prop_assert!(joined.starts_with(root));
                prop_assert!(joined.components().all(|c| c.as_os_str() != ".."));
                let stored = object_store::path::Path::parse(&path).unwrap();
                prop_assert_eq!(stored.as_ref(), path);
            }
        }

        #[test]
        fn names_of_allowed_characters_are_accepted(path in "[A-Za-z0-9_=+@-][A-Za-z0-9._=+@-]{0,20}(/[A-Za-z0-9_-]{1,20}){0,4}") {
            prop_assert!(check_path(&path).is_ok());
        }

        #[test]
        fn references_round_trip(path in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,3}", size: u64, content: Vec<u8>) {
            let reference = ObjectRef::new(path, size, Digest::of(&content)).unwrap();
            let json = serde_json::to_string(&reference).unwrap();
            prop_assert_eq!(serde_json::from_str::<ObjectRef>(&json).unwrap(), reference);
        }
    }
}
