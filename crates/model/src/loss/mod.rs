//! Losses: pure maths on tensors, one file a loss.
//!
//! A loss sees embeddings, targets and a mask, in f32. It refuses to know where
//! they come from: no process group, file, model or batch.

mod info_nce;
mod pairwise_nll;

pub use info_nce::info_nce;
pub use pairwise_nll::pairwise_nll;

use tch::{Device, Kind, TchError, Tensor};

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
    seen: Seen,
}

/// What the numbers for the log are computed from, if somebody asks for them.
#[derive(Debug)]
struct Seen {
    /// `[B]` scores of the positives.
    positive: Tensor,
    /// `[B, K]` scores that the loss compares them with.
    scores: Tensor,
    /// `[B, K]` true where a score was masked; `None` if nothing was.
    masked: Option<Tensor>,
    /// What the mean is over.
    mean_over: MeanOver,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum MeanOver {
    /// The queries; the positives are among the scores.
    Queries,
    /// The unmasked pairs; the scores are negatives alone.
    Pairs,
}

impl LossOutput {
    /// Numbers for the log. Reading them waits for a GPU, so a step does not.
    ///
    /// # Errors
    /// When libtorch refuses.
    pub fn stats(&self) -> Result<LossStats, LossError> {
        let Seen {
            positive, scores, ..
        } = &self.seen;
        let (b, k) = scores.size2()?;
        let (masked, open) = match &self.seen.masked {
            Some(mask) => (
                i64::try_from(mask.f_sum(Kind::Int64)?)?,
                scores.f_masked_fill(mask, 0.0)?,
            ),
            None => (0, scores.shallow_clone()),
        };
        let sum = scalar(&open.f_sum(Kind::Double)?)?;
        let positives = scalar(&positive.f_sum(Kind::Double)?)?;
        let (pairs, negatives) = match self.seen.mean_over {
            MeanOver::Queries => (b * (k - 1), sum - positives),
            MeanOver::Pairs => (b * k, sum),
        };
        Ok(LossStats {
            positive: positives / b as f64,
            negative: negatives / (pairs - masked).max(1) as f64,
            masked: masked as f64 / pairs.max(1) as f64,
            terms: match self.seen.mean_over {
                MeanOver::Queries => b,
                MeanOver::Pairs => pairs - masked,
            },
        })
    }
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
        if let Some((low, high)) = self.target_range()?
            && (low < 0 || high >= n)
        {
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

    /// Smallest and greatest target. `None` on a GPU, where looking would wait for it: its
    /// kernels assert that an index lies in its tensor. The host learns of a failed one at
    /// some later call, and can use the GPU no more.
    fn target_range(&self) -> Result<Option<(i64, i64)>, TchError> {
        if self.targets.device() != Device::Cpu {
            return Ok(None);
        }
        let (low, high) = (self.targets.f_min()?, self.targets.f_max()?);
        Ok(Some((i64::try_from(low)?, i64::try_from(high)?)))
    }

    /// The mask with every target cleared; `None` if nothing can be masked.
    fn mask(&self) -> Result<Option<Tensor>, TchError> {
        // Not by a scatter: see `positives` of InfoNCE.
        let clear = |mask: &Tensor| {
            let columns = Tensor::f_arange(mask.size2()?.1, (Kind::Int64, mask.device()))?;
            let others = columns.f_ne_tensor(&self.targets.f_unsqueeze(1)?)?;
            mask.f_logical_and(&others)
        };
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
