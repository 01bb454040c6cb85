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
    fn a_run_that_has_just_begun_has_a_line_too() {
        assert_eq!(
            line(&GetRunResponse::default()),
            "trainer starting | no generation yet | fleet idle"
        );
    }
}
