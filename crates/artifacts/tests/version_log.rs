//! Version logs: what a run could have written reads back, all else is refused.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use quarry_artifacts::{Digest, GenerationKind, VersionLog, VersionSwap};
use serde_json::json;

/// The swap at `step` to a generation, whose checkpoint follows from its number.
fn swap(step: u64, generation: u64) -> VersionSwap {
    let checkpoint_step = generation * 5;
    VersionSwap {
        step,
        generation,
        kind: match generation {
            0 => GenerationKind::Bm25,
            _ => GenerationKind::Dense,
        },
        checkpoint_step,
        checkpoint: Digest::of(&checkpoint_step.to_le_bytes()),
    }
}

prop_compose! {
    /// Swaps 1 to 30 steps apart, each to a generation that could be mined by then: newer, older or the same again.
    fn any_log()(
        gaps in prop::collection::vec((1..30_u64, any::<prop::sample::Index>()), 0..12),
        rest in 1..100_u64,
        seed: u64,
    ) -> VersionLog {
        let mut swaps = vec![swap(0, 0)];
        for (gap, choice) in gaps {
            let step = swaps[swaps.len() - 1].step + gap;
            swaps.push(swap(step, choice.index(step as usize / 5 + 1) as u64));
        }
        VersionLog {
            version: VersionLog::VERSION,
            recipe: json!({"seed": seed}),
            corpus: Digest::of(b"corpus"),
            initial: Digest::of(b"initial"),
            steps: swaps[swaps.len() - 1].step + rest,
            swaps,
            model: Digest::of(b"final"),
        }
    }
}

/// One way to break a log at swap `at`, which is not the first.
fn broken(mut log: VersionLog, at: usize, how: usize) -> VersionLog {
    let before = log.swaps[at - 1].clone();
    let last = log.swaps.len() - 1;
    let here = &mut log.swaps[at];
    match how {
        0 => here.step = before.step,
        1 => here.checkpoint_step = here.step + 1,
        2 => log.steps = log.swaps[last].step,
        3 => drop(log.swaps.remove(0)),
        4 => {
            // The same generation as before, from another checkpoint.
            here.generation = before.generation;
            here.kind = before.kind;
            here.checkpoint_step = before.checkpoint_step;
            here.checkpoint = Digest::of(b"another");
        }
        _ => log.version += 1,
    }
    log
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(13),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_log_reads_back_and_says_what_each_step_follows(log in any_log(), step in 0..500_u64) {
        prop_assert_eq!(log.check(), Ok(()));
        let bytes = serde_json::to_vec(&log).unwrap();
        prop_assert_eq!(&VersionLog::parse(&bytes, "log.json").unwrap(), &log);
        let followed = log.swaps.iter().enumerate().rfind(|(_, swap)| swap.step <= step);
        prop_assert_eq!(log.at(step), followed);
        for swap in &log.swaps {
            prop_assert!(log.needs_checkpoint(swap.checkpoint_step));
        }
        prop_assert!(!log.needs_checkpoint(log.steps + 1));
    }

    #[test]
    fn a_log_broken_anywhere_is_refused(log in any_log(), at: prop::sample::Index, how in 0..6_usize) {
        prop_assume!(log.swaps.len() > 1);
        let at = 1 + at.index(log.swaps.len() - 1);
        let log = broken(log, at, how);
        prop_assert!(log.check().is_err(), "{log:?}");
        let bytes = serde_json::to_vec(&log).unwrap();
        let message = VersionLog::parse(&bytes, "log.json").unwrap_err().to_string();
        prop_assert!(message.contains("log.json"), "{message}");
    }

    #[test]
    fn a_log_with_any_byte_changed_is_another_or_refused(log in any_log(), at: prop::sample::Index, flip in 1..=255_u8) {
        let mut bytes = serde_json::to_vec(&log).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(read) = VersionLog::parse(&bytes, "log.json") {
            prop_assert_ne!(read, log);
        }
    }
}
