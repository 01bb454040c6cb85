//! Progress of a run in words: one line from the coordinator's answer. Pure.

use crate::run::preflight::duration;
use quarry_proto::v1::{GetRunResponse, OpenGeneration, TrainerStatus};

/// The whole run in one line.
#[must_use]
pub fn line(run: &GetRunResponse) -> String {
    let mut parts = vec![match &run.trainer {
        Some(trainer) => trainer_part(trainer),
        None => "trainer starting".to_owned(),
    }];
    parts.push(match &run.active {
        Some(active) => {
            let step = active.checkpoint.as_ref().map_or(0, |c| c.step);
            format!(
                "gen {} ({} @ {step}) stale {}",
                active.generation, active.kind, run.staleness
            )
        }
        None => "no generation yet".to_owned(),
    });
    parts.push(match &run.open {
        Some(open) => refresh_part(open),
        None if run.finished => "finished".to_owned(),
        None => "fleet idle".to_owned(),
    });
    if !run.trouble.is_empty() {
        parts.push(run.trouble.clone());
    }
    parts.join(" | ")
}

/// Law 8: what the active generation lacks, counted when it was mined.
#[must_use]
pub fn shortage(run: &GetRunResponse) -> Option<String> {
    let active = run.active.as_ref()?;
    let count = |name: &str| active.counts.get(name).copied().unwrap_or(0);
    let (short, empty) = (count("short_queries"), count("empty_queries"));
    let ratio = match active.kind.as_str() {
        "bm25" => "mining.sparse_max_positive_ratio",
        _ => "mining.max_positive_ratio",
    };
    (short > 0).then(|| {
        format!(
            "generation {}: {short} training queries have fewer negatives than train.negatives, {empty} of them none; a larger mining.depth or another {ratio} leaves more",
            active.generation
        )
    })
}

fn trainer_part(trainer: &TrainerStatus) -> String {
    let left = trainer.total_steps.saturating_sub(trainer.step);
    let mut text = format!("step {}/{}", trainer.step, trainer.total_steps);
    if trainer.pairs_per_second > 0.0 {
        text.push_str(&format!(
            " loss {:.4} {:.1} pairs/s",
            trainer.loss, trainer.pairs_per_second
        ));
    }
    if trainer.blocked {
        text.push_str(" WAITING for fresher negatives");
    } else if left == 0 {
        text.push_str(" done");
    }
    text
}

fn refresh_part(open: &OpenGeneration) -> String {
    let step = open.checkpoint.as_ref().map_or(0, |c| c.step);
    let eta = match open.eta_seconds {
        s if s < 0.0 => String::new(),
        s => format!(", eta {}", duration(s)),
    };
    format!(
        "making gen {} @ {step}: {}{eta}",
        open.generation, open.stage
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_proto::v1::{CheckpointRef, GenerationSummary};

    #[test]
    fn a_line_says_step_loss_speed_generation_staleness_and_refresh() {
        let checkpoint = |step| {
            Some(CheckpointRef {
                step,
                ..CheckpointRef::default()
            })
        };
        let run = GetRunResponse {
            trainer: Some(TrainerStatus {
                step: 120,
                total_steps: 226,
                loss: 0.5,
                pairs_per_second: 9.25,
                ..TrainerStatus::default()
            }),
            active: Some(GenerationSummary {
                generation: 2,
                kind: "dense".into(),
                checkpoint: checkpoint(50),
                ..GenerationSummary::default()
            }),
            open: Some(OpenGeneration {
                generation: 3,
                checkpoint: checkpoint(100),
                stage: "encode shards 3/5".into(),
                eta_seconds: 12.0,
                ..OpenGeneration::default()
            }),
            staleness: 70,
            ..GetRunResponse::default()
        };
        assert_eq!(
            line(&run),
            "step 120/226 loss 0.5000 9.2 pairs/s | gen 2 (dense @ 50) stale 70 | \
             making gen 3 @ 100: encode shards 3/5, eta 12 s"
        );
    }

    #[test]
    fn queries_that_lack_negatives_are_counted() {
        let run = |kind: &str, short, empty| GetRunResponse {
            active: Some(GenerationSummary {
                generation: 1,
                kind: kind.into(),
                counts: [("short_queries", short), ("empty_queries", empty)]
                    .map(|(name, count)| (name.to_owned(), count))
                    .into(),
                ..GenerationSummary::default()
            }),
            ..GetRunResponse::default()
        };
        assert_eq!(
            shortage(&run("dense", 7, 2)).unwrap(),
            "generation 1: 7 training queries have fewer negatives than train.negatives, 2 of them none; \
             a larger mining.depth or another mining.max_positive_ratio leaves more"
        );
        let sparse = shortage(&run("bm25", 7, 2)).unwrap();
        assert!(sparse.contains("mining.sparse_max"), "{sparse}");
        assert_eq!(shortage(&run("dense", 0, 0)), None);
        assert_eq!(shortage(&GetRunResponse::default()), None);
    }

    #[test]
    fn a_run_that_has_just_begun_has_a_line_too() {
        assert_eq!(
            line(&GetRunResponse::default()),
            "trainer starting | no generation yet | fleet idle"
        );
    }
}
