//! fp16 rows on disk as safetensors: the vectors of a shard or of a split's queries.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use half::f16;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::output::{self, Written};
use crate::{CorpusError, mapped};

const TENSOR: &str = "embeddings";
const KIND: &str = "quarry-embeddings";

/// Memory-mapped `[N, D]` fp16 vectors: tensor `embeddings`, metadata `checkpoint`, `first_row`, `kind`.
#[derive(Debug, Clone)]
pub struct Embeddings {
    bytes: Bytes,
    data: Range<usize>,
    len: usize,
    dim: usize,
    first_row: u32,
    checkpoint: String,
}

impl Embeddings {
    /// Writes `rows` (`[N, D]`, row by row) that `checkpoint` (a digest) gave for the corpus rows from `first_row` on.
    ///
    /// # Errors
    /// [`CorpusError::Unwritable`] where `rows` is no multiple of `dim` or holds a NaN or an infinity (an fp16 overflow),
    /// [`CorpusError::Io`].
    pub fn write(
        path: &Path,
        rows: &[f16],
        dim: usize,
        first_row: u32,
        checkpoint: &str,
    ) -> Result<Written, CorpusError> {
        let unwritable = |reason: String| CorpusError::Unwritable {
            path: path.to_path_buf(),
            reason,
        };
        if dim == 0 || !rows.len().is_multiple_of(dim) {
            return Err(unwritable(format!(
                "{} values are no rows of {dim} dimensions",
                rows.len()
            )));
        }
        if let Some(at) = rows.iter().position(|value| !value.is_finite()) {
            let row = first_row as usize + at / dim;
            return Err(unwritable(format!(
                "the vector of row {row} is not finite in fp16, so check the checkpoint"
            )));
        }
        let header = header(rows.len() / dim, dim, first_row, checkpoint);
        output::publish(path, |file| {
            (file.write_all(&(header.len() as u64).to_le_bytes()))
                .and_then(|()| file.write_all(&header))
                .and_then(|()| file.write_all(bytemuck::cast_slice(rows)))
                .map_err(CorpusError::io("write", path))
        })
    }

    /// Maps the file and checks header, type, shape and size.
    ///
    /// # Errors
    /// [`CorpusError::Io`], or [`CorpusError::Corrupt`] for a truncated, damaged or foreign file.
    pub fn open(path: &Path) -> Result<Embeddings, CorpusError> {
        Self::check(mapped::map(path)?).map_err(|reason| CorpusError::Corrupt {
            path: path.to_path_buf(),
            kind: "embeddings file",
            reason,
        })
    }

    fn check(bytes: Bytes) -> Result<Embeddings, String> {
        let (header, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|error| error.to_string())?;
        let info = match metadata.tensors().len() {
            1 => metadata.info(TENSOR),
            _ => None,
        };
        let info = info.ok_or("it does not hold one tensor named embeddings")?;
        let &[len, dim] = info.shape.as_slice() else {
            return Err(format!(
                "its tensor has the shape {:?} and not [N, D]",
                info.shape
            ));
        };
        if info.dtype != Dtype::F16 || dim == 0 {
            return Err(format!(
                "its tensor is {:?} of {dim} dimensions and not F16",
                info.dtype
            ));
        }
        let named = |key: &str| {
            metadata
                .metadata()
                .as_ref()
                .and_then(|metadata| metadata.get(key))
        };
        let first_row = (named("first_row").and_then(|text| text.parse().ok()))
            .filter(|first: &u32| *first as usize + len <= u32::MAX as usize)
            .ok_or("its metadata give no valid first_row")?;
        let checkpoint = named("checkpoint")
            .ok_or("its metadata name no checkpoint")?
            .clone();
        if named("kind").is_none_or(|kind| kind != KIND) {
            return Err(format!("its metadata do not say kind = {KIND}"));
        }
        let (start, end) = info.data_offsets;
        let data = header + 8 + start..header + 8 + end;
        if (bytes.get(data.clone()))
            .is_none_or(|data| bytemuck::try_cast_slice::<u8, f16>(data).is_err())
        {
            return Err("its values are not aligned".into());
        }
        Ok(Embeddings {
            bytes,
            data,
            len,
            dim,
            first_row,
            checkpoint,
        })
    }

    /// Vectors.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no vector.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Dimensions of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The row (of the corpus, or of the split) of vector 0.
    pub fn first_row(&self) -> u32 {
        self.first_row
    }

    /// The digest of the checkpoint that gave them.
    pub fn checkpoint(&self) -> &str {
        &self.checkpoint
    }

    /// All vectors, `[N, D]` row by row: a view into the map.
    pub fn rows(&self) -> &[f16] {
        bytemuck::cast_slice(&self.bytes[self.data.clone()])
    }
}

/// The header, padded to eight bytes. Written by hand because the order of the library's metadata map is random, and
/// the same vectors must have the same digest.
fn header(len: usize, dim: usize, first_row: u32, checkpoint: &str) -> Vec<u8> {
    let metadata = BTreeMap::from([
        ("checkpoint", checkpoint.to_string()),
        ("first_row", first_row.to_string()),
        ("kind", KIND.to_string()),
    ]);
    let tensor = json!({"dtype": "F16", "shape": [len, dim], "data_offsets": [0, len * dim * size_of::<f16>()]});
    let header = json!({"__metadata__": metadata, TENSOR: tensor});
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_damaged_byte_makes_it_panic() {
        let mut bytes = header(2, 3, 5, "digest");
        bytes.splice(0..0, (bytes.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&[0; 12]);
        assert_eq!(Embeddings::check(bytes.clone().into()).unwrap().len(), 2);
        for at in 0..bytes.len() {
            for value in [0x00, b'0', b'9', b'"', 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                if let Ok(embeddings) = Embeddings::check(damaged.into()) {
                    assert_eq!(embeddings.rows().len(), embeddings.len() * embeddings.dim());
                }
            }
            assert!(Embeddings::check(bytes[..at].to_vec().into()).is_err());
        }
    }
}
