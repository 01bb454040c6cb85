//! A folder with everything a run needs: a tiny collection, a tiny model, a
//! recipe, and room for the store.

use crate::collection::{SIZES, write_collection};
use crate::finished::Finished;
use crate::model::write_model;
use crate::processes::{Signal, processes_naming, signal};
use crate::programs::program;
use crate::running::Running;
use crate::store::RunStore;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// How long any one command of a test may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Sized so that a run takes seconds, with one thread for each process. The
/// staleness bound makes the trainer, which is much faster than the fleet, take
/// at least one generation in 30 steps.
const RECIPE: &str = r#"
name = "tiny"
[data]
language = "english"
shard_passages = 16
block_queries = 32
[model]
query_length = 32
precision = "f32"
[mining]
depth = 100
keep = 20
[refresh]
when = "idle"
max_staleness = 30
on_stale = "block"
keep_generations = 100
[train]
batch_size = 8
max_steps = 90
passage_length = 48
learning_rate = 1e-3
precision = "f32"
checkpoint_every = 10
keep_checkpoints = 100
[fleet]
workers = 1
trainer_threads = 1
worker_threads = 1
lease_seconds = 5
"#;

/// The folder; it goes with everything in it when dropped.
pub struct Site {
    folder: TempDir,
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// A new folder with collection, model and recipe.
    ///
    /// # Panics
    /// If the disk fails.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("quarry-site-")
            .tempdir()
            .unwrap();
        let site = Self { folder };
        let texts = write_collection(&site.data(), SIZES);
        write_model(&site.model(), &texts);
        std::fs::write(site.recipe(), RECIPE).unwrap();
        site
    }

    /// Path of `name` in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The collection.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The initial model.
    #[must_use]
    pub fn model(&self) -> PathBuf {
        self.path("model")
    }

    /// The recipe.
    #[must_use]
    pub fn recipe(&self) -> PathBuf {
        self.path("recipe.toml")
    }

    /// The store named `name`, which need not exist yet.
    #[must_use]
    pub fn store(&self, name: &str) -> RunStore {
        RunStore::new(self.path(name))
    }

    /// Starts `quarry run` with a new store `name` on a free port.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(&self, name: &str, arguments: &[&str]) -> Running {
        self.start_at(name, Some("127.0.0.1:0"), arguments)
    }

    /// As [`Site::start`], with the coordinator at `listen`, or where the command
    /// itself puts it.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start_at(&self, name: &str, listen: Option<&str>, arguments: &[&str]) -> Running {
        let (data, model) = (self.data(), self.model());
        let inputs = [
            "--data",
            data.to_str().unwrap(),
            "--model",
            model.to_str().unwrap(),
        ];
        self.launch(name, listen, &[&inputs, arguments].concat())
    }

    /// Starts `quarry run --resume` on the store `name`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn resume(&self, name: &str, arguments: &[&str]) -> Running {
        self.launch(
            name,
            Some("127.0.0.1:0"),
            &[&["--resume"], arguments].concat(),
        )
    }

    fn launch(&self, name: &str, listen: Option<&str>, arguments: &[&str]) -> Running {
        let (recipe, store) = (self.recipe(), self.path(name));
        let fixed = [
            "run",
            recipe.to_str().unwrap(),
            "--store",
            store.to_str().unwrap(),
        ];
        let listen = listen.map_or_else(Vec::new, |address| vec!["--listen", address]);
        Running::start(
            &program("quarry"),
            &[&fixed, &listen[..], arguments].concat(),
            self.store(name),
        )
    }

    /// Runs `quarry` with `arguments` to its end.
    ///
    /// # Panics
    /// If it takes too long.
    #[must_use]
    pub fn quarry(&self, arguments: &[&str]) -> Finished {
        self.command("quarry", arguments)
    }

    /// Runs the program `name` with `arguments` to its end.
    ///
    /// # Panics
    /// If it takes too long.
    #[must_use]
    pub fn command(&self, name: &str, arguments: &[&str]) -> Finished {
        Running::start(&program(name), arguments, self.store("no-store")).wait_within(LIMIT)
    }
}

impl Drop for Site {
    /// Ends what a failed test left running.
    fn drop(&mut self) {
        for process in processes_naming(self.folder()) {
            let _ = signal(process.pid, Signal::Kill);
        }
    }
}
