//! What holds after every event. Tests call it each time, and a coordinator
//! that takes a log over calls it once: a state that breaks a law is refused.

use super::State;
use super::run::Life;
use quarry_artifacts::GenerationKind;
use std::collections::BTreeSet;

/// Checks every law the state can break.
///
/// # Errors
/// One sentence naming the law and what breaks it.
pub fn check(state: &State) -> Result<(), String> {
    numbers(state)?;
    completeness(state)?;
    activations(state)?;
    retention(state)?;
    board(state)?;
    leases(state)
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// A generation's number is used once (laws 1 and 2).
fn numbers(state: &State) -> Result<(), String> {
    let run = &state.run;
    let all: Vec<u64> = run
        .published
        .keys()
        .chain(run.aborted.keys())
        .copied()
        .chain(run.open.as_ref().map(|open| open.generation))
        .collect();
    let distinct: BTreeSet<u64> = all.iter().copied().collect();
    require(distinct.len() == all.len(), || {
        "law 1: a generation's number was used twice".to_owned()
    })?;
    require(distinct.iter().all(|n| *n < run.next_generation), || {
        "law 1: the next generation's number is taken".to_owned()
    })
}

/// A published generation has the output of every task (law 2).
fn completeness(state: &State) -> Result<(), String> {
    // Planned once, however long the run: plans are large.
    let of_kind = |kind| super::Plan::new(&state.settings, kind).len();
    let planned_of: [(GenerationKind, u32); 2] =
        [GenerationKind::Bm25, GenerationKind::Dense].map(|kind| (kind, of_kind(kind)));
    for (generation, published) in &state.run.published {
        let (planned, done) = published.tasks;
        require(planned == done && done > 0, || {
            format!("law 2: generation {generation} was published with {done} of {planned} tasks")
        })?;
        let mut known = planned_of
            .iter()
            .filter(|(kind, _)| *kind == published.kind);
        let of_plan = known.next().map_or(0, |(_, tasks)| *tasks);
        require(planned == of_plan, || {
            format!(
                "law 2: generation {generation} has {planned} tasks where {of_plan} are planned"
            )
        })?;
    }
    Ok(())
}

/// Activations rise by one and name published generations; the version log
/// rises in steps and names activations (laws 3 and 4).
fn activations(state: &State) -> Result<(), String> {
    let run = &state.run;
    for (i, generation) in run.activations.iter().enumerate() {
        require(run.published.contains_key(generation), || {
            format!(
                "law 3: activation {} names generation {generation}, which is not published",
                i + 1
            )
        })?;
    }
    let activated: BTreeSet<&u64> = run.activations.iter().collect();
    for generation in run.published.keys() {
        require(activated.contains(generation), || {
            format!("law 3: generation {generation} was published but never activated")
        })?;
    }
    require(run.swaps.windows(2).all(|w| w[0].step < w[1].step), || {
        "law 4: the version log does not rise in steps".to_owned()
    })?;
    for swap in &run.swaps {
        let activated = run
            .activations
            .get((swap.activation as usize).wrapping_sub(1));
        let stems = run
            .published
            .get(&swap.generation)
            .map(|g| &g.checkpoint.digest);
        require(
            activated == Some(&swap.generation) && stems == Some(&swap.checkpoint),
            || {
                format!(
                    "law 4: the swap at step {} names what was never active",
                    swap.step
                )
            },
        )?;
    }
    Ok(())
}

/// Nothing in use is retired.
fn retention(state: &State) -> Result<(), String> {
    let run = &state.run;
    if let Some((generation, active)) = run.active() {
        require(active.life == Life::Kept, || {
            format!("retention: generation {generation} is active and retired")
        })?;
    }
    if let Some(swap) = run.swaps.last() {
        let used = run.published.get(&swap.generation);
        require(used.is_some_and(|g| g.life == Life::Kept), || {
            format!(
                "retention: the trainer uses generation {}, which is retired",
                swap.generation
            )
        })?;
    }
    let kept = |wanted: &quarry_artifacts::CheckpointRef| {
        let mut all = run.checkpoints.iter();
        all.any(|c| c.reference == *wanted && c.life == Life::Kept)
    };
    let stems = run
        .published
        .values()
        .filter(|g| g.life == Life::Kept)
        .map(|g| &g.checkpoint);
    let needed = stems
        .chain(run.open.as_ref().map(|open| &open.checkpoint))
        .chain(run.newest())
        .chain(&run.final_checkpoint);
    for checkpoint in needed {
        require(kept(checkpoint), || {
            format!(
                "retention: checkpoint {} is needed and retired",
                checkpoint.manifest
            )
        })?;
    }
    Ok(())
}

/// The board says of each task what the durable outputs and leases say.
fn board(state: &State) -> Result<(), String> {
    let (open, board) = match (&state.run.open, &state.board) {
        (Some(open), Some(board)) => (open, board),
        (None, None) => return Ok(()),
        _ => return Err("board: it does not belong to the open generation".to_owned()),
    };
    for (number, task) in board.plan.tasks.iter().enumerate() {
        let number = number as u32;
        let done = open.done.contains_key(&number);
        let inputs = task.needs.iter().all(|need| open.done.contains_key(need));
        let held = state.fleet.leases.of_task(number).count() as u32;
        require(board.holders(number) == held && held <= 2, || {
            format!(
                "board: task {number} has {held} leases, counted as {}",
                board.holders(number)
            )
        })?;
        let ready = !done && inputs && held == 0;
        require(board.ready.contains(&number) == ready, || {
            format!(
                "board: task {number} should be {}ready",
                if ready { "" } else { "un" }
            )
        })?;
        require(!done || held == 0, || {
            format!("board: task {number} is done and leased")
        })?;
    }
    let beyond = open.done.keys().find(|n| **n >= board.plan.len());
    require(beyond.is_none(), || {
        "law 2: an output belongs to no task".to_owned()
    })
}

/// Leases are on tasks that have their inputs; nobody waits for nothing, or without end.
fn leases(state: &State) -> Result<(), String> {
    let fleet = &state.fleet;
    require(state.run.open.is_some() || fleet.leases.is_empty(), || {
        "leases: there are some, but no open generation".to_owned()
    })?;
    for waiter in &fleet.waiting {
        require(waiter.until.is_some(), || {
            format!("leases: {} did not want to wait", waiter.worker)
        })?;
        require(
            state.choose(fleet.last_contact, &waiter.worker).is_none(),
            || format!("leases: {} waits although there is work", waiter.worker),
        )?;
    }
    Ok(())
}
