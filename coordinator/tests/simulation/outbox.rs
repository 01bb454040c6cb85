//! What the coordinator must hear of the trainer, in order, each letter repeated
//! until it is answered.

use crate::network::Link;
use crate::world::lock;
use quarry_proto::v1;
use std::collections::VecDeque;
use std::sync::Mutex;
use tonic::Status;

/// One line for the coordinator.
#[derive(Debug, Clone)]
pub enum Letter {
    Swap(v1::ReportSwapRequest),
    Checkpoint(v1::PublishCheckpointRequest),
}

/// The letters not answered yet.
pub struct Outbox {
    link: Link,
    letters: Mutex<VecDeque<Letter>>,
    /// Whether the last checkpoint was refused.
    refused: Mutex<bool>,
}

impl Outbox {
    pub fn new(link: Link) -> Self {
        Self {
            link,
            letters: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    pub fn post(&self, letter: Letter) {
        lock(&self.letters).push_back(letter);
    }

    pub fn is_empty(&self) -> bool {
        lock(&self.letters).is_empty()
    }

    pub fn was_refused(&self) -> bool {
        *lock(&self.refused)
    }

    /// Delivers what is posted; never ends.
    pub async fn deliver(&self) {
        loop {
            let next = lock(&self.letters).front().cloned();
            let Some(letter) = next else {
                self.link.process.sleep(50).await;
                continue;
            };
            let answer = self.link.until_answered(|| self.send(letter.clone())).await;
            if let Err(status) = &answer {
                let reason = status.message();
                let refusal = format_args!("a letter is refused: {letter:?}: {reason}");
                self.link.world().note(refusal);
            }
            if matches!(letter, Letter::Checkpoint(_)) {
                *lock(&self.refused) = answer.is_err();
            }
            lock(&self.letters).pop_front();
        }
    }

    async fn send(&self, letter: Letter) -> Result<(), Status> {
        match letter {
            Letter::Swap(request) => self.link.report_swap(request).await,
            Letter::Checkpoint(request) => self.link.publish_checkpoint(request).await,
        }
    }
}
