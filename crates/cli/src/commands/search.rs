//! `quarry search`: one question against a run's corpus.

use crate::ranking::language_of;
use crate::run::setup::load_options;
use crate::{block_on, resources};
use anyhow::{Context, Result, bail};
use clap::Args;
use quarry_artifacts::{
    Cache, CachedFile, CheckpointFiles, GenerationKind, GenerationManifest, RunDocument, Store,
    fetch_checkpoint, fetch_corpus_file, layout, read_json,
};
use quarry_corpus::{Corpus, CorpusManifest, Embeddings, Tokenize};
use quarry_index::{ExactIndex, Hit, Part, Search, SparseIndex};
use quarry_model::{DualEncoder, TextTokenizer};
use quarry_recipe::Recipe;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use tch::Device;

/// Arguments of `quarry search`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  quarry search --store runs/ance -k 5 \"Who led the Norman conquest?\""
)]
pub struct SearchArgs {
    /// Store of the run.
    #[arg(long)]
    store: String,
    /// Generation to search with; the newest dense one if not given. 0 is BM25.
    #[arg(long)]
    generation: Option<u64>,
    /// Passages to show.
    #[arg(short, default_value_t = 10)]
    k: usize,
    /// The question.
    text: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the store holds no run or no such generation, or an object of it is damaged.
pub fn execute(args: &SearchArgs) -> Result<ExitCode> {
    if args.k == 0 {
        bail!("-k must be at least 1, the number of passages to show");
    }
    if args.text.trim().is_empty() {
        bail!("the question is empty; give some words to search for");
    }
    tch::set_num_threads(i32::try_from(resources::cores())?);
    let (corpus, generation, hits) = block_on(search(args))?;
    if args.json {
        let hits: Vec<_> = hits
            .iter()
            .map(|hit| json!({ "id": corpus.id(hit.row), "score": hit.score, "text": corpus.text(hit.row) }))
            .collect();
        println!("{}", json!({ "generation": generation, "hits": hits }));
        return Ok(ExitCode::SUCCESS);
    }
    for (rank, hit) in hits.iter().enumerate() {
        println!("{:>3}  {:.4}  {}", rank + 1, hit.score, corpus.id(hit.row));
        println!("     {}", shorten(corpus.text(hit.row), 160));
    }
    Ok(ExitCode::SUCCESS)
}

fn shorten(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

async fn search(args: &SearchArgs) -> Result<(Corpus, u64, Vec<Hit>)> {
    let store = Store::open_existing(&args.store).await?;
    let document = match RunDocument::read(&store).await {
        Err(error) if error.is_not_found() => bail!(
            "{url} holds no run to search; `quarry run RECIPE --store {url}` begins one there, with --data and --model",
            url = store.url()
        ),
        read => read?,
    };
    let recipe: Recipe = serde_json::from_value(document.recipe.clone()).with_context(|| {
        format!(
            "{}: the recipe in run.json is not of this version",
            store.url()
        )
    })?;
    let generation = choose(&store, args.generation).await?;
    let cache = Cache::new(cache_folder(&store)?, 1 << 33)?;
    let manifest: CorpusManifest = serde_json::from_value(document.corpus.manifest.clone())
        .with_context(|| format!("{}: not a corpus manifest", document.corpus.folder))?;
    let mut held: Vec<CachedFile> = Vec::new();
    for shard in &manifest.shards {
        held.push(fetch_corpus_file(&store, &cache, &document.corpus, &shard.file).await?);
    }
    let shards: Vec<PathBuf> = held.iter().map(|file| file.path().to_path_buf()).collect();
    let corpus = Corpus::open(&shards)?;
    let hits = match generation.kind {
        GenerationKind::Bm25 => sparse(&corpus, &recipe, &args.text, args.k)?,
        GenerationKind::Dense => {
            dense(&store, &cache, &recipe, &generation, &args.text, args.k).await?
        }
    };
    Ok((corpus, generation.generation, hits))
}

/// The wanted generation, or the newest dense one whose embeddings are kept.
async fn choose(store: &Store, wanted: Option<u64>) -> Result<GenerationManifest> {
    if let Some(number) = wanted {
        let path = layout::generation_manifest(number);
        return read_json(store, &path, "generation manifest")
            .await
            .with_context(|| format!("no generation {number} in {}", store.url()));
    }
    let listed = store.list(layout::generations_folder(), None).await?;
    let mut paths: Vec<&String> = listed
        .iter()
        .map(|(path, _)| path)
        .filter(|path| path.ends_with(layout::MANIFEST))
        .collect();
    paths.sort();
    for path in paths.into_iter().rev() {
        let manifest: GenerationManifest = read_json(store, path, "generation manifest").await?;
        if manifest.kind == GenerationKind::Dense {
            return Ok(manifest);
        }
    }
    bail!(
        "{} holds no dense generation yet; search generation 0 (BM25) with --generation 0",
        store.url()
    )
}

fn sparse(corpus: &Corpus, recipe: &Recipe, text: &str, k: usize) -> Result<Vec<Hit>> {
    let language = match recipe.data.language.as_str() {
        "auto" => language_of(corpus),
        name => name.parse()?,
    };
    let folder = tempfile::tempdir()?;
    let index = SparseIndex::build(
        folder.path().join("index"),
        corpus.texts(),
        language,
        &mut |_| {},
    )?;
    Ok(index.search(text, k)?)
}

async fn dense(
    store: &Store,
    cache: &Cache,
    recipe: &Recipe,
    generation: &GenerationManifest,
    text: &str,
    k: usize,
) -> Result<Vec<Hit>> {
    let folder = cache
        .folder()
        .join(format!("model-{}", generation.checkpoint.digest.short()));
    fetch_checkpoint(
        store,
        cache,
        &generation.checkpoint.manifest,
        CheckpointFiles::Model,
        &folder,
    )
    .await?;
    let model = DualEncoder::load(&folder, &load_options(recipe))?;
    let tokenizer = TextTokenizer::from_dir(&folder)?;
    let length = recipe.model.query_length.min(model.max_length());
    let text = format!("{}{text}", recipe.model.query_prefix);
    let tokens = tokenizer
        .content_ids(&[text], length - 2)
        .map_err(anyhow::Error::msg)?;
    let query = model.query().encode(
        &[tokens[0].as_slice()],
        tokenizer.specials(),
        length,
        length,
        &mut |_| {},
    )?;
    let mut parts: Vec<Part> = Vec::new();
    let mut held: Vec<CachedFile> = Vec::new();
    for object in &generation.embeddings {
        let file = cache.fetch(store, object).await.with_context(|| {
            format!(
                "generation {} is retired: its embeddings were collected; search a kept one",
                generation.generation
            )
        })?;
        parts.push(Part::from_embeddings(Embeddings::open(file.path())?)?);
        held.push(file);
    }
    let index = ExactIndex::new(parts, Device::Cpu)?;
    let mut hits = index.search(&query, k)?;
    Ok(hits.pop().unwrap_or_default())
}

/// Beside a local store; in the system's own place for a remote one.
fn cache_folder(store: &Store) -> Result<PathBuf> {
    Ok(match store.local_folder() {
        Some(folder) => folder.join("cache").join("quarry"),
        None => std::env::temp_dir().join("quarry-cache"),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(super::shorten("梵文的研究", 2), "梵文…");
        assert_eq!(super::shorten("ab", 2), "ab");
    }
}
