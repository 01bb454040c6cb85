//! The run that is simulated: a small corpus, and a recipe drawn from the seed.

use crate::world::World;
use quarry_artifacts::{CheckpointRef, CorpusLocation, Digest, RunDocument, layout};
use quarry_coordinator::state::Settings;
use quarry_recipe::{OnStale, Recipe, RefreshWhen};
use serde_json::json;
use std::collections::BTreeMap;

/// What is drawn for a run.
#[derive(Clone)]
pub struct Scenario {
    pub recipe: Recipe,
    pub workers: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Whether its operator rolls back.
    pub rolls_back: bool,
}

impl Scenario {
    pub fn draw(world: &World) -> Self {
        let mut recipe = Recipe::default();
        recipe.data.block_queries = *world.one_of(&[5, 10, 10, 25]);
        recipe.data.shard_passages = 100;
        recipe.index.partition_passages = *world.one_of(&[100, 200, 1000]);
        if world.chance(0.3) {
            recipe.index.kind = "Flat".into();
        }
        recipe.fleet.lease_seconds = *world.one_of(&[2, 5, 5, 20]);
        recipe.train.checkpoint_every = *world.one_of(&[5, 10, 20]);
        recipe.train.keep_checkpoints = *world.one_of(&[1, 1, 3]);
        let refresh = &mut recipe.refresh;
        refresh.keep_generations = *world.one_of(&[1, 1, 2, 3]);
        if world.chance(0.3) {
            refresh.when = RefreshWhen::Steps;
            refresh.every_steps = 20;
        }
        // Training that blocks on staleness stays blocked after a rollback to what
        // is too stale, until its operator thinks better of it.
        let blocks = world.chance(0.25);
        if blocks {
            refresh.on_stale = OnStale::Block;
            refresh.max_staleness = world.between(15..40);
        }
        Self {
            recipe,
            workers: world.between(1..7),
            // Long enough for snapshots of the log, now and then.
            steps: if world.weather.is_long { 1_500 } else { 120 },
            rolls_back: !blocks && world.chance(0.5),
        }
    }

    /// `run.json` of the run that starts from `initial`.
    pub fn document(&self, initial: CheckpointRef) -> RunDocument {
        let corpus = Digest::of(b"corpus");
        RunDocument {
            version: RunDocument::VERSION,
            recipe: serde_json::to_value(&self.recipe).unwrap(),
            corpus: CorpusLocation {
                folder: layout::corpus_folder(&corpus),
                digest: corpus,
                files: BTreeMap::new(),
                manifest: json!({
                    "shards": [{"passages": 100}, {"passages": 100}, {"passages": 50}],
                    "queries": {"train": {"queries": 25}, "dev": {"queries": 5}},
                }),
            },
            tokenizer_digest: Digest::of(b"tokenizer"),
            initial_checkpoint: initial,
            created: 0,
            replay: None,
        }
    }

    pub fn settings(&self) -> Settings {
        let checkpoint = CheckpointRef {
            step: 0,
            digest: Digest::of(b""),
            manifest: String::new(),
        };
        Settings::from_run(&self.document(checkpoint)).unwrap()
    }
}
