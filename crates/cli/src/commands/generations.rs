//! `quarry generations`: every generation, its dev metrics, and the version log.

use crate::commands::connect::CoordinatorArgs;
use crate::run::preflight::duration;
use crate::{block_on, table};
use anyhow::Result;
use clap::Args;
use quarry_proto::v1::{GenerationSummary, ListGenerationsRequest, ListGenerationsResponse};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Arguments of `quarry generations`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  quarry generations --coordinator http://127.0.0.1:7600 --json")]
pub struct GenerationsArgs {
    #[command(flatten)]
    coordinator: CoordinatorArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the coordinator cannot be reached.
pub fn execute(args: &GenerationsArgs) -> Result<ExitCode> {
    let listed = block_on(async {
        let mut client = args.coordinator.connect().await?;
        let answer = client.list_generations(ListGenerationsRequest {}).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| args.coordinator.unanswered(&status))
    })?;
    if args.json {
        println!("{}", to_json(&listed));
    } else {
        print!("{}", to_text(&listed));
    }
    Ok(ExitCode::SUCCESS)
}

fn state(generation: &GenerationSummary) -> &'static str {
    match (generation.active, generation.retired) {
        (true, _) => "active",
        (false, true) => "retired",
        (false, false) => "kept",
    }
}

fn step(generation: &GenerationSummary) -> u64 {
    generation.checkpoint.as_ref().map_or(0, |c| c.step)
}

fn metrics(generation: &GenerationSummary) -> BTreeMap<&String, f64> {
    generation
        .metrics
        .iter()
        .map(|(name, value)| (name, *value))
        .collect()
}

fn to_text(listed: &ListGenerationsResponse) -> String {
    let rows: Vec<Vec<String>> = listed
        .generations
        .iter()
        .map(|g| {
            let first_step = listed.swaps.iter().find(|s| s.generation == g.generation);
            vec![
                g.generation.to_string(),
                g.kind.clone(),
                step(g).to_string(),
                first_step.map_or("-".to_owned(), |s| s.step.to_string()),
                state(g).to_owned(),
                duration(g.seconds),
                metrics(g)
                    .iter()
                    .map(|(name, value)| format!("{name} {value:.4}"))
                    .collect::<Vec<_>>()
                    .join("  "),
            ]
        })
        .collect();
    table::render(
        &[
            "generation",
            "kind",
            "checkpoint",
            "used from",
            "state",
            "made in",
            "metrics",
        ],
        &rows,
    )
}

fn to_json(listed: &ListGenerationsResponse) -> Value {
    json!({
        "generations": listed.generations.iter().map(|g| json!({
            "generation": g.generation, "kind": g.kind, "checkpoint_step": step(g),
            "checkpoint_digest": g.checkpoint.as_ref().map(|c| c.digest.clone()),
            "state": state(g), "seconds": g.seconds, "metrics": metrics(g),
            "counts": g.counts.iter().collect::<BTreeMap<_, _>>(),
        })).collect::<Vec<_>>(),
        "swaps": listed.swaps.iter().map(|s| json!({
            "step": s.step, "generation": s.generation, "checkpoint_digest": s.checkpoint_digest,
        })).collect::<Vec<_>>(),
    })
}
