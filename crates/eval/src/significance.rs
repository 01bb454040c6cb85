//! Is the difference between two systems more than chance? Tests on paired per-query values.
//!
//! Every test takes the values of two systems for the same queries in the same order
//! ([`Evaluation::values`](crate::Evaluation::values)). Reciprocal rank is discrete: prefer [`sign_flip`] to
//! [`paired_t`]. Random draws come from SplitMix64, so a seed gives the same p on every machine.

use serde::Serialize;

use crate::EvalError;
use crate::student::two_sided_p;

/// Up to this many queries [`sign_flip`] tries every assignment of signs.
const EXACT_QUERIES: usize = 20;

/// Result of the paired t-test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairedT {
    /// Mean of a − b.
    pub mean_difference: f64,
    /// `mean / (s / √n)`; 0 where all differences are 0, infinite where they are all one other value.
    pub t: f64,
    /// Degrees of freedom, n − 1.
    pub df: usize,
    /// Two-sided p value.
    pub p: f64,
    /// Effect size: mean difference over its standard deviation (Cohen's d of pairs).
    pub effect: f64,
}

/// The paired two-sided t-test of `a` against `b`.
pub fn paired_t(a: &[f64], b: &[f64]) -> Result<PairedT, EvalError> {
    let differences = paired_differences(a, b)?;
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    let variance = differences.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let df = differences.len() - 1;
    if mean == 0.0 {
        return Ok(PairedT {
            mean_difference: 0.0,
            t: 0.0,
            df,
            p: 1.0,
            effect: 0.0,
        });
    }
    let effect = mean / variance.sqrt();
    let t = effect * n.sqrt();
    Ok(PairedT {
        mean_difference: mean,
        t,
        df,
        p: two_sided_p(t, df as f64),
        effect,
    })
}

/// Result of the sign-flip randomisation test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SignFlip {
    /// Mean of a − b.
    pub mean_difference: f64,
    /// Two-sided p value.
    pub p: f64,
    /// Whether every assignment of signs was tried, so that `p` is exact.
    pub exact: bool,
}

/// Fisher's randomisation test: how often do random signs give a sum of differences as large as the one seen?
///
/// Exact for up to 20 queries; beyond, `rounds` draws and `p = (1 + extreme) / (1 + rounds)`.
pub fn sign_flip(a: &[f64], b: &[f64], rounds: usize, seed: u64) -> Result<SignFlip, EvalError> {
    let differences = paired_differences(a, b)?;
    let observed = differences.iter().sum::<f64>();
    // Sums in another order differ in the last bits: what is equal but for them counts as extreme.
    let slack = 1e-12 * differences.iter().map(|x| x.abs()).sum::<f64>();
    let is_extreme = |sum: f64| sum.abs() >= observed.abs() - slack;
    let exact = differences.len() <= EXACT_QUERIES;
    let p = if exact {
        let assignments = 1u64 << differences.len();
        let extreme = (0..assignments)
            .filter(|signs| is_extreme(signed_sum(&differences, *signs)))
            .count();
        extreme as f64 / assignments as f64
    } else {
        let mut random = SplitMix64(seed);
        let mut draw = || {
            differences
                .chunks(64)
                .map(|chunk| signed_sum(chunk, random.next()))
                .sum::<f64>()
        };
        let extreme = (0..rounds).filter(|_| is_extreme(draw())).count();
        (1 + extreme) as f64 / (1 + rounds) as f64
    };
    Ok(SignFlip {
        mean_difference: observed / differences.len() as f64,
        p,
        exact,
    })
}

/// Bootstrap percentile interval of the mean of a − b, resampling queries; `level` is for example 0.95.
pub fn bootstrap_ci(
    a: &[f64],
    b: &[f64],
    rounds: usize,
    level: f64,
    seed: u64,
) -> Result<(f64, f64), EvalError> {
    let differences = paired_differences(a, b)?;
    let n = differences.len();
    let mut random = SplitMix64(seed);
    let mut resample = || (0..n).map(|_| differences[random.below(n)]).sum::<f64>() / n as f64;
    let mut means: Vec<f64> = (0..rounds.max(1)).map(|_| resample()).collect();
    means.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - level.clamp(0.0, 1.0)) / 2.0;
    Ok((quantile(&means, tail), quantile(&means, 1.0 - tail)))
}

