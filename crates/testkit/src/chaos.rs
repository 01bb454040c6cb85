//! Runs that are killed and stopped at random, from a seed.
//!
//! Owns: which process is hit when and how, the log of it, and going on with
//! `--resume` where a death ends the run. Refuses: judging the result.

use crate::processes::{Process, Signal, signal};
use crate::programs::program;
use crate::running::Running;
use crate::store::RunStore;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Programs that are hit, in equal shares.
const ROLES: [&str; 3] = ["quarry-coordinator", "quarry-inferencer", "quarry-trainer"];

/// How long a program that was hit may take to come back.
const COMEBACK: Duration = Duration::from_secs(60);

/// What is run.
#[derive(Debug, Clone)]
pub struct Target {
    /// Recipe file.
    pub recipe: PathBuf,
    /// Collection folder.
    pub data: PathBuf,
    /// Initial model.
    pub model: PathBuf,
    /// Further arguments of `quarry run`.
    pub arguments: Vec<String>,
    /// How long it may take undisturbed.
    pub limit: Duration,
}

/// How it is disturbed.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Root of every choice.
    pub seed: u64,
    /// Faults to come.
    pub faults: usize,
    /// Least and greatest time between two faults.
    pub gap: (Duration, Duration),
    /// Greatest time that a process is stopped; beyond the lease it is a zombie.
    pub pause: Duration,
}

/// One line of the fault log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fault {
    /// Its place in the schedule, from 1.
    pub number: usize,
    /// Seconds since the start.
    pub at_s: f64,
    /// Steps the trainer had logged.
    pub step: u64,
    /// The program.
    pub program: String,
    /// Its process.
    pub pid: u32,
    /// `kill` or `stop`.
    pub kind: &'static str,
    /// How long it was stopped.
    pub pause_s: f64,
}

impl Target {
    /// Starts it with the store `store`, or goes on with the run in it.
    #[must_use]
    pub fn start(&self, store: &RunStore, resume: bool, arguments: &[&str]) -> Running {
        let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
        let mut all = vec!["run".to_owned(), text(&self.recipe)];
        let mut add = |words: &[&str]| all.extend(words.iter().map(|w| (*w).to_owned()));
        add(&["--store", store.url(), "--listen", "127.0.0.1:0"]);
        match resume {
            true => add(&["--resume"]),
            false => add(&["--data", &text(&self.data), "--model", &text(&self.model)]),
        }
        add(arguments);
        all.extend(self.arguments.iter().cloned());
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        Running::start(&program("quarry"), &all, store.clone())
    }

    /// Runs it to its end through every fault of the schedule. Each fault is
    /// written to `log` as a line of JSON when it happens.
    ///
    /// # Panics
    /// If the run ends before the last fault, or does not end well after it.
    pub fn run_through(
        &self,
        store: &RunStore,
        schedule: &Schedule,
        log: &mut dyn Write,
    ) -> Vec<Fault> {
        let (started, mut faults) = (Instant::now(), Vec::new());
        let mut plan = schedule.plan().into_iter().peekable();
        loop {
            let resume = store.folder().join("run.json").exists();
            let mut run = self.start(store, resume, &[]);
            let before = faults.len();
            while let Some(planned) = plan.peek() {
                std::thread::sleep(planned.gap);
                let Some(fault) = planned.hit(&mut run, faults.len(), started) else {
                    break; // The run is ending; this one hits the next.
                };
                let _ = plan.next();
                writeln!(log, "{}", serde_json::to_string(&fault).unwrap()).unwrap();
                faults.push(fault);
            }
            let finished = run.wait_within(self.limit);
            if finished.code == Some(0) {
                assert!(
                    plan.peek().is_none(),
                    "the run was over after {} faults: give it more steps or shorter gaps",
                    faults.len()
                );
                return faults;
            }
            // One sentence, and nothing that a resume could not mend.
            let reason = finished.refusal();
            assert!(
                faults[before..].iter().any(|fault| fault.kind == "kill"),
                "the run ended without a kill: {reason}"
            );
            writeln!(log, "{}", serde_json::json!({ "ended": reason })).unwrap();
        }
    }
}

/// A fault to come.
struct Planned {
    gap: Duration,
    role: &'static str,
    /// Stopped for so long; killed if unset.
    pause: Option<Duration>,
}

impl Schedule {
    /// The faults that the seed draws, whatever the run does meanwhile.
    fn plan(&self) -> Vec<Planned> {
        let mut random = Random(self.seed);
        let mut draw = || Planned {
            gap: random.between(self.gap.0, self.gap.1),
            role: ROLES[random.below(ROLES.len())],
            pause: match random.below(2) {
                0 => None,
                _ => Some(random.between(Duration::from_millis(100), self.pause)),
            },
        };
        (0..self.faults).map(|_| draw()).collect()
    }
}

impl Planned {
    /// Hits a living program of the run; `None` if the run ends first.
    fn hit(&self, run: &mut Running, before: usize, started: Instant) -> Option<Fault> {
        let process = living(run, self.role)?;
        let fault = Fault {
            number: before + 1,
            at_s: started.elapsed().as_secs_f64(),
            step: run.store().losses().0.len() as u64,
            program: process.program,
            pid: process.pid,
            kind: if self.pause.is_none() { "kill" } else { "stop" },
            pause_s: self.pause.map_or(0.0, |pause| pause.as_secs_f64()),
        };
        let Some(pause) = self.pause else {
            return signal(process.pid, Signal::Kill).then_some(fault);
        };
        if !signal(process.pid, Signal::Stop) {
            return None;
        }
        std::thread::sleep(pause);
        // It may have been killed meanwhile, for its silence.
        let _ = signal(process.pid, Signal::Continue);
        Some(fault)
    }
}

/// A living process of `role`, as soon as there is one.
fn living(run: &mut Running, role: &str) -> Option<Process> {
    let waiting = Instant::now();
    while !run.has_ended() {
        if let Some(process) = run.process(role) {
            return Some(process);
        }
        assert!(waiting.elapsed() < COMEBACK, "{role} did not come back");
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let share = self.next() as f64 / u64::MAX as f64;
        least + most.saturating_sub(least).mul_f64(share)
    }
}
