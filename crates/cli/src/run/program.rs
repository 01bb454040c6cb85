//! One program of the fleet as a process: started with its log, restarted, asked to
//! stop, quoted when it fails.
//!
//! Owns: what a process is given (arguments, environment, log) and when it has died
//! too often. Refuses: which programs there are and in what order they go (`fleet`).

use crate::resources::Resources;
use anyhow::{Context, Result, bail};
use quarry_service::signals::STOP_WITH_PARENT;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// How long a program may take to stop: a trainer writes a checkpoint first.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// A program that dies this often within [`RESTART_WINDOW`] is not started again.
const MAX_RESTARTS: usize = 5;

/// See [`MAX_RESTARTS`].
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// A disk with fewer free bytes is full: not even the next lines of a log fit.
const FULL: u64 = 1 << 16;

/// What all programs of a run share.
#[derive(Debug, Clone)]
pub struct Place {
    /// URL of the store.
    pub store: String,
    /// Folder for logs, caches and port files.
    pub folder: PathBuf,
}

/// One program and its process.
pub(super) struct Program {
    name: String,
    binary: &'static str,
    arguments: Vec<String>,
    threads: usize,
    child: Child,
    deaths: Vec<Instant>,
    /// Where this start's lines begin in the log.
    log_start: u64,
}

impl Program {
    /// Starts `binary`; its lines go to the log of `name`.
    pub(super) fn start(
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
        })
    }

    /// Looks whether the process has ended, and how.
    pub(super) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// What a restart will be given.
    pub(super) fn set_arguments(&mut self, arguments: Vec<String>) {
        self.arguments = arguments;
    }

    /// Starts a process that ended again; refuses if it keeps dying.
    pub(super) fn restart(&mut self, place: &Place, status: ExitStatus) -> Result<()> {
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
    pub(super) fn last_words(&self, place: &Place) -> String {
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
    pub(super) fn signal(&self) {
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
    pub(super) async fn ended(&mut self) -> Result<ExitStatus> {
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

/// Where the lines of the program `name` go.
pub(super) fn log_path(place: &Place, name: &str) -> PathBuf {
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
