//! The three programs as processes of this machine: started, watched, restarted
//! where that loses nothing, and stopped in the order that loses nothing.
//!
//! Coordinator and inferencers may die at any time: they are started again. A
//! trainer that dies is not: its user decides, with `--resume`.

use crate::resources::Resources;
use anyhow::{Context, Result, bail};
use quarry_service::signals::STOP_WITH_PARENT;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// How long a program may take to listen: a coordinator replays its log first.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a program may take to stop: a trainer writes a checkpoint first.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// A program that dies this often within [`RESTART_WINDOW`] is not started again.
const MAX_RESTARTS: usize = 5;

/// See [`MAX_RESTARTS`].
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// A disk with fewer free bytes is full: not even the next lines of a log fit.
const FULL: u64 = 1 << 16;

/// Exit code of a coordinator that found another one writing: restarting it would
/// only fence the other.
const FENCED: i32 = 3;

/// What all programs of a run share.
#[derive(Debug, Clone)]
pub struct Place {
    /// URL of the store.
    pub store: String,
    /// Folder for logs, caches and port files.
    pub folder: PathBuf,
}

/// One program and its process.
struct Program {
    name: String,
    binary: &'static str,
    arguments: Vec<String>,
    threads: usize,
    child: Child,
    deaths: Vec<Instant>,
    /// Where this start's lines begin in the log.
    log_start: u64,
    /// It said that nothing is left to do.
    done: bool,
}

/// The running programs.
pub struct Fleet {
    place: Place,
    address: String,
    coordinator: Program,
    workers: Vec<Program>,
    trainer: Program,
}

/// Threads of each kind of program.
#[derive(Debug, Clone, Copy)]
pub struct Threads {
    /// Of the trainer.
    pub trainer: usize,
    /// Of each inferencer.
    pub worker: usize,
}

impl Fleet {
    /// Starts coordinator, `workers` inferencers and trainer.
    ///
    /// # Errors
    /// If a program is missing or does not come up; what was started is stopped.
    pub async fn start(
        place: Place,
        listen: &str,
        workers: usize,
        threads: Threads,
        resume: bool,
    ) -> Result<Self> {
        std::fs::create_dir_all(place.folder.join("logs"))
            .with_context(|| format!("cannot make {}", place.folder.display()))?;
        let (coordinator, address) = start_coordinator(&place, listen).await?;
        let url = format!("http://{address}");
        let mut inferencers = Vec::new();
        for i in 0..workers {
            let name = format!("inferencer-{i}");
            let cache = place.folder.join("cache").join(&name);
            let arguments = arguments(&place, &url, &cache, threads.worker, &["--name", &name]);
            inferencers.push(Program::start(
                &place,
                name,
                "quarry-inferencer",
                arguments,
                threads.worker,
            )?);
        }
        let losses = place.folder.join("losses.jsonl").display().to_string();
        let mut own = vec!["--losses", &losses];
        if resume {
            own.push("--resume");
        }
        let cache = place.folder.join("cache").join("trainer");
        let arguments = arguments(&place, &url, &cache, threads.trainer, &own);
        let trainer = Program::start(
            &place,
            "trainer".to_owned(),
            "quarry-trainer",
            arguments,
            threads.trainer,
        )?;
        Ok(Self {
            place,
            address,
            coordinator,
            workers: inferencers,
            trainer,
        })
    }

    /// `host:port` of the coordinator.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Looks after the programs once: restarts what may be restarted. Returns
    /// the trainer's exit once it has one.
    ///
    /// # Errors
    /// If coordinator or inferencers keep dying.
    pub fn tend(&mut self) -> Result<Option<ExitStatus>> {
        for program in std::iter::once(&mut self.coordinator).chain(&mut self.workers) {
            if program.done {
                continue;
            }
            match program.child.try_wait()? {
                Some(status) if status.success() => program.done = true,
                Some(status) if status.code() == Some(FENCED) => bail!(
                    "another coordinator has taken over this store, so this run steps back: {}",
                    program.last_words(&self.place)
                ),
                Some(status) => program.restart(&self.place, status)?,
                None => {}
            }
        }
        Ok(self.trainer.child.try_wait()?)
    }

