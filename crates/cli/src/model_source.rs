//! From `--model` to a folder: a path as it stands, or a Hugging Face id found
//! in the local Hugging Face cache. Refuses to download: what a run trains on
//! should not depend on the network at the moment of its start.

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// The folder that `--model` means.
///
/// # Errors
/// If there is neither such a folder nor such an id in the cache.
pub fn resolve(model: &str) -> Result<PathBuf> {
    let folder = PathBuf::from(model);
    if folder.is_dir() {
        return Ok(folder);
    }
    if folder.exists() {
        bail!("--model {model} is a file; give the folder that holds config.json");
    }
    if let Some(snapshot) = cache_folders()
        .iter()
        .find_map(|cache| cached(cache, model))
    {
        return Ok(snapshot);
    }
    bail!(
        "no model at {model}: it is neither a folder nor an id in the Hugging Face cache; \
         fetch it first with `huggingface-cli download {model}`, or run scripts/setup for \
         .deps/models/all-MiniLM-L6-v2"
    )
}

/// Where Hugging Face keeps snapshots, most specific setting first.
fn cache_folders() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    [
        variable("HF_HUB_CACHE"),
        variable("HF_HOME").map(|home| home.join("hub")),
        variable("HOME").map(|home| home.join(".cache/huggingface/hub")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// `models--org--name/snapshots/<commit>`, the commit being what `refs/main` says.
fn cached(cache: &Path, id: &str) -> Option<PathBuf> {
    let repository = cache.join(format!("models--{}", id.replace('/', "--")));
    let commit = std::fs::read_to_string(repository.join("refs/main")).ok()?;
    let snapshot = repository.join("snapshots").join(commit.trim());
    snapshot.join("config.json").is_file().then_some(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_in_the_cache_by_its_main_commit() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--org--name");
        let snapshot = repository.join("snapshots/abc");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs/main"), "abc\n").unwrap();
        assert_eq!(
            cached(cache.path(), "org/name"),
            None,
            "a snapshot without config is no model"
        );
        std::fs::write(snapshot.join("config.json"), "{}").unwrap();
        assert_eq!(cached(cache.path(), "org/name"), Some(snapshot));
    }

    #[test]
    fn a_missing_model_says_what_to_do() {
        let message = resolve("no-such-org/no-such-model")
            .unwrap_err()
            .to_string();
        assert!(message.contains("huggingface-cli download"), "{message}");
    }
}
