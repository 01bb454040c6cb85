//! A prepared run of a wanted number of tasks, and the coordinator that leads it.

use crate::meter::{Usage, peak_memory_mib};
use anyhow::{Context, Result};
use quarry_artifacts::{
    CheckpointOrigin, CorpusLocation, Digest, RunDocument, Store, layout, publish_checkpoint,
};
use quarry_recipe::Recipe;
use quarry_service::port_file;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// Blocks of training queries, half a million queries at the default size.
const TRAIN_BLOCKS: u32 = 61;
/// Queries of the dev split, as MS MARCO has.
const DEV_QUERIES: u32 = 6_980;

/// A run in a folder that goes when this does.
pub struct Site {
    folder: TempDir,
    pub store: Store,
    /// Tasks of a dense generation.
    pub tasks: u32,
}

impl Site {
    /// A run by the default recipe whose dense generations have `tasks` tasks, or the
    /// fewest less: mostly shards to encode.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub async fn prepare(tasks: u32) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().join("store");
        let store = Store::open(&root.to_string_lossy()).await?;
        let recipe = Recipe::default();
        let (shards, tasks) = shards_for(&recipe, tasks);
        let model = folder.path().join("model");
        std::fs::create_dir_all(&model)?;
        std::fs::write(model.join("model.safetensors"), b"weights")?;
        let initial = publish_checkpoint(&store, 0, &model, CheckpointOrigin::default()).await?;
        let corpus = Digest::of(b"corpus");
        let run = RunDocument {
            version: RunDocument::VERSION,
            recipe: serde_json::to_value(&recipe)?,
            corpus: CorpusLocation {
                folder: layout::corpus_folder(&corpus),
                digest: corpus,
                files: BTreeMap::new(),
                manifest: shape(&recipe, shards),
            },
            tokenizer_digest: Digest::of(b"tokenizer"),
            initial_checkpoint: initial.reference(),
            created: 0,
            replay: None,
        };
        run.publish(&store).await?;
        Ok(Self {
            folder,
            store,
            tasks,
        })
    }

    /// Starts the program at `path` on this run and waits until it leads.
    ///
    /// # Errors
    /// If it cannot be started or does not lead within a while.
    pub async fn start(&self, path: &Path) -> Result<Coordinator> {
        let port = self.folder.path().join("port");
        let process = Command::new(path)
            .arg("--store")
            .arg(self.folder.path().join("store"))
            .arg("--port-file")
            .arg(&port)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start {}; build it with `cargo build --bin quarry-coordinator`",
                    path.display()
                )
            })?;
        let addr = port_file::wait(&port, Duration::from_secs(30)).await?;
        Ok(Coordinator {
            process,
            url: format!("http://{addr}"),
        })
    }
}

fn shape(recipe: &Recipe, shards: u32) -> Value {
    let train = u64::from(TRAIN_BLOCKS) * recipe.data.block_queries as u64;
    let shards = vec![json!({"passages": recipe.data.shard_passages}); shards as usize];
    json!({
        "shards": shards,
        "queries": {
            recipe.data.train.clone(): {"queries": train},
            recipe.data.dev.clone(): {"queries": DEV_QUERIES},
        },
    })
}

/// The most shards for which a dense generation has at most `tasks` tasks, and how many
/// it has then: every block is encoded, searched in each partition and merged.
fn shards_for(recipe: &Recipe, tasks: u32) -> (u32, u32) {
    let of_partition = recipe
        .index
        .partition_passages
        .div_ceil(recipe.data.shard_passages) as u32;
    let blocks = TRAIN_BLOCKS + 1;
    let all = |shards: u32| shards + blocks * (2 + shards.div_ceil(of_partition));
    let fitting = (1..=tasks).rev().find(|shards| all(*shards) <= tasks);
    let shards = fitting.unwrap_or(1);
    (shards, all(shards))
}

/// The process under measurement.
pub struct Coordinator {
    process: Child,
    pub url: String,
}

impl Coordinator {
    fn pid(&self) -> Result<u32> {
        self.process
            .id()
            .context("the coordinator has ended; see its log")
    }

    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid()?)
    }

    pub fn peak_memory_mib(&self) -> Result<f64> {
        peak_memory_mib(self.pid()?)
    }

    pub async fn stop(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}
