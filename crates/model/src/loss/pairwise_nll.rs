//! Pairwise negative log-likelihood, the loss of ANCE (Xiong et al. 2020, arXiv
//! 2007.00808): a two-way softmax for each negative, RankNet with σ = 1.
//!
//! ```text
//! L = mean over (i, j) of softplus(s⁻_ij − s⁺_i)
//! ```
//!
//! over each query's own negatives only, leaving out masked pairs. The mean is
//! over the pairs left; a query with none contributes nothing.

use super::{Contrast, LossError, LossOutput, MeanOver, Seen};
use tch::{Kind, Tensor};

/// Mean over the unmasked pairs. Query `i` owns the `negatives` columns after its positive.
///
/// # Errors
/// Shapes that do not fit together, or a group that reaches past the last passage.
pub fn pairwise_nll(input: &Contrast<'_>, negatives: i64) -> Result<LossOutput, LossError> {
    let (b, n) = input.sizes()?;
    let past_the_last = |(_, high): (i64, i64)| high + negatives >= n;
    if negatives < 1 || input.target_range()?.is_some_and(past_the_last) {
        return Err(LossError::Shape(format!(
            "{negatives} negatives after each positive do not fit {n} passages"
        )));
    }
    let device = input.targets.device();
    let offsets = Tensor::f_arange(negatives, (Kind::Int64, device))?.f_add_scalar(1)?;
    let columns = input.targets.f_unsqueeze(1)?.f_add(&offsets)?;
    let positive = own_scores(input, &input.targets.f_unsqueeze(1)?)?;
    let negative = own_scores(input, &columns)?;
    let kept = match input.mask()? {
        Some(mask) => mask.f_gather(1, &columns, false)?.f_logical_not()?,
        None => Tensor::f_ones([b, negatives], (Kind::Bool, device))?,
    };
    let terms = kept.f_sum(Kind::Int64)?.f_clamp_min(1)?;
    let margin = negative.f_sub(&positive)?;
    // Zeroed before and after: a masked pair yields neither a loss nor a NaN gradient.
    let dropped = kept.f_logical_not()?;
    let losses = margin
        .f_masked_fill(&dropped, 0.0)?
        .f_softplus()?
        .f_masked_fill(&dropped, 0.0)?;
    Ok(LossOutput {
        loss: losses.f_sum(Kind::Float)?.f_div(&terms)?,
        seen: Seen {
            positive: positive.f_detach()?.f_squeeze_dim(1)?,
            scores: negative.f_detach()?,
            masked: Some(dropped),
            mean_over: MeanOver::Pairs,
        },
    })
}

/// `[B, K]` scores of query `i` with the passages in row `i` of `columns`.
fn own_scores(input: &Contrast<'_>, columns: &Tensor) -> Result<Tensor, LossError> {
    let (b, k) = columns.size2()?;
    let width = input.queries.size2()?.1;
    let passages = input.passages.f_to_kind(Kind::Float)?;
    let own = passages
        .f_index_select(0, &columns.f_reshape([-1])?)?
        .f_view([b, k, width])?;
    let queries = input.queries.f_to_kind(Kind::Float)?.f_unsqueeze(2)?;
    Ok(own
        .f_bmm(&queries)?
        .f_squeeze_dim(2)?
        .f_div_scalar(input.temperature)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::given::{assert_close, score_gradient, scores};
    use crate::loss::{LossStats, scalar};

    fn softplus(x: f64) -> f64 {
        x.max(0.0) + (-x.abs()).exp().ln_1p()
    }

    fn run(values: &[f32], mask: Option<&Tensor>, h: i64) -> (LossOutput, Tensor) {
        let (b, n) = (2, 2 * (1 + h));
        let (q, p) = scores(values, b, n);
        let y = Tensor::from_slice(&[0i64, 1 + h]);
        let input = Contrast {
            queries: &q,
            passages: &p,
            targets: &y,
            masked: mask,
            temperature: 1.0,
        };
        (pairwise_nll(&input, h).unwrap(), p)
    }

    #[test]
    fn one_negative_is_a_two_way_softmax() {
        // Scores with the other query's passages (9, −9) do not enter.
        let (output, p) = run(&[2., 0.5, 9., -9., 9., -9., 2., 0.5], None, 1);
        assert_close(&[scalar(&output.loss).unwrap() as f32], &[0.201_413_3]);
        output.loss.backward();
        let g = (1.0 / (1.0 + 1.5f64.exp()) / 2.0) as f32;
        assert_close(&score_gradient(&p), &[-g, g, 0., 0., 0., 0., -g, g]);
        assert_eq!(
            output.stats().unwrap(),
            LossStats {
                positive: 2.0,
                negative: 0.5,
                masked: 0.0,
                terms: 2
            }
        );
    }

    #[test]
    fn the_mean_is_over_unmasked_pairs() {
        let values = [2., 0.5, 1., 0., 0., 0., 0., 0., 0., 3., -1., 4.];
        let mut mask = [false; 12];
        (mask[2], mask[0], mask[4]) = (true, true, true);
        let mask = Tensor::from_slice(&mask).view([2, 6]);
        let (output, p) = run(&values, Some(&mask), 2);
        let expected = (softplus(0.5 - 2.) + softplus(-1. - 3.) + softplus(4. - 3.)) / 3.;
        assert_close(&[scalar(&output.loss).unwrap() as f32], &[expected as f32]);
        assert_eq!(output.stats().unwrap().terms, 3);
        assert!((output.stats().unwrap().masked - 0.25).abs() < 1e-12);
        output.loss.backward();
        assert_eq!(score_gradient(&p)[2], 0.0);
    }

    #[test]
    fn all_pairs_masked_is_zero_terms_and_zero_gradient() {
        let mask = Tensor::ones([2, 4], (Kind::Bool, tch::Device::Cpu));
        let (output, p) = run(&[2., 0.5, 9., -9., 9., -9., 2., 0.5], Some(&mask), 1);
        output.loss.backward();
        assert_eq!(
            (scalar(&output.loss).unwrap(), output.stats().unwrap().terms),
            (0.0, 0)
        );
        assert_eq!(score_gradient(&p), [0f32; 8]);
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let (output, _) = run(&[0., 700., 0., 0., 0., 0., 700., 0.], None, 1);
        assert_close(&[scalar(&output.loss).unwrap() as f32], &[350.0]);
    }

    #[test]
    fn a_group_past_the_last_passage_is_refused() {
        let (q, p) = scores(&[0.; 8], 2, 4);
        let y = Tensor::from_slice(&[0i64, 3]);
        let input = Contrast {
            queries: &q,
            passages: &p,
            targets: &y,
            masked: None,
            temperature: 1.0,
        };
        assert!(pairwise_nll(&input, 1).is_err());
    }
}
