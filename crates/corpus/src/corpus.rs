//! The whole corpus: all shards, addressed by row.

use std::path::PathBuf;

use crate::{CorpusError, Shard};

/// All shards of a prepared corpus, memory-mapped.
///
/// Accessors panic for `row >= passages()`, as slices do.
#[derive(Debug, Clone)]
pub struct Corpus {
    shards: Vec<Shard>,
    passages: usize,
}

impl Corpus {
    /// Maps all shards, in any order; together they must cover the rows from 0 without gap or overlap.
    ///
    /// # Errors
    /// Those of [`Shard::open`], and [`CorpusError::Corrupt`] naming the shard that does not follow.
    pub fn open(paths: &[PathBuf]) -> Result<Corpus, CorpusError> {
        let mut shards = Vec::with_capacity(paths.len());
        for path in paths {
            shards.push((Shard::open(path)?, path));
        }
        shards.sort_by_key(|(shard, _)| shard.first_row());
        let mut passages = 0;
        for (shard, path) in &shards {
            if shard.first_row() as usize != passages {
                return Err(CorpusError::Corrupt {
                    path: path.to_path_buf(),
                    kind: "next corpus shard",
                    reason: format!(
                        "it begins at row {} and the shards before it end at {passages}",
                        shard.first_row()
                    ),
                });
            }
            passages += shard.len();
        }
        let shards = shards.into_iter().map(|(shard, _)| shard).collect();
        Ok(Corpus { shards, passages })
    }

    /// Passages over all shards.
    pub fn passages(&self) -> usize {
        self.passages
    }

    /// The shards, by row.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    fn locate(&self, row: u32) -> (&Shard, usize) {
        let after = self
            .shards
            .partition_point(|shard| shard.first_row() <= row);
        let shard = &self.shards[after.wrapping_sub(1)];
        (shard, (row - shard.first_row()) as usize)
    }

    /// The collection's id of the passage.
    pub fn id(&self, row: u32) -> &str {
        let (shard, i) = self.locate(row);
        shard.id(i)
    }

    /// The full text of the passage: title and text, without prefix.
    pub fn text(&self, row: u32) -> &str {
        let (shard, i) = self.locate(row);
        shard.text(i)
    }

    /// The content tokens of the passage: a view into the map.
    pub fn tokens(&self, row: u32) -> &[u32] {
        let (shard, i) = self.locate(row);
        shard.tokens(i)
    }

    /// [`crate::text_hash`] of the passage's full text.
    pub fn text_hash(&self, row: u32) -> u64 {
        let (shard, i) = self.locate(row);
        shard.text_hash(i)
    }

    /// Every passage's row and full text, by row.
    pub fn texts(&self) -> impl Iterator<Item = (u32, &str)> {
        self.shards.iter().flat_map(|shard| {
            (0..shard.len()).map(|i| (shard.first_row() + i as u32, shard.text(i)))
        })
    }
}
