//! Which generation the next step uses.
//!
//! Owns: the active negatives, the version log, and what to do about staleness.
//! Refuses: waiting, which is the training loop's decision to carry out.

use crate::feed::Feed;
use crate::negatives::Negatives;
use crate::outbox::{Letter, Outbox};
use quarry_artifacts::VersionSwap;
use quarry_recipe::{OnStale, Refresh};
use std::sync::Arc;

/// What the staleness bound says about a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Within the bound, or there is none.
    Fresh,
    /// Beyond the bound, and training goes on.
    Stale,
    /// Beyond the bound, and training waits for a newer generation.
    Wait,
}

/// The verdict of `refresh` on negatives that are `staleness` steps old.
#[must_use]
pub fn verdict(refresh: &Refresh, staleness: u64) -> Verdict {
    if refresh.max_staleness == 0 || staleness <= refresh.max_staleness {
        return Verdict::Fresh;
    }
    match refresh.on_stale {
        OnStale::Block => Verdict::Wait,
        OnStale::Warn => Verdict::Stale,
        OnStale::Off => Verdict::Fresh,
    }
}

/// The active generation and how it came to be.
pub struct Active {
    negatives: Option<Arc<Negatives>>,
    swaps: Vec<VersionSwap>,
    /// The activation about whose staleness a warning was said.
    warned: Option<u64>,
}

impl Active {
    /// A version log so far; no generation is active yet.
    #[must_use]
    pub fn new(swaps: Vec<VersionSwap>) -> Self {
        Self {
            negatives: None,
            swaps,
            warned: None,
        }
    }

    /// The active negatives.
    #[must_use]
    pub fn negatives(&self) -> Option<&Arc<Negatives>> {
        self.negatives.as_ref()
    }

    /// Number of the active activation, 0 before the first.
    #[must_use]
    pub fn activation(&self) -> u64 {
        self.negatives
            .as_ref()
            .map_or(0, |n| n.activation().activation)
    }

    /// The version log.
    #[must_use]
    pub fn swaps(&self) -> &[VersionSwap] {
        &self.swaps
    }

    /// Switches from `step` on if the feed has a later activation.
    pub fn take_newer(&mut self, step: u64, feed: &Feed, outbox: &Outbox) -> bool {
        let Some(negatives) = feed.newer(self.activation()) else {
            return false;
        };
        self.activate(step, negatives, outbox);
        true
    }

    /// Switches to `negatives` from `step` on, and reports it.
    pub fn activate(&mut self, step: u64, negatives: Arc<Negatives>, outbox: &Outbox) {
        let activation = negatives.activation().clone();
        // Steps that a killed process took beyond its last checkpoint are taken again.
        self.swaps.retain(|swap| swap.step < step);
        // Taking up a generation again after a resume is no swap.
        if self.swaps.last().map(|swap| swap.generation) != Some(activation.generation) {
            self.swaps.push(VersionSwap {
                step,
                generation: activation.generation,
                kind: negatives.kind(),
                checkpoint_step: activation.checkpoint.step,
                checkpoint: activation.checkpoint.digest.clone(),
            });
        }
        outbox.post(Letter::Swap { step, activation });
        self.negatives = Some(negatives);
    }

    /// Says once for each activation that training goes on beyond the bound.
    pub fn warn_of_staleness(&mut self, step: u64, bound: u64) {
        let number = self.activation();
        if self.warned.replace(number) != Some(number)
            && let Some(negatives) = &self.negatives
        {
            tracing::warn!(
                step,
                generation = negatives.activation().generation,
                staleness = negatives.activation().staleness(step),
                max_staleness = bound,
                "negatives are older than refresh.max_staleness, training goes on with them"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_blocks_warns_or_is_off() {
        let refresh = |max_staleness, on_stale| Refresh {
            max_staleness,
            on_stale,
            ..Refresh::default()
        };
        assert_eq!(verdict(&refresh(0, OnStale::Block), 9999), Verdict::Fresh);
        assert_eq!(verdict(&refresh(10, OnStale::Block), 10), Verdict::Fresh);
        assert_eq!(verdict(&refresh(10, OnStale::Block), 11), Verdict::Wait);
        assert_eq!(verdict(&refresh(10, OnStale::Warn), 11), Verdict::Stale);
        assert_eq!(verdict(&refresh(10, OnStale::Off), 11), Verdict::Fresh);
    }
}
