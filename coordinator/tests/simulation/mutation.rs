//! Bugs planted at the coordinators' ports, to show that the laws' checks bite.
//!
//! The product's code stays as it is: what is altered is what it reads from the
//! store, what the store does for it, and what it answers.

use crate::client::Client;
use crate::world::World;
use object_store::path::Path;
use quarry_artifacts::{CheckpointRef, layout};
use quarry_proto::v1;

/// One planted bug, and the first seed that found it when it was planted. Seeds tell
/// other stories once the coordinator sends one message more or less: the test looks
/// for the first one anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A record is written although its number is taken. Seed 0.
    SkippedFence,
    /// A generation is published without a look at the sizes of its objects. Seed 4.
    ShortGeneration,
    /// A completion that comes after another attempt's is accepted too. Seed 4.
    LateCompletion,
    /// Leases name the newest checkpoint instead of the generation's own. Seed 10.
    MixedCheckpoints,
    /// A collection is off by one generation. Seed 2.
    LiveCollected,
    /// A checkpoint is acknowledged before it is in the log. Seed 0.
    EarlyAnswer,
}

impl Bug {
    /// Each bug and how the verdict on it begins.
    pub const ALL: [(Self, &str); 6] = [
        (Self::SkippedFence, "law 6:"),
        (Self::ShortGeneration, "law 2:"),
        (Self::LateCompletion, "law 2:"),
        (Self::MixedCheckpoints, "law 2:"),
        (Self::LiveCollected, "retention:"),
        (Self::EarlyAnswer, "durability:"),
    ];
}

/// [`Bug::ShortGeneration`]: the size that `client` takes `path` to have.
pub fn believed_size(world: &World, client: &Client, path: Path) -> Option<u64> {
    let believes = world.bug == Some(Bug::ShortGeneration) && client.is_coordinator();
    believes.then(|| client.whole_size(&path)).flatten()
}

/// [`Bug::LiveCollected`]: the folder that is listed, which only a collection does,
/// instead of `folder`.
pub fn listed_folder(world: &World, folder: Path) -> Path {
    let name = format!("{}/", layout::generations_folder());
    let number = folder.as_ref().strip_prefix(&name);
    match number.and_then(|n| n.parse::<u64>().ok()) {
        Some(number) if world.bug == Some(Bug::LiveCollected) => {
            Path::from(layout::generation_folder(number + 1))
        }
        _ => folder,
    }
}

/// [`Bug::LateCompletion`]: the answer to a completion.
pub fn accepted(world: &World, accepted: bool) -> bool {
    accepted || world.bug == Some(Bug::LateCompletion)
}

/// [`Bug::MixedCheckpoints`]: the lease that is handed out.
pub fn granted(world: &World, newest: Option<CheckpointRef>, lease: &mut v1::Lease) {
    if let (Some(Bug::MixedCheckpoints), Some(newest), Some(task)) =
        (world.bug, newest, &mut lease.task)
    {
        task.checkpoint = Some(newest.into());
    }
}
