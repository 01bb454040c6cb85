//! The merge alone: generated candidates of many questions over several partitions, block by block through the task
//! that a worker does. Prints one JSON line; `scripts/bench size` watches its memory.
//!
//!   cargo run -p quarry-inferencer --example merge -- STORE PARTITIONS
//!
//! STORE is a local one that `quarry prepare --recipe` made. Its training questions, `data.block_queries` a block, get
//! `mining.depth` candidates in each of PARTITIONS equal ranges of the corpus.

use anyhow::{Context, Result};
use quarry_artifacts::{ObjectRef, RunDocument, Store, layout};
use quarry_corpus::{CandidateList, Candidates, CorpusManifest, QuerySet};
use quarry_inferencer::{Depot, Perform, Progress, Workshop};
use quarry_proto::{Block, Task, Work};
use quarry_recipe::Recipe;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tch::Device;
use tokio::runtime::Runtime;

const GENERATION: u64 = 1;
/// A candidate's row follows from the one before it by this step, which no range here is a multiple of.
const STRIDE: u32 = 7919;

struct Setting {
    runtime: Runtime,
    store: Store,
    folder: PathBuf,
    run: RunDocument,
    recipe: Recipe,
    passages: u32,
    queries: QuerySet,
    partitions: u32,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "merge STORE PARTITIONS";
    let store = arguments.next().context(usage)?;
    let partitions = arguments.next().context(usage)?.parse().context(usage)?;
    let setting = Setting::open(&store, partitions)?;
    let cache = tempfile::tempdir()?;
    let depot = Depot::new(
        setting.runtime.handle().clone(),
        setting.store.clone(),
        cache.path(),
        1 << 30,
    )?;
    let mut shop = Workshop::new(setting.run.clone(), depot, Device::Cpu, 1)?;
    let (mut merging, mut blocks) = (Duration::ZERO, 0);
    let size = setting.recipe.data.block_queries;
    for first in (0..setting.queries.len()).step_by(size) {
        let block = Block {
            split: setting.recipe.data.train.clone(),
            first_query: first as u32,
            queries: size.min(setting.queries.len() - first) as u32,
        };
        let candidates = (0..partitions)
            .map(|partition| setting.candidates(&block, partition))
            .collect::<Result<Vec<_>>>()?;
        let started = Instant::now();
        shop.perform(
            &setting.task(block, candidates.clone()),
            &Progress::default(),
        )?;
        merging += started.elapsed();
        blocks += 1;
        for object in candidates {
            std::fs::remove_file(setting.folder.join(&object.path))?;
        }
    }
    let (queries, seconds) = (setting.queries.len(), merging.as_secs_f64());
    println!("{{\"queries\": {queries}, \"blocks\": {blocks}, \"seconds\": {seconds:.3}}}");
    Ok(())
}

impl Setting {
    fn open(url: &str, partitions: u32) -> Result<Self> {
        let runtime = Runtime::new()?;
        let store = runtime.block_on(Store::open_existing(url))?;
        let run = runtime.block_on(RunDocument::read(&store))?;
        let recipe: Recipe = serde_json::from_value(run.recipe.clone())?;
        let manifest: CorpusManifest = serde_json::from_value(run.corpus.manifest.clone())?;
        let folder = store
            .local_folder()
            .context("the store must be a local folder")?
            .to_owned();
        let train = &manifest
            .queries
            .get(&recipe.data.train)
            .context("no training questions")?
            .file;
        let queries = QuerySet::open(&folder.join(&run.corpus.file(train)?.path))?;
        Ok(Self {
            runtime,
            store,
            folder,
            passages: manifest.passages as u32,
            run,
            recipe,
            queries,
            partitions,
        })
    }

    /// The rows of a partition.
    fn rows(&self, partition: u32) -> Range<u32> {
        let share = self.passages / self.partitions;
        partition * share..(partition + 1) * share
    }

    /// Publishes what a search of `partition` could have found.
    fn candidates(&self, block: &Block, partition: u32) -> Result<ObjectRef> {
        let queries = block.first_query..block.first_query + block.queries;
        let lists: Vec<CandidateList> = queries.map(|query| self.list(query, partition)).collect();
        let scratch = tempfile::tempdir()?;
        let path = scratch.path().join("candidates.arrow");
        Candidates::write(&path, &lists)?;
        self.publish(
            &format!("{block}-{partition}").replace(['[', ']', '.'], "-"),
            &path,
        )
    }

    fn publish(&self, stem: &str, path: &Path) -> Result<ObjectRef> {
        let folder = layout::generation_candidates(GENERATION);
        let object = self.store.put_file(&folder, stem, "arrow", path);
        Ok(self.runtime.block_on(object)?)
    }

    /// Distinct rows, scores that fall from 1 and interleave with those of the other partitions.
    fn list(&self, query: u32, partition: u32) -> CandidateList {
        let rows = self.rows(partition);
        let span = rows.end - rows.start;
        let depth = (self.recipe.mining.depth as u32).min(span);
        let start = query.wrapping_mul(2_654_435_761) % span;
        let row = |place: u32| rows.start + (start + (place * STRIDE) % span) % span;
        let offset = (query ^ partition) % self.partitions;
        let score = |place: u32| 1.0 - (place * self.partitions + offset) as f32 / 1e6;
        let known = self.queries.known_positives(query as usize);
        let positives: Vec<u32> = known.into_iter().filter(|row| rows.contains(row)).collect();
        CandidateList {
            query,
            rows: (0..depth).map(row).collect(),
            scores: (0..depth).map(score).collect(),
            positive_scores: vec![1.0; positives.len()],
            positives,
        }
    }

    fn task(&self, block: Block, candidates: Vec<ObjectRef>) -> Task {
        Task {
            generation: GENERATION,
            number: 0,
            checkpoint: self.run.initial_checkpoint.clone(),
            work: Work::MergeBlock {
                block,
                candidates,
                evaluate: false,
            },
        }
    }
}
