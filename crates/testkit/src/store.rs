//! The store of a run on the local disk, looked at from outside: every object a
//! manifest names must be there with its size and hash.

use crate::losses::Losses;
use quarry_artifacts::{Digest, GenerationManifest, ObjectRef};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The folder of a store.
#[derive(Debug, Clone)]
pub struct RunStore {
    folder: PathBuf,
}

impl RunStore {
    /// The store in `folder`, which need not exist yet.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder as an argument.
    ///
    /// # Panics
    /// If the path is not text.
    #[must_use]
    pub fn url(&self) -> &str {
        self.folder.to_str().unwrap()
    }

    /// URL of the run's coordinator, once it listens.
    #[must_use]
    pub fn coordinator(&self) -> Option<String> {
        let address = std::fs::read_to_string(self.folder.join("coordinator.addr")).ok()?;
        Some(format!("http://{}", address.trim()))
    }

    /// What the trainer said of each step.
    #[must_use]
    pub fn losses(&self) -> Losses {
        Losses::read(&self.folder.join("losses.jsonl"))
    }

    /// The log of one program, such as `inferencer-0`.
    #[must_use]
    pub fn log(&self, program: &str) -> String {
        std::fs::read_to_string(self.folder.join(format!("logs/{program}.log"))).unwrap_or_default()
    }

    /// The logs of all programs.
    #[must_use]
    pub fn logs(&self) -> String {
        let programs = ["coordinator", "inferencer-0", "inferencer-1", "trainer"];
        programs
            .map(|name| format!("--- {name}\n{}", self.log(name)))
            .join("\n")
    }

    /// `run.json`.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn run_document(&self) -> Value {
        read_json(&self.folder.join("run.json"))
    }

    /// Steps of the published checkpoints, oldest first.
    #[must_use]
    pub fn checkpoints(&self) -> Vec<u64> {
        let step = |name: &str| name.split('-').next().unwrap().parse().unwrap();
        self.complete("checkpoints")
            .iter()
            .map(|name| step(name))
            .collect()
    }

    /// Folder of the published checkpoint of `step`.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn checkpoint_folder(&self, step: u64) -> PathBuf {
        let names = self.complete("checkpoints");
        let name = names
            .iter()
            .find(|name| name.starts_with(&format!("{step:08}-")));
        let name = name.unwrap_or_else(|| panic!("no checkpoint of step {step}: {names:?}"));
        self.folder.join("checkpoints").join(name)
    }

    /// Step of the newest published checkpoint of the trainer; 0 is the initial model.
    #[must_use]
    pub fn newest_checkpoint(&self) -> u64 {
        self.checkpoints().last().copied().unwrap_or(0)
    }

    /// The generation that is being made: its folder has objects but no manifest.
    #[must_use]
    pub fn open_generation(&self) -> Option<u64> {
        let complete = self.complete("generations");
        let open = folders(&self.folder.join("generations"))
            .into_iter()
            .find(|name| !complete.contains(name));
        open.and_then(|name| name.parse().ok())
    }

    /// The published generations, oldest first.
    ///
    /// # Panics
    /// If a manifest is not one.
    #[must_use]
    pub fn generations(&self) -> Vec<GenerationManifest> {
        let manifest = |name: &String| {
            let path = self
                .folder
                .join("generations")
                .join(name)
                .join("manifest.json");
            serde_json::from_value(read_json(&path))
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        self.complete("generations").iter().map(manifest).collect()
    }

    /// Asserts that every published generation is complete (law 2): all objects
    /// with their size and hash, blocks that cover every training question,
    /// embeddings of every shard, one checkpoint that exists. Of those older than
    /// `refresh.keep_generations` the coordinator may have deleted the bulk and the
    /// checkpoint, never the runs.
    ///
    /// # Panics
    /// If one is not.
    pub fn assert_generations_complete(&self) {
        let document = self.run_document();
        let kept = document["recipe"]["refresh"]["keep_generations"].as_u64();
        let generations = self.generations();
        let newest = generations.len().saturating_sub(kept.unwrap() as usize);
        for (i, generation) in generations.iter().enumerate() {
            assert_manifest(generation, &document["corpus"]["manifest"]);
            let runs: Vec<&ObjectRef> = generation.runs.values().collect();
            for object in generation.objects() {
                let deleted = !self.folder.join(&object.path).exists();
                if !deleted || i >= newest || runs.contains(&object) {
                    self.assert_object(object);
                }
            }
            let checkpoint = self.folder.join(&generation.checkpoint.manifest);
            if i >= newest || checkpoint.exists() {
                assert_eq!(
                    read_json(&checkpoint)["digest"].as_str(),
                    Some(generation.checkpoint.digest.as_str()),
                    "generation {}",
                    generation.generation
                );
            }
        }
    }

    fn assert_object(&self, object: &ObjectRef) {
        let path = self.folder.join(&object.path);
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(
            bytes.len() as u64,
            object.size,
            "size of {}",
            path.display()
        );
        assert_eq!(
            Digest::of(&bytes),
            object.sha256,
            "hash of {}",
            path.display()
        );
    }

    /// Names of the folders under `kind` that have a manifest, sorted.
    fn complete(&self, kind: &str) -> Vec<String> {
        let root = self.folder.join(kind);
        folders(&root)
            .into_iter()
            .filter(|name| root.join(name).join("manifest.json").is_file())
            .collect()
    }
}

fn folders(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|item| item.path().is_dir())
        .filter_map(|item| item.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn assert_manifest(generation: &GenerationManifest, corpus: &Value) {
    let questions = corpus["queries"]["train"]["queries"].as_u64().unwrap();
    let shards = corpus["shards"].as_array().unwrap().len();
    let number = generation.generation;
    generation
        .check()
        .unwrap_or_else(|e| panic!("generation {number}: {e}"));
    let covered: u64 = generation
        .negatives
        .iter()
        .map(|block| u64::from(block.queries))
        .sum();
    assert_eq!(
        covered, questions,
        "generation {number} has negatives for another number of questions"
    );
    let dense = generation.kind.to_string() == "dense";
    let expected = if dense { shards } else { 0 };
    assert_eq!(
        generation.embeddings.len(),
        expected,
        "generation {number} has other embeddings than shards"
    );
    assert!(
        generation.runs.contains_key("dev"),
        "generation {number} has no run of the dev questions"
    );
    assert!(
        generation.metrics.contains_key("dev/mrr@10"),
        "generation {number}: {:?}",
        generation.metrics
    );
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
