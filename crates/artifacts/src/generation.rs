//! The manifest of a generation: one checkpoint, and everything made from it.
//! Owns the checks that keep law 2, that a short or mixed generation is never
//! published and never accepted.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::aside::aside;
use crate::checkpoint::CheckpointRef;
use crate::create::Created;
use crate::digest::Digest;
use crate::document::{decode, encode};
use crate::error::{ArtifactError, Result};
use crate::layout;
use crate::object_ref::ObjectRef;
use crate::store::Store;

const KIND: &str = "generation manifest";

/// A manifest of more objects takes milliseconds to write down.
const LARGE: usize = 1_000;

/// What mined a generation's negatives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerationKind {
    /// BM25 over the passages' text: the cold start.
    Bm25,
    /// The checkpoint's own embeddings.
    Dense,
}

impl fmt::Display for GenerationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bm25 => "bm25",
            Self::Dense => "dense",
        })
    }
}

/// One block of negatives and the training queries it covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockRef {
    /// Row of the block's first query in the training split.
    pub first_query: u32,
    /// Number of queries in the block.
    pub queries: u32,
    /// The block.
    pub object: ObjectRef,
}

/// A complete generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationManifest {
    /// The generation's number.
    pub generation: u64,
    /// What mined it.
    pub kind: GenerationKind,
    /// The one checkpoint everything here was made with.
    pub checkpoint: CheckpointRef,
    /// Digest of the corpus.
    pub corpus: Digest,
    /// Passage embeddings, one object a shard, in row order; none for BM25.
    pub embeddings: Vec<ObjectRef>,
    /// Query embeddings by split; none for BM25.
    pub query_embeddings: BTreeMap<String, Vec<ObjectRef>>,
    /// Index files in partition order; none for exact search.
    pub index: Vec<ObjectRef>,
    /// Blocks of negatives, in query order, without a gap.
    pub negatives: Vec<BlockRef>,
    /// TREC runs by split.
    pub runs: BTreeMap<String, ObjectRef>,
    /// Metrics, as `dev/mrr@10`.
    pub metrics: BTreeMap<String, f64>,
    /// Counts of what mining dropped or lacked.
    pub counts: BTreeMap<String, u64>,
}

impl GenerationManifest {
    /// Checks that the manifest can be a complete generation: blocks cover the
    /// queries from row 0 without gap or overlap, no object appears twice under
    /// different hashes, and every metric is a number.
    ///
    /// # Errors
    /// [`ArtifactError::Invalid`] names the key.
    pub fn check(&self) -> Result<()> {
        let invalid = |reason: String| {
            let path = layout::generation_manifest(self.generation);
            Err(ArtifactError::Invalid {
                path,
                kind: KIND,
                reason,
            })
        };
        let mut next = 0_u64;
        for (i, block) in self.negatives.iter().enumerate() {
            if u64::from(block.first_query) != next || block.queries == 0 {
                return invalid(format!(
                    "negatives[{i}] covers {} queries from row {} where row {next} is due",
                    block.queries, block.first_query
                ));
            }
            next += u64::from(block.queries);
        }
        for (name, value) in &self.metrics {
            if !value.is_finite() {
                return invalid(format!("metrics.{name} is {value}"));
            }
        }
        let mut known = BTreeMap::new();
        for object in self.objects() {
            if *known.entry(&object.path).or_insert(object) != object {
                return invalid(format!("{} appears with two different hashes", object.path));
            }
        }
        Ok(())
    }

    /// Every object of the generation.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.embeddings
            .iter()
            .chain(self.query_embeddings.values().flatten())
            .chain(&self.index)
            .chain(self.negatives.iter().map(|block| &block.object))
            .chain(self.runs.values())
    }

    /// Checks and writes the manifest of objects that were all seen in the store at their
    /// size. The returned reference is what the log record must carry: if a coordinator that
    /// died before its record left another manifest under the usual name, this one gets a
    /// name of its own.
    ///
    /// # Errors
    /// If the manifest is incomplete, or the store fails.
    pub async fn write(self, store: &Store) -> Result<ObjectRef> {
        let path = layout::generation_manifest(self.generation);
        let folder = layout::generation_folder(self.generation);
        let named = path.clone();
        let large = self.objects().nth(LARGE).is_some();
        let encoded = aside(large, move || -> Result<_> {
            self.check()?;
            let bytes = encode(&named, KIND, &self)?;
            let digest = Digest::of(&bytes);
            Ok((bytes, digest))
        });
        let (bytes, digest) = encoded.await?;
        match store.create(&path, bytes.clone()).await? {
            Created::Yes => ObjectRef::new(path, bytes.len() as u64, digest),
            Created::Exists => store.put_content(&folder, "manifest", "json", bytes).await,
        }
    }

    /// Reads and checks a published manifest.
    ///
    /// # Errors
    /// If it is missing, damaged, or not a complete generation.
    pub async fn read(store: &Store, object: &ObjectRef) -> Result<Self> {
        let manifest: Self = decode(&object.path, KIND, &store.get(object).await?)?;
        manifest.check()?;
        Ok(manifest)
    }
}
