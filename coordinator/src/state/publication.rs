//! From finished tasks to a published generation, or to one that is given up.
//!
//! Keeps law 2: a manifest is only asked for when every task has its output,
//! and the generation only becomes active once every object was seen in the
//! store at its size and the manifest is written.

use super::State;
use super::change::Change;
use super::event::{Answer, Effect, Event, LeaseKey, Rejected, TaskKey, Timestamp};
use super::generation::{Board, check_output};
use super::run::OpenGeneration;
use super::settings::Settings;
use quarry_artifacts::{BlockRef, GenerationManifest, layout};
use quarry_proto::{Block, Role, TaskOutput, Work};
use std::collections::{BTreeMap, BTreeSet};

/// Pause before a publication that the store refused is tried again.
const RETRY_MS: u64 = 5_000;
/// How often a task's output may be missing before the generation is given up.
const MOST_REOPENINGS: u32 = 3;

/// How far the publication of the open generation is.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Publishing {
    /// Tasks are still to be done.
    #[default]
    Idle,
    /// Objects are checked and the manifest is written.
    Asked,
    /// The store did not let us.
    Failed {
        /// The store's words.
        reason: String,
        /// When to try again.
        retry: Timestamp,
    },
}

impl State {
    /// Takes the output of a task. The first completion wins, under whatever
    /// lease or epoch it was made; later ones change nothing.
    pub(super) fn complete_task(
        &mut self,
        now: Timestamp,
        lease: LeaseKey,
        task: TaskKey,
        output: TaskOutput,
        effects: &mut Vec<Effect>,
    ) -> Result<Answer, Rejected> {
        if task.generation >= self.run.next_generation {
            let reason = format!("generation {} was never opened", task.generation);
            return Err(Rejected::Unknown(reason));
        }
        let (Some(open), Some(board)) = (&self.run.open, &self.board) else {
            return Ok(Answer::Completed { accepted: false });
        };
        if open.generation != task.generation {
            return Ok(Answer::Completed { accepted: false });
        }
        let Some(planned) = board.plan.tasks.get(task.number as usize) else {
            let (number, of) = (task.number, board.plan.len());
            let reason = format!("generation {} has {of} tasks, no {number}", task.generation);
            return Err(Rejected::Unknown(reason));
        };
        if let Some(first) = open.done.get(&task.number) {
            // The same objects: a retry after a lost answer, or an equal attempt.
            let accepted = first.outputs == output.outputs;
            return Ok(Answer::Completed { accepted });
        }
        let folder = layout::generation_folder(task.generation);
        check_output(&planned.work, &folder, &output).map_err(Rejected::Invalid)?;
        let change = Change::TaskCompleted {
            generation: task.generation,
            task: task.number,
            output,
            elapsed_ms: self.elapsed_ms(now),
        };
        self.record(change, effects);
        self.end_leases_of(now, task.number, lease);
        if let (Some(open), Some(board)) = (&self.run.open, &mut self.board) {
            board.complete(open, task.number);
        }
        Ok(Answer::Completed { accepted: true })
    }

    /// Asks for the manifest once every task has its output.
    pub(super) fn publish_complete(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let waiting = match &self.publishing {
            Publishing::Idle => false,
            Publishing::Asked => true,
            Publishing::Failed { retry, .. } => now < *retry,
        };
        let (Some(open), Some(board)) = (&self.run.open, &self.board) else {
            return;
        };
        if waiting || open.done.len() as u32 != board.plan.len() {
            return;
        }
        let outputs = open.done.values().flat_map(|output| &output.outputs);
        let objects = outputs.map(|(_, object)| object.clone()).collect();
        let manifest = Box::new(manifest_of(&self.settings, open, board));
        self.publishing = Publishing::Asked;
        effects.push(Effect::Publish { manifest, objects });
    }

    /// One record publishes the generation and makes it active.
    pub(super) fn manifest_written(
        &mut self,
        now: Timestamp,
        event: Event,
        effects: &mut Vec<Effect>,
    ) {
        let Event::ManifestWritten {
            generation,
            manifest,
        } = event
        else {
            return;
        };
        let (Some(open), Some(board)) = (&self.run.open, &self.board) else {
            return; // given up meanwhile
        };
        let complete = open.done.len() as u32 == board.plan.len();
        if open.generation != generation || !complete || self.publishing != Publishing::Asked {
            return; // given up or reopened meanwhile
        }
        let GenerationManifest {
            metrics, counts, ..
        } = manifest_of(&self.settings, open, board);
        let change = Change::GenerationPublished {
            generation,
            activation: self.run.activations.len() as u64 + 1,
            manifest,
            metrics,
            counts,
            seconds: self.elapsed_ms(now) as f64 / 1000.0,
        };
        self.record(change, effects);
        self.close();
        effects.extend(self.run.announcement().map(Effect::Announce));
    }

