//! `quarry run`: the whole machine on one computer.
//!
//! Pre-flight, preparation, three kinds of real processes on loopback, progress
//! while they work, an orderly stop on Ctrl-C, and the verdict at the end.

mod attend;
mod difference;
mod fleet;
pub mod preflight;
mod program;
mod progress;
mod replay;
mod resume;
pub mod setup;
mod verdict;
mod watch;

use crate::collection::describe;
use crate::{block_on, model_source, resources};
use anyhow::{Context, Result, bail};
use attend::{Exit, conduct};
use clap::Args;
use program::Place;
use quarry_artifacts::{
    Cache, CheckpointManifest, CheckpointRef, CorpusLocation, RunDocument, Store, layout,
};
use quarry_corpus::CorpusManifest;
use quarry_model::{ModelFolder, TextTokenizer};
use quarry_proto::v1::ListGenerationsResponse;
use quarry_recipe::{Precision, Recipe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use verdict::{Judge, Score};
pub use watch::line as progress_line;

/// Exit code after Ctrl-C, as shells expect it.
const INTERRUPTED: u8 = 130;

/// Arguments of `quarry run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quarry run recipes/ance.toml --data data/squad-mini --model .deps/models/all-MiniLM-L6-v2\n  \
    quarry run recipes/ance.toml --store runs/ance --resume\n  \
    quarry run recipes/dpr.toml --data DIR --model DIR --set train.learning_rate=3e-5 --set seed=2\n  \
    quarry run recipes/ance.toml --data DIR --model DIR --store runs/again --replay runs/ance/versions.json\n\n\
    Ctrl-C stops every program cleanly after writing a checkpoint; --resume goes on from there.\n\
    Logs, losses and caches lie beside the store, or in a folder of runs/ for a remote one.")]
pub struct RunArgs {
    /// Recipe file (recipes/ance.toml, recipes/dpr.toml).
    recipe: PathBuf,
    /// Collection folder. Not needed with --resume.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Initial model: folder, or a Hugging Face id in the local cache. Not needed with --resume.
    #[arg(long)]
    model: Option<String>,
    /// Where everything goes: file:///…, s3://…, gs://…, az://…, or a path. Default: runs/NAME.
    #[arg(long)]
    store: Option<String>,
    /// Inferencers to start; overrides fleet.workers.
    #[arg(long)]
    workers: Option<usize>,
    /// Override a recipe key: --set train.learning_rate=3e-5. May be repeated. With
    /// --resume only fleet.workers may differ from the run's own.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Go on with the run in the store.
    #[arg(long)]
    resume: bool,
    /// Repeat a run to the last bit: its version log (versions.json), or its store.
    #[arg(long, value_name = "LOG", conflicts_with = "resume")]
    replay: Option<String>,
    /// Address of the coordinator. Default: 127.0.0.1:7600, or any free port if that is taken.
    #[arg(long)]
    listen: Option<String>,
    /// Print one JSON object with all scores at the end.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// One sentence: what failed, where, what to do.
pub fn execute(args: RunArgs) -> Result<ExitCode> {
    tch::set_num_threads(i32::try_from(resources::cores())?);
    block_on(run(args))
}

async fn run(args: RunArgs) -> Result<ExitCode> {
    let mut overrides = args.overrides.clone();
    if let Some(workers) = args.workers {
        overrides.push(format!("fleet.workers={workers}"));
    }
    let mut recipe = Recipe::load(&args.recipe, &overrides)?;
    let url = args
        .store
        .clone()
        .unwrap_or_else(|| format!("runs/{}", recipe.name));
    let (store, folder, document, recipe) = match args.resume {
        true => {
            let store = resume::open(&url).await?;
            let (document, own) = resume::find_run(&store, recipe, &overrides).await?;
            store.probe_create_if_absent().await?;
            let folder = run_folder(&store, &own);
            (store, folder, document, own)
        }
        false => {
            let store = setup::open_store(&url, true).await?;
            store.probe_create_if_absent().await?;
            let folder = run_folder(&store, &recipe);
            let document = new_run(&args, &store, &folder, &mut recipe).await?;
            (store, folder, document, recipe)
        }
    };
    let place = Place {
        store: store.url().to_owned(),
        folder: folder.clone(),
    };
    let (exit, generations) = conduct(&recipe, place, args.listen.as_deref(), args.resume).await?;
    match exit {
        Exit::Interrupted => {
            eprintln!(
                "stopped; go on with: quarry run {} --store {url} --resume",
                args.recipe.display()
            );
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Exit::Failed(reason) => {
            bail!("{reason}; what was published is kept, go on with --store {url} --resume")
        }
        Exit::Final(reason) => bail!("{reason}; what was published is kept in {url}"),
        Exit::Done => {}
    }
    let versions = match replay::keep(&store, &folder).await {
        Ok(path) => path.display().to_string(),
        Err(error) => format!("none: {error:#}"),
    };
    if let Some(log) = &document.replay {
        eprintln!(
            "repeated: the weights after step {} are those of the version log, bit for bit ({})",
            log.steps,
            log.model.short()
        );
    }
    let scores = judge(
        &store,
        &folder,
        &recipe,
        &document.corpus,
        &document,
        &generations,
    )
    .await?;
    present(&args, &url, &folder, &versions, &recipe, &scores)?;
    Ok(ExitCode::SUCCESS)
}

/// Where logs, losses and caches lie: in a local store itself; for a remote one in
/// a folder that no other store's run shares.
fn run_folder(store: &Store, recipe: &Recipe) -> PathBuf {
    let remote = || {
        let digest = quarry_artifacts::Digest::of(store.url().as_bytes());
        Path::new("runs").join(format!("{}-{}", recipe.name, digest.short()))
    };
    store.local_folder().map_or_else(remote, Path::to_path_buf)
}

/// Checks, prepares and publishes everything a new run needs.
async fn new_run(
    args: &RunArgs,
    store: &Store,
    folder: &Path,
    recipe: &mut Recipe,
) -> Result<RunDocument> {
    setup::refuse_existing_run(store, true).await?;
    let (Some(data), Some(model)) = (&args.data, &args.model) else {
        bail!("a new run needs --data DIR and --model DIR; --resume goes on with an old one");
    };
    let log = match &args.replay {
        Some(argument) => Some(replay::read(argument).await?),
        None => None,
    };
    if let Some(log) = &log {
        replay::pin_threads(log, recipe)?;
        replay::check_recipe(log, recipe)?;
    }
    recipe.fix_threads(resources::cores());
    let model = model_source::resolve(model)?;
    let model_folder = ModelFolder::open(&model)?;
    let tokenizer = TextTokenizer::from_dir(&model)?;
    setup::check_search_keys(recipe, usize::try_from(model_folder.config.hidden_size)?)?;
    let options = setup::prepare_options(recipe, data, model_folder.max_length)?;
    eprintln!("preparing {} …", data.display());
    let (corpus, manifest) = setup::publish_collection(store, data, &tokenizer, &options).await?;
    eprintln!("{}", describe(&manifest));
    check_batch(recipe, &manifest)?;
    check_resources(
        recipe,
        &model_folder,
        &manifest,
        store.local_folder().map(|_| folder),
    )?;
    let checkpoint = setup::publish_initial_model(store, recipe, &model).await?;
    if let Some(log) = &log {
        replay::check_inputs(log, &corpus, &checkpoint)?;
    }
    setup::publish_run(store, recipe, corpus, &tokenizer, checkpoint, log).await
}

/// Refuses a batch larger than the training split: its queries must be distinct.
fn check_batch(recipe: &Recipe, manifest: &CorpusManifest) -> Result<()> {
    let queries = manifest
        .queries
        .get(&recipe.data.train)
        .map_or(0, |entry| u64::from(entry.queries));
    if recipe.train.batch_size as u64 > queries {
        bail!(
            "recipe key `train.batch_size`: {} distinct queries a batch, but the split {} has {queries}; lower it",
            recipe.train.batch_size,
            recipe.data.train
        );
    }
    Ok(())
}

/// Prints the pre-flight and refuses what cannot fit.
fn check_resources(
    recipe: &Recipe,
    model: &ModelFolder,
    manifest: &CorpusManifest,
    disk: Option<&Path>,
) -> Result<()> {
    let machine = resources::Resources::read(disk);
    let needs = preflight::needs(recipe, preflight::ModelSize::of(model)?, manifest);
    let kind = match recipe.train.precision {
        Precision::F32 => tch::Kind::Float,
        Precision::Auto if !resources::has_native_bf16() => tch::Kind::Float,
        Precision::Auto | Precision::Bf16 => tch::Kind::BFloat16,
    };
    eprint!(
        "{}",
        preflight::describe(recipe, &needs, &machine, resources::matmul_flops(kind))
    );
    preflight::refuse_if_too_large(recipe, &needs, &machine)
}

/// Scores what no generation scored: zero-shot if need be, and the final model.
async fn judge(
    store: &Store,
    folder: &Path,
    recipe: &Recipe,
    corpus: &CorpusLocation,
    document: &RunDocument,
    generations: &ListGenerationsResponse,
) -> Result<Vec<Score>> {
    let mut scores = verdict::generation_scores(&generations.generations, &recipe.data.dev);
    let scratch = tempfile::Builder::new()
        .prefix("verdict-")
        .tempdir_in(folder)?;
    let cache = Cache::new(folder.join("cache").join("quarry"), 1 << 33)?;
    let judge = Judge::open(store, cache, scratch.path().to_path_buf(), recipe, corpus).await?;
    eprintln!("scoring the final model …");
    if !scores.iter().any(|score| score.step == Some(0)) {
        let zero = judge
            .score(
                "zero-shot",
                &document.initial_checkpoint,
                &[&recipe.data.dev],
            )
            .await?;
        let after_bm25 = usize::from(scores.first().is_some_and(|s| s.system == "bm25"));
        scores.splice(after_bm25..after_bm25, zero);
    }
    let last =
        last_checkpoint(store, preflight::total_steps(recipe, judge.train_queries())).await?;
    scores.extend(
        judge
            .score("final", &last, &[&recipe.data.dev, &recipe.data.test])
            .await?,
    );
    Ok(scores)
}

/// The checkpoint of the last step.
async fn last_checkpoint(store: &Store, step: u64) -> Result<CheckpointRef> {
    let listed = store.list(layout::checkpoints_folder(), None).await?;
    let prefix = format!("{}/{step:08}-", layout::checkpoints_folder());
    let path = listed
        .iter()
        .map(|(path, _)| path)
        .rfind(|path| path.starts_with(&prefix) && path.ends_with(layout::MANIFEST))
        .with_context(|| format!("the store holds no complete checkpoint of step {step}"))?;
    Ok(CheckpointManifest::read(store, path).await?.reference())
}

fn present(
    args: &RunArgs,
    url: &str,
    folder: &Path,
    versions: &str,
    recipe: &Recipe,
    scores: &[Score],
) -> Result<()> {
    if args.json {
        println!(
            "{}",
            serde_json::json!({ "store": url, "name": recipe.name, "seed": recipe.seed, "scores": scores })
        );
        return Ok(());
    }
    println!("{}", verdict::render(scores));
    println!("model and runs   {url}");
    println!(
        "losses and logs  {}/losses.jsonl, {}/logs",
        folder.display(),
        folder.display()
    );
    println!("version log      {versions}");
    println!();
    println!("next:");
    println!("  quarry export --store {url} --output my-model   # a sentence-transformers folder");
    println!("  quarry search --store {url} -k 5 \"your question\"");
    Ok(())
}
