//! The prepared corpus and its queries, fetched once and mapped.
//!
//! Owns the check that a file is what the corpus manifest says it is. Refuses
//! blocks and shards that the manifest does not have.

use crate::depot::{Depot, Held};
use crate::error::{Result, TaskError, refuse};
use quarry_artifacts::{CachedFile, CorpusLocation};
use quarry_corpus::{Corpus, CorpusManifest, QuerySet, Shard};
use quarry_proto::Block;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// The collection of a run.
pub(crate) struct Collection {
    location: CorpusLocation,
    manifest: CorpusManifest,
    corpus: Option<Arc<MappedCorpus>>,
    queries: BTreeMap<String, Arc<Held<QuerySet>>>,
}

/// All shards, mapped; their files stay cached as long as this lives.
pub(crate) struct MappedCorpus {
    /// The passages by row.
    pub passages: Corpus,
    _files: Vec<CachedFile>,
}

impl Collection {
    /// The collection that a run's document points to.
    pub fn new(location: CorpusLocation) -> Result<Self> {
        let manifest = serde_json::from_value(location.manifest.clone()).map_err(|e| {
            let folder = &location.folder;
            TaskError::Refused(format!(
                "the corpus manifest in {folder} cannot be read: {e}; prepare the corpus with this version"
            ))
        })?;
        Ok(Self {
            location,
            manifest,
            corpus: None,
            queries: BTreeMap::new(),
        })
    }

    /// What the corpus was prepared from and with.
    pub fn manifest(&self) -> &CorpusManifest {
        &self.manifest
    }

    /// First digits of the corpus digest, for names of local files.
    pub fn short_digest(&self) -> &str {
        self.location.digest.short()
    }

    /// Shard `number`, mapped.
    pub fn shard(&self, depot: &Depot, number: u32) -> Result<Held<Shard>> {
        let Some(entry) = self.manifest.shards.get(number as usize) else {
            return refuse(format!(
                "the corpus has {} shards and none numbered {number}; the coordinator works for another corpus",
                self.manifest.shards.len()
            ));
        };
        let file = depot.fetch_of_corpus(&self.location, &entry.file)?;
        let shard = Held::open(file, Shard::open)?;
        if (shard.first_row(), shard.len()) != (entry.first_row, entry.passages as usize) {
            return refuse(format!(
                "shard {} holds {} passages from row {} but the manifest says {} from row {}; prepare the corpus again",
                entry.file,
                shard.len(),
                shard.first_row(),
                entry.passages,
                entry.first_row
            ));
        }
        Ok(shard)
    }

    /// The whole corpus, mapped; fetched on first use.
    pub fn corpus(&mut self, depot: &Depot) -> Result<Arc<MappedCorpus>> {
        if let Some(corpus) = &self.corpus {
            return Ok(Arc::clone(corpus));
        }
        let files = (self.manifest.shards.iter())
            .map(|entry| depot.fetch_of_corpus(&self.location, &entry.file))
            .collect::<Result<Vec<_>>>()?;
        let paths: Vec<PathBuf> = files.iter().map(|f| f.path().to_owned()).collect();
        let corpus = Arc::new(MappedCorpus {
            passages: Corpus::open(&paths)?,
            _files: files,
        });
        self.corpus = Some(Arc::clone(&corpus));
        Ok(corpus)
    }

    /// The queries of `block`'s split and the block's range in them.
    pub fn block(
        &mut self,
        depot: &Depot,
        block: &Block,
    ) -> Result<(Arc<Held<QuerySet>>, Range<usize>)> {
        let queries = self.queries(depot, &block.split)?;
        let first = block.first_query as usize;
        let range = first..first + block.queries as usize;
        if range.end > queries.len() {
            return refuse(format!(
                "block {block} reaches beyond the {} queries of its split; the coordinator works for another corpus",
                queries.len()
            ));
        }
        Ok((queries, range))
    }

    fn queries(&mut self, depot: &Depot, split: &str) -> Result<Arc<Held<QuerySet>>> {
        if let Some(queries) = self.queries.get(split) {
            return Ok(Arc::clone(queries));
        }
        let Some(entry) = self.manifest.queries.get(split) else {
            let known: Vec<&str> = self.manifest.queries.keys().map(String::as_str).collect();
            return refuse(format!(
                "the corpus has no queries of split {split:?}; it was prepared with {}",
                known.join(", ")
            ));
        };
        let file = depot.fetch_of_corpus(&self.location, &entry.file)?;
        let queries = Arc::new(Held::open(file, QuerySet::open)?);
        self.queries.insert(split.to_owned(), Arc::clone(&queries));
        Ok(queries)
    }
}
