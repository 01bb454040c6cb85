//! The learning rate of each step.
//!
//! Owns: linear warm-up followed by a linear, constant or cosine course, as
//! Hugging Face transformers computes them. Refuses: optimizer state.

use quarry_recipe::Schedule;

/// Learning rates of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    peak: f64,
    shape: Schedule,
    warmup: u64,
    total: u64,
}

impl LearningRate {
    /// `peak` is reached after `ceil(warmup_ratio × total)` steps.
    #[must_use]
    pub fn new(peak: f64, shape: Schedule, warmup_ratio: f64, total: u64) -> Self {
        Self {
            peak,
            shape,
            warmup: (warmup_ratio * total as f64).ceil() as u64,
            total,
        }
    }

    /// The rate of step `step`, counted from 0; 0 at step 0 under warm-up.
    #[must_use]
    pub fn at(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return step as f64 / self.warmup.max(1) as f64;
        }
        let rest = self.total.saturating_sub(self.warmup).max(1) as f64;
        match self.shape {
            Schedule::Constant => 1.0,
            Schedule::Linear => self.total.saturating_sub(step) as f64 / rest,
            Schedule::Cosine => {
                let progress = (step - self.warmup) as f64 / rest;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}