    /// The last sentence the trainer logged: why it failed.
    #[must_use]
    pub fn last_words(&self) -> String {
        self.trainer.last_words(&self.place)
    }

    /// The last sentence the coordinator logged.
    #[must_use]
    pub fn coordinator_words(&self) -> String {
        self.coordinator.last_words(&self.place)
    }

    /// Stops every program: trainer first, so that its checkpoint is announced;
    /// then inferencers, which give their leases back; then the coordinator.
    ///
    /// # Errors
    /// If a process cannot be waited for, or the trainer could not publish.
    pub async fn stop(mut self) -> Result<()> {
        self.trainer.signal();
        let trainer = self.trainer.ended().await?;
        let words = self.trainer.last_words(&self.place);
        for worker in &self.workers {
            worker.signal();
        }
        for worker in &mut self.workers {
            worker.ended().await?;
        }
        self.coordinator.signal();
        self.coordinator.ended().await?;
        // Asked to stop before it could listen, it had nothing to publish yet.
        let unheard = trainer.signal() == Some(Signal::TERM.as_raw());
        if !trainer.success() && !unheard {
            bail!("the trainer ended with {trainer}: {words}");
        }
        Ok(())
    }
}

async fn start_coordinator(place: &Place, listen: &str) -> Result<(Program, String)> {
    let port_file = place.folder.join("coordinator.addr");
    remove_if_there(&port_file)?;
    let arguments = |listen: &str| -> Vec<String> {
        [
            "--store",
            &place.store,
            "--listen",
            listen,
            "--port-file",
            &port_file.display().to_string(),
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let name = "coordinator".to_owned();
    let mut program = Program::start(place, name, "quarry-coordinator", arguments(listen), 1)?;
    let started = Instant::now();
    let address = loop {
        if let Ok(address) = std::fs::read_to_string(&port_file) {
            break address.trim().to_owned();
        }
        if program.child.try_wait()?.is_some() {
            bail!(
                "the coordinator did not start: {}",
                program.last_words(place)
            );
        }
        if started.elapsed() > START_LIMIT {
            bail!(
                "the coordinator did not listen within {} s; see {}",
                START_LIMIT.as_secs(),
                log_path(place, &program.name).display()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // A restart must come back where trainer and inferencers look for it.
    program.arguments = arguments(&address);
    Ok((program, address))
}

fn arguments(place: &Place, url: &str, cache: &Path, threads: usize, own: &[&str]) -> Vec<String> {
    let threads = threads.to_string();
    let cache = cache.display().to_string();
    [
        "--coordinator",
        url,
        "--store",
        &place.store,
        "--threads",
        &threads,
        "--cache",
        &cache,
    ]
    .iter()
    .chain(own)
    .map(|s| (*s).to_owned())
    .collect()
}

impl Program {
    fn start(
        place: &Place,
        name: String,
        binary: &'static str,
        arguments: Vec<String>,
        threads: usize,
    ) -> Result<Self> {
        let log_start = log_length(place, &name);
        let child = spawn(place, &name, binary, &arguments, threads)?;
        tracing::debug!(name, pid = child.id(), "started");
        Ok(Self {
            name,
            binary,
            arguments,
            threads,
            child,
            deaths: Vec::new(),
            log_start,
            done: false,
        })
    }

    fn restart(&mut self, place: &Place, status: ExitStatus) -> Result<()> {
        let now = Instant::now();
        self.deaths
            .retain(|death| now.duration_since(*death) < RESTART_WINDOW);
        self.deaths.push(now);
        if self.deaths.len() > MAX_RESTARTS {
            bail!(
                "{} died {} times within a minute, last with {status}: {}",
                self.name,
                self.deaths.len(),
                self.last_words(place)
            );
        }
        tracing::warn!("{} ended with {status}; starting it again", self.name);
        self.log_start = log_length(place, &self.name);
        self.child = spawn(
            place,
            &self.name,
            self.binary,
            &self.arguments,
            self.threads,
        )?;
        Ok(())
    }

    /// The last line logged since the process was started, unless the disk is so
    /// full that it could not be written.
    fn last_words(&self, place: &Place) -> String {
        let free = Resources::read(Some(&place.folder)).disk;
        if free.is_some_and(|bytes| bytes < FULL) {
            return format!(
                "no space left on the disk of {}; free some",
                place.folder.display()
            );
        }
        last_line(&log_path(place, &self.name), self.log_start)
    }

    /// Asks the process to stop.
    fn signal(&self) {
        let id = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(Err(error)) = id.map(|id| kill_process(id, Signal::TERM)) {
            tracing::debug!(name = self.name, %error, "was gone before it could be asked to stop");
        }
    }

    /// Waits for the end of a process that was asked to stop. Asking twice would
    /// make it end at once.
    async fn ended(&mut self) -> Result<ExitStatus> {
        if let Ok(status) = tokio::time::timeout(STOP_LIMIT, self.child.wait()).await {
            return Ok(status?);
        }
        tracing::warn!(
            "{} did not stop within {} s; killing it",
            self.name,
            STOP_LIMIT.as_secs()
        );
        self.child.kill().await?;
        Ok(self.child.wait().await?)
    }
}

/// Starts a process in a group of its own, so that Ctrl-C reaches only `quarry`,
/// which then stops the programs in order. Their standard input is a pipe that
/// ends with `quarry`: should it be killed, they stop by themselves.
fn spawn(
    place: &Place,
    name: &str,
    binary: &'static str,
    arguments: &[String],
    threads: usize,
) -> Result<Child> {
    let path = sibling(binary)?;
    let log = open_log(&log_path(place, name))?;
    // Threads that spin while they wait make the programs of one machine, or of two runs
    // on it, several times slower. These sleep, after a moment that bridges the way from
    // one operation to the next.
    let or = |name: &str, default: &str| std::env::var_os(name).unwrap_or_else(|| default.into());
    let (waiting, moment) = (
        or("OMP_WAIT_POLICY", "passive"),
        or("GOMP_SPINCOUNT", "20000"),
    );
    Command::new(&path)
        .args(arguments)
        .stdin(Stdio::piped())
        .env(STOP_WITH_PARENT, "1")
        // OpenMP counts threads for each calling thread: this binds faiss as well.
        .env("OMP_NUM_THREADS", threads.to_string())
        .env("OMP_WAIT_POLICY", waiting)
        .env("GOMP_SPINCOUNT", moment)
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", path.display()))
}

/// The program beside this one, where a build puts them all.
fn sibling(binary: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(binary);
    if !path.is_file() {
        bail!(
            "{} is missing; build all programs with `cargo build --workspace`",
            path.display()
        );
    }
    Ok(path)
}

fn log_path(place: &Place, name: &str) -> PathBuf {
    place.folder.join("logs").join(format!("{name}.log"))
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write the log {}", path.display()))
}

fn log_length(place: &Place, name: &str) -> u64 {
    std::fs::metadata(log_path(place, name)).map_or(0, |m| m.len())
}

/// The last line of the log after `start`, as it stands there.
fn last_line(path: &Path, start: u64) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let since = usize::try_from(start)
        .ok()
        .and_then(|s| bytes.get(s..))
        .unwrap_or_default();
    let text = String::from_utf8_lossy(since);
    let line = text.lines().rfind(|line| !line.trim().is_empty());
    line.map_or_else(
        || format!("it said nothing; see {}", path.display()),
        str::to_owned,
    )
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