/// Holm's step-down correction: adjusted p values, in the order given.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest = 0.0f64;
    for (rank, index) in order.into_iter().enumerate() {
        let factor = (p_values.len() - rank) as f64;
        largest = largest.max((factor * p_values[index]).min(1.0));
        adjusted[index] = largest;
    }
    adjusted
}

fn paired_differences(a: &[f64], b: &[f64]) -> Result<Vec<f64>, EvalError> {
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    if a.len() != b.len() || a.len() < 2 || differences.iter().any(|x| !x.is_finite()) {
        return Err(EvalError::Unpaired {
            left: a.len(),
            right: b.len(),
        });
    }
    Ok(differences)
}

/// Σ ±x, minus where the value's bit is set; at most 64 values.
fn signed_sum(values: &[f64], signs: u64) -> f64 {
    values
        .iter()
        .enumerate()
        .map(|(i, x)| if signs >> i & 1 == 1 { -x } else { *x })
        .sum()
}

/// Linear interpolation between order statistics (numpy's default).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let position = q * (sorted.len() - 1) as f64;
    let (below, share) = (position.floor() as usize, position.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + share * (sorted[above] - sorted[below])
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A whole number below `n`, by multiplication (bias below n / 2⁶⁴).
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: [f64; 5] = [0.1, 0.2, -0.05, 0.3, 0.05];
    const ZERO: [f64; 5] = [0.0; 5];

    #[test]
    fn t_test_by_scipy() {
        let result = paired_t(&X, &ZERO).unwrap();
        assert!((result.mean_difference - 0.12).abs() < 1e-12);
        assert!((result.t - 1.986_254_1).abs() < 1e-7);
        assert!((result.p - 0.117_954_7).abs() < 1e-7);
        assert_eq!(result.df, 4);
    }

    #[test]
    fn t_test_of_constant_differences() {
        assert_eq!(paired_t(&ZERO, &ZERO).unwrap().p, 1.0);
        assert_eq!(paired_t(&[1.0; 4], &[0.5; 4]).unwrap().p, 0.0);
    }

    #[test]
    fn exact_sign_flip_by_enumeration() {
        let result = sign_flip(&X, &ZERO, 0, 1).unwrap();
        assert!(result.exact);
        assert_eq!(result.p, 6.0 / 32.0);
    }

    #[test]
    fn drawn_signs_agree_with_the_exact_test() {
        // Zeros do not change a sum, so 5 real differences among 70 queries keep the exact p.
        let mut a = X.to_vec();
        a.resize(70, 0.0);
        let b = vec![0.0; 70];
        let result = sign_flip(&a, &b, 20_000, 7).unwrap();
        assert!(!result.exact);
        assert!((result.p - 6.0 / 32.0).abs() < 0.01, "{}", result.p);
        assert_eq!(result, sign_flip(&a, &b, 20_000, 7).unwrap());
        assert_ne!(result.p, sign_flip(&a, &b, 20_000, 8).unwrap().p);
    }

    #[test]
    fn signs_beyond_the_first_word_are_drawn() {
        let mut a = vec![0.0; 70];
        a.extend([0.1; 8]);
        let p = sign_flip(&a, &[0.0; 78], 50_000, 3).unwrap().p;
        assert!((p - 2.0 / 256.0).abs() < 0.002, "{p}");
    }

    #[test]
    fn holm_by_hand() {
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        let expected = [0.03, 0.06, 0.06, 0.02];
        assert!(
            adjusted
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-12),
            "{adjusted:?}"
        );
        assert_eq!(holm(&[0.6, 0.7]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn bootstrap_covers_the_normal_interval() {
        let a: Vec<f64> = (0..400).map(|i| f64::from(i % 5)).collect();
        let b = vec![0.0; 400];
        let (low, high) = bootstrap_ci(&a, &b, 4000, 0.95, 1).unwrap();
        // mean 2, standard error √2 / 20
        let half = 1.96 * 2f64.sqrt() / 20.0;
        assert!(
            (low - (2.0 - half)).abs() < 0.01 && (high - (2.0 + half)).abs() < 0.01,
            "{low} {high}"
        );
    }

    #[test]
    fn unpaired_values_are_refused() {
        assert!(paired_t(&[1.0], &[1.0]).is_err());
        assert!(sign_flip(&[1.0, 2.0], &[1.0], 10, 1).is_err());
        assert!(bootstrap_ci(&[1.0, f64::NAN], &[1.0, 1.0], 10, 0.95, 1).is_err());
    }
}
