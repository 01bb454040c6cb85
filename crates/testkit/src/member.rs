//! One program of a run, started by itself as for several machines.

use crate::processes::{Signal, signal};
use crate::programs::program;
use crate::store::RunStore;
use crate::wait_for;
use std::fs::{OpenOptions, create_dir_all};
use std::panic::AssertUnwindSafe;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What a coordinator says when it begins to lead.
pub const LEADS: &str = "took over the run";

/// How long anything here may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A program of a run, with its log in the store's `logs`. Dropping it kills it.
pub struct Member {
    name: String,
    child: Child,
    store: RunStore,
}

impl Member {
    /// Starts the program `program_name` on `store` as the member `name`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(store: &RunStore, name: &str, program_name: &str, arguments: &[&str]) -> Self {
        let logs = store.folder().join("logs");
        create_dir_all(&logs).unwrap();
        let log = logs.join(format!("{name}.log"));
        let log = OpenOptions::new().create(true).append(true).open(log);
        let child = Command::new(program(program_name))
            .args(["--store", store.url()])
            .args(arguments)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        Self {
            name: name.to_owned(),
            child,
            store: store.clone(),
        }
    }

    /// Starts a coordinator, and gives its URL once it listens.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn coordinator(store: &RunStore, name: &str, arguments: &[&str]) -> (Self, String) {
        let port = store.folder().join(format!("{name}.addr"));
        let _ = std::fs::remove_file(&port);
        let port_file = ["--port-file", port.to_str().unwrap()];
        let started = Self::start(
            store,
            name,
            "quarry-coordinator",
            &[&port_file, arguments].concat(),
        );
        let address = started.wait_for("its address", || std::fs::read_to_string(&port).ok());
        (started, format!("http://{}", address.trim()))
    }

    /// Starts an inferencer or a trainer with one thread that asks `coordinators`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn client(store: &RunStore, name: &str, program_name: &str, coordinators: &str) -> Self {
        let cache = store.folder().join(format!("cache-{name}"));
        let losses = store.folder().join("losses.jsonl");
        let mut arguments = vec!["--coordinator", coordinators, "--threads", "1"];
        arguments.extend(["--cache", cache.to_str().unwrap()]);
        arguments.extend(match program_name {
            "quarry-trainer" => ["--losses", losses.to_str().unwrap()],
            _ => ["--name", name],
        });
        Self::start(store, name, program_name, &arguments)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, what: Signal) {
        assert!(signal(self.pid(), what), "{} has ended", self.name);
    }

    /// Kills it with `kill -9`.
    ///
    /// # Panics
    /// If it has ended.
    pub fn kill(&mut self) {
        self.signal(Signal::Kill);
        assert!(!self.child.wait().unwrap().success());
    }

    /// Waits for something of it.
    ///
    /// # Panics
    /// If it does not come in time, with what the member has logged.
    pub fn wait_for<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        let said = AssertUnwindSafe(|| wait_for(what, LIMIT, look));
        std::panic::catch_unwind(said).unwrap_or_else(|_| {
            let log = self.store.log(&self.name);
            panic!("no {what} of {}:\n{log}", self.name)
        })
    }

    /// Waits until it has logged `words` for the `n`th time.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_until_said(&self, words: &str, n: usize) {
        self.wait_for(words, || {
            (self.store.log(&self.name).matches(words).count() >= n).then_some(())
        });
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end, or fails.
    pub fn assert_succeeds(&mut self) {
        let child = &mut self.child;
        let status = wait_for(&self.name, LIMIT, || child.try_wait().unwrap());
        let log = self.store.log(&self.name);
        assert!(
            status.success(),
            "{} ended with {status}:\n{log}",
            self.name
        );
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
