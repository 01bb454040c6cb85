//! BM25 over the passages' text by tantivy: k1 = 1.2, b = 0.75, idf = ln(1 + (N − n + ½)/(n + ½)).
//!
//! Scores are Lucene's times k1 + 1. An index is segments of as many passages each, and statistics are the whole
//! index's, so scores do not depend on how it was written. Queries are bags of words: no query syntax, so no character
//! is special.

mod language;
mod words;
mod writer;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tantivy::columnar::ColumnValues;
use tantivy::query::{BooleanQuery, EnableScoring, Occur, Query, TermQuery, Weight};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::tokenizer::{TextAnalyzer, TokenStream};
use tantivy::{Index, ReloadPolicy, Score, Searcher, SegmentReader, Term};

use crate::{Hit, IndexError};
pub use language::Language;

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

/// A run of the passages: document numbers ascend with rows.
struct Segment {
    reader: SegmentReader,
    rows: Arc<dyn ColumnValues<u64>>,
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
            segments: segments(&searcher)?,
            text: index.schema().get_field(TEXT)?,
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

impl Segment {
    /// Puts the documents that belong there among the best; what other segments hold already lets it skip more.
    fn search(&self, weight: &dyn Weight, best: &mut Best) -> tantivy::Result<()> {
        weight.for_each_pruning(best.threshold(), &self.reader, &mut |document, score| {
            best.push(Hit {
                row: self.rows.get_val(document) as u32,
                score,
            });
            best.threshold()
        })
    }
}

/// The k best of hits whose rows ascend; of equal scores the first stay.
struct Best {
    k: usize,
    hits: BinaryHeap<Ranked>,
}

/// A hit that is greater the worse it is.
#[derive(PartialEq)]
struct Ranked(Hit);

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        self.0.order(&other.0)
    }
}

impl Best {
    fn of(k: usize) -> Best {
        Best {
            k,
            hits: BinaryHeap::with_capacity(k + 1),
        }
    }

    /// The score that a hit must exceed.
    fn threshold(&self) -> Score {
        match self.hits.peek() {
            Some(worst) if self.hits.len() == self.k => worst.0.score,
            _ => Score::MIN,
        }
    }

    fn push(&mut self, hit: Hit) {
        if hit.score > self.threshold() {
            self.hits.push(Ranked(hit));
            if self.hits.len() > self.k {
                self.hits.pop();
            }
        }
    }

    /// In the order of [`Hit::order`].
    fn into_hits(self) -> Vec<Hit> {
        let sorted = self.hits.into_sorted_vec();
        sorted.into_iter().map(|Ranked(hit)| hit).collect()
    }
}

/// The corpus rows of a segment's documents.
fn rows(segment: &SegmentReader) -> tantivy::Result<Arc<dyn ColumnValues<u64>>> {
    Ok(segment.fast_fields().u64(ROW)?.first_or_default_col(0))
}

/// An index's segments in the order of their rows, which tantivy does not keep; refuses rows that do not ascend.
fn segments(searcher: &Searcher) -> tantivy::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for reader in searcher.segment_readers() {
        segments.push(Segment {
            rows: rows(reader)?,
            reader: reader.clone(),
        });
    }
    segments.sort_unstable_by_key(|segment| segment.rows.get_val(0));
    let rows = segments.iter().flat_map(|segment| {
        (0..segment.reader.max_doc()).map(|document| segment.rows.get_val(document))
    });
    match rows.is_sorted_by(|row, next| row < next) {
        true => Ok(segments),
        false => Err(tantivy::TantivyError::InternalError(
            "documents are not in the order of rows".to_owned(),
        )),
    }
}
