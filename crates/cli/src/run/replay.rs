//! Repeating a run: the version log a run leaves, and what a repetition must share
//! with it.
//!
//! Owns: reading, writing and comparing version logs. Refuses: following one, which
//! coordinator and trainer do by `run.json`.

use super::difference::{differences, lies_in};
use super::{last_checkpoint, preflight};
use anyhow::{Context, Result, bail};
use quarry_artifacts::{
    CheckpointManifest, CheckpointRef, CorpusLocation, RunDocument, Store, VersionLog, VersionSwap,
};
use quarry_corpus::CorpusManifest;
use quarry_recipe::Recipe;
use std::path::{Path, PathBuf};

/// Keys that do not change what a run with a given version log computes.
const FREE: [&str; 7] = [
    "name",
    "refresh",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "fleet.workers",
    "fleet.lease_seconds",
    "fleet.cache_gib",
];

/// The version log in a file, or of the complete run in a store.
///
/// # Errors
/// If it cannot be read, is none, or the run is not complete.
pub async fn read(argument: &str) -> Result<VersionLog> {
    let path = Path::new(argument);
    if path.is_file() {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {argument}"))?;
        return Ok(VersionLog::parse(&bytes, argument)?);
    }
    let store = Store::open_existing(argument).await.with_context(|| {
        format!("--replay {argument}: neither a version log (versions.json) nor a store")
    })?;
    of_store(&store).await
}

/// The version log of the complete run in `store`.
///
/// # Errors
/// If there is no run, or it has not taken its last step.
pub async fn of_store(store: &Store) -> Result<VersionLog> {
    let document = RunDocument::read(store).await?;
    let recipe: Recipe = serde_json::from_value(document.recipe.clone())?;
    let manifest: CorpusManifest = serde_json::from_value(document.corpus.manifest.clone())?;
    let queries = manifest.queries.get(&recipe.data.train);
    let steps = preflight::total_steps(&recipe, queries.map_or(0, |q| u64::from(q.queries)));
    let last = last_checkpoint(store, steps).await.with_context(|| {
        format!(
            "{} holds no complete run; finish it with --resume",
            store.url()
        )
    })?;
    let checkpoint = CheckpointManifest::read(store, &last.manifest).await?;
    let swaps = VersionSwap::noted(&checkpoint).with_context(|| {
        format!(
            "{} has no version log; it was written by another version",
            last.manifest
        )
    })?;
    let log = VersionLog {
        version: VersionLog::VERSION,
        recipe: document.recipe,
        corpus: document.corpus.digest,
        initial: document.initial_checkpoint.digest,
        swaps,
        steps,
        model: last.digest,
    };
    match log.check() {
        Ok(()) => Ok(log),
        Err(reason) => bail!(
            "the version log of {} cannot be followed: {reason}",
            store.url()
        ),
    }
}

/// Writes the version log of the complete run in `store` beside its losses.
///
/// # Errors
/// The store's or the disk's failure.
pub async fn keep(store: &Store, folder: &Path) -> Result<PathBuf> {
    let log = of_store(store).await?;
    let path = folder.join("versions.json");
    let whole = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot write into {}", folder.display()))?;
    serde_json::to_writer_pretty(&whole, &log)?;
    whole
        .persist(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Takes the numbers of threads from `log` where `recipe` leaves them open: they
/// are part of what gives the bits, whatever machine this is.
///
/// # Errors
/// If the log's recipe is of another version.
pub fn pin_threads(log: &VersionLog, recipe: &mut Recipe) -> Result<()> {
    let theirs = recipe_of(log)?;
    recipe.fleet.fill_threads(&theirs.fleet);
    Ok(())
}

/// Refuses a recipe that computes something else than the one of `log`.
///
/// # Errors
/// Naming the first key that differs.
pub fn check_recipe(log: &VersionLog, recipe: &Recipe) -> Result<()> {
    let is_free = |key: &str| FREE.iter().any(|free| lies_in(key, free));
    let differing = differences(recipe, &recipe_of(log)?)?;
    if let Some(first) = differing.iter().find(|d| !is_free(&d.key)) {
        bail!(
            "recipe key `{}`: {} here, {} in the version log; --replay needs the recipe of the run it repeats",
            first.key,
            first.here,
            first.there
        );
    }
    Ok(())
}

fn recipe_of(log: &VersionLog) -> Result<Recipe> {
    serde_json::from_value(log.recipe.clone())
        .context("the version log's recipe is not of this version")
}

/// Refuses another collection or another first model than those of `log`.
///
/// # Errors
/// Naming what differs.
pub fn check_inputs(
    log: &VersionLog,
    corpus: &CorpusLocation,
    first: &CheckpointRef,
) -> Result<()> {
    for (what, option, ours, theirs) in [
        ("collection", "--data", &corpus.digest, &log.corpus),
        ("initial model", "--model", &first.digest, &log.initial),
    ] {
        if ours != theirs {
            bail!(
                "the {what} is {} here, {} in the version log; --replay needs the {option} of the run it repeats",
                ours.short(),
                theirs.short()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_artifacts::Digest;

    fn log(recipe: &Recipe) -> VersionLog {
        VersionLog {
            version: VersionLog::VERSION,
            recipe: serde_json::to_value(recipe).unwrap(),
            corpus: Digest::of(b"corpus"),
            initial: Digest::of(b"initial"),
            swaps: vec![],
            steps: 1,
            model: Digest::of(b"final"),
        }
    }

    #[test]
    fn what_changes_no_bit_may_differ() {
        let log = log(&Recipe::default());
        let mut recipe = Recipe {
            name: "again".into(),
            ..Recipe::default()
        };
        recipe.refresh.max_staleness = 7;
        recipe.fleet.workers = 3;
        recipe.fleet.lease_seconds = 60;
        recipe.train.keep_checkpoints = 9;
        check_recipe(&log, &recipe).unwrap();
    }

    #[test]
    fn threads_left_open_are_the_logs() {
        let mut theirs = Recipe::default();
        theirs.fleet.trainer_threads = 7;
        theirs.fleet.worker_threads = 3;
        let log = log(&theirs);
        let mut recipe = Recipe::default();
        pin_threads(&log, &mut recipe).unwrap();
        check_recipe(&log, &recipe).unwrap();
        assert_eq!(recipe.fleet.trainer_threads, 7);
        recipe.fleet.worker_threads = 4;
        let refused = check_recipe(&log, &recipe).unwrap_err().to_string();
        assert!(
            refused.contains("`fleet.worker_threads`: 4 here, 3 in"),
            "{refused}"
        );
    }

    #[test]
    fn what_changes_bits_is_named() {
        let log = log(&Recipe::default());
        let refused = |change: fn(&mut Recipe)| {
            let mut recipe = Recipe::default();
            change(&mut recipe);
            check_recipe(&log, &recipe).unwrap_err().to_string()
        };
        assert!(refused(|r| r.seed = 99).contains("`seed`: 99 here"));
        assert!(refused(|r| r.train.temperature = 0.5).contains("`train.temperature`"));
        assert!(refused(|r| r.mining.keep = 3).contains("`mining.keep`: 3 here"));
        assert!(refused(|r| r.fleet.trainer_threads = 64).contains("`fleet.trainer_threads`"));
    }
}
