//! `quarry run`: the whole machine on one computer.
//!
//! Pre-flight, preparation, three kinds of real processes on loopback, progress
//! while they work, an orderly stop on Ctrl-C, and the verdict at the end.

mod fleet;
pub mod preflight;
pub mod setup;
mod verdict;
mod watch;

use crate::commands::connect;
use crate::{block_on, model_source, resources};
use anyhow::{Context, Result, bail};
use clap::Args;
use fleet::{Fleet, Place, Threads};
use indicatif::{ProgressBar, ProgressStyle};
use quarry_artifacts::{Cache, CheckpointManifest, CheckpointRef, CorpusLocation, RunDocument, Store, layout};
use quarry_corpus::CorpusManifest;
use quarry_model::{ModelFolder, TextTokenizer};
use quarry_proto::v1::{GetRunRequest, GetRunResponse, ListGenerationsRequest, ListGenerationsResponse};
use quarry_recipe::{Precision, Recipe};
use quarry_service::channel::ServiceChannel;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};
use verdict::{Judge, Score};
pub use watch::line as progress_line;

/// Coordinator client of the command line.
type Client = quarry_proto::v1::coordinator_client::CoordinatorClient<ServiceChannel>;

/// Where the coordinator listens unless told otherwise; `quarry status` looks there.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7600";

/// Time between two looks at the run.
const GLANCE: Duration = Duration::from_millis(500);

/// Time between two plain progress lines, where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Exit code after Ctrl-C, as shells expect it.
const INTERRUPTED: u8 = 130;

/// Arguments of `quarry run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quarry run recipes/ance.toml --data data/squad-mini --model .deps/models/all-MiniLM-L6-v2\n  \
    quarry run recipes/ance.toml --store runs/ance --resume\n  \
    quarry run recipes/dpr.toml --data DIR --model DIR --set train.learning_rate=3e-5 --set seed=2\n\n\
    Ctrl-C stops every program cleanly after writing a checkpoint; --resume goes on from there.\n\
    Logs, losses and caches lie beside the store, or in runs/NAME for a remote one.")]
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
    /// Override a recipe key: --set train.learning_rate=3e-5. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Go on with the run in the store.
    #[arg(long)]
    resume: bool,
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
    let recipe = Recipe::load(&args.recipe, &overrides)?;
    let url = args.store.clone().unwrap_or_else(|| format!("runs/{}", recipe.name));
    let store = Store::open(&url).await?;
    store.probe_create_if_absent().await?;
    let folder = store.local_folder().map_or_else(|| Path::new("runs").join(&recipe.name), Path::to_path_buf);
    let document = match args.resume {
        true => existing_run(&store, &recipe).await?,
        false => new_run(&args, &store, &folder, &recipe).await?,
    };
    // What the store says is what every program follows.
    let recipe: Recipe = serde_json::from_value(document.recipe.clone())
        .with_context(|| format!("{url}: the recipe in run.json is not of this version"))?;
    let place = Place { store: store.url().to_owned(), folder: folder.clone() };
    let (exit, generations) = conduct(&args, &recipe, place).await?;
    match exit {
        Exit::Interrupted => {
            eprintln!("stopped; go on with: quarry run {} --store {url} --resume", args.recipe.display());
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Exit::Failed(reason) => bail!("{reason}; what was published is kept, go on with --store {url} --resume"),
        Exit::Done => {}
    }
    let scores = judge(&store, &folder, &recipe, &document.corpus, &document, &generations).await?;
    present(&args, &url, &folder, &recipe, &scores)?;
    Ok(ExitCode::SUCCESS)
}

/// The run in the store, for `--resume`.
async fn existing_run(store: &Store, recipe: &Recipe) -> Result<RunDocument> {
    let document = RunDocument::read(store)
        .await
        .with_context(|| format!("nothing to resume in {}; start without --resume", store.url()))?;
    let stored: Recipe = serde_json::from_value(document.recipe.clone())
        .with_context(|| format!("{}: the recipe in run.json is not of this version", store.url()))?;
    if stored != *recipe {
        tracing::warn!("the recipe differs from the one the run began with; going on with the run's own");
    }
    Ok(document)
}

