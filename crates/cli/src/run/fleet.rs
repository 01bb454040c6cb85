//! The three programs as processes of this machine: started, watched, restarted
//! where that loses nothing, and stopped in the order that loses nothing.
//!
//! Coordinator and inferencers may die at any time: they are started again. A
//! trainer that dies is not: its user decides, with `--resume`.

use crate::run::program::{Place, Program, log_path};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// Where the coordinator listens unless told otherwise; `quarry status` looks there.
const DEFAULT_LISTEN: &str = "127.0.0.1:7600";

/// Where it listens if another run is there already.
const ANY_LISTEN: &str = "127.0.0.1:0";

/// How long a program may take to listen: a coordinator replays its log first.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Exit code of a coordinator that found another one writing: restarting it would
/// only fence the other.
const FENCED: i32 = 3;

/// Exit code of a coordinator whose port somebody else listens on.
const PORT_TAKEN: i32 = 4;

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
    /// Starts coordinator, `workers` inferencers and trainer. Without `listen` the
    /// coordinator takes [`DEFAULT_LISTEN`], or any free port beside another run.
    ///
    /// # Errors
    /// If a program is missing or does not come up; what was started is stopped.
    pub async fn start(
        place: Place,
        listen: Option<&str>,
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
            match program.exited()? {
                // It said that nothing is left to do.
                Some(status) if status.success() => {}
                Some(status) if status.code() == Some(FENCED) => bail!(
                    "another coordinator has taken over this store, so this run steps back: {}",
                    program.last_words(&self.place)
                ),
                Some(status) => program.restart(&self.place, status)?,
                None => {}
            }
        }
        self.trainer.exited()
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

/// Starts the coordinator and waits until it listens. Returns where.
async fn start_coordinator(place: &Place, listen: Option<&str>) -> Result<(Program, String)> {
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
    let start = |listen: &str| {
        let name = "coordinator".to_owned();
        Program::start(place, name, "quarry-coordinator", arguments(listen), 1)
    };
    let mut program = start(listen.unwrap_or(DEFAULT_LISTEN))?;
    let mut elsewhere = listen.is_none();
    let started = Instant::now();
    let address = loop {
        if let Ok(address) = std::fs::read_to_string(&port_file) {
            break address.trim().to_owned();
        }
        match program.exited()?.map(|status| status.code()) {
            // Trying is the only test that another run cannot invalidate.
            Some(Some(PORT_TAKEN)) if elsewhere => {
                elsewhere = false;
                program = start(ANY_LISTEN)?;
            }
            Some(_) => bail!(
                "the coordinator did not start: {}",
                program.last_words(place)
            ),
            None => {}
        }
        if started.elapsed() > START_LIMIT {
            bail!(
                "the coordinator did not listen within {} s; see {}",
                START_LIMIT.as_secs(),
                log_path(place, "coordinator").display()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // A restart must come back where trainer and inferencers look for it.
    program.set_arguments(arguments(&address));
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

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
