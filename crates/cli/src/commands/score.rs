//! `quarry score`: a TREC run against judgements.

use anyhow::{Context, Result, bail};
use clap::Args;
use quarry_eval::{Evaluation, Metric, evaluate, read_qrels, read_run};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `quarry score`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    quarry score --qrels data/squad-mini/qrels/dev.tsv --run dev.trec --metrics mrr@10,ndcg@10\n\n\
    Ties are broken as trec_eval does: score, then document id, both descending.\n\
    Means are over every query of the qrels; a query the run lacks counts 0.")]
pub struct ScoreArgs {
    /// Judgements: BEIR tsv (with header), TREC qrels or MS MARCO qrels.
    #[arg(long)]
    qrels: PathBuf,
    /// A TREC run, plain or .gz.
    #[arg(long)]
    run: PathBuf,
    /// Comma-separated metrics: mrr@K, ndcg@K, recall@K, map, success@K, precision@K.
    #[arg(long, default_value = "mrr@10,ndcg@10,recall@100,map")]
    metrics: String,
    /// Write each query's values to this tab-separated file.
    #[arg(long, value_name = "FILE")]
    per_query: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be read, a line is malformed, a metric is unknown or the files are of different queries.
pub fn execute(args: &ScoreArgs) -> Result<ExitCode> {
    let metrics = Metric::parse_list(&args.metrics)?;
    let qrels = read_qrels(&args.qrels)?;
    let run = read_run(&args.run)?;
    let evaluation = evaluate(&qrels, &run, &metrics);
    if evaluation.queries == 0 {
        bail!(
            "{} judges nothing; give the judgements of a split",
            args.qrels.display()
        );
    }
    if evaluation.missing == evaluation.queries {
        bail!(
            "{} ranks nothing for any of the {} queries judged in {}; give the run and the judgements of one split",
            args.run.display(),
            evaluation.queries,
            args.qrels.display()
        );
    }
    if let Some(path) = &args.per_query {
        write_per_query(path, &evaluation, &metrics)?;
    }
    print!("{}", report(&evaluation, &metrics, args.json)?);
    Ok(ExitCode::SUCCESS)
}

/// The means as a table, or as one JSON object with the metrics as keys.
///
/// # Errors
/// None in practice: numbers always have a JSON form.
pub fn report(evaluation: &Evaluation, metrics: &[Metric], json: bool) -> Result<String> {
    if json {
        let mut object = serde_json::Map::new();
        for metric in metrics {
            let name = metric.to_string();
            object.insert(name.clone(), evaluation.means[&name].into());
        }
        object.insert("queries".into(), evaluation.queries.into());
        object.insert("missing".into(), evaluation.missing.into());
        return Ok(format!("{}\n", serde_json::to_string(&object)?));
    }
    let mut text = String::new();
    for metric in metrics {
        let name = metric.to_string();
        writeln!(text, "{name:<12} {:.4}", evaluation.means[&name])?;
    }
    writeln!(text, "{:<12} {}", "queries", evaluation.queries)?;
    if evaluation.missing > 0 {
        writeln!(
            text,
            "{:<12} {} (counted as 0)",
            "missing", evaluation.missing
        )?;
    }
    Ok(text)
}

fn write_per_query(path: &Path, evaluation: &Evaluation, metrics: &[Metric]) -> Result<()> {
    let names: Vec<String> = metrics.iter().map(Metric::to_string).collect();
    let mut text = format!("query-id\t{}\n", names.join("\t"));
    for (query, values) in &evaluation.per_query {
        text.push_str(query);
        for name in &names {
            write!(text, "\t{:.6}", values[name])?;
        }
        text.push('\n');
    }
    std::fs::write(path, text).with_context(|| {
        format!(
            "cannot write {}; choose a writable --per-query file",
            path.display()
        )
    })
}
