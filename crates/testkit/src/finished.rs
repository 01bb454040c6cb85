//! A command that has ended: its exit code and what it said.

use serde_json::Value;

/// Exit code and output of a command.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The command, for messages.
    pub command: String,
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    /// Results.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

impl Finished {
    /// Itself, if the exit code is 0.
    ///
    /// # Panics
    /// If it is not, with everything the command said.
    #[must_use]
    pub fn succeeded(self) -> Self {
        assert_eq!(
            self.code,
            Some(0),
            "{} failed:\n{}\n{}",
            self.command,
            self.stdout,
            self.stderr
        );
        self
    }

    /// The one object of a command that was given `--json`.
    ///
    /// # Panics
    /// If stdout is anything else.
    #[must_use]
    pub fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|e| {
            panic!(
                "{} did not print one JSON object ({e}):\n{}",
                self.command, self.stdout
            )
        });
        assert!(
            value.is_object(),
            "{} printed no object: {value}",
            self.command
        );
        value
    }

    /// The one sentence with which the command refused its input: the last line
    /// of stderr and the only one that starts with `quarry`.
    ///
    /// # Panics
    /// If the exit code is 0 or there was a panic, a backtrace or another
    /// number of such lines.
    #[must_use]
    pub fn refusal(&self) -> &str {
        let all = || format!("{} said:\n{}\n{}", self.command, self.stdout, self.stderr);
        assert!(
            self.code.is_some_and(|code| code != 0),
            "exit code {:?}; {}",
            self.code,
            all()
        );
        for noise in ["panicked", "backtrace", "Caused by", "thread '"] {
            assert!(
                !self.stderr.contains(noise),
                "`{noise}` on stderr; {}",
                all()
            );
        }
        let said: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("quarry"))
            .collect();
        assert_eq!(said.len(), 1, "not one sentence of refusal; {}", all());
        assert_eq!(
            self.stderr.lines().last(),
            Some(said[0]),
            "the refusal is not the last line; {}",
            all()
        );
        said[0]
    }
}
