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
    seen: Seen,
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
            seen: Seen::default(),
        }
    }

    /// Shows the run as it is now.
    pub fn show(&mut self, run: &GetRunResponse) {
        let line = watch::line(run);
        if self.seen.is_another_generation(run)
            && let Some(shortage) = watch::shortage(run)
        {
            self.print(&shortage);
        }
        let news = self.seen.is_news(run);
        match &self.bar {
            Some(bar) => {
                if news {
                    bar.println(&line);
                }
                bar.set_message(line);
            }
            None if news || self.last.elapsed() >= PLAIN_EVERY => {
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
        self.print(words);
    }

    fn print(&self, words: &str) {
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

/// What of the run was shown last and stays worth a line of its own.
#[derive(Default)]
struct Seen {
    generation: Option<u64>,
    trouble: String,
}

impl Seen {
    /// Whether another generation is active or another trouble has come up since the
    /// last look. Trouble that only counts on is no news, nor is its end.
    fn is_news(&mut self, run: &GetRunResponse) -> bool {
        let trouble = run.trouble.replace(|c: char| c.is_ascii_digit(), "");
        let another = self.is_another_generation(run);
        let news = another || !trouble.is_empty() && trouble != self.trouble;
        *self = Self {
            generation: generation(run),
            trouble,
        };
        news
    }

    /// Whether another generation is active than at the last look.
    fn is_another_generation(&self, run: &GetRunResponse) -> bool {
        generation(run) != self.generation
    }
}

fn generation(run: &GetRunResponse) -> Option<u64> {
    run.active.as_ref().map(|active| active.generation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_proto::v1::GenerationSummary;

    #[test]
    fn a_generation_and_a_trouble_are_news_once() {
        let run = |generation, trouble: &str| GetRunResponse {
            active: Some(GenerationSummary {
                generation,
                ..GenerationSummary::default()
            }),
            trouble: trouble.to_owned(),
            ..GetRunResponse::default()
        };
        let refused = "the trainer refuses generation 7: it was mined from another corpus";
        let looks = [
            (run(6, ""), true),
            (run(6, ""), false),
            (run(7, ""), true),
            (run(7, refused), true),
            (run(7, refused), false),
            (run(7, "no inferencer has asked for work for 60 s"), true),
            (run(7, "no inferencer has asked for work for 61 s"), false),
            (run(7, ""), false),
            (run(7, refused), true),
        ];
        let mut seen = Seen::default();
        for (at, (run, news)) in looks.iter().enumerate() {
            assert_eq!(seen.is_news(run), *news, "look {at}");
        }
    }
}
