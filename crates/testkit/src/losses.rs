//! `losses.jsonl`: what the trainer says of each step.

use serde::Deserialize;
use std::path::Path;

/// One step, as far as tests look at it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct StepLine {
    /// The step, from 0.
    pub step: u64,
    /// Loss of its batch.
    pub loss: f64,
    /// Norm of its gradient.
    pub grad_norm: f64,
    /// How long it took, waiting included.
    pub step_ms: f64,
    /// How long it waited for its batch.
    pub idle_ms: f64,
    /// Generation its negatives came from.
    pub generation: u64,
    /// Age of that generation's checkpoint in steps.
    pub staleness: u64,
}

/// The steps of a run, in the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Losses(pub Vec<StepLine>);

impl Losses {
    /// Reads the file; one that is not there yet has no lines, and a last line
    /// that is still being written is left out.
    ///
    /// # Panics
    /// If another line is not a step.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", path.display()))
        };
        Self(whole.lines().map(parse).collect())
    }

    /// Asserts that the file holds each step from 0 to `total` once, in order.
    ///
    /// # Panics
    /// If it does not.
    pub fn assert_steps(&self, total: u64) {
        let steps: Vec<u64> = self.0.iter().map(|line| line.step).collect();
        let wanted: Vec<u64> = (0..total).collect();
        assert_eq!(
            steps, wanted,
            "losses.jsonl does not hold every step once and in order"
        );
    }

    /// Bits of loss and gradient norm of each step.
    #[must_use]
    pub fn bits(&self) -> Vec<(u64, u64, u64)> {
        self.0
            .iter()
            .map(|line| (line.step, line.loss.to_bits(), line.grad_norm.to_bits()))
            .collect()
    }

    /// The steps that were the first to use their generation, without step 0.
    #[must_use]
    pub fn swaps(&self) -> Vec<&StepLine> {
        self.0
            .windows(2)
            .filter(|pair| pair[0].generation != pair[1].generation)
            .map(|pair| &pair[1])
            .collect()
    }

    /// Median duration of a step in milliseconds.
    #[must_use]
    pub fn median_step_ms(&self) -> f64 {
        let mut all: Vec<f64> = self.0.iter().map(|line| line.step_ms).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(0.0)
    }
}
