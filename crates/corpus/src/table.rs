//! One-batch Arrow IPC files: written whole, mapped and checked whole.
//!
//! Refuses everything the tables of a run do not use: compression, nulls, dictionaries, several batches.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::ArrowPrimitiveType;
use arrow_array::{
    Array, ArrayRef, LargeStringArray, ListArray, PrimitiveArray, RecordBatch, StringArray,
};
use arrow_buffer::{ArrowNativeType, OffsetBuffer, ScalarBuffer};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;

use crate::output::{self, Written};
use crate::{CorpusError, decode, mapped};

/// A column that cannot be null.
pub(crate) fn column(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

/// A column of lists of `item`; neither lists nor items can be null.
pub(crate) fn list_column(name: &str, item: DataType) -> Field {
    column(name, DataType::new_list(item, false))
}

/// Writes `columns` as one record batch under `path`.
pub(crate) fn write(
    path: &Path,
    schema: Schema,
    columns: Vec<ArrayRef>,
) -> Result<Written, CorpusError> {
    let unwritable = |error: arrow_schema::ArrowError| match error {
        arrow_schema::ArrowError::IoError(_, source) => CorpusError::io("write", path)(source),
        other => CorpusError::Unwritable {
            path: path.to_path_buf(),
            reason: other.to_string(),
        },
    };
    let batch = RecordBatch::try_new(Arc::new(schema), columns).map_err(unwritable)?;
    output::publish(path, |file| {
        let mut writer = FileWriter::try_new(file, &batch.schema()).map_err(unwritable)?;
        writer.write(&batch).map_err(unwritable)?;
        writer.finish().map_err(unwritable)
    })
}

/// Lists being gathered for a column.
pub(crate) struct ListBuilder<T> {
    offsets: Vec<i32>,
    values: Vec<T>,
}

impl<T: ArrowNativeType> ListBuilder<T> {
    pub(crate) fn new() -> Self {
        ListBuilder {
            offsets: vec![0],
            values: Vec::new(),
        }
    }

    /// Adds a list, or says that the 32-bit offsets of the column are used up.
    pub(crate) fn push(&mut self, list: &[T]) -> Result<(), TooManyValues> {
        let end = i32::try_from(self.values.len() + list.len()).map_err(|_| TooManyValues)?;
        self.values.extend_from_slice(list);
        self.offsets.push(end);
        Ok(())
    }

    /// Values over all lists.
    pub(crate) fn values(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn finish<P: ArrowPrimitiveType<Native = T>>(self) -> ArrayRef {
        let item = Arc::new(Field::new_list_field(P::DATA_TYPE, false));
        let values = PrimitiveArray::<P>::new(ScalarBuffer::from(self.values), None);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        Arc::new(ListArray::new(item, offsets, Arc::new(values), None))
    }
}

/// A column would hold more than 2^31 − 1 values.
#[derive(Debug)]
pub(crate) struct TooManyValues;

/// A mapped column of lists.
#[derive(Debug, Clone)]
pub(crate) struct Lists<T: ArrowNativeType> {
    offsets: OffsetBuffer<i32>,
    values: ScalarBuffer<T>,
}

impl<T: ArrowNativeType> Lists<T> {
    /// The list of row `index`, a view into the map.
    pub(crate) fn row(&self, index: usize) -> &[T] {
        let (start, end) = (
            self.offsets[index].as_usize(),
            self.offsets[index + 1].as_usize(),
        );
        &self.values[start..end]
    }

    /// The first row whose length differs from that of `other`.
    pub(crate) fn first_mismatch<U: ArrowNativeType>(&self, other: &Lists<U>) -> Option<usize> {
        (self.offsets.lengths().zip(other.offsets.lengths())).position(|(one, two)| one != two)
    }
}

/// A mapped and checked table.
pub(crate) struct Table {
    path: PathBuf,
    kind: &'static str,
    batch: RecordBatch,
}

impl Table {
    /// Maps `path` and checks it down to offsets and UTF-8 against the columns it must have.
    pub(crate) fn open(
        path: &Path,
        kind: &'static str,
        columns: &[Field],
    ) -> Result<Table, CorpusError> {
        Table::check(mapped::map(path)?, columns, path, kind)
    }

    fn check(
        bytes: Bytes,
        columns: &[Field],
        path: &Path,
        kind: &'static str,
    ) -> Result<Table, CorpusError> {
        let corrupt = |reason: String| CorpusError::Corrupt {
            path: path.to_path_buf(),
            kind,
            reason,
        };
        let batch = decode::decode(bytes, columns).map_err(corrupt)?;
        if batch.columns().iter().any(|array| array.null_count() > 0) {
            return Err(corrupt("a column holds nulls".into()));
        }
        Ok(Table {
            path: path.to_path_buf(),
            kind,
            batch,
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// An error that names this file.
    pub(crate) fn corrupt(&self, reason: impl Into<String>) -> CorpusError {
        CorpusError::Corrupt {
            path: self.path.clone(),
            kind: self.kind,
            reason: reason.into(),
        }
    }

    /// A number in the schema's metadata.
    pub(crate) fn metadata_u32(&self, key: &str) -> Result<u32, CorpusError> {
        let schema = self.batch.schema();
        let text = (schema.metadata().get(key))
            .ok_or_else(|| self.corrupt(format!("its metadata lack {key}")))?;
        text.parse().map_err(|_| {
            self.corrupt(format!(
                "its metadata say {key} = {text:?}, which is no row number"
            ))
        })
    }

    fn array(&self, name: &str) -> Result<&ArrayRef, CorpusError> {
        (self.batch.column_by_name(name))
            .ok_or_else(|| self.corrupt(format!("the column {name} is missing")))
    }

    fn mistyped(&self, name: &str) -> CorpusError {
        self.corrupt(format!("the column {name} has another type"))
    }

    pub(crate) fn strings(&self, name: &str) -> Result<StringArray, CorpusError> {
        (self.array(name)?.as_string_opt::<i32>().cloned()).ok_or_else(|| self.mistyped(name))
    }

    pub(crate) fn large_strings(&self, name: &str) -> Result<LargeStringArray, CorpusError> {
        (self.array(name)?.as_string_opt::<i64>().cloned()).ok_or_else(|| self.mistyped(name))
    }

    pub(crate) fn numbers<P: ArrowPrimitiveType>(
        &self,
        name: &str,
    ) -> Result<ScalarBuffer<P::Native>, CorpusError> {
        let array = self.array(name)?.as_primitive_opt::<P>();
        Ok(array.ok_or_else(|| self.mistyped(name))?.values().clone())
    }

    pub(crate) fn lists<P: ArrowPrimitiveType>(
        &self,
        name: &str,
    ) -> Result<Lists<P::Native>, CorpusError> {
        let lists = self
            .array(name)?
            .as_list_opt::<i32>()
            .ok_or_else(|| self.mistyped(name))?;
        let values = lists
            .values()
            .as_primitive_opt::<P>()
            .ok_or_else(|| self.mistyped(name))?;
        if values.null_count() > 0 {
            return Err(self.corrupt(format!("the lists of {name} hold nulls")));
        }
        Ok(Lists {
            offsets: lists.offsets().clone(),
            values: values.values().clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::types::{Float32Type, UInt64Type};
    use arrow_array::{LargeStringArray, StringArray, UInt64Array};

    use super::*;

    fn columns() -> Vec<Field> {
        vec![
            column("a", DataType::Utf8),
            column("b", DataType::LargeUtf8),
            list_column("c", DataType::Float32),
            column("d", DataType::UInt64),
        ]
    }

    /// Reads every value of a table of [`columns`].
    fn walk(bytes: Vec<u8>) -> Result<usize, CorpusError> {
        let table = Table::check(bytes.into(), &columns(), Path::new("test.arrow"), "table")?;
        table.metadata_u32("key")?;
        let (a, b) = (table.strings("a")?, table.large_strings("b")?);
        let (c, d) = (
            table.lists::<Float32Type>("c")?,
            table.numbers::<UInt64Type>("d")?,
        );
        let row = |i| a.value(i).chars().count() + b.value(i).chars().count() + c.row(i).len();
        Ok((0..table.rows()).map(|i| row(i) ^ d[i] as usize).sum())
    }

    /// One row of [`columns`] under the given metadata.
    fn written(metadata: impl IntoIterator<Item = (String, String)>) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.arrow");
        let mut lists = ListBuilder::new();
        lists.push(&[0.5]).unwrap();
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["one"])),
            Arc::new(LargeStringArray::from(vec!["text"])),
            lists.finish::<Float32Type>(),
            Arc::new(UInt64Array::from(vec![1])),
        ];
        let metadata: std::collections::HashMap<_, _> = metadata.into_iter().collect();
        let schema = Schema::new(columns()).with_metadata(metadata);
        write(&path, schema, arrays).unwrap();
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn a_schema_of_many_parts_is_refused_before_it_is_copied() {
        let metadata = |count: u32| {
            let entries = (0..count).map(|i| (i.to_string(), "5".to_string()));
            entries.chain([("key".to_string(), "7".to_string())])
        };
        // Four columns, a list's item and the key itself.
        assert_eq!(walk(written(metadata(58))).unwrap(), 8 ^ 1);
        let message = walk(written(metadata(59))).unwrap_err().to_string();
        assert!(message.contains("more than 64 parts"), "{message}");
    }

    #[test]
    fn no_damaged_byte_makes_it_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.arrow");
        let mut lists = ListBuilder::new();
        lists.push(&[0.5]).unwrap();
        lists.push(&[1.0, 2.0]).unwrap();
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["one", "é"])),
            Arc::new(LargeStringArray::from(vec!["text", "語"])),
            lists.finish::<Float32Type>(),
            Arc::new(UInt64Array::from(vec![1, 2])),
        ];
        let metadata = [("key".to_string(), "7".to_string())];
        let schema = Schema::new(columns()).with_metadata(metadata);
        write(&path, schema, arrays).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(walk(bytes.clone()).unwrap(), (8 ^ 1) + (4 ^ 2));
        let mut refused = 0;
        for at in 0..bytes.len() {
            for value in [0x00, 0x01, 0x07, 0x40, 0x7f, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                if let Err(error) = walk(damaged) {
                    // The library tells of some faults in several lines.
                    assert!(!error.to_string().contains('\n'), "{error}");
                    refused += 1;
                }
            }
            assert!(walk(bytes[..at].to_vec()).is_err(), "cut at {at}");
        }
        assert!(refused > bytes.len() / 4, "{refused} of {}", bytes.len());
    }
}
