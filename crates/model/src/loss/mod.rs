//! Losses: pure maths on tensors, one file a loss.
//!
//! A loss sees embeddings, targets and a mask, in f32. It refuses to know where
//! they come from: no process group, file, model or batch.

mod info_nce;
mod pairwise_nll;

pub use info_nce::info_nce;
pub use pairwise_nll::pairwise_nll;

use tch::{Kind, TchError, Tensor};

/// One contrastive step: which query is scored against which passages.
///
/// Similarity is the dot product, which is cosine if the encoder normalises.
#[derive(Debug, Clone, Copy)]
pub struct Contrast<'a> {
    /// `[B, D]` f32.
    pub queries: &'a Tensor,
    /// `[N, D]` f32; query-major: each positive is followed by its query's own negatives.
    pub passages: &'a Tensor,
    /// `[B]` i64: the column of each query's positive.
    pub targets: &'a Tensor,
    /// `[B, N]` bool, true where a column is another right answer to the query
    /// (a false negative). A target is never masked, whatever this says.
    pub masked: Option<&'a Tensor>,
    /// `τ`: scores are divided by it. sentence-transformers' `scale` is `1/τ`.
    pub temperature: f64,
}

/// A loss and what it saw.
#[derive(Debug)]
pub struct LossOutput {
    /// Scalar f32, differentiable.
    pub loss: Tensor,
    /// Numbers for the log.
    pub stats: LossStats,
}

/// Means over the terms of one loss, without gradient. Scores are similarities over `τ`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossStats {
    /// Mean score of the positives.
    pub positive: f64,
    /// Mean score of the unmasked negatives; 0 if there is none.
    pub negative: f64,
    /// Fraction of (query, negative) pairs that are masked.
    pub masked: f64,
    /// What the mean is over: queries (InfoNCE) or pairs (pairwise). With 0 the
    /// loss is 0 and the step must be skipped.
    pub terms: i64,
}

/// A loss that cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum LossError {
    /// Inputs that do not fit together.
    #[error("loss: {0}")]
    Shape(String),
    /// libtorch refused an operation.
    #[error("libtorch: {}", crate::error::first_line(.0))]
    Torch(#[from] TchError),
}

impl Contrast<'_> {
    /// `(B, N)`, after checking every shape against the others.
    fn sizes(&self) -> Result<(i64, i64), LossError> {
        let fail = |what: String| Err(LossError::Shape(what));
        let (q, p) = (self.queries.size(), self.passages.size());
        let (&[b, d], &[n, e]) = (q.as_slice(), p.as_slice()) else {
            return fail(format!(
                "queries {q:?} and passages {p:?} are not both matrices"
            ));
        };
        if b == 0 || d != e {
            return fail(format!("queries {q:?} do not match passages {p:?}"));
        }
        if self.targets.size() != [b] || self.targets.kind() != Kind::Int64 {
            return fail(format!("targets are not [{b}] integers"));
        }
        let (low, high) = (self.targets.f_min()?, self.targets.f_max()?);
        let (low, high) = (i64::try_from(low)?, i64::try_from(high)?);
        if low < 0 || high >= n {
            return fail(format!(
                "targets {low}..={high} are not columns of {n} passages"
            ));
        }
        if let Some(mask) = self.masked
            && (mask.size() != [b, n] || mask.kind() != Kind::Bool)
        {
            return fail(format!("the mask is not a boolean [{b}, {n}]"));
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return fail(format!("temperature {} is not above 0", self.temperature));
        }
        Ok((b, n))
    }

    /// The mask with every target cleared; `None` if nothing can be masked.
    fn mask(&self) -> Result<Option<Tensor>, TchError> {
        let clear = |mask: &Tensor| mask.f_scatter_value(1, &self.targets.f_unsqueeze(1)?, 0);
        self.masked.map(clear).transpose()
    }
}

fn scalar(tensor: &Tensor) -> Result<f64, TchError> {
    f64::try_from(tensor.f_detach()?)
}

#[cfg(test)]
pub(crate) mod given {
    //! Embeddings whose scores are a matrix chosen by hand.
    use tch::{Kind, Tensor};

    /// Scores `[b, n]` as queries = identity and passages = scoresᵀ.
    pub fn scores(values: &[f32], b: i64, n: i64) -> (Tensor, Tensor) {
        let queries = Tensor::eye(b, (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        let passages = Tensor::from_slice(values).view([b, n]).tr().contiguous();
        (queries, passages.set_requires_grad(true))
    }

    /// `∂L/∂S`, which is `∂L/∂P` transposed when the queries are the identity.
    pub fn score_gradient(passages: &Tensor) -> Vec<f32> {
        Vec::<f32>::try_from(passages.grad().tr().contiguous().view(-1)).unwrap()
    }

    pub fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 1e-6, "{found:?} is not {expected:?}");
        }
    }
}
