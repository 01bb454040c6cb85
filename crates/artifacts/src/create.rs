//! Creating an object exactly once: the operation every safety argument of the
//! coordinator rests on (laws 1 and 6). Owns the reading of unclear answers and
//! the probe that refuses a store which ignores the condition.

use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use futures::future::join_all;
use object_store::{PutMode, PutOptions};

use crate::error::{ArtifactError, Result};
use crate::store::Store;

/// Who holds a name after [`Store::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object holds our bytes.
    Yes,
    /// Someone else's bytes were there first.
    Exists,
}

impl Store {
    /// Writes `path` only if it does not exist.
    ///
    /// An answer may be lost after the write landed, and some stores answer
    /// "conflict" though nothing landed. So after any answer but success the
    /// object is read back: our bytes mean [`Created::Yes`], others
    /// [`Created::Exists`], none another attempt. Where two writers could send
    /// equal bytes and must be told apart, the bytes must name their writer.
    ///
    /// # Errors
    /// If the store fails for good, or the outcome stays unknown.
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<Created> {
        let location = self.location(path)?;
        let mut attempt = 1;
        loop {
            let options = PutOptions::from(PutMode::Create);
            let payload = bytes.clone().into();
            let error = match self.objects().put_opts(&location, payload, options).await {
                Ok(_) => return Ok(Created::Yes),
                Err(error) => self.error(path, error),
            };
            if !matches!(error, ArtifactError::Exists { .. }) && !error.is_retryable() {
                return Err(error);
            }
            match self.get_raw(path).await? {
                Some(found) if found == bytes => return Ok(Created::Yes),
                Some(_) => return Ok(Created::Exists),
                None if attempt >= self.retry().attempts => {
                    return Err(unresolved(self.url(), path, error));
                }
                None => {}
            }
            tracing::warn!(path, attempt, %error, "unclear answer to a create, trying again");
            self.retry().pause(attempt).await;
            attempt += 1;
        }
    }

    /// Checks that the store honours create-if-absent, also under a race, and
    /// leaves nothing behind.
    ///
    /// # Errors
    /// [`ArtifactError::Unsupported`] if it does not: such a store would let two
    /// coordinators write at once.
    pub async fn probe_create_if_absent(&self) -> Result<()> {
        let unique = RandomState::new().hash_one(std::process::id());
        let folder = format!("probe/{unique:016x}");
        let outcome = self.probe_in(&folder).await;
        let cleaned = crate::retention::delete_folder(self, &folder).await;
        outcome.and(cleaned)
    }

    async fn probe_in(&self, folder: &str) -> Result<()> {
        let twice = format!("{folder}/twice");
        let first = self.create(&twice, Bytes::from_static(b"first")).await?;
        let second = self.create(&twice, Bytes::from_static(b"second")).await?;
        let found = self.get_raw(&twice).await?;
        let held = (first, second) == (Created::Yes, Created::Exists);
        if !held || found.as_deref() != Some(b"first") {
            return Err(self.refuse("it overwrites an object that should be created only once"));
        }
        let race = format!("{folder}/race");
        let outcomes = join_all((0..8).map(|writer| {
            let bytes = Bytes::from(format!("writer {writer}"));
            self.create(&race, bytes)
        }))
        .await
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
        let winners: Vec<_> = (0..8).filter(|&w| outcomes[w] == Created::Yes).collect();
        let found = self.get_raw(&race).await?;
        match winners[..] {
            [winner] if found.as_deref() == Some(format!("writer {winner}").as_bytes()) => Ok(()),
            _ => Err(self.refuse("several of 8 racing writers created the same object")),
        }
    }

    fn refuse(&self, reason: &str) -> ArtifactError {
        ArtifactError::Unsupported {
            url: self.url().to_string(),
            reason: reason.to_string(),
        }
    }
}

/// Every attempt was answered "exists" or not at all, yet nothing is there.
fn unresolved(url: &str, path: &str, last: ArtifactError) -> ArtifactError {
    match last {
        ArtifactError::Exists { .. } => ArtifactError::Unavailable {
            url: url.to_string(),
            path: path.to_string(),
            reason: "it keeps answering that the object exists, yet there is none".into(),
        },
        other => other,
    }
}