    /// Objects that were reported are not there: their tasks are done again,
    /// and counted (law 8).
    pub(super) fn objects_missing(
        &mut self,
        generation: u64,
        paths: &[String],
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_asked(generation) {
            return; // given up meanwhile
        }
        let Some(open) = &self.run.open else {
            return;
        };
        self.publishing = Publishing::Idle;
        let paths: BTreeSet<&String> = paths.iter().collect();
        let damaged = |output: &TaskOutput| {
            let mut objects = output.outputs.iter().map(|(_, o)| &o.path);
            objects.find(|path| paths.contains(path)).cloned()
        };
        let tasks = open
            .done
            .iter()
            .filter_map(|(n, output)| Some((*n, damaged(output)?)));
        for (task, path) in tasks.collect::<Vec<_>>() {
            let reason = format!("{path} is missing or short");
            let change = Change::TaskReopened {
                generation,
                task,
                reason: reason.clone(),
            };
            self.record(change, effects);
            let (Some(open), Some(board)) = (&self.run.open, &mut self.board) else {
                return;
            };
            board.reopen(open, task);
            if open
                .reopened
                .get(&task)
                .is_some_and(|n| *n >= MOST_REOPENINGS)
            {
                let work = &board.plan.tasks[task as usize].work;
                let reason = format!("{work} was done {MOST_REOPENINGS} times, yet {reason}");
                self.abort(generation, reason, effects);
                return;
            }
        }
    }

    /// Whether an answer about the manifest of this generation is awaited.
    fn is_asked(&self, generation: u64) -> bool {
        let open = self.run.open.as_ref();
        self.publishing == Publishing::Asked && open.is_some_and(|o| o.generation == generation)
    }

    pub(super) fn publication_failed(&mut self, now: Timestamp, generation: u64, reason: String) {
        if self.is_asked(generation) {
            let retry = now.plus(RETRY_MS);
            self.publishing = Publishing::Failed { reason, retry };
        }
    }

    /// Gives the open generation up; training goes on with what it has.
    pub(super) fn abort(&mut self, generation: u64, reason: String, effects: &mut Vec<Effect>) {
        self.record(Change::GenerationAborted { generation, reason }, effects);
        self.close();
    }

    fn close(&mut self) {
        self.board = None;
        self.fleet.leases.clear();
        self.fleet.forget_durations();
        self.publishing = Publishing::Idle;
    }

    /// Time the open generation has been open, restarts not counted.
    pub(crate) fn elapsed_ms(&self, now: Timestamp) -> u64 {
        self.elapsed_before + now.since(self.opened)
    }
}

/// The manifest of a generation whose tasks are all done.
fn manifest_of(settings: &Settings, open: &OpenGeneration, board: &Board) -> GenerationManifest {
    let mut manifest = GenerationManifest {
        generation: open.generation,
        kind: open.kind,
        checkpoint: open.checkpoint.clone(),
        corpus: settings.corpus.clone(),
        embeddings: vec![],
        query_embeddings: BTreeMap::new(),
        index: vec![],
        negatives: vec![],
        runs: BTreeMap::new(),
        metrics: BTreeMap::new(),
        counts: BTreeMap::new(),
    };
    for (number, output) in &open.done {
        let work = &board.plan.tasks[*number as usize].work;
        add_output(&mut manifest, work, output);
    }
    let reopened: u32 = open.reopened.values().sum();
    if reopened > 0 {
        let key = "reopened_tasks".to_owned();
        manifest.counts.insert(key, u64::from(reopened));
    }
    manifest
}

/// Puts a task's output where the manifest has it. Tasks come in plan order, so
/// shards, partitions and blocks do too.
fn add_output(manifest: &mut GenerationManifest, work: &Work, output: &TaskOutput) {
    for (name, count) in &output.counts {
        *manifest.counts.entry(name.clone()).or_default() += count;
    }
    let of = |role| output.of(role).cloned();
    match work {
        Work::EncodeQueries { block } => {
            let of_split = manifest.query_embeddings.entry(block.split.clone());
            of_split.or_default().extend(of(Role::QueryEmbeddings));
        }
        Work::EncodeShard { .. } => manifest.embeddings.extend(of(Role::Embeddings)),
        Work::BuildPartition { .. } => manifest.index.extend(of(Role::Index)),
        Work::SearchBlock { .. } => {}
        Work::MergeBlock {
            block, evaluate, ..
        }
        | Work::MineSparse { block, evaluate } => {
            if *evaluate {
                let runs = of(Role::Run).map(|object| (block.split.clone(), object));
                manifest.runs.extend(runs);
                manifest.metrics.extend(metrics_of(block, output));
            } else {
                manifest
                    .negatives
                    .extend(of(Role::Negatives).map(|object| BlockRef {
                        first_query: block.first_query,
                        queries: block.queries,
                        object,
                    }));
            }
        }
    }
}

/// Metrics under their names in a manifest, such as `dev/mrr@10`.
fn metrics_of<'a>(
    block: &'a Block,
    output: &'a TaskOutput,
) -> impl Iterator<Item = (String, f64)> + 'a {
    output.metrics.iter().map(|(name, value)| {
        let qualified = name.contains('/');
        let name = if qualified {
            name.clone()
        } else {
            format!("{}/{name}", block.split)
        };
        (name, *value)
    })
}
