//! What a search found for a block of queries: candidates before filtering, negatives after.
//!
//! Both are the same table: `query: UInt32`, `rows`, `scores`, `positives`, `positive_scores`, one row a query.

use std::path::Path;
use std::sync::Arc;

use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{ArrayRef, UInt32Array};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{DataType, Field, Schema};

use crate::CorpusError;
use crate::output::Written;
use crate::table::{self, ListBuilder, Lists, Table, TooManyValues, column, list_column};

fn columns() -> Vec<Field> {
    vec![
        column("query", DataType::UInt32),
        list_column("rows", DataType::UInt32),
        list_column("scores", DataType::Float32),
        list_column("positives", DataType::UInt32),
        list_column("positive_scores", DataType::Float32),
    ]
}

/// The passages found for one query, and the scores of its positives under the same vectors.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CandidateList {
    /// The query's row in its split.
    pub query: u32,
    /// Corpus rows, best first (score descending, then row ascending).
    pub rows: Vec<u32>,
    /// The score of each row; as many as `rows`.
    pub scores: Vec<f32>,
    /// Corpus rows of the query's known positives ([`crate::QuerySet::known_positives`]).
    pub positives: Vec<u32>,
    /// The score of each positive; as many as `positives`.
    pub positive_scores: Vec<f32>,
}

/// The file of one block of queries searched against one partition (or all).
#[derive(Debug, Clone, Copy)]
pub struct Candidates;

impl Candidates {
    /// Writes the lists, one row each, in the given order.
    ///
    /// # Errors
    /// [`CorpusError::Unwritable`] where a list and its scores differ in length or a score is NaN, [`CorpusError::Io`].
    pub fn write(path: &Path, lists: &[CandidateList]) -> Result<Written, CorpusError> {
        write(path, lists)
    }

    /// Maps the file; its lists are those of a block that nothing was filtered from.
    ///
    /// # Errors
    /// [`CorpusError::Io`], or [`CorpusError::Corrupt`] for a truncated, damaged or foreign file.
    pub fn open(path: &Path) -> Result<NegativesBlock, CorpusError> {
        NegativesBlock::open_as(path, "candidate table")
    }

    /// A copy of all lists.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn read(path: &Path) -> Result<Vec<CandidateList>, CorpusError> {
        let block = Candidates::open(path)?;
        Ok((0..block.len()).map(|i| block.list(i)).collect())
    }
}

/// The negatives of a block of queries, hardest first, memory-mapped.
///
/// Accessors panic for `i >= len()`, as slices do.
#[derive(Debug, Clone)]
pub struct NegativesBlock {
    queries: ScalarBuffer<u32>,
    rows: Lists<u32>,
    scores: Lists<f32>,
    positives: Lists<u32>,
    positive_scores: Lists<f32>,
}

impl NegativesBlock {
    /// Writes the lists (`rows` = negatives), one row each, in the given order.
    ///
    /// # Errors
    /// [`CorpusError::Unwritable`] where a list and its scores differ in length or a score is NaN, [`CorpusError::Io`].
    pub fn write(path: &Path, lists: &[CandidateList]) -> Result<Written, CorpusError> {
        write(path, lists)
    }

    /// Maps the file and checks schema, types and offsets.
    ///
    /// # Errors
    /// [`CorpusError::Io`], or [`CorpusError::Corrupt`] for a truncated, damaged or foreign file.
    pub fn open(path: &Path) -> Result<NegativesBlock, CorpusError> {
        Self::open_as(path, "block of negatives")
    }

    fn open_as(path: &Path, kind: &'static str) -> Result<NegativesBlock, CorpusError> {
        let table = Table::open(path, kind, &columns())?;
        let block = NegativesBlock {
            queries: table.numbers::<UInt32Type>("query")?,
            rows: table.lists::<UInt32Type>("rows")?,
            scores: table.lists::<Float32Type>("scores")?,
            positives: table.lists::<UInt32Type>("positives")?,
            positive_scores: table.lists::<Float32Type>("positive_scores")?,
        };
        let mismatch = (block.rows.first_mismatch(&block.scores))
            .or_else(|| block.positives.first_mismatch(&block.positive_scores));
        match mismatch {
            Some(row) => Err(table.corrupt(format!(
                "its row {row} has another number of scores than of passages"
            ))),
            None => Ok(block),
        }
    }

    /// Queries in the block.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Whether it holds no query.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The query's row in its split.
    pub fn query(&self, i: usize) -> u32 {
        self.queries[i]
    }

    /// Corpus rows of the negatives, hardest first.
    pub fn negatives(&self, i: usize) -> &[u32] {
        self.rows.row(i)
    }

    /// The score of each negative.
    pub fn scores(&self, i: usize) -> &[f32] {
        self.scores.row(i)
    }

    /// Corpus rows of the positives.
    pub fn positives(&self, i: usize) -> &[u32] {
        self.positives.row(i)
    }

    /// The score of each positive.
    pub fn positive_scores(&self, i: usize) -> &[f32] {
        self.positive_scores.row(i)
    }

    /// A copy of everything about the block's `i`-th query.
    pub fn list(&self, i: usize) -> CandidateList {
        CandidateList {
            query: self.query(i),
            rows: self.negatives(i).to_vec(),
            scores: self.scores(i).to_vec(),
            positives: self.positives(i).to_vec(),
            positive_scores: self.positive_scores(i).to_vec(),
        }
    }
}

fn write(path: &Path, lists: &[CandidateList]) -> Result<Written, CorpusError> {
    let unwritable = |reason: String| CorpusError::Unwritable {
        path: path.to_path_buf(),
        reason,
    };
    let full = |_: TooManyValues| {
        unwritable("a block holds at most 2^31 passages, so make the blocks smaller".into())
    };
    let mut rows = ListBuilder::new();
    let mut scores = ListBuilder::new();
    let mut positives = ListBuilder::new();
    let mut positive_scores = ListBuilder::new();
    for list in lists {
        check(list).map_err(unwritable)?;
        rows.push(&list.rows).map_err(full)?;
        scores.push(&list.scores).map_err(full)?;
        positives.push(&list.positives).map_err(full)?;
        positive_scores.push(&list.positive_scores).map_err(full)?;
    }
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_iter_values(
            lists.iter().map(|list| list.query),
        )),
        rows.finish::<UInt32Type>(),
        scores.finish::<Float32Type>(),
        positives.finish::<UInt32Type>(),
        positive_scores.finish::<Float32Type>(),
    ];
    table::write(path, Schema::new(columns()), arrays)
}

fn check(list: &CandidateList) -> Result<(), String> {
    let CandidateList { query, .. } = list;
    if list.rows.len() != list.scores.len() || list.positives.len() != list.positive_scores.len() {
        return Err(format!(
            "query {query} has another number of scores than of passages, so search it again"
        ));
    }
    if (list.scores.iter().chain(&list.positive_scores)).any(|score| score.is_nan()) {
        return Err(format!(
            "query {query} has a score that is not a number, so check the checkpoint"
        ));
    }
    Ok(())
}
