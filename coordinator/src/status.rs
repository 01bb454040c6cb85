//! The run at a glance, as the wire has it.

use crate::state::{Life, PublishedGeneration, State, Timestamp};
use quarry_proto::v1;
use std::collections::{BTreeMap, BTreeSet};

/// Everything `quarry status` shows.
#[must_use]
pub fn overview(state: &State, now: Timestamp) -> v1::GetRunResponse {
    let run = &state.run;
    let active = run
        .active()
        .map(|(generation, published)| summary(state, generation, published));
    v1::GetRunResponse {
        name: state.settings.recipe.name.clone(),
        epoch: run.epoch,
        paused: run.paused,
        finished: run.trained(),
        trainer: trainer(state, now),
        active,
        open: open(state, now),
        workers: workers(state, now),
        staleness: state.staleness(),
        newest_checkpoint: run.newest().cloned().map(Into::into),
        trouble: state.trouble(now),
    }
}

/// Every generation ever published, and the version log (law 4).
#[must_use]
pub fn generations(state: &State) -> v1::ListGenerationsResponse {
    let run = &state.run;
    let swap = |swap: &crate::state::SwapRecord| v1::Swap {
        step: swap.step,
        generation: swap.generation,
        checkpoint_digest: swap.checkpoint.to_string(),
    };
    v1::ListGenerationsResponse {
        generations: run
            .published
            .iter()
            .map(|(n, g)| summary(state, *n, g))
            .collect(),
        swaps: run.swaps.iter().map(swap).collect(),
    }
}

fn summary(
    state: &State,
    generation: u64,
    published: &PublishedGeneration,
) -> v1::GenerationSummary {
    v1::GenerationSummary {
        generation,
        kind: published.kind.to_string(),
        checkpoint: Some(published.checkpoint.clone().into()),
        manifest: Some(published.manifest.clone().into()),
        active: state.run.activations.last() == Some(&generation),
        retired: published.life != Life::Kept,
        metrics: published.metrics.clone().into_iter().collect(),
        counts: published.counts.clone().into_iter().collect(),
        seconds: published.seconds,
    }
}

fn trainer(state: &State, now: Timestamp) -> Option<v1::TrainerStatus> {
    let (at, report) = state.trainer.as_ref()?;
    Some(v1::TrainerStatus {
        step: report.step,
        total_steps: report.total_steps,
        loss: report.loss,
        pairs_per_second: report.pairs_per_second,
        generation: report.generation,
        blocked: report.blocked,
        seconds_since_report: seconds(now.since(*at)),
    })
}

fn open(state: &State, now: Timestamp) -> Option<v1::OpenGeneration> {
    let (open, board) = (state.run.open.as_ref()?, state.board.as_ref()?);
    let stage = board
        .stages()
        .find(|(_, done, all)| done < all)
        .map_or("publish".to_owned(), |(kind, done, all)| {
            format!("{kind} {done}/{all}")
        });
    Some(v1::OpenGeneration {
        generation: open.generation,
        checkpoint: Some(open.checkpoint.clone().into()),
        stage,
        tasks_done: open.done.len() as u32,
        tasks: open.tasks,
        eta_seconds: eta_seconds(state, now).unwrap_or(-1.0),
    })
}

/// Work that is left, at the median duration of its kind, shared by the workers.
/// Kinds of which no duration is known yet count nothing; `None` if none is, or if
/// there are no workers.
fn eta_seconds(state: &State, now: Timestamp) -> Option<f64> {
    let board = state.board.as_ref()?;
    if state.fleet.seen.is_empty() {
        return None; // nobody works on it
    }
    let mut left_ms = None;
    for (kind, done, all) in board.stages() {
        if let Some(median) = state.fleet.expected_ms(kind) {
            *left_ms.get_or_insert(0.0) += f64::from(all - done) * median as f64;
        }
    }
    let spent = |held: &crate::state::Held| {
        let kind = board.plan.tasks[held.task as usize].work.kind();
        let median = state.fleet.expected_ms(kind).unwrap_or(0);
        now.since(held.granted).min(median) as f64
    };
    let spent_ms: f64 = state.fleet.leases.values().map(spent).sum();
    let workers = state.fleet.seen.len() as f64;
    left_ms.map(|left: f64| (left - spent_ms).max(0.0) / workers / 1000.0)
}

fn workers(state: &State, now: Timestamp) -> Vec<v1::WorkerStatus> {
    let fleet = &state.fleet;
    let leases = fleet
        .leases
        .values()
        .map(|held| (held.worker.as_str(), held));
    // The first lease of a worker, should it hold several.
    let mut holding = BTreeMap::new();
    for (worker, held) in leases {
        holding.entry(worker).or_insert(held);
    }
    let waiting: BTreeSet<&str> = fleet.waiting.iter().map(|w| w.worker.as_str()).collect();
    let status = |(worker, seen): (&String, &Timestamp)| {
        let held = holding.get(worker.as_str());
        let work = held.and_then(|held| Some((held, state.board.as_ref()?)));
        // Who waits is on the line.
        let seen = if waiting.contains(worker.as_str()) {
            now
        } else {
            *seen
        };
        v1::WorkerStatus {
            worker: worker.clone(),
            task: work.map_or(String::new(), |(held, board)| {
                board.plan.tasks[held.task as usize].work.to_string()
            }),
            progress: held.map_or(0.0, |held| held.progress),
            seconds_since_heartbeat: seconds(now.since(seen)),
        }
    };
    fleet.seen.iter().map(status).collect()
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
