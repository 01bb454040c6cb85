//! References to objects and checkpoints: digests parsed, paths checked.
//!
//! Every name from outside is checked here (law 9), so that no path of a
//! message can reach outside the store.

use crate::convert::ConversionError;
use crate::v1;
use quarry_artifacts::{CheckpointRef, Digest, ObjectRef, check_path};

/// A path inside the store, by the store's own rule.
fn checked_path(
    path: String,
    message: &'static str,
    field: &'static str,
) -> Result<String, ConversionError> {
    check_path(&path).map_err(|e| ConversionError::new(message, field, e.to_string()))?;
    Ok(path)
}

fn checked_digest(
    text: &str,
    message: &'static str,
    field: &'static str,
) -> Result<Digest, ConversionError> {
    text.parse().map_err(|_| {
        let reason = format!("{text:?} is not a sha256 digest of 64 hex digits");
        ConversionError::new(message, field, reason)
    })
}

impl TryFrom<v1::ObjectRef> for ObjectRef {
    type Error = ConversionError;

    fn try_from(wire: v1::ObjectRef) -> Result<Self, ConversionError> {
        Ok(Self {
            path: checked_path(wire.path, "ObjectRef", "path")?,
            size: wire.size,
            sha256: checked_digest(&wire.sha256, "ObjectRef", "sha256")?,
        })
    }
}

impl From<ObjectRef> for v1::ObjectRef {
    fn from(object: ObjectRef) -> Self {
        Self {
            path: object.path,
            size: object.size,
            sha256: object.sha256.to_string(),
        }
    }
}

impl TryFrom<v1::CheckpointRef> for CheckpointRef {
    type Error = ConversionError;

    fn try_from(wire: v1::CheckpointRef) -> Result<Self, ConversionError> {
        Ok(Self {
            step: wire.step,
            digest: checked_digest(&wire.digest, "CheckpointRef", "digest")?,
            manifest: checked_path(wire.manifest, "CheckpointRef", "manifest")?,
        })
    }
}

impl From<CheckpointRef> for v1::CheckpointRef {
    fn from(checkpoint: CheckpointRef) -> Self {
        Self {
            step: checkpoint.step,
            digest: checkpoint.digest.to_string(),
            manifest: checkpoint.manifest,
        }
    }
}
