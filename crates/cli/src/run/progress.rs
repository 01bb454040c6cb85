//! What a user sees while a run works: one live line on a terminal; plain lines,
//! seldom, elsewhere.

use crate::run::watch;
use indicatif::{ProgressBar, ProgressStyle};
use quarry_proto::v1::GetRunResponse;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Time between two plain progress lines, where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// One live line on a terminal; plain lines, seldom, elsewhere.
pub struct Progress {
    bar: Option<ProgressBar>,
    last: Instant,
    generation: Option<u64>,
}

impl Progress {
    /// Nothing shown yet.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(200));
            bar.set_style(ProgressStyle::default_spinner());
            bar
        });
        Self {
            bar,
            last: Instant::now() - PLAIN_EVERY,
            generation: None,
        }
    }

    /// Shows the run as it is now.
    pub fn show(&mut self, run: &GetRunResponse) {
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

    /// Says something that is no progress, as seldom as plain lines.
    pub fn say(&mut self, words: &str) {
        if self.last.elapsed() < PLAIN_EVERY {
            return;
        }
        self.last = Instant::now();
        match &self.bar {
            Some(bar) => bar.println(words),
            None => eprintln!("{words}"),
        }
    }

    /// Leaves the terminal clean.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
