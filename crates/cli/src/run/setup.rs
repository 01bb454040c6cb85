//! What a run needs in its store before any process starts: the prepared
//! corpus, the initial checkpoint, and `run.json`, each published whole.

use crate::collection::{Leniency, format_of, prepare_with_progress};
use anyhow::{Context, Result, bail};
use quarry_artifacts::{
    CheckpointOrigin, CheckpointRef, CorpusLocation, Created, Digest, RunDocument, Store,
    VersionLog, layout, publish_checkpoint, publish_corpus,
};
use quarry_corpus::{CorpusManifest, Format, PrepareOptions, Tokenize};
use quarry_index::{IndexSpec, Language};
use quarry_model::{DualEncoder, LoadOptions, TextTokenizer};
use quarry_recipe::{Pooling, Recipe, Towers};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// First and last token of the BERT family.
const SPECIALS: usize = 2;

/// How a recipe wants `data` read, for a model that takes `max_length` tokens.
///
/// # Errors
/// If the folder looks like no known layout.
pub fn prepare_options(recipe: &Recipe, data: &Path, max_length: usize) -> Result<PrepareOptions> {
    let given = match recipe.data.format.as_str() {
        "auto" => None,
        name => Some(
            name.parse::<Format>()
                .map_err(|e| anyhow::anyhow!("recipe key `data.format`: {e}"))?,
        ),
    };
    let passage = match recipe.model.passage_length {
        0 => max_length,
        length => length,
    };
    for (key, length) in [
        ("model.passage_length", passage),
        ("model.query_length", recipe.model.query_length),
        ("train.passage_length", recipe.train.passage_length),
    ] {
        if length > max_length {
            bail!(
                "recipe key `{key}`: {length} tokens, but the model takes {max_length}; lower it"
            );
        }
    }
    let mut splits = vec![recipe.data.train.clone(), recipe.data.dev.clone()];
    if !recipe.data.test.is_empty() {
        splits.push(recipe.data.test.clone());
    }
    Ok(PrepareOptions {
        format: format_of(data, given)?,
        shard_passages: recipe.data.shard_passages,
        passage_prefix: recipe.model.passage_prefix.clone(),
        query_prefix: recipe.model.query_prefix.clone(),
        passage_tokens: passage - SPECIALS,
        query_tokens: recipe.model.query_length - SPECIALS,
        splits,
        strictness: recipe.data.strictness,
    })
}

/// Checks the keys whose meaning belongs to the search structures: only there is
/// known which languages and index kinds exist.
///
/// # Errors
/// If `data.language` or `index.kind` names nothing, or does not fit vectors of
/// dimension `dim`, with the key.
pub fn check_search_keys(recipe: &Recipe, dim: usize) -> Result<()> {
    if recipe.data.language != "auto" {
        recipe
            .data
            .language
            .parse::<Language>()
            .map_err(|e| anyhow::anyhow!("recipe key `data.language`: {e}"))?;
    }
    if recipe.index.kind != "exact" {
        IndexSpec::new(recipe.index.kind.as_str())
            .check_for(dim)
            .map_err(|e| anyhow::anyhow!("recipe key `index.kind`: {e}"))?;
    }
    Ok(())
}

/// Opens a store that outlasts this command. If it is to be `new`, a local folder is
/// made for it, otherwise it must be there.
///
/// # Errors
/// If the address cannot be used, or what is put there would be gone at the end.
pub async fn open_store(url: &str, new: bool) -> Result<Store> {
    let store = match new {
        true => Store::open(url).await?,
        false => Store::open_existing(url).await?,
    };
    if store.url() == "memory:" {
        bail!(
            "a store in memory ends with this command and nobody else sees it; give --store a folder, file:///…, s3://…, gs://… or az://…"
        );
    }
    Ok(store)
}

