//! A process's life: from the command line to the last checkpoint.
//!
//! Owns: the order in which the parts are built, and the end. Refuses: what
//! happens in between, which is `training`.

use crate::checkpoint::Checkpointer;
use crate::dataset::Dataset;
use crate::feed::{Feed, Refusal, Source};
use crate::hardware;
use crate::link::Link;
use crate::losses::Losses;
use crate::negatives::{Negatives, NegativesError};
use crate::options::Options;
use crate::order::total_steps;
use crate::outbox::Outbox;
use crate::pace::Pace;
use crate::resume::{self, Resumed};
use crate::schedule::LearningRate;
use crate::script::Script;
use crate::state::TrainerState;
use crate::step::{Learner, NotFinite};
use crate::swap::Active;
use crate::training::Training;
use crate::{loader::Framing, model};
use anyhow::{Context, Result, bail, ensure};
use quarry_artifacts::{
    Cache, CheckpointFiles, CheckpointManifest, RunDocument, Store, VersionLog, fetch_checkpoint,
};
use quarry_recipe::Recipe;
use quarry_service::args::cache_folder;
use quarry_service::{CancellationToken, Token, channel, signals, threads};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::Device;
use tokio::runtime::Runtime;

/// How long a coordinator may take to appear when the trainer starts.
const COORDINATOR_PATIENCE: Duration = Duration::from_secs(20);

/// Exit code of a run that `--resume` would only bring to the same end: whoever
/// started it need not advise that.
pub const LASTING_EXIT: u8 = 5;
/// Exit code of every other failure.
const FAILURE_EXIT: u8 = 1;

/// The exit code for a failure of [`run`].
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let lasts = |cause: &(dyn std::error::Error + 'static)| {
        let refusal = cause.downcast_ref::<Refusal>();
        let unfit = matches!(cause.downcast_ref(), Some(NegativesError::Unfit { .. }));
        unfit || cause.is::<NotFinite>() || refusal.is_some_and(|refusal| refusal.lasting)
    };
    match error.chain().any(lasts) {
        true => LASTING_EXIT,
        false => FAILURE_EXIT,
    }
}

/// Trains as the options say, until the last step or a signal.
///
/// # Errors
/// One sentence: what failed, where, and what to do.
pub fn run(options: &Options) -> Result<()> {
    let runtime = threads::runtime("quarry-trainer", 2).context("cannot start threads")?;
    let stop = {
        let _context = runtime.enter();
        signals::shutdown().context("cannot listen for signals")?
    };
    run_until(options, &runtime, &stop)
}

/// Trains on `runtime` until the last step or until `stop` is cancelled.
///
/// # Errors
/// As [`run`].
pub fn run_until(options: &Options, runtime: &Runtime, stop: &CancellationToken) -> Result<()> {
    let Some(start) = runtime.block_on(stop.run_until_cancelled(Start::open(options))) else {
        tracing::info!("stopped while starting, so nothing was trained");
        return Ok(());
    };
    let mut training = start?.training(options, runtime, stop)?;
    match training.run() {
        Ok(()) => training.finish(),
        Err(error) => {
            training.abandon();
            Err(error)
        }
    }
}

/// Everything that comes from outside, fetched.
struct Start {
    recipe: Recipe,
    replay: Option<VersionLog>,
    device: Device,
    link: Link,
    source: Source,
    work: PathBuf,
    /// The model to start from: the newest checkpoint's folder or the initial one's.
    folder: PathBuf,
    resumed: Option<Resumed>,
    /// The negatives that the resumed checkpoint used last, if they can be had.
    negatives: Option<Result<Negatives, NegativesError>>,
}

impl Start {
    async fn open(options: &Options) -> Result<Self> {
        let store = Store::open_existing(&options.store).await?;
        let run = RunDocument::read(&store).await?;
        let recipe: Recipe = serde_json::from_value(run.recipe.clone())
            .context("run.json holds no recipe of this version; start a new run")?;
        recipe.validate()?;
        let cores = threads::available();
        let threads = options
            .threads
            .map_or_else(|| recipe.trainer_threads(cores), usize::from);
        let device = hardware::claim(options.device, threads)?;
        let link = connect(options).await?;
        let cache = Cache::new(
            cache_folder(options.cache.as_deref()),
            (recipe.fleet.cache_gib * f64::from(1 << 30)) as u64,
        )?;
        let work = fresh_work(cache.folder())?;
        let dataset = Dataset::fetch(&store, &cache, &run.corpus, &recipe.data.train).await?;
        let resumed = find_resumed(options.resume, &store, &cache, &work).await?;
        let folder = match &resumed {
            Some(resumed) => resumed.folder.clone(),
            None => fetch_initial(&store, &cache, &run, &work.join("initial")).await?,
        };
        tracing::info!(
            run = recipe.name,
            queries = dataset.queries(),
            passages = dataset.passages(),
            ?device,
            threads,
            "opened the run"
        );
        let dataset = Arc::new(dataset);
        let source = Source {
            store,
            cache,
            dataset,
            drawn: recipe.train.negatives,
            contrasts_own: recipe.train.contrasts_own(),
        };
        let active = resumed.as_ref().and_then(|r| r.state.active.clone());
        let negatives = match active {
            Some(activation) => Some(source.negatives(activation).await),
            None => None,
        };
        Ok(Self {
            recipe,
            replay: run.replay,
            device,
            link,
            source,
            work,
            folder,
            resumed,
            negatives,
        })
    }

