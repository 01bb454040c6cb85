//! BM25 over the passages' text by tantivy: k1 = 1.2, b = 0.75, idf = ln(1 + (N − n + ½)/(n + ½)).
//!
//! Scores are Lucene's times k1 + 1. An index is segments whose boundaries follow from the passages alone, and statistics
//! are the whole index's, so nothing depends on how it was written. Queries are bags of words: no query syntax, so no
//! character is special.

mod language;
mod segment;
mod words;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tantivy::query::{BooleanQuery, EnableScoring, Occur, Query, TermQuery};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::tokenizer::{TextAnalyzer, TokenStream};
use tantivy::{Index, ReloadPolicy, Searcher, SegmentReader, Term};

use crate::{Hit, IndexError};
pub use language::Language;
use segment::{Best, Segment};

const DESCRIPTION: &str = "quarry.json";
const VERSION: u32 = 1;
const ANALYZER: &str = "quarry";
const TEXT: &str = "text";
const ROW: &str = "row";

/// What tantivy does not store about the index.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    version: u32,
    language: Language,
    passages: u64,
}

/// A BM25 index in a folder; searching shares it between threads.
pub struct SparseIndex {
    searcher: Searcher,
    /// In the order of their rows.
    segments: Vec<Segment>,
    analyzer: TextAnalyzer,
    text: Field,
    language: Language,
}

impl SparseIndex {
    /// Builds the index of `passages` (row and text, rows ascending) in the new folder `dir`, which appears complete
    /// or not at all, and opens it. `progress` is told how many passages are in.
    ///
    /// # Errors
    /// A folder that exists, no passages, rows out of order.
    pub fn build<T: AsRef<str>>(
        dir: impl AsRef<Path>,
        passages: impl IntoIterator<Item = (u32, T)>,
        language: Language,
        progress: &mut dyn FnMut(u64),
    ) -> Result<SparseIndex, IndexError> {
        let dir = dir.as_ref();
        if dir.exists() {
            return Err(IndexError::Exists {
                path: dir.to_owned(),
            });
        }
        let parent = dir
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(IndexError::io(parent))?;
        let temporary = tempfile::Builder::new()
            .prefix(".bm25-")
            .tempdir_in(parent)
            .map_err(IndexError::io(parent))?;
        writer::write(
            temporary.path(),
            passages,
            language,
            writer::Sizes::DEFAULT,
            progress,
        )?;
        let complete = SparseIndex::open(temporary.path())?;
        drop(complete);
        fs::rename(temporary.keep(), dir).map_err(IndexError::io(dir))?;
        SparseIndex::open(dir)
    }

    /// Opens an index and checks that it is whole.
    pub fn open(dir: impl AsRef<Path>) -> Result<SparseIndex, IndexError> {
        let dir = dir.as_ref();
        let corrupt = |reason: String| IndexError::Corrupt {
            path: dir.to_owned(),
            reason,
        };
        let path = dir.join(DESCRIPTION);
        let description = fs::read(&path).map_err(IndexError::io(path))?;
        let description: Description = serde_json::from_slice(&description)
            .map_err(|error| corrupt(format!("{DESCRIPTION}: {error}")))?;
        if description.version != VERSION {
            return Err(corrupt(format!(
                "it has version {} and not {VERSION}",
                description.version
            )));
        }
        let index = Index::open_in_dir(dir)?;
        index
            .tokenizers()
            .register(ANALYZER, words::analyzer(description.language));
        let searcher = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .try_into()?
            .searcher();
        let text = index.schema().get_field(TEXT)?;
        let readers = searcher.segment_readers();
        if searcher.num_docs() != description.passages
            || readers.iter().any(SegmentReader::has_deletes)
        {
            return Err(corrupt(format!(
                "it has {} of {} passages",
                searcher.num_docs(),
                description.passages
            )));
        }
        Ok(SparseIndex {
            segments: Segment::all(&searcher, text)?,
            text,
            analyzer: words::analyzer(description.language),
            language: description.language,
            searcher,
        })
    }

    /// Number of passages.
    pub fn len(&self) -> usize {
        self.searcher.num_docs() as usize
    }

    /// Whether there is no passage; never so, as an empty index cannot be built.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The language it analyses text by.
    pub fn language(&self) -> Language {
        self.language
    }

    /// The k best passages that share a term with `query`; none for a query without terms. Repeated terms add up.
    pub fn search(&self, query: &str, k: usize) -> Result<Vec<Hit>, IndexError> {
        let clauses = self.clauses(query);
        let k = k.min(self.len());
        if clauses.is_empty() || k == 0 {
            return Ok(Vec::new());
        }
        let statistics = EnableScoring::enabled_from_searcher(&self.searcher);
        let weight = BooleanQuery::new(clauses).weight(statistics)?;
        let mut best = Best::of(k);
        for segment in &self.segments {
            segment.search(weight.as_ref(), &mut best)?;
        }
        Ok(best.into_hits())
    }

    /// [`SparseIndex::search`] for many queries on `threads` threads; results in the order of the queries.
    pub fn search_all<T: AsRef<str> + Sync>(
        &self,
        queries: &[T],
        k: usize,
        threads: usize,
    ) -> Result<Vec<Vec<Hit>>, IndexError> {
        let share = queries.len().div_ceil(threads.max(1)).max(1);
        let search = |queries: &[T]| {
            queries
                .iter()
                .map(|query| self.search(query.as_ref(), k))
                .collect()
        };
        let results: Vec<Result<Vec<Vec<Hit>>, IndexError>> = std::thread::scope(|scope| {
            let workers: Vec<_> = queries
                .chunks(share)
                .map(|queries| scope.spawn(|| search(queries)))
                .collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().map(join).collect()
        });
        let mut hits = Vec::with_capacity(queries.len());
        for result in results {
            hits.extend(result?);
        }
        Ok(hits)
    }

    /// One clause an occurrence of a term, by term: a boost would keep tantivy from skipping blocks of postings.
    fn clauses(&self, query: &str) -> Vec<(Occur, Box<dyn Query>)> {
        let mut analyzer = self.analyzer.clone();
        let mut terms: BTreeMap<String, usize> = BTreeMap::new();
        analyzer
            .token_stream(query)
            .process(&mut |token| *terms.entry(token.text.clone()).or_default() += 1);
        let clauses = terms
            .iter()
            .flat_map(|(term, count)| std::iter::repeat_n(term, *count));
        let query = |term: &String| -> Box<dyn Query> {
            Box::new(TermQuery::new(
                Term::from_field_text(self.text, term),
                IndexRecordOption::WithFreqs,
            ))
        };
        clauses.map(|term| (Occur::Should, query(term))).collect()
    }
}
