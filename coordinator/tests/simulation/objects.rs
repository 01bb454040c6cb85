//! Every object of the store, with what was meant to be in it (law 1).

use bytes::Bytes;
use quarry_artifacts::{Digest, ObjectRef};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a simulated worker writes: enough to tell where it stems from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Digest of the checkpoint it was made with.
    pub checkpoint: Digest,
    /// What it is.
    pub what: String,
    /// Differs between attempts that give different bits.
    pub noise: String,
}

struct Object {
    bytes: Bytes,
    /// Bytes that were sent.
    whole: usize,
}

/// The objects, by path.
#[derive(Default)]
pub struct Objects(BTreeMap<String, Object>);

impl Objects {
    /// Adds an object.
    ///
    /// # Errors
    /// If it replaces other bytes that were whole (laws 1 and 6).
    pub fn add(&mut self, path: &str, bytes: Bytes, whole: usize) -> Result<(), String> {
        let object = Object { bytes, whole };
        let new = object.bytes.clone();
        match self.0.insert(path.to_owned(), object) {
            Some(before) if before.bytes.len() == before.whole && before.bytes != new => {
                let law = if path.starts_with("log/") { 6 } else { 1 };
                Err(format!("law {law}: {path} was written a second time"))
            }
            _ => Ok(()),
        }
    }

    pub fn remove(&mut self, path: &str) {
        self.0.remove(path);
    }

    pub fn bytes(&self, path: &str) -> Option<Bytes> {
        self.0.get(path).map(|object| object.bytes.clone())
    }

    pub fn whole_size(&self, path: &str) -> Option<u64> {
        self.0.get(path).map(|object| object.whole as u64)
    }

    /// Whether the object is there, with all that was sent.
    pub fn is_whole(&self, path: &str) -> bool {
        let object = self.0.get(path);
        object.is_some_and(|object| object.bytes.len() == object.whole)
    }

    /// The bytes that a reference promises.
    ///
    /// # Errors
    /// If they are not there.
    pub fn verified(&self, object: &ObjectRef) -> Result<&Bytes, String> {
        let path = &object.path;
        let found = self
            .0
            .get(path)
            .ok_or_else(|| format!("{path} is missing"))?;
        let intact =
            found.bytes.len() as u64 == object.size && Digest::of(&found.bytes) == object.sha256;
        intact
            .then_some(&found.bytes)
            .ok_or_else(|| format!("{path} is short or damaged"))
    }

    /// Whether everything in `folder` is whole.
    pub fn are_whole(&self, folder: &str) -> bool {
        let mut inside = self.0.range(folder.to_owned()..);
        inside
            .by_ref()
            .take_while(|(path, _)| path.starts_with(folder))
            .all(|(_, object)| object.bytes.len() == object.whole)
    }
}
