//! A hit, its order, and the one interface of every dense index.

use std::cmp::Ordering;

use crate::IndexError;

/// A retrieved passage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Row of the passage in the corpus.
    pub row: u32,
    /// Similarity: the greater, the better.
    pub score: f32,
}

impl Hit {
    /// The order of hits everywhere: score descending (−0 equals 0), then row ascending.
    pub fn order(&self, other: &Hit) -> Ordering {
        let by_score = (other.score + 0.0).total_cmp(&(self.score + 0.0));
        by_score.then(self.row.cmp(&other.row))
    }
}

/// Maximum inner product search over rows of one dimension. Searching shares the index between threads.
pub trait Search: Send + Sync {
    /// Number of rows.
    fn len(&self) -> usize;

    /// Whether there is no row.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Dimension D of the rows.
    fn dim(&self) -> usize;

    /// The `min(k, len)` best rows for each of the queries `[Q, D]`, in the order of [`Hit::order`]; an approximate
    /// index may return fewer.
    ///
    /// # Errors
    /// Queries that are not whole vectors or not finite, or a failing library.
    fn search(&self, queries: &[f32], k: usize) -> Result<Vec<Vec<Hit>>, IndexError>;
}

/// Refuses values that are not `[Q, D]` or not finite; returns Q.
pub(crate) fn check_queries(queries: &[f32], dim: usize) -> Result<usize, IndexError> {
    if !queries.len().is_multiple_of(dim) {
        return Err(IndexError::Dimension {
            values: queries.len(),
            dim,
        });
    }
    match queries.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(IndexError::NotFinite {
            what: "queries",
            row: at / dim,
        }),
        None => Ok(queries.len() / dim),
    }
}