/// Checks, prepares and publishes everything a new run needs.
async fn new_run(args: &RunArgs, store: &Store, folder: &Path, recipe: &Recipe) -> Result<RunDocument> {
    if store.head(layout::run_json()).await?.is_some() {
        bail!(
            "{} already holds a run; add --resume to go on with it, or choose another --store",
            store.url()
        );
    }
    let (Some(data), Some(model)) = (&args.data, &args.model) else {
        bail!("a new run needs --data DIR and --model DIR; --resume goes on with an old one");
    };
    let model = model_source::resolve(model)?;
    let model_folder = ModelFolder::open(&model)?;
    let tokenizer = TextTokenizer::from_dir(&model)?;
    let options = setup::prepare_options(recipe, data, model_folder.max_length)?;
    eprintln!("preparing {} …", data.display());
    let (corpus, manifest) = setup::publish_collection(store, data, &tokenizer, &options).await?;
    describe(&manifest);
    check_resources(recipe, &model_folder, &manifest, store.local_folder().map(|_| folder))?;
    let checkpoint = setup::publish_initial_model(store, recipe, &model).await?;
    setup::publish_run(store, recipe, corpus, &tokenizer, checkpoint).await
}

fn describe(manifest: &CorpusManifest) {
    let queries: Vec<String> =
        manifest.queries.iter().map(|(split, entry)| format!("{} {split}", entry.queries)).collect();
    eprintln!(
        "{} passages in {} shards, {} cut to {} tokens; queries: {}",
        manifest.passages,
        manifest.shards.len(),
        manifest.truncated_passages,
        manifest.passage_tokens,
        queries.join(", ")
    );
}

/// Prints the pre-flight and refuses what cannot fit.
fn check_resources(recipe: &Recipe, model: &ModelFolder, manifest: &CorpusManifest, disk: Option<&Path>) -> Result<()> {
    let machine = resources::Resources::read(disk);
    let needs = preflight::needs(recipe, preflight::ModelSize::of(model)?, manifest);
    let kind = match recipe.train.precision {
        Precision::F32 => tch::Kind::Float,
        Precision::Auto if !resources::has_native_bf16() => tch::Kind::Float,
        Precision::Auto | Precision::Bf16 => tch::Kind::BFloat16,
    };
    eprint!("{}", preflight::describe(recipe, &needs, &machine, resources::matmul_flops(kind)));
    preflight::refuse_if_too_large(recipe, &needs, &machine)
}

/// How the processes ended.
enum Exit {
    Done,
    Interrupted,
    Failed(String),
}

/// Starts the fleet, shows progress until the trainer ends, stops the fleet.
async fn conduct(args: &RunArgs, recipe: &Recipe, place: Place) -> Result<(Exit, ListGenerationsResponse)> {
    let cores = resources::cores();
    let threads = Threads {
        trainer: recipe.trainer_threads(cores),
        worker: recipe.fleet.threads_of_worker(cores),
    };
    let listen = args.listen.clone().unwrap_or_else(free_listen);
    let workers = recipe.fleet.workers;
    let mut fleet = Fleet::start(place, &listen, workers, threads, args.resume).await?;
    let url = format!("http://{}", fleet.address());
    eprintln!("coordinator on {url}; {workers} inferencer(s); follow it with: quarry status --coordinator {url} --watch");
    let outcome = attend(&mut fleet, &url).await;
    let generations = match connect(&url, None).await {
        Ok(mut client) => client.list_generations(ListGenerationsRequest {}).await.map(tonic::Response::into_inner),
        Err(e) => Err(tonic::Status::unavailable(e.to_string())),
    };
    fleet.stop().await?;
    let exit = outcome?;
    match generations {
        Ok(generations) => Ok((exit, generations)),
        // After a failure or Ctrl-C nobody needs the list.
        Err(_) if !matches!(exit, Exit::Done) => Ok((exit, ListGenerationsResponse::default())),
        Err(status) => bail!("the coordinator did not list its generations: {}", status.message()),
    }
}

/// The default address, or any free port beside another run.
fn free_listen() -> String {
    match std::net::TcpListener::bind(DEFAULT_LISTEN) {
        Ok(_) => DEFAULT_LISTEN.to_owned(),
        Err(_) => "127.0.0.1:0".to_owned(),
    }
}

