//! Two systems on the same queries: by how much one beats the other, and whether
//! that is more than chance.
//!
//! A system may come as several runs (seeds). A query's value is then its mean over
//! them, so that the tests ask about queries, and the spread over seeds is reported
//! beside them. Owns the choice of tests; the tests themselves are in `significance`.

use serde::Serialize;

use crate::significance::{bootstrap_ci, holm, paired_t, sign_flip};
use crate::{EvalError, Evaluation, Metric};

/// Draws of the randomisation test and of the bootstrap.
const ROUNDS: usize = 10_000;

/// A mean over runs and how far they lie apart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OverRuns {
    /// Mean over the runs.
    pub mean: f64,
    /// Sample standard deviation over the runs; 0 for a single one.
    pub deviation: f64,
    /// The mean of each run, in the caller's order.
    pub runs: Vec<f64>,
}

/// One metric of two systems.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The metric's name.
    pub metric: String,
    /// The first system.
    pub system: OverRuns,
    /// What it is held against.
    pub baseline: OverRuns,
    /// Mean of system − baseline over queries.
    pub difference: f64,
    /// 95 % bootstrap interval of the difference, resampling queries.
    pub interval: (f64, f64),
    /// Two-sided p of the paired t-test over queries.
    pub p_t: f64,
    /// Two-sided p of the sign-flip randomisation test over queries.
    pub p_flip: f64,
    /// `p_flip` after Holm's correction for the metrics compared.
    pub p_holm: f64,
}

/// Compares two systems, each one or more runs on the same queries, metric by metric.
///
/// # Errors
/// [`EvalError::Unpaired`] if a side has no run, there are fewer than two queries,
/// or the runs were not evaluated on the same queries.
pub fn compare(
    system: &[Evaluation],
    baseline: &[Evaluation],
    metrics: &[Metric],
    seed: u64,
) -> Result<Vec<Comparison>, EvalError> {
    check_paired(system, baseline)?;
    let mut comparisons = Vec::with_capacity(metrics.len());
    for metric in metrics {
        let (a, b) = (per_query(system, *metric), per_query(baseline, *metric));
        let t = paired_t(&a, &b)?;
        comparisons.push(Comparison {
            metric: metric.to_string(),
            system: over_runs(system, *metric),
            baseline: over_runs(baseline, *metric),
            difference: t.mean_difference,
            interval: bootstrap_ci(&a, &b, ROUNDS, 0.95, seed)?,
            p_t: t.p,
            p_flip: sign_flip(&a, &b, ROUNDS, seed)?.p,
            p_holm: 1.0,
        });
    }
    let raw: Vec<f64> = comparisons.iter().map(|c| c.p_flip).collect();
    for (comparison, p) in comparisons.iter_mut().zip(holm(&raw)) {
        comparison.p_holm = p;
    }
    Ok(comparisons)
}

fn check_paired(system: &[Evaluation], baseline: &[Evaluation]) -> Result<(), EvalError> {
    let queries = |runs: &[Evaluation]| runs.first().map_or(0, |run| run.per_query.len());
    let unpaired = || EvalError::Unpaired {
        left: queries(system),
        right: queries(baseline),
    };
    let first = system.first().ok_or_else(unpaired)?;
    baseline.first().ok_or_else(unpaired)?;
    let same = |run: &Evaluation| run.per_query.keys().eq(first.per_query.keys());
    match system.iter().chain(baseline).all(same) {
        true => Ok(()),
        false => Err(unpaired()),
    }
}

/// Each query's value, averaged over the runs, in query order.
fn per_query(runs: &[Evaluation], metric: Metric) -> Vec<f64> {
    let mut sums: Vec<f64> = Vec::new();
    for run in runs {
        let values = run.values(metric);
        sums.resize(values.len(), 0.0);
        sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
    }
    sums.iter().map(|sum| sum / runs.len() as f64).collect()
}

fn over_runs(runs: &[Evaluation], metric: Metric) -> OverRuns {
    let name = metric.to_string();
    let values: Vec<f64> = runs
        .iter()
        .filter_map(|run| run.means.get(&name).copied())
        .collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    OverRuns {
        mean,
        deviation: if values.len() < 2 {
            0.0
        } else {
            (squares / (n - 1.0)).sqrt()
        },
        runs: values,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Qrels, Run, evaluate};

    /// Queries q0, q1, …: each run has the relevant document at the given rank.
    fn runs(ranks: &[&[usize]]) -> Vec<Evaluation> {
        let mut qrels = Qrels::default();
        (0..ranks[0].len()).for_each(|q| qrels.insert(&format!("q{q}"), "right", 1).unwrap());
        let one = |ranks: &&[usize]| {
            let mut run = Run::default();
            for (q, rank) in ranks.iter().enumerate() {
                for place in 1..=*rank {
                    let document = match place == *rank {
                        true => "right".to_owned(),
                        false => format!("wrong{place}"),
                    };
                    run.insert(&format!("q{q}"), &document, -(place as f32))
                        .unwrap();
                }
            }
            evaluate(&qrels, &run, &[Metric::Mrr(10)])
        };
        ranks.iter().map(one).collect()
    }

    #[test]
    fn queries_are_averaged_over_seeds_before_the_test() {
        let system = runs(&[&[1, 1, 2], &[1, 2, 2]]);
        let baseline = runs(&[&[2, 2, 2]]);
        let result = compare(&system, &baseline, &[Metric::Mrr(10)], 1).unwrap();
        let only = &result[0];
        // Per query 1, .75, .5 against .5, .5, .5.
        assert!((only.difference - 0.25).abs() < 1e-12);
        assert_eq!(only.system.runs, [2.5 / 3.0, 2.0 / 3.0]);
        assert!((only.system.mean - 0.75).abs() < 1e-12);
        assert!((only.system.deviation - (0.5 / 3.0) / 2f64.sqrt()).abs() < 1e-12);
        assert_eq!(only.baseline.deviation, 0.0);
        // Differences .5, .25, 0: of 8 assignments of signs, 4 give a sum of ±.75.
        assert_eq!(only.p_flip, 0.5);
        assert_eq!(only.p_holm, 0.5);
        // scipy.stats.ttest_rel([1, .75, .5], [.5, .5, .5]).pvalue
        assert!((only.p_t - 0.225_403_3).abs() < 1e-6, "{}", only.p_t);
    }

    #[test]
    fn systems_on_other_queries_are_refused() {
        let (two, three) = (runs(&[&[1, 2]]), runs(&[&[1, 2, 3]]));
        let metrics = [Metric::Mrr(10)];
        assert!(compare(&two, &three, &metrics, 1).is_err());
        assert!(compare(&two, &[], &metrics, 1).is_err());
        assert!(compare(&[], &two, &metrics, 1).is_err());
        let mixed = [two.clone(), three].concat();
        assert!(compare(&mixed, &two, &metrics, 1).is_err());
    }
}
