//! The queries of one split with their judgements, mapped from disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{LargeStringBuilder, StringBuilder};
use arrow_array::types::{Int32Type, UInt32Type};
use arrow_array::{Array, ArrayRef, LargeStringArray, StringArray};
use arrow_schema::{DataType, Field, Schema};

use crate::CorpusError;
use crate::output::Written;
use crate::table::{self, ListBuilder, Lists, Table, column, list_column};
use crate::twins;

fn columns() -> Vec<Field> {
    vec![
        column("id", DataType::Utf8),
        column("text", DataType::LargeUtf8),
        list_column("tokens", DataType::UInt32),
        list_column("judged", DataType::UInt32),
        list_column("grades", DataType::Int32),
    ]
}

/// A split's queries, memory-mapped. A query is known by its row in this set.
///
/// Accessors panic for `i >= len()`, as slices do.
#[derive(Debug, Clone)]
pub struct QuerySet {
    ids: StringArray,
    texts: LargeStringArray,
    tokens: Lists<u32>,
    judged: Lists<u32>,
    grades: Lists<i32>,
    shared: Arc<BTreeMap<u32, Arc<[u32]>>>,
}

impl QuerySet {
    /// Maps the file, checks schema, types, offsets and UTF-8, and finds the queries of equal texts.
    ///
    /// # Errors
    /// [`CorpusError::Io`], or [`CorpusError::Corrupt`] for a truncated, damaged or foreign file.
    pub fn open(path: &Path) -> Result<QuerySet, CorpusError> {
        let table = Table::open(path, "query set", &columns())?;
        let mut set = QuerySet {
            ids: table.strings("id")?,
            texts: table.large_strings("text")?,
            tokens: table.lists::<UInt32Type>("tokens")?,
            judged: table.lists::<UInt32Type>("judged")?,
            grades: table.lists::<Int32Type>("grades")?,
            shared: Arc::default(),
        };
        if let Some(row) = set.judged.first_mismatch(&set.grades) {
            return Err(table.corrupt(format!(
                "its query {row} has another number of grades than of judged passages"
            )));
        }
        set.shared = Arc::new(twins::shared_positives(&set));
        Ok(set)
    }

    /// Queries in the split.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it holds no query.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The collection's id of query `i`.
    pub fn id(&self, i: usize) -> &str {
        self.ids.value(i)
    }

    /// The text of query `i`, without prefix.
    pub fn text(&self, i: usize) -> &str {
        self.texts.value(i)
    }

    /// The content tokens of query `i`, prefix included, special tokens not: a view into the map.
    pub fn tokens(&self, i: usize) -> &[u32] {
        self.tokens.row(i)
    }

    /// The judged passages (corpus rows) of query `i` and their grades, in the order of the qrels.
    pub fn judged(&self, i: usize) -> (&[u32], &[i32]) {
        (self.judged.row(i), self.grades.row(i))
    }

    /// The relevant passages (corpus rows, grade 1 or more) of query `i`, in the order of the qrels; at least one.
    pub fn positives(&self, i: usize) -> impl Iterator<Item = u32> {
        let (rows, grades) = self.judged(i);
        rows.iter()
            .zip(grades)
            .filter(|(_, grade)| **grade >= 1)
            .map(|(row, _)| *row)
    }

    /// The known positives of query `i`: the relevant passages (corpus rows) of every query that has its text (by
    /// [`crate::text_hash`]), ascending, each once. What must not be a negative of the query.
    pub fn known_positives(&self, i: usize) -> Vec<u32> {
        match self.shared.get(&(i as u32)) {
            Some(rows) => rows.to_vec(),
            None => twins::ascending(self.positives(i)),
        }
    }
}

/// Gathers the rows of one query set.
pub(crate) struct QuerySetBuilder {
    ids: StringBuilder,
    texts: LargeStringBuilder,
    tokens: ListBuilder<u32>,
    judged: ListBuilder<u32>,
    grades: ListBuilder<i32>,
}

/// A set that holds more than its offsets can address.
#[derive(Debug)]
pub(crate) struct QuerySetFull;

impl QuerySetBuilder {
    pub(crate) fn new() -> Self {
        QuerySetBuilder {
            ids: StringBuilder::new(),
            texts: LargeStringBuilder::new(),
            tokens: ListBuilder::new(),
            judged: ListBuilder::new(),
            grades: ListBuilder::new(),
        }
    }

    pub(crate) fn token_count(&self) -> u64 {
        self.tokens.values() as u64
    }

    pub(crate) fn push(
        &mut self,
        id: &str,
        text: &str,
        tokens: &[u32],
        judged: &[u32],
        grades: &[i32],
    ) -> Result<(), QuerySetFull> {
        if self.ids.values_slice().len() + id.len() > i32::MAX as usize {
            return Err(QuerySetFull);
        }
        self.tokens.push(tokens).map_err(|_| QuerySetFull)?;
        self.judged.push(judged).map_err(|_| QuerySetFull)?;
        self.grades.push(grades).map_err(|_| QuerySetFull)?;
        self.ids.append_value(id);
        self.texts.append_value(text);
        Ok(())
    }

    pub(crate) fn write(mut self, path: &Path) -> Result<Written, CorpusError> {
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(self.ids.finish()),
            Arc::new(self.texts.finish()),
            self.tokens.finish::<UInt32Type>(),
            self.judged.finish::<UInt32Type>(),
            self.grades.finish::<Int32Type>(),
        ];
        table::write(path, Schema::new(columns()), arrays)
    }
}
