//! Going on with a run: the one in the store, under the recipe it began with.
//!
//! Owns: what may change when a run goes on, and what is said of the rest. Refuses:
//! making or writing anything; a mistyped --store stays the nothing it was.

use super::difference::{Difference, differences, lies_in};
use super::setup;
use anyhow::{Context, Result, bail};
use quarry_artifacts::{RunDocument, Store};
use quarry_recipe::Recipe;
use std::path::Path;

/// The one key that may change: inferencers are started by `quarry run` alone, and
/// how many there are is not part of what the run computes. The others are read from
/// run.json by every program.
const WORKERS: &str = "fleet.workers";

/// Opens the store of a run to go on with.
///
/// # Errors
/// If there is no such store.
pub async fn open(url: &str) -> Result<Store> {
    if is_missing_folder(url) {
        bail!(
            "nothing to resume in {url}: there is no such folder; check --store, or start without --resume"
        );
    }
    setup::open_store(url, false).await
}

/// Whether `url` names a local folder that is not there.
fn is_missing_folder(url: &str) -> bool {
    let path = url.strip_prefix("file://").unwrap_or(url);
    let is_other = url.contains(':') && !url.starts_with("file:");
    !is_other && !Path::new(path).exists()
}

/// The run in the store, and the recipe that every program of it follows. `given`
/// is the recipe at hand, `overrides` what `--set` changed in it.
///
/// # Errors
/// If there is no run, or `--set` asks for another one.
pub async fn find_run(
    store: &Store,
    given: Recipe,
    overrides: &[String],
) -> Result<(RunDocument, Recipe)> {
    let url = store.url();
    let document = match RunDocument::read(store).await {
        Err(error) if error.is_not_found() => bail!(
            "nothing to resume in {url}: it holds no run; check --store, or start without --resume"
        ),
        outcome => outcome?,
    };
    let own: Recipe = serde_json::from_value(document.recipe.clone())
        .with_context(|| format!("{url}: the recipe in run.json is not of this version"))?;
    let (own, ignored) = carry_on(own, given, overrides, url)?;
    if !ignored.is_empty() {
        tracing::warn!(
            "the recipe differs from the one that the run began with, whose values stay: {}",
            list(&ignored)
        );
    }
    Ok((document, own))
}

/// The recipe of the run, with what may change taken from `given`; and what of
/// `given` has no effect.
fn carry_on(
    mut own: Recipe,
    mut given: Recipe,
    overrides: &[String],
    url: &str,
) -> Result<(Recipe, Vec<Difference>)> {
    given.fleet.fill_threads(&own.fleet);
    let is_set = |key: &str| overrides.iter().any(|set| lies_in(key, key_of(set)));
    if is_set(WORKERS) {
        own.fleet.workers = given.fleet.workers;
    }
    let ignored = differences(&given, &own)?;
    let asked: Vec<Difference> = ignored.iter().filter(|d| is_set(&d.key)).cloned().collect();
    if !asked.is_empty() {
        bail!(
            "--resume goes on with the recipe that the run in {url} began with, so --set cannot change {}; leave it out, or start a new run in another --store",
            list(&asked)
        );
    }
    Ok((own, ignored))
}

/// The key of `key=value`.
fn key_of(assignment: &str) -> &str {
    let (key, _) = assignment.split_once('=').unwrap_or((assignment, ""));
    key.trim()
}

fn list(differences: &[Difference]) -> String {
    let one = |d: &Difference| format!("{} ({} here, {} in the run)", d.key, d.here, d.there);
    let all: Vec<String> = differences.iter().map(one).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resumed(overrides: &[&str]) -> Result<(Recipe, Vec<Difference>)> {
        let mut own = Recipe::default();
        own.fix_threads(8);
        let overrides: Vec<String> = overrides.iter().map(|set| (*set).to_owned()).collect();
        let given = Recipe::from_toml("[train]\nepochs = 2.0\n", "r.toml", &overrides).unwrap();
        carry_on(own, given, &overrides, "file:///run")
    }

    #[test]
    fn what_the_file_says_otherwise_is_named_and_has_no_effect() {
        let (own, ignored) = resumed(&[]).unwrap();
        assert_eq!(own.train.epochs, 1.0);
        assert_eq!(
            list(&ignored),
            "train.epochs (2 here, 1 in the run)",
            "threads that are left open differ from nothing"
        );
    }

    #[test]
    fn what_set_says_otherwise_is_refused_with_both_values() {
        let said = resumed(&["seed=2", "train.batch_size=16"]).unwrap_err();
        let said = said.to_string();
        for words in [
            "file:///run",
            "seed (2 here, 13 in the run)",
            "train.batch_size (16 here, 32 in the run)",
            "new run",
        ] {
            assert!(said.contains(words), "`{words}` is not in: {said}");
        }
        assert!(!said.contains("epochs"), "{said}");
        assert!(resumed(&["seed=13"]).is_ok(), "the run's own value");
    }

    #[test]
    fn only_a_local_folder_can_be_seen_to_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().to_str().unwrap();
        for there in [
            here,
            &format!("file://{here}"),
            "s3://bucket/run",
            "memory:",
            "ftp://x",
        ] {
            assert!(!is_missing_folder(there), "{there}");
        }
        for gone in [
            format!("{here}/x"),
            format!("file://{here}/x"),
            "runs/nothing-here".into(),
        ] {
            assert!(is_missing_folder(&gone), "{gone}");
        }
    }

    #[test]
    fn the_number_of_inferencers_may_change() {
        let (own, ignored) = resumed(&["fleet.workers=3"]).unwrap();
        assert_eq!(own.fleet.workers, 3);
        assert_eq!(ignored.len(), 1, "{ignored:?}");
    }
}
