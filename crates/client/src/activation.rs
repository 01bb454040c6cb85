//! A generation made active, as the coordinator announces it.

use quarry_artifacts::{CheckpointRef, ObjectRef};
use quarry_proto::v1;
use serde::{Deserialize, Serialize};
use tonic::Status;

/// An activation as the coordinator announced it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// Rises by one with each publication or rollback.
    pub activation: u64,
    /// The generation made active.
    pub generation: u64,
    /// The checkpoint it was mined with.
    pub checkpoint: CheckpointRef,
    /// Its manifest.
    pub manifest: ObjectRef,
}

impl Activation {
    /// Steps between the trainer and the checkpoint of these negatives.
    #[must_use]
    pub fn staleness(&self, step: u64) -> u64 {
        step.saturating_sub(self.checkpoint.step)
    }
}

/// The activation with these (number, generation) and references.
///
/// # Errors
/// A reference that is missing or means nothing.
pub fn activation(
    (activation, generation): (u64, u64),
    checkpoint: Option<v1::CheckpointRef>,
    manifest: Option<v1::ObjectRef>,
) -> Result<Activation, Status> {
    let invalid = |reason: String| Status::invalid_argument(reason);
    let missing = || invalid(format!("generation {generation} lacks a reference"));
    let checkpoint = checkpoint.ok_or_else(missing)?;
    let manifest = manifest.ok_or_else(missing)?;
    Ok(Activation {
        activation,
        generation,
        checkpoint: checkpoint.try_into().map_err(|e| invalid(format!("{e}")))?,
        manifest: manifest.try_into().map_err(|e| invalid(format!("{e}")))?,
    })
}
