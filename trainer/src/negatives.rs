//! One generation's negatives, checked and memory-mapped.
//!
//! Owns: the checks that make a generation fit for training. Refuses one that
//! belongs to another corpus, does not cover every training query exactly once,
//! names a passage that does not exist, or holds nothing where the loss needs it
//! (laws 2 and 8).

use crate::batches::Mined;
use crate::dataset::Dataset;
use quarry_artifacts::{
    ArtifactError, Cache, CachedFile, GenerationKind, GenerationManifest, Store,
};
use quarry_corpus::{CorpusError, NegativesBlock};
use thiserror::Error;

pub use quarry_client::Activation;

/// Why a generation cannot be trained on.
#[derive(Debug, Error)]
pub enum NegativesError {
    /// The store failed or an object is damaged.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A block is not a block of negatives.
    #[error(transparent)]
    Block(#[from] CorpusError),
    /// The generation does not fit this run.
    #[error("generation {generation} is refused: {reason}")]
    Unfit {
        /// The generation.
        generation: u64,
        /// What does not fit.
        reason: String,
    },
}

impl NegativesError {
    /// Whether the same generation may be readable a little later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Artifact(error) => {
                error.is_retryable() || matches!(error, ArtifactError::NoSpace { .. })
            }
            Self::Block(_) | Self::Unfit { .. } => false,
        }
    }
}

/// A generation ready to be trained on.
pub struct Negatives {
    activation: Activation,
    kind: GenerationKind,
    /// The first query row and the map of each block, in query order.
    blocks: Vec<(u32, NegativesBlock)>,
    _files: Vec<CachedFile>,
}

impl Negatives {
    /// Downloads, verifies and maps a generation's blocks.
    ///
    /// # Errors
    /// [`NegativesError`].
    ///
    /// # Panics
    /// Outside a multi-threaded Tokio runtime.
    pub async fn fetch(
        store: &Store,
        cache: &Cache,
        activation: Activation,
        dataset: &Dataset,
    ) -> Result<Self, NegativesError> {
        let manifest = GenerationManifest::read(store, &activation.manifest).await?;
        let unfit = |reason: String| NegativesError::Unfit {
            generation: activation.generation,
            reason,
        };
        check_identity(&manifest, &activation, dataset).map_err(unfit)?;
        let mut files = Vec::with_capacity(manifest.negatives.len());
        let mut blocks = Vec::with_capacity(manifest.negatives.len());
        for block in &manifest.negatives {
            let file = cache.fetch(store, &block.object).await?;
            // Reads the whole block: not work for a thread that serves the network.
            let map = tokio::task::block_in_place(|| NegativesBlock::open(file.path()))?;
            let (first, passages) = (block.first_query, dataset.passages());
            tokio::task::block_in_place(|| check_block(&map, first, block.queries, passages))
                .map_err(unfit)?;
            blocks.push((first, map));
            files.push(file);
        }
        Ok(Self {
            activation,
            kind: manifest.kind,
            blocks,
            _files: files,
        })
    }

    /// Queries with fewer than `wanted` negatives.
    #[must_use]
    pub fn short_of(&self, wanted: usize) -> usize {
        let lists = |block: &NegativesBlock| {
            (0..block.len())
                .filter(|at| block.negatives(*at).len() < wanted)
                .count()
        };
        self.blocks.iter().map(|(_, block)| lists(block)).sum()
    }

    /// Refuses a generation in which no query has a negative. For a loss that knows
    /// no others every step would be without effect, and its loss 0 (law 8).
    ///
    /// # Errors
    /// [`NegativesError::Unfit`], with the keys that empty a generation of its kind.
    pub fn require_some(&self) -> Result<(), NegativesError> {
        let queries: usize = self.blocks.iter().map(|(_, block)| block.len()).sum();
        if self.short_of(1) < queries {
            return Ok(());
        }
        let ratio = match self.kind {
            GenerationKind::Bm25 => "mining.sparse_max_positive_ratio",
            GenerationKind::Dense => "mining.max_positive_ratio",
        };
        Err(NegativesError::Unfit {
            generation: self.activation.generation,
            reason: format!(
                "none of its {queries} training queries has a negative, and this loss has no in-batch ones to learn from; start a new run with another {ratio} (0 turns that filter off) or a larger mining.depth"
            ),
        })
    }

    /// How they were mined.
    #[must_use]
    pub fn kind(&self) -> GenerationKind {
        self.kind
    }

    /// Which activation these are.
    #[must_use]
    pub fn activation(&self) -> &Activation {
        &self.activation
    }
}

impl Mined for Negatives {
    fn negatives(&self, query: u32) -> &[u32] {
        let after = self.blocks.partition_point(|(first, _)| *first <= query);
        let (first, block) = &self.blocks[after.saturating_sub(1)];
        block.negatives((query - first) as usize)
    }
}

fn check_identity(
    manifest: &GenerationManifest,
    activation: &Activation,
    dataset: &Dataset,
) -> Result<(), String> {
    if manifest.generation != activation.generation || manifest.checkpoint != activation.checkpoint
    {
        return Err(format!(
            "its manifest {} is of generation {} and checkpoint {}",
            activation.manifest.path, manifest.generation, manifest.checkpoint.manifest
        ));
    }
    if manifest.corpus != *dataset.digest() {
        return Err(format!(
            "it was mined from corpus {} while this run trains on {}",
            manifest.corpus.short(),
            dataset.digest().short()
        ));
    }
    let covered: u64 = manifest
        .negatives
        .iter()
        .map(|b| u64::from(b.queries))
        .sum();
    if covered != dataset.queries() as u64 {
        return Err(format!(
            "its negatives cover {covered} of the {} training queries",
            dataset.queries()
        ));
    }
    Ok(())
}

fn check_block(
    block: &NegativesBlock,
    first: u32,
    queries: u32,
    passages: usize,
) -> Result<(), String> {
    if block.len() != queries as usize {
        let found = block.len();
        return Err(format!(
            "its block from query {first} holds {found} of {queries} queries"
        ));
    }
    for at in 0..block.len() {
        let due = first + at as u32;
        if block.query(at) != due {
            return Err(format!(
                "its block has query {} where {due} is due",
                block.query(at)
            ));
        }
        if let Some(row) = block
            .negatives(at)
            .iter()
            .find(|row| **row as usize >= passages)
        {
            return Err(format!(
                "query {due} has negative {row} but the corpus has {passages} passages"
            ));
        }
    }
    Ok(())
}