/// Reads, checks, tokenises and publishes the collection.
///
/// # Errors
/// The first fault of the input, with file and line, or the store's.
pub async fn publish_collection(
    store: &Store,
    data: &Path,
    tokenizer: &dyn Tokenize,
    options: &PrepareOptions,
) -> Result<(CorpusLocation, CorpusManifest)> {
    let staging = staging_folder(store)?;
    let manifest = prepare_with_progress(data, staging.path(), tokenizer, options, Leniency::Key)?;
    let files: Vec<String> = manifest
        .shards
        .iter()
        .map(|s| s.file.clone())
        .chain(manifest.queries.values().map(|q| q.file.clone()))
        .collect();
    let digest: Digest = manifest.digest().parse()?;
    let json = serde_json::to_value(&manifest)?;
    let location = publish_corpus(store, &digest, staging.path(), &files, json).await?;
    Ok((location, manifest))
}

/// Publishes the model folder as the checkpoint of step 0, with the recipe's
/// towers, pooling and normalisation written into it.
///
/// # Errors
/// If the model cannot be read or the store fails.
pub async fn publish_initial_model(
    store: &Store,
    recipe: &Recipe,
    folder: &Path,
) -> Result<CheckpointRef> {
    let options = load_options(recipe);
    let mut model = DualEncoder::load(folder, &options)?;
    if recipe.model.towers == Towers::Separate {
        model.untie()?;
    } else if !model.shared() {
        bail!(
            "{} holds two towers; set `model.towers = \"separate\"` in the recipe to train both",
            folder.display()
        );
    }
    let staging = staging_folder(store)?;
    model.save(staging.path())?;
    let origin = CheckpointOrigin {
        created_unix: unix_now(),
        ..CheckpointOrigin::default()
    };
    Ok(publish_checkpoint(store, 0, staging.path(), origin)
        .await?
        .reference())
}

/// How the recipe wants model folders read.
#[must_use]
pub fn load_options(recipe: &Recipe) -> LoadOptions {
    LoadOptions {
        pooling: match recipe.model.pooling {
            Pooling::Auto => None,
            Pooling::Cls => Some(quarry_model::Pooling::Cls),
            Pooling::Mean => Some(quarry_model::Pooling::Mean),
        },
        normalize: recipe.model.normalize,
        ..LoadOptions::default()
    }
}

/// Refuses a store that holds a run, if `new_run` wants to begin one there: before
/// any work is done, while [`publish_run`] is what makes it certain.
///
/// # Errors
/// If the store holds a run.
pub async fn refuse_existing_run(store: &Store, new_run: bool) -> Result<()> {
    if new_run && store.head(layout::run_json()).await?.is_some() {
        bail!(
            "{} already holds a run; go on with it by `quarry run RECIPE --store {} --resume`, or choose another --store",
            store.url(),
            store.url()
        );
    }
    Ok(())
}

/// Writes `run.json`, after which the run exists.
///
/// # Errors
/// If another run owns the store.
pub async fn publish_run(
    store: &Store,
    recipe: &Recipe,
    corpus: CorpusLocation,
    tokenizer: &TextTokenizer,
    initial_checkpoint: CheckpointRef,
    replay: Option<VersionLog>,
) -> Result<RunDocument> {
    let document = RunDocument {
        version: RunDocument::VERSION,
        recipe: serde_json::to_value(recipe)?,
        corpus,
        tokenizer_digest: tokenizer
            .digest()
            .parse()
            .context("the tokenizer's digest")?,
        initial_checkpoint,
        created: unix_now(),
        replay,
    };
    match document.publish(store).await? {
        Created::Yes => Ok(document),
        Created::Exists => bail!(
            "{} was taken by another run meanwhile; choose another --store",
            store.url()
        ),
    }
}

/// A scratch folder beside a local store, so that publishing does not cross
/// file systems; in the system's own place for a remote one.
fn staging_folder(store: &Store) -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".staging-");
    match store.local_folder() {
        Some(folder) => builder.tempdir_in(folder),
        None => builder.tempdir(),
    }
    .with_context(|| format!("cannot make a scratch folder for {}", store.url()))
}

/// Seconds since 1970, for people to read.
fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
