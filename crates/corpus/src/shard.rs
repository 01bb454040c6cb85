//! A shard: a slice of the corpus, mapped from disk.

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{LargeStringBuilder, StringBuilder};
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_array::{Array, LargeStringArray, StringArray, UInt64Array};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{DataType, Field, Schema};

use crate::CorpusError;
use crate::output::Written;
use crate::passage::text_hash;
use crate::table::{self, ListBuilder, Lists, Table, column, list_column};

const FIRST_ROW: &str = "first_row";

fn columns() -> Vec<Field> {
    vec![
        column("id", DataType::Utf8),
        column("text", DataType::LargeUtf8),
        list_column("tokens", DataType::UInt32),
        column("text_hash", DataType::UInt64),
    ]
}

/// A memory-mapped slice of the corpus. Indices are local: passage `i` has the corpus row `first_row() + i`.
///
/// Accessors panic for `i >= len()`, as slices do.
#[derive(Debug, Clone)]
pub struct Shard {
    first_row: u32,
    ids: StringArray,
    texts: LargeStringArray,
    tokens: Lists<u32>,
    hashes: ScalarBuffer<u64>,
}

impl Shard {
    /// Maps the shard file and checks schema, types, offsets and UTF-8.
    ///
    /// # Errors
    /// [`CorpusError::Io`], or [`CorpusError::Corrupt`] for a truncated, damaged or foreign file.
    pub fn open(path: &Path) -> Result<Shard, CorpusError> {
        let table = Table::open(path, "corpus shard", &columns())?;
        let first_row = table.metadata_u32(FIRST_ROW)?;
        if u64::from(first_row) + table.rows() as u64 > u64::from(u32::MAX) {
            return Err(table.corrupt("its rows do not fit 32 bits"));
        }
        Ok(Shard {
            first_row,
            ids: table.strings("id")?,
            texts: table.large_strings("text")?,
            tokens: table.lists::<UInt32Type>("tokens")?,
            hashes: table.numbers::<UInt64Type>("text_hash")?,
        })
    }

    /// Passages in this shard.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it holds no passage.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The corpus row of passage 0.
    pub fn first_row(&self) -> u32 {
        self.first_row
    }

    /// The collection's id of passage `i`.
    pub fn id(&self, i: usize) -> &str {
        self.ids.value(i)
    }

    /// The full text of passage `i`: title and text, without prefix.
    pub fn text(&self, i: usize) -> &str {
        self.texts.value(i)
    }

    /// The content tokens of passage `i`, prefix included, special tokens not: a view into the map.
    pub fn tokens(&self, i: usize) -> &[u32] {
        self.tokens.row(i)
    }

    /// [`text_hash`] of the full text of passage `i`.
    pub fn text_hash(&self, i: usize) -> u64 {
        self.hashes[i]
    }
}

/// Gathers the rows of one shard.
pub(crate) struct ShardBuilder {
    ids: StringBuilder,
    texts: LargeStringBuilder,
    tokens: ListBuilder<u32>,
    hashes: Vec<u64>,
}

/// A shard that holds more than its offsets can address.
#[derive(Debug)]
pub(crate) struct ShardFull;

impl ShardBuilder {
    pub(crate) fn new() -> Self {
        ShardBuilder {
            ids: StringBuilder::new(),
            texts: LargeStringBuilder::new(),
            tokens: ListBuilder::new(),
            hashes: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.hashes.len()
    }

    pub(crate) fn token_count(&self) -> u64 {
        self.tokens.values() as u64
    }

    pub(crate) fn push(&mut self, id: &str, text: &str, tokens: &[u32]) -> Result<(), ShardFull> {
        if self.ids.values_slice().len() + id.len() > i32::MAX as usize {
            return Err(ShardFull);
        }
        self.tokens.push(tokens).map_err(|_| ShardFull)?;
        self.ids.append_value(id);
        self.texts.append_value(text);
        self.hashes.push(text_hash(text));
        Ok(())
    }

    pub(crate) fn write(mut self, path: &Path, first_row: u32) -> Result<Written, CorpusError> {
        let metadata = [(FIRST_ROW.to_string(), first_row.to_string())];
        let schema = Schema::new(columns()).with_metadata(metadata);
        let arrays: Vec<arrow_array::ArrayRef> = vec![
            Arc::new(self.ids.finish()),
            Arc::new(self.texts.finish()),
            self.tokens.finish::<UInt32Type>(),
            Arc::new(UInt64Array::from(self.hashes)),
        ];
        table::write(path, schema, arrays)
    }
}
