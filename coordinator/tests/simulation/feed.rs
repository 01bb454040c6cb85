//! The newest usable generation, as the trainer's feed keeps it ready.

use crate::network::Link;
use crate::world::lock;
use futures::{FutureExt, StreamExt};
use quarry_artifacts::{
    ArtifactError, CheckpointRef, Digest, GenerationManifest, ObjectRef, Store,
};
use quarry_proto::v1;
use serde::{Deserialize, Serialize};
use std::sync::Mutex;

/// Negatives that can be trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Negatives {
    pub activation: u64,
    pub generation: u64,
    pub checkpoint: CheckpointRef,
    manifest: ObjectRef,
    /// Of what they are, by their manifest.
    pub digest: Digest,
}

/// The digest of the negatives that a manifest lists.
pub fn digest_of(manifest: &GenerationManifest) -> Digest {
    let blocks = manifest.negatives.iter();
    let hashes: Vec<&str> = blocks.map(|block| block.object.sha256.as_str()).collect();
    Digest::of(hashes.concat().as_bytes())
}

/// Follows the activations.
pub struct Feed {
    link: Link,
    store: Store,
    ready: Mutex<Option<Negatives>>,
}

impl Feed {
    pub fn new(link: Link, store: Store) -> Self {
        let ready = Mutex::default();
        Self { link, store, ready }
    }

    /// The newest negatives, if their activation is after number `after`.
    pub fn newer(&self, after: u64) -> Option<Negatives> {
        let ready = lock(&self.ready).clone();
        ready.filter(|negatives| negatives.activation > after)
    }

    /// Listens for activations after number `after`; never ends.
    pub async fn follow(&self, mut after: u64) {
        loop {
            let stream = self.link.watch(after).await;
            // Where the stream comes from; a broken one is noticed by its silence.
            if let (Ok(mut stream), Some(member)) = (stream, self.link.connect()) {
                let mut silent = 0;
                while silent < 20 {
                    self.link.process.sleep(150).await;
                    let deaf = member.process.is_frozen() || self.link.is_cut_off(&member);
                    silent = if deaf { silent + 1 } else { 0 };
                    let news = if deaf {
                        None
                    } else {
                        stream.next().now_or_never()
                    };
                    match news {
                        None => {}
                        Some(Some(Ok(news))) if news.activation > after => {
                            after = news.activation;
                            self.prepare(news).await;
                        }
                        Some(Some(Ok(_))) => {}
                        Some(Some(Err(_)) | None) => break,
                    }
                }
            }
            self.link.hang_up();
            self.link.process.sleep(500).await;
        }
    }

    /// Fetches an announced generation; one that cannot be had is passed over.
    async fn prepare(&self, news: v1::WatchGenerationsResponse) {
        let (Some(checkpoint), Some(manifest)) = (news.checkpoint, news.manifest) else {
            return self.link.world().violate("law 3: half an announcement");
        };
        let announced = Negatives {
            activation: news.activation,
            generation: news.generation,
            checkpoint: checkpoint.try_into().unwrap(),
            manifest: manifest.try_into().unwrap(),
            digest: Digest::of(b"not read yet"),
        };
        for _ in 0..100 {
            match self.fetch(announced.clone()).await {
                Ok(negatives) => {
                    lock(&self.ready).replace(negatives);
                    return;
                }
                Err(error) if error.is_retryable() => self.link.process.sleep(500).await,
                Err(error) => {
                    let generation = announced.generation;
                    let refusal = format_args!("trainer refuses generation {generation}: {error}");
                    return self.link.world().note(refusal);
                }
            }
        }
    }

    /// Reads and verifies all negatives of a generation.
    pub async fn fetch(&self, announced: Negatives) -> Result<Negatives, ArtifactError> {
        let manifest = GenerationManifest::read(&self.store, &announced.manifest).await?;
        for block in &manifest.negatives {
            self.store.get(&block.object).await?;
        }
        let digest = digest_of(&manifest);
        Ok(Negatives {
            digest,
            ..announced
        })
    }
}
