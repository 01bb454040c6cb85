//! A command under way, and the processes it has started.

use crate::finished::Finished;
use crate::processes::{Process, Signal, processes_naming, signal};
use crate::store::RunStore;
use crate::wait_for;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

/// How long a whole tiny run may take on a busy machine.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// One fleet at a time: two of them on two cores would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A command under way. Dropping it kills it and every process of its run.
pub struct Running {
    command: String,
    child: Child,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
    store: RunStore,
    started: Instant,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Running {
    /// Starts `program`; a `run` waits for the run before it to end.
    pub(crate) fn start(program: &Path, arguments: &[&str], store: RunStore) -> Self {
        let turn = (arguments.first() == Some(&"run"))
            .then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
        // Files, not pipes: nobody has to read them for the command to go on.
        let (stdout, stderr) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
        let to = |file: &NamedTempFile| Stdio::from(File::create(file.path()).unwrap());
        let child = Command::new(program)
            .args(arguments)
            .env_remove("RUST_LOG")
            .env_remove("RUST_BACKTRACE")
            .env_remove("QUARRY_COORDINATOR")
            .stdin(Stdio::null())
            .stdout(to(&stdout))
            .stderr(to(&stderr))
            .spawn()
            .unwrap_or_else(|e| panic!("{} cannot be started: {e}", program.display()));
        let name = program.file_name().unwrap().to_string_lossy();
        let command = format!("{name} {}", arguments.join(" "));
        Self {
            command,
            child,
            stdout,
            stderr,
            store,
            started: Instant::now(),
            _turn: turn,
        }
    }

    /// The store of the run.
    #[must_use]
    pub fn store(&self) -> &RunStore {
        &self.store
    }

    /// Waits for the coordinator and returns its URL.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    pub fn coordinator(&self) -> String {
        self.wait_for("the coordinator's address", || self.store.coordinator())
    }

    /// The living process of the program `name`, such as `quarry-trainer`.
    #[must_use]
    pub fn process(&self, name: &str) -> Option<Process> {
        self.processes()
            .into_iter()
            .find(|process| process.program == name)
    }

    /// Every living process of the run.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        processes_naming(self.store.folder())
    }

    /// Waits for something while the run goes on.
    ///
    /// # Panics
    /// If the limit passes, with what the command has said so far.
    pub fn wait_for<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        let said = std::panic::AssertUnwindSafe(|| wait_for(what, RUN_LIMIT, look));
        std::panic::catch_unwind(said).unwrap_or_else(|_| panic!("no {what}; {}", self.story()))
    }

    /// Kills the program `name` with `kill -9` and returns its process id.
    ///
    /// # Panics
    /// If no such process lives.
    pub fn kill(&self, name: &str) -> u32 {
        let pid = self.wait_for(name, || self.process(name)).pid;
        assert!(
            signal(pid, Signal::Kill),
            "{name} was gone before it could be killed; {}",
            self.story()
        );
        pid
    }

    /// Waits until the program `name` runs as another process than `old`.
    ///
    /// # Panics
    /// If it is not started again.
    pub fn wait_for_restart(&self, name: &str, old: u32) {
        self.wait_for(&format!("new {name}"), || {
            self.process(name).filter(|p| p.pid != old)
        });
    }

    /// Sends Ctrl-C to the command.
    ///
    /// # Panics
    /// If it has ended already.
    pub fn interrupt(&self) {
        assert!(
            signal(self.child.id(), Signal::Interrupt),
            "{} has ended already",
            self.command
        );
    }

    /// Whether the command has ended.
    ///
    /// # Panics
    /// If the system does not say.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end of the command.
    ///
    /// # Panics
    /// If it does not end in time.
    #[must_use]
    pub fn wait(self) -> Finished {
        self.wait_within(RUN_LIMIT)
    }

    /// As [`Running::wait`], with another limit.
    ///
    /// # Panics
    /// If it does not end in time.
    #[must_use]
    pub fn wait_within(mut self, limit: Duration) -> Finished {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                self.started.elapsed() < limit,
                "it takes more than {} s; {}",
                limit.as_secs(),
                self.story()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        Finished {
            command: self.command.clone(),
            code: status.code(),
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
        }
    }

    /// What the command and its programs have said.
    /// What it has said so far, beside its results.
    #[must_use]
    pub fn said(&self) -> String {
        read(&self.stderr)
    }

    fn story(&self) -> String {
        format!(
            "{} said:\n{}\n{}\n{}",
            self.command,
            read(&self.stdout),
            self.said(),
            self.store.logs()
        )
    }
}

fn read(file: &NamedTempFile) -> String {
    String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned()
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for process in self.processes() {
            let _ = signal(process.pid, Signal::Kill);
        }
    }
}
