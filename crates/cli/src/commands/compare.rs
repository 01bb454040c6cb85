//! `quarry compare`: whether one system beats another, by a paired test.

use crate::table;
use anyhow::{Result, bail};
use clap::Args;
use quarry_eval::{Comparison, Evaluation, Metric, OverRuns, compare, evaluate};
use quarry_eval::{Qrels, read_qrels, read_run};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `quarry compare`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quarry compare --qrels data/squad-mini/qrels/dev.tsv --run ance.trec --against dpr.trec\n  \
    quarry compare --qrels dev.tsv --run ance-1.trec ance-2.trec --against dpr-1.trec dpr-2.trec\n\n\
    Several files are runs of one system with different seeds: each query counts with its mean\n\
    over them, and the spread over seeds is printed beside. p: sign-flip randomisation test over\n\
    queries, corrected for the number of metrics (Holm); p (t): paired t-test, not corrected.")]
pub struct CompareArgs {
    /// Judgements: BEIR tsv (with header), TREC qrels or MS MARCO qrels.
    #[arg(long)]
    qrels: PathBuf,
    /// TREC runs of the system, one a seed, plain or .gz.
    #[arg(long, required = true, num_args = 1..)]
    run: Vec<PathBuf>,
    /// TREC runs of the system it is held against.
    #[arg(long, required = true, num_args = 1..)]
    against: Vec<PathBuf>,
    /// Comma-separated metrics: mrr@K, ndcg@K, recall@K, map, success@K, precision@K.
    #[arg(long, default_value = "mrr@10,ndcg@10,recall@100")]
    metrics: String,
    /// Root of the random draws.
    #[arg(long, default_value_t = 13)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be read, a line is malformed or a metric is unknown.
pub fn execute(args: &CompareArgs) -> Result<ExitCode> {
    let metrics = Metric::parse_list(&args.metrics)?;
    let qrels = read_qrels(&args.qrels)?;
    let system = evaluations(&args.run, &qrels, &metrics)?;
    let baseline = evaluations(&args.against, &qrels, &metrics)?;
    let comparisons = compare(&system, &baseline, &metrics, args.seed)?;
    match args.json {
        true => println!(
            "{}",
            json!({ "queries": qrels.len(), "seed": args.seed, "comparisons": comparisons })
        ),
        false => print!("{}", describe(&comparisons, qrels.len())),
    }
    Ok(ExitCode::SUCCESS)
}

fn evaluations(files: &[PathBuf], qrels: &Qrels, metrics: &[Metric]) -> Result<Vec<Evaluation>> {
    let mut evaluations = Vec::with_capacity(files.len());
    for file in files {
        let evaluation = evaluate(qrels, &read_run(file)?, metrics);
        let (missing, queries) = (evaluation.missing, evaluation.queries);
        if missing == queries {
            bail!(
                "{}: it ranks none of the {queries} judged queries; is it a run of another split?",
                file.display()
            );
        }
        if missing > 0 {
            eprintln!(
                "{}: {missing} of {queries} queries are missing and count 0",
                file.display()
            );
        }
        evaluations.push(evaluation);
    }
    Ok(evaluations)
}

fn describe(comparisons: &[Comparison], queries: usize) -> String {
    let rows: Vec<Vec<String>> = comparisons.iter().map(row).collect();
    let header = [
        "metric",
        "run",
        "against",
        "difference",
        "95 % interval",
        "p",
        "p (t)",
    ];
    format!("{}{queries} queries\n", table::render(&header, &rows))
}

fn row(comparison: &Comparison) -> Vec<String> {
    let (low, high) = comparison.interval;
    vec![
        comparison.metric.clone(),
        spread(&comparison.system),
        spread(&comparison.baseline),
        format!("{:+.4}", comparison.difference),
        format!("{low:+.4} to {high:+.4}"),
        format!("{:.4}", comparison.p_holm),
        format!("{:.4}", comparison.p_t),
    ]
}

/// `mean ± standard deviation over runs`; a single run has no spread.
fn spread(values: &OverRuns) -> String {
    match values.runs.len() {
        1 => format!("{:.4}", values.mean),
        _ => format!("{:.4} ± {:.4}", values.mean, values.deviation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_means_spread_and_tests() {
        let comparison = Comparison {
            metric: "mrr@10".into(),
            system: OverRuns {
                mean: 0.75,
                deviation: 0.01,
                runs: vec![0.74, 0.76],
            },
            baseline: OverRuns {
                mean: 0.7,
                deviation: 0.0,
                runs: vec![0.7],
            },
            difference: 0.05,
            interval: (0.02, 0.08),
            p_t: 0.01,
            p_flip: 0.012,
            p_holm: 0.036,
        };
        assert_eq!(
            row(&comparison),
            [
                "mrr@10",
                "0.7500 ± 0.0100",
                "0.7000",
                "+0.0500",
                "+0.0200 to +0.0800",
                "0.0360",
                "0.0100"
            ]
        );
    }
}
