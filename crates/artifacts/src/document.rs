//! JSON documents in the store: created once, read with errors that name the
//! key. Owns the encoding; the same value always gives the same bytes.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::create::Created;
use crate::error::{ArtifactError, Result};
use crate::store::Store;

/// Creates `path` with `value` as indented JSON.
///
/// # Errors
/// If the store fails, or the value does not read back as itself (say, a NaN).
pub async fn create_json<T: Serialize>(
    store: &Store,
    path: &str,
    kind: &'static str,
    value: &T,
) -> Result<Created> {
    store.create(path, encode(path, kind, value)?).await
}

/// Reads the document at `path`.
///
/// # Errors
/// [`ArtifactError::NotFound`] if it is not there, [`ArtifactError::Invalid`]
/// if it is no such document.
pub async fn read_json<T: DeserializeOwned>(
    store: &Store,
    path: &str,
    kind: &'static str,
) -> Result<T> {
    let bytes = store
        .get_raw(path)
        .await?
        .ok_or_else(|| ArtifactError::NotFound {
            url: store.url().to_string(),
            path: path.to_string(),
        })?;
    decode(path, kind, &bytes)
}

pub(crate) fn encode<T: Serialize>(path: &str, kind: &'static str, value: &T) -> Result<Bytes> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| ArtifactError::Invalid {
        path: path.to_string(),
        kind,
        reason: e.to_string(),
    })?;
    bytes.push(b'\n');
    Ok(bytes.into())
}

pub(crate) fn decode<T: DeserializeOwned>(
    path: &str,
    kind: &'static str,
    bytes: &[u8],
) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut json).map_err(|e| ArtifactError::Invalid {
        path: path.to_string(),
        kind,
        reason: e.to_string(),
    })
}