    fn training(
        mut self,
        options: &Options,
        runtime: &Runtime,
        stop: &CancellationToken,
    ) -> Result<Training> {
        let (recipe, queries) = (self.recipe.clone(), self.source.dataset.queries());
        let train = &recipe.train;
        let total = total_steps(train.max_steps, train.epochs, queries, train.batch_size);
        let outbox = Arc::new(Outbox::start(runtime.handle(), self.link.clone()));
        let (mut learner, framing) = self.learner()?;
        let script = self.replay.take().map(|log| {
            tracing::info!(swaps = log.swaps.len(), "repeating a version log");
            Arc::new(Script::new(log, self.link.clone(), self.source.clone()))
        });
        let mut active = Active::new(Vec::new());
        let mut first = 0;
        let mut after = 0;
        if let Some(resumed) = self.resumed.take() {
            first = resumed.state.step;
            if let Some(script) = &script {
                script.check(&resumed.checkpoint)?;
            }
            resumed
                .state
                .check(&TrainerState::new(&recipe, first, total, queries))?;
            learner.optimizer_mut().restore(resumed.moments)?;
            active = Active::new(resumed.state.swaps);
            if let Some(found) = self.negatives.take() {
                after = activation_to_resume(found, first, &mut active, &outbox);
            }
            tracing::info!(step = first, total, activation = after, "resumed");
        }
        let store = self.source.store.clone();
        let checkpointer =
            Checkpointer::new(runtime.handle(), store, Arc::clone(&outbox), &self.work);
        Ok(Training {
            rate: LearningRate::new(
                train.learning_rate,
                train.schedule,
                train.warmup_ratio,
                total,
            ),
            pace: Pace::new(total, train.batch_size),
            feed: Feed::start(runtime.handle(), self.link, self.source.clone(), after),
            dataset: self.source.dataset,
            losses: options
                .losses
                .as_deref()
                .map(|path| Losses::open(path, first))
                .transpose()?,
            losses_path: options
                .losses
                .as_ref()
                .map(|path| path.display().to_string()),
            stop_after: options.stop_after_step.unwrap_or(u64::MAX),
            runtime: runtime.handle().clone(),
            stop: stop.clone(),
            step: first,
            total,
            recipe,
            framing,
            learner,
            active,
            outbox,
            checkpointer,
            script,
            loader: None,
            behind: None,
            noted: Instant::now(),
        })
    }

    fn learner(&self) -> Result<(Learner, Framing)> {
        let encoder = model::load(&self.folder, &self.recipe, self.device)?;
        let framing = model::framing(&self.folder, &self.recipe, &encoder)?;
        Ok((Learner::new(encoder, &self.recipe, self.device), framing))
    }
}

/// Activates the generation of the checkpoint, and returns its activation number.
/// If the store no longer has it, the newest one will do, and that is said.
fn activation_to_resume(
    found: Result<Negatives, NegativesError>,
    step: u64,
    active: &mut Active,
    outbox: &Outbox,
) -> u64 {
    match found {
        Ok(negatives) => {
            active.activate(step, Arc::new(negatives), outbox);
            active.activation()
        }
        Err(error) => {
            tracing::warn!(%error, "the generation of the checkpoint cannot be had, going on with the newest");
            0
        }
    }
}

async fn connect(options: &Options) -> Result<Link> {
    let token = options.token_file.as_deref().map(Token::read).transpose()?;
    let urls = &options.coordinator;
    let patience = COORDINATOR_PATIENCE;
    let channel =
        channel::connect_within("the coordinator", urls, token.as_ref(), patience).await?;
    let link = Link::new(channel);
    link.greet(patience).await?;
    Ok(link)
}

/// The checkpoint to resume from. Without `--resume` a store that holds one is
/// refused: the run would fork.
async fn find_resumed(
    wanted: bool,
    store: &Store,
    cache: &Cache,
    work: &Path,
) -> Result<Option<Resumed>> {
    if !wanted {
        if let Some(step) = resume::newest_step(store).await? {
            bail!(
                "the store {} already holds a checkpoint of step {step}; pass --resume to go on from it, or use a new store",
                store.url()
            );
        }
        return Ok(None);
    }
    let resumed = resume::newest(store, cache, work).await?;
    if resumed.is_none() {
        tracing::info!("there is no checkpoint to resume from yet, starting from the beginning");
    }
    Ok(resumed)
}

/// The model that `run.json` says training starts from, as the folder `dest`.
async fn fetch_initial(
    store: &Store,
    cache: &Cache,
    run: &RunDocument,
    dest: &Path,
) -> Result<PathBuf> {
    let named = &run.initial_checkpoint;
    let found = CheckpointManifest::read(store, &named.manifest).await?;
    ensure!(
        found.digest == named.digest,
        "run.json says training starts from the model {}, but {} in the store {} is of the model {}; restore the checkpoint or start a new run",
        named.digest.short(),
        named.manifest,
        store.url(),
        found.digest.short()
    );
    let files = CheckpointFiles::Model;
    Ok(fetch_checkpoint(store, cache, &named.manifest, files, dest).await?)
}

/// An empty folder of this process's own: its cache slot is locked.
fn fresh_work(slot: &Path) -> Result<PathBuf> {
    let work = slot.join("trainer");
    if work.exists() {
        std::fs::remove_dir_all(&work)
            .with_context(|| format!("cannot clear {}", work.display()))?;
    }
    std::fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    Ok(work)
}
