//! InfoNCE (van den Oord et al. 2018, arXiv 1807.03748), the in-batch loss of DPR
//! (2004.04906) and of MultipleNegativesRankingLoss (1705.00652).
//!
//! ```text
//! S = Q Pᵀ / τ            S_ij = −∞ where (i, j) is a masked false negative
//! L = 1/B Σ_i [ log Σ_j exp S_ij − S_i,y_i ]
//! ```
//!
//! Every passage of the batch is a negative of every other query. A query whose
//! negatives are all masked stays in the denominator with loss 0.

use super::{Contrast, LossError, LossOutput, MeanOver, Seen};
use tch::{Kind, TchError, Tensor};

/// Mean over the `B` queries.
///
/// # Errors
/// Shapes that do not fit together.
pub fn info_nce(input: &Contrast<'_>) -> Result<LossOutput, LossError> {
    input.sizes()?;
    let queries = input.queries.f_to_kind(Kind::Float)?;
    let passages = input.passages.f_to_kind(Kind::Float)?;
    let scores = queries
        .f_matmul(&passages.f_tr()?)?
        .f_div_scalar(input.temperature)?;
    let mask = input.mask()?;
    let logits = match &mask {
        Some(mask) => scores.f_masked_fill(mask, f64::NEG_INFINITY)?,
        None => scores.shallow_clone(),
    };
    let positive = positives(&scores, input.targets)?;
    let rows = logits
        .f_logsumexp([1i64].as_slice(), false)?
        .f_sub(&positive)?;
    Ok(LossOutput {
        loss: rows.f_mean(Kind::Float)?,
        seen: Seen {
            positive: positive.f_detach()?,
            scores: scores.f_detach()?,
            masked: mask,
            mean_over: MeanOver::Queries,
        },
    })
}

/// `S_i,y_i` `[B]`. By an index for each dimension rather than a gather: the gradient of that
/// is a scatter, for which a GPU in deterministic mode copies from the host and waits.
fn positives(scores: &Tensor, targets: &Tensor) -> Result<Tensor, TchError> {
    let rows = Tensor::f_arange(targets.size1()?, (Kind::Int64, targets.device()))?;
    scores.f_index(&[Some(&rows), Some(targets)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::given::{assert_close, score_gradient, scores};
    use crate::loss::scalar;

    const S: [f32; 8] = [2., 1., 0., 0.5, 0., 3., 1., -1.];

    fn contrast<'a>(
        q: &'a Tensor,
        p: &'a Tensor,
        y: &'a Tensor,
        m: Option<&'a Tensor>,
    ) -> Contrast<'a> {
        Contrast {
            queries: q,
            passages: p,
            targets: y,
            masked: m,
            temperature: 1.0,
        }
    }

    #[test]
    fn value_and_gradient_of_the_hand_example() {
        let (q, p) = scores(&S, 2, 4);
        let y = Tensor::from_slice(&[0i64, 1]);
        let output = info_nce(&contrast(&q, &p, &y, None)).unwrap();
        output.loss.backward();
        assert_close(&[scalar(&output.loss).unwrap() as f32], &[0.365_594_4]);
        let expected = [
            -0.210_370_7,
            0.106_548_7,
            0.039_197_1,
            0.064_625_0,
            0.020_685_3,
            -0.084_523_7,
            0.056_228_6,
            0.007_609_7,
        ];
        assert_close(&score_gradient(&p), &expected);
        let stats = output.stats().unwrap();
        assert_eq!((stats.positive, stats.masked, stats.terms), (2.5, 0.0, 2));
        assert!((stats.negative - 1.5 / 6.0).abs() < 1e-7);
    }

    #[test]
    fn temperature_divides() {
        let (q, p) = scores(&[0.9, 0.8, 0.3], 1, 3);
        let y = Tensor::from_slice(&[0i64]);
        let input = Contrast {
            temperature: 0.05,
            ..contrast(&q, &p, &y, None)
        };
        assert_close(
            &[scalar(&info_nce(&input).unwrap().loss).unwrap() as f32],
            &[0.126_933_4],
        );
    }

    #[test]
    fn masked_columns_leave_the_denominator_and_get_no_gradient() {
        let (q, p) = scores(&S, 2, 4);
        let y = Tensor::from_slice(&[0i64, 1]);
        let mask = Tensor::from_slice(&[false, true, false, false, false, false, true, false])
            .view([2, 4]);
        let output = info_nce(&contrast(&q, &p, &y, Some(&mask))).unwrap();
        output.loss.backward();
        let lse = |row: &[f64]| row.iter().map(|s| s.exp()).sum::<f64>().ln();
        let expected = (lse(&[2., 0., 0.5]) - 2. + lse(&[0., 3., -1.]) - 3.) / 2.;
        assert_close(&[scalar(&output.loss).unwrap() as f32], &[expected as f32]);
        let gradient = score_gradient(&p);
        assert_eq!((gradient[1], gradient[6]), (0.0, 0.0));
        assert!((output.stats().unwrap().masked - 2.0 / 6.0).abs() < 1e-12);
        assert!((output.stats().unwrap().negative - (0.5 - 1.0) / 4.0).abs() < 1e-7);
    }

    #[test]
    fn a_fully_masked_row_has_loss_zero_and_the_target_survives() {
        let (q, p) = scores(&S, 2, 4);
        let y = Tensor::from_slice(&[0i64, 1]);
        let mask = Tensor::ones([2, 4], (Kind::Bool, tch::Device::Cpu));
        let output = info_nce(&contrast(&q, &p, &y, Some(&mask))).unwrap();
        output.loss.backward();
        assert_eq!(scalar(&output.loss).unwrap(), 0.0);
        assert_eq!(score_gradient(&p), [0f32; 8]);
        let stats = output.stats().unwrap();
        assert_eq!((stats.negative, stats.masked), (0.0, 1.0));
    }

    #[test]
    fn permuting_columns_with_their_targets_changes_nothing_and_alone_changes_the_loss() {
        let loss = |values: &[f32], y: [i64; 2]| {
            let (q, p) = scores(values, 2, 4);
            let y = Tensor::from_slice(&y);
            scalar(&info_nce(&contrast(&q, &p, &y, None)).unwrap().loss).unwrap()
        };
        let permuted = [1., 0.5, 2., 0., 3., -1., 0., 1.];
        assert!((loss(&S, [0, 1]) - loss(&permuted, [2, 0])).abs() < 1e-6);
        assert!((loss(&S, [0, 1]) - loss(&permuted, [0, 1])).abs() > 1e-2);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let (q, p) = scores(&S, 2, 4);
        let far = Tensor::from_slice(&[0i64, 4]);
        let message = info_nce(&contrast(&q, &p, &far, None))
            .unwrap_err()
            .to_string();
        assert_eq!(message, "loss: targets 0..=4 are not columns of 4 passages");
        let y = Tensor::from_slice(&[0i64, 1]);
        let input = Contrast {
            temperature: 0.0,
            ..contrast(&q, &p, &y, None)
        };
        assert!(info_nce(&input).is_err());
    }
}
