//! fp16 rows of consecutive passages, owned or memory-mapped: what dense indexes are made of.

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use quarry_corpus::Embeddings;

use crate::IndexError;

/// Something that holds fp16 values, row after row.
pub trait HalfRows: Send + Sync {
    /// The values, `[N, D]`.
    fn values(&self) -> &[f16];
}

impl HalfRows for Vec<f16> {
    fn values(&self) -> &[f16] {
        self
    }
}

impl HalfRows for Embeddings {
    fn values(&self) -> &[f16] {
        self.rows()
    }
}

/// Rows `first_row ..  first_row + len` of the corpus as vectors of dimension `dim`; cloning shares them.
#[derive(Clone)]
pub struct Part {
    first_row: u32,
    dim: usize,
    values: Arc<dyn HalfRows>,
}

impl Part {
    /// A part from `values` `[N, D]`.
    pub fn new(
        first_row: u32,
        dim: usize,
        values: impl HalfRows + 'static,
    ) -> Result<Part, IndexError> {
        let count = values.values().len();
        if dim == 0 || !count.is_multiple_of(dim) {
            return Err(IndexError::Dimension { values: count, dim });
        }
        if first_row as usize + count / dim > u32::MAX as usize {
            return Err(IndexError::Parts {
                first_row,
                problem: "reaches beyond the last row number",
            });
        }
        Ok(Part {
            first_row,
            dim,
            values: Arc::new(values),
        })
    }

    /// A part from an embeddings file.
    pub fn from_embeddings(embeddings: Embeddings) -> Result<Part, IndexError> {
        Part::new(embeddings.first_row(), embeddings.dim(), embeddings)
    }

    /// The corpus row of the first vector.
    pub fn first_row(&self) -> u32 {
        self.first_row
    }

    /// Number of rows N.
    pub fn len(&self) -> usize {
        self.values().len() / self.dim
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Dimension D.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The values `[N, D]`.
    pub fn values(&self) -> &[f16] {
        self.values.values()
    }

    /// The vector of a corpus row, if it is in this part.
    pub fn row(&self, row: u32) -> Option<&[f16]> {
        let at = row.checked_sub(self.first_row)? as usize * self.dim;
        self.values().get(at..at + self.dim)
    }

    /// Widens rows (counted from the start of the part) into `out`.
    pub(crate) fn widen(&self, rows: std::ops::Range<usize>, out: &mut [f32]) {
        self.values()[rows.start * self.dim..rows.end * self.dim].convert_to_f32_slice(out);
    }
}

/// Inner products of one query with given rows, in f32; `None` where no part has the row.
///
/// Mining compares candidates with the positives' scores, and a positive need not be among the candidates.
pub fn score_rows(parts: &[Part], query: &[f32], rows: &[u32]) -> Vec<Option<f32>> {
    let dot = |values: &[f16]| {
        values
            .iter()
            .zip(query)
            .map(|(a, b)| a.to_f32() * b)
            .sum::<f32>()
    };
    rows.iter()
        .map(|row| parts.iter().find_map(|part| part.row(*row)).map(dot))
        .collect()
}

/// Checks that the parts have one dimension and share no row; returns (rows, dimension).
pub(crate) fn check_parts(parts: &[Part]) -> Result<(usize, usize), IndexError> {
    let Some(first) = parts.first() else {
        return Err(IndexError::Empty);
    };
    let mut end = 0;
    for part in parts {
        if part.dim != first.dim {
            return Err(IndexError::Dimension {
                values: part.dim,
                dim: first.dim,
            });
        }
        if part.first_row < end {
            return Err(IndexError::Parts {
                first_row: part.first_row,
                problem: "overlaps the part before it",
            });
        }
        end = part.first_row + part.len() as u32;
    }
    match parts.iter().map(Part::len).sum() {
        0 => Err(IndexError::Empty),
        rows => Ok((rows, first.dim)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(first_row: u32, values: &[f32]) -> Part {
        Part::new(
            first_row,
            2,
            values
                .iter()
                .map(|value| f16::from_f32(*value))
                .collect::<Vec<_>>(),
        )
        .unwrap()
    }

    #[test]
    fn rows_are_found_by_corpus_row() {
        let parts = [part(10, &[1.0, 2.0, 3.0, 4.0]), part(20, &[5.0, 6.0])];
        let scores = score_rows(&parts, &[1.0, 10.0], &[11, 20, 12, 9, 0]);
        assert_eq!(scores, [Some(43.0), Some(65.0), None, None, None]);
    }

    #[test]
    fn bad_parts_are_refused() {
        assert!(matches!(
            Part::new(0, 3, vec![f16::ONE; 4]),
            Err(IndexError::Dimension { .. })
        ));
        assert!(matches!(
            Part::new(u32::MAX - 1, 1, vec![f16::ONE; 4]),
            Err(IndexError::Parts { .. })
        ));
        assert!(matches!(check_parts(&[]), Err(IndexError::Empty)));
        assert!(matches!(
            check_parts(&[part(0, &[])]),
            Err(IndexError::Empty)
        ));
        let overlap = [part(0, &[1.0; 4]), part(1, &[1.0; 4])];
        assert!(matches!(
            check_parts(&overlap),
            Err(IndexError::Parts { first_row: 1, .. })
        ));
        assert_eq!(
            check_parts(&[part(0, &[1.0; 4]), part(7, &[1.0; 2])]).unwrap(),
            (3, 2)
        );
    }
}
