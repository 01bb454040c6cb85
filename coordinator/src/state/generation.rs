//! The board of the open generation: which tasks are done, ready or waiting,
//! and the inputs of a task filled from the outputs of those it waited for.
//!
//! Derived from the plan and the durable outputs, so it is rebuilt after a
//! restart. Leases live elsewhere: the board only hears of held and free tasks.

use super::blame::Failure;
use super::plan::Plan;
use super::run::OpenGeneration;
use quarry_artifacts::ObjectRef;
use quarry_proto::{Role, Task, TaskOutput, Work};
use std::collections::BTreeSet;

/// Tasks of the open generation.
#[derive(Debug, Clone)]
pub struct Board {
    /// The plan of the generation.
    pub plan: Plan,
    /// Tasks nobody holds whose inputs are all there.
    pub ready: BTreeSet<u32>,
    /// For each task, how many of its inputs are still to be made.
    missing: Vec<u32>,
    /// Live leases of each task.
    held: Vec<u32>,
    /// Done and all tasks, by kind of work in plan order.
    progress: Vec<(&'static str, u32, u32)>,
    /// Leases ever granted of each task.
    pub attempts: Vec<u32>,
    /// Failed attempts at tasks that are not done, in the order they became known.
    pub failures: Vec<Failure>,
    /// Leases handed back undone since a task was done, and the last one's reason.
    pub returns: (u32, String),
}

impl Board {
    /// The board of `open`, planned as `plan`.
    #[must_use]
    pub fn new(plan: Plan, open: &OpenGeneration) -> Self {
        let tasks = plan.tasks.len();
        let undone = |need: &&u32| !open.done.contains_key(need);
        let missing: Vec<u32> = plan
            .tasks
            .iter()
            .map(|task| task.needs.iter().filter(undone).count() as u32)
            .collect();
        let ready = (0..tasks as u32)
            .filter(|n| missing[*n as usize] == 0 && !open.done.contains_key(n))
            .collect();
        let mut progress: Vec<(&'static str, u32, u32)> = Vec::new();
        for (number, task) in plan.tasks.iter().enumerate() {
            let kind = task.work.kind();
            let done = u32::from(open.done.contains_key(&(number as u32)));
            match progress.iter_mut().find(|(k, ..)| *k == kind) {
                Some(known) => *known = (kind, known.1 + done, known.2 + 1),
                None => progress.push((kind, done, 1)),
            }
        }
        Self {
            plan,
            ready,
            missing,
            held: vec![0; tasks],
            progress,
            attempts: vec![0; tasks],
            failures: Vec::new(),
            returns: (0, String::new()),
        }
    }

    /// A worker took the task; returns the number of this attempt, from 1.
    pub fn hold(&mut self, task: u32) -> u32 {
        self.ready.remove(&task);
        self.held[task as usize] += 1;
        self.attempts[task as usize] += 1;
        self.attempts[task as usize]
    }

    /// A lease on the task ended without an output.
    pub fn free(&mut self, open: &OpenGeneration, task: u32) {
        let i = task as usize;
        self.held[i] = self.held[i].saturating_sub(1);
        self.make_ready(open, task);
    }

    /// Live leases of the task.
    #[must_use]
    pub fn holders(&self, task: u32) -> u32 {
        self.held[task as usize]
    }

    /// The task has its output.
    pub fn complete(&mut self, open: &OpenGeneration, task: u32) {
        self.count(task, true);
        self.failures.retain(|failure| failure.task != task);
        self.returns = (0, String::new());
        self.ready.remove(&task);
        self.held[task as usize] = 0;
        for dependent in self.plan.dependents[task as usize].clone() {
            let i = dependent as usize;
            self.missing[i] = self.missing[i].saturating_sub(1);
            self.make_ready(open, dependent);
        }
    }

    /// A worker gave a lease back through no fault of the task.
    pub fn handed_back(&mut self, worker: &str, reason: &str) {
        self.returns = (self.returns.0 + 1, format!("{worker}: {reason}"));
    }

    /// The task's output is gone again.
    pub fn reopen(&mut self, open: &OpenGeneration, task: u32) {
        self.count(task, false);
        for dependent in self.plan.dependents[task as usize].clone() {
            self.missing[dependent as usize] += 1;
            self.ready.remove(&dependent);
        }
        self.make_ready(open, task);
    }

    fn make_ready(&mut self, open: &OpenGeneration, task: u32) {
        let i = task as usize;
        if self.missing[i] == 0 && self.held[i] == 0 && !open.done.contains_key(&task) {
            self.ready.insert(task);
        }
    }

    /// Kinds of work in plan order, each with the tasks done and all tasks.
    pub fn stages(&self) -> impl Iterator<Item = (&'static str, u32, u32)> + '_ {
        self.progress.iter().copied()
    }

    fn count(&mut self, task: u32, finished: bool) {
        let kind = self.plan.tasks[task as usize].work.kind();
        if let Some(known) = self.progress.iter_mut().find(|(k, ..)| *k == kind) {
            known.1 = if finished {
                known.1 + 1
            } else {
                known.1.saturating_sub(1)
            };
        }
    }

    /// The task with its inputs; `None` while one of them is still to be made.
    #[must_use]
    pub fn task(&self, open: &OpenGeneration, number: u32) -> Option<Task> {
        let planned = self.plan.tasks.get(number as usize)?;
        let inputs: Option<Vec<&TaskOutput>> =
            planned.needs.iter().map(|n| open.done.get(n)).collect();
        Some(Task {
            generation: open.generation,
            number,
            checkpoint: open.checkpoint.clone(),
            work: fill(&planned.work, &inputs?),
        })
    }
}

/// The work with its objects, taken from the outputs of the tasks it needs.
fn fill(work: &Work, inputs: &[&TaskOutput]) -> Work {
    let all = |role| -> Vec<ObjectRef> {
        let objects = inputs.iter().flat_map(|output| output.of(role));
        objects.cloned().collect()
    };
    let mut work = work.clone();
    match &mut work {
        Work::BuildPartition { embeddings, .. } => *embeddings = all(Role::Embeddings),
        Work::SearchBlock {
            query_embeddings,
            embeddings,
            index,
            ..
        } => {
            *query_embeddings = all(Role::QueryEmbeddings);
            *embeddings = all(Role::Embeddings);
            *index = all(Role::Index).pop();
        }
        Work::MergeBlock { candidates, .. } => *candidates = all(Role::Candidates),
        Work::EncodeQueries { .. } | Work::EncodeShard { .. } | Work::MineSparse { .. } => {}
    }
    work
}

/// Checks that `output` is what `work` must produce, inside the generation's
/// own folder (laws 2, 8 and 9).
///
/// # Errors
/// One sentence that says what is missing or too much.
pub fn check_output(work: &Work, folder: &str, output: &TaskOutput) -> Result<(), String> {
    let (role, evaluate) = match work {
        Work::EncodeQueries { .. } => (Role::QueryEmbeddings, false),
        Work::EncodeShard { .. } => (Role::Embeddings, false),
        Work::BuildPartition { .. } => (Role::Index, false),
        Work::SearchBlock { .. } => (Role::Candidates, false),
        Work::MergeBlock { evaluate, .. } | Work::MineSparse { evaluate, .. } => {
            let role = if *evaluate {
                Role::Run
            } else {
                Role::Negatives
            };
            (role, *evaluate)
        }
    };
    let found = output.of(role).count();
    if found != 1 {
        return Err(format!("{work} must give one {role:?} object, not {found}"));
    }
    if evaluate && output.metrics.is_empty() {
        return Err(format!("{work} gave no dev metrics"));
    }
    if let Some((name, _)) = output.metrics.iter().find(|(_, v)| !v.is_finite()) {
        return Err(format!("{work} gave a {name} that is not a number"));
    }
    let inside = |o: &ObjectRef| {
        o.path
            .strip_prefix(folder)
            .is_some_and(|p| p.starts_with('/'))
    };
    match output
        .outputs
        .iter()
        .find(|(_, o)| !inside(o) || o.size == 0)
    {
        Some((_, o)) => Err(format!(
            "{work} gave {}, which is empty or lies outside {folder}",
            o.path
        )),
        None => Ok(()),
    }
}
