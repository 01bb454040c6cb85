//! `quarry status`: what a running run is doing.

use crate::block_on;
use crate::commands::connect::CoordinatorArgs;
use crate::run::progress_line;
use anyhow::Result;
use clap::Args;
use quarry_client::overview;
use quarry_proto::v1::GetRunResponse;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// Time between two looks with `--watch`.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long `--watch` waits for a coordinator that is away. Another takes over in half
/// a minute at most, or somebody starts it again; and the run may have ended with it.
const PATIENCE: Duration = Duration::from_secs(600);

/// Arguments of `quarry status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quarry status --watch\n  \
    quarry status --coordinator http://head:7600,http://spare:7600 --token-file token --json")]
pub struct StatusArgs {
    #[command(flatten)]
    coordinator: CoordinatorArgs,
    /// Look again every two seconds until the run is finished, through changes of the
    /// coordinator.
    #[arg(long)]
    watch: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the coordinator cannot be reached, or with `--watch` stays away.
pub fn execute(args: &StatusArgs) -> Result<ExitCode> {
    block_on(async {
        let client = args.coordinator.connect().await?;
        loop {
            let run = if args.watch {
                overview::look_within(&client, PATIENCE).await
            } else {
                overview::look(&client).await
            };
            let run = run.map_err(|status| args.coordinator.unanswered(&status))?;
            print!(
                "{}",
                if args.json {
                    format!("{}\n", to_json(&run))
                } else {
                    to_text(&run)
                }
            );
            if !args.watch || run.finished {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
}

fn to_text(run: &GetRunResponse) -> String {
    let mut text = format!("{}: {}\n", run.name, progress_line(run));
    for worker in &run.workers {
        let doing = match worker.task.as_str() {
            "" => "idle".to_owned(),
            task => format!("{task} {:.0} %", 100.0 * worker.progress),
        };
        let ago = worker.seconds_since_heartbeat;
        text.push_str(&format!(
            "  {}: {doing}, heard {ago:.0} s ago\n",
            worker.worker
        ));
    }
    text
}

fn to_json(run: &GetRunResponse) -> Value {
    json!({
        "name": run.name,
        "epoch": run.epoch,
        "paused": run.paused,
        "finished": run.finished,
        "staleness": run.staleness,
        "trouble": run.trouble,
        "trainer": run.trainer.as_ref().map(|t| json!({
            "step": t.step, "total_steps": t.total_steps, "loss": t.loss,
            "pairs_per_second": t.pairs_per_second, "generation": t.generation, "blocked": t.blocked,
            "seconds_since_report": t.seconds_since_report,
        })),
        "active": run.active.as_ref().map(|g| json!({
            "generation": g.generation, "kind": g.kind,
            "checkpoint_step": g.checkpoint.as_ref().map(|c| c.step),
            "metrics": g.metrics.iter().collect::<std::collections::BTreeMap<_, _>>(),
        })),
        "open": run.open.as_ref().map(|o| json!({
            "generation": o.generation, "checkpoint_step": o.checkpoint.as_ref().map(|c| c.step),
            "stage": o.stage, "tasks_done": o.tasks_done, "tasks": o.tasks, "eta_seconds": o.eta_seconds,
        })),
        "workers": run.workers.iter().map(|w| json!({
            "worker": w.worker, "task": w.task, "progress": w.progress,
            "seconds_since_heartbeat": w.seconds_since_heartbeat,
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_shown_in_words_and_in_json() {
        let trouble = "the trainer refuses generation 7: it was mined from another corpus";
        let run = GetRunResponse {
            name: "ance".to_owned(),
            trouble: trouble.to_owned(),
            ..GetRunResponse::default()
        };
        assert_eq!(
            to_text(&run),
            format!("ance: trainer starting | no generation yet | fleet idle | {trouble}\n")
        );
        assert_eq!(to_json(&run)["trouble"], trouble);
    }
}
