//! One line in the process's log for each thing people want to follow.

use crate::state::{Change, State};

/// Remembers what was told, so that progress comes in tenths.
#[derive(Debug, Default)]
pub struct Narrator {
    /// Generation and tenths told last.
    tenths: (u64, u32),
}

impl Narrator {
    /// Tells of a change that has just become durable.
    pub fn tell(&mut self, state: &State, change: &Change) {
        match change {
            Change::CheckpointPublished {
                checkpoint,
                is_final,
            } => {
                let digest = checkpoint.digest.short();
                tracing::info!(
                    step = checkpoint.step,
                    digest,
                    is_final,
                    "checkpoint published"
                );
            }
            Change::GenerationOpened {
                generation,
                kind,
                checkpoint,
                tasks,
            } => {
                self.tenths = (*generation, 0);
                let step = checkpoint.step;
                tracing::info!(generation, %kind, checkpoint_step = step, tasks, "generation opened");
            }
            Change::TaskCompleted { generation, .. } => self.tell_progress(state, *generation),
            Change::TaskReopened {
                generation,
                task,
                reason,
            } => {
                tracing::warn!(generation, task, reason, "task reopened");
            }
            Change::GenerationPublished {
                generation,
                activation,
                metrics,
                seconds,
                ..
            } => {
                let metrics: Vec<String> =
                    metrics.iter().map(|(n, v)| format!("{n} {v:.4}")).collect();
                let metrics = metrics.join(", ");
                tracing::info!(
                    generation,
                    activation,
                    metrics,
                    seconds,
                    "generation published"
                );
            }
            Change::GenerationAborted { generation, reason } => {
                tracing::error!(
                    generation,
                    reason,
                    "generation given up; training goes on with the active one"
                );
            }
            Change::RolledBack {
                activation,
                generation,
            } => {
                tracing::warn!(generation, activation, "rolled back");
            }
            Change::TrainerSwapped {
                step, generation, ..
            } => {
                tracing::info!(generation, step, "trainer switched");
            }
            Change::RefreshPaused { paused } => tracing::info!(paused, "refresh paused or resumed"),
            Change::GenerationRetired { generation } => {
                tracing::info!(generation, "generation retired");
            }
            Change::CheckpointRetired { checkpoint } => {
                tracing::info!(step = checkpoint.step, "checkpoint retired");
            }
            Change::EpochStarted { .. }
            | Change::GenerationCollected { .. }
            | Change::CheckpointCollected { .. } => {}
        }
    }

    fn tell_progress(&mut self, state: &State, generation: u64) {
        let Some(open) = state
            .run
            .open
            .as_ref()
            .filter(|o| o.generation == generation)
        else {
            return;
        };
        let (done, tasks) = (open.done.len() as u32, open.tasks.max(1));
        let tenths = done * 10 / tasks;
        if self.tenths.0 != generation || tenths > self.tenths.1 {
            self.tenths = (generation, tenths);
            tracing::info!(
                generation,
                done,
                tasks,
                percent = tenths * 10,
                "generation in progress"
            );
        }
    }
}