/// Watches until the trainer ends, somebody interrupts, or the fleet fails.
async fn attend(fleet: &mut Fleet, url: &str) -> Result<Exit> {
    let mut progress = Progress::new();
    let mut client: Option<Client> = None;
    let interrupted = quarry_service::signals::shutdown()?;
    loop {
        tokio::select! {
            () = interrupted.cancelled() => {
                progress.end();
                eprintln!("stopping: the trainer writes a checkpoint first; press Ctrl-C again to stop at once");
                return Ok(Exit::Interrupted);
            }
            () = tokio::time::sleep(GLANCE) => {}
        }
        if let Some(status) = fleet.tend()? {
            progress.end();
            return Ok(exit_of(status, fleet));
        }
        if client.is_none() {
            client = connect(url, None).await.ok();
        }
        let Some(connected) = &mut client else { continue };
        match connected.get_run(GetRunRequest {}).await {
            Ok(run) => progress.show(&run.into_inner()),
            Err(_) => client = None, // restarting; `tend` sees to it
        }
    }
}

fn exit_of(status: ExitStatus, fleet: &Fleet) -> Exit {
    if status.success() {
        return Exit::Done;
    }
    Exit::Failed(match status.code() {
        Some(_) => format!("the trainer stopped: {}", fleet.last_words()),
        None => format!("the trainer was killed ({status})"),
    })
}

/// One live line on a terminal; plain lines, seldom, elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    last: Instant,
    generation: Option<u64>,
}

impl Progress {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(200));
            bar.set_style(ProgressStyle::default_spinner());
            bar
        });
        Self { bar, last: Instant::now() - PLAIN_EVERY, generation: None }
    }

    fn show(&mut self, run: &GetRunResponse) {
        let line = watch::line(run);
        let generation = run.active.as_ref().map(|g| g.generation);
        let swapped = generation != self.generation;
        self.generation = generation;
        match &self.bar {
            Some(bar) => {
                if swapped {
                    bar.println(&line);
                }
                bar.set_message(line);
            }
            None if swapped || self.last.elapsed() >= PLAIN_EVERY => {
                self.last = Instant::now();
                eprintln!("{line}");
            }
            None => {}
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
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
    let scratch = tempfile::Builder::new().prefix("verdict-").tempdir_in(folder)?;
    let cache = Cache::new(folder.join("cache").join("quarry"), 1 << 33)?;
    let judge = Judge::open(store, cache, scratch.path().to_path_buf(), recipe, corpus).await?;
    eprintln!("scoring the final model …");
    if !scores.iter().any(|score| score.step == Some(0)) {
        let zero = judge.score("zero-shot", &document.initial_checkpoint, &[&recipe.data.dev]).await?;
        let after_bm25 = usize::from(scores.first().is_some_and(|s| s.system == "bm25"));
        scores.splice(after_bm25..after_bm25, zero);
    }
    let last = last_checkpoint(store).await?;
    scores.extend(judge.score("final", &last, &[&recipe.data.dev, &recipe.data.test]).await?);
    Ok(scores)
}

/// The newest complete checkpoint of the store.
async fn last_checkpoint(store: &Store) -> Result<CheckpointRef> {
    let listed = store.list(layout::checkpoints_folder(), None).await?;
    let newest = listed
        .iter()
        .filter(|(path, _)| path.ends_with(layout::MANIFEST))
        .map(|(path, _)| path)
        .max()
        .context("the store holds no complete checkpoint")?;
    Ok(CheckpointManifest::read(store, newest).await?.reference())
}

fn present(args: &RunArgs, url: &str, folder: &Path, recipe: &Recipe, scores: &[Score]) -> Result<()> {
    if args.json {
        println!("{}", serde_json::json!({ "store": url, "name": recipe.name, "seed": recipe.seed, "scores": scores }));
        return Ok(());
    }
    println!("{}", verdict::render(scores));
    println!("model and runs   {url}");
    println!("losses and logs  {}/losses.jsonl, {}/logs", folder.display(), folder.display());
    println!();
    println!("next:");
    println!("  quarry export --store {url} --output my-model   # a sentence-transformers folder");
    println!("  quarry search --store {url} -k 5 \"your question\"");
    Ok(())
}
