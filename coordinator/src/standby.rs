//! Standing by: reads along while another coordinator leads, and says when that one
//! has been silent for too long.
//!
//! Owns: the judgement that a leader is gone. It is a guess, about availability
//! alone: the log decides who writes (law 6), so a wrong guess costs a change of
//! leader and nothing else. Refuses: taking over.

use crate::driver::DriverError;
use crate::follower::Follower;
use crate::log::LogError;
use crate::role::Role;
use quarry_proto::v1;
use quarry_proto::v1::coordinator_client::CoordinatorClient;
use quarry_service::patience::{is_absence, within};
use quarry_service::{ServiceChannel, Token};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A leader that was never heard is given this many times the patience: perhaps it
/// lives and only its address is of no use here. Two coordinators that cannot see
/// each other then do not fence one another all the time.
const CAUTION: u32 = 4;
/// The pause between two looks at the leader is this part of the patience, and an
/// answer may take twice as long.
const LOOKS: u32 = 8;

/// How long the leader has been silent, counted in looks that were in vain.
///
/// Counted, not read off a clock: a standby that was itself suspended for a minute
/// has missed one look, not a minute of the leader's life.
#[derive(Debug)]
pub struct Vigil {
    patience: Duration,
    epoch: u64,
    /// Whether the leader of this epoch has ever answered.
    heard: bool,
    silent: Duration,
}

impl Vigil {
    /// Watches the leader of `epoch`; 0 means that there has been none.
    #[must_use]
    pub fn new(patience: Duration, epoch: u64) -> Self {
        Self {
            patience,
            epoch,
            heard: false,
            silent: Duration::ZERO,
        }
    }

    /// The log grew: somebody writes, now the coordinator of `epoch`.
    pub fn wrote(&mut self, epoch: u64) {
        self.heard &= epoch == self.epoch;
        self.epoch = epoch;
        self.silent = Duration::ZERO;
    }

    /// The leader answered.
    pub fn answered(&mut self) {
        self.heard = true;
        self.silent = Duration::ZERO;
    }

    /// A look was in vain, `since` the last one.
    pub fn missed(&mut self, since: Duration) {
        // A pause and an answer, with some more for a busy machine.
        self.silent += since.min(self.patience * 4 / LOOKS);
    }

    /// Whether the leader is to be taken for gone.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let unheard = self.epoch > 0 && !self.heard;
        self.silent >= self.patience * if unheard { CAUTION } else { 1 }
    }
}

/// Follows the log until its leader has been silent for `patience`; `role` tells
/// callers where that leader is.
///
/// # Errors
/// If the log is damaged. A store that is away is waited for: who cannot read the log
/// cannot tell whether it grows.
pub async fn until_silent(
    follower: &mut Follower,
    patience: Duration,
    token: Option<&Token>,
    role: &watch::Sender<Role>,
) -> Result<(), DriverError> {
    let pause = patience / LOOKS;
    let mut vigil = Vigil::new(patience, follower.epoch());
    let mut leader = Leader::of(follower, token, role);
    let mut looked = Instant::now();
    loop {
        match follower.follow().await {
            Ok(true) => {
                vigil.wrote(follower.epoch());
                if leader.epoch != follower.epoch() {
                    leader = Leader::of(follower, token, role);
                }
            }
            Ok(false) => {}
            Err(LogError::Store(error)) => {
                tracing::warn!(%error, "cannot read the log, trying again");
                tokio::time::sleep(pause).await;
                looked = Instant::now();
                continue;
            }
            Err(damaged) => return Err(damaged.into()),
        }
        if leader.answers(pause * 2).await {
            vigil.answered();
        } else {
            vigil.missed(looked.elapsed());
        }
        looked = Instant::now();
        if vigil.is_over() {
            let (epoch, seconds) = (follower.epoch(), vigil.silent.as_secs_f64());
            tracing::warn!(epoch, seconds, "the leader is silent, taking over");
            return Ok(());
        }
        tokio::time::sleep(pause).await;
    }
}

/// The coordinator of an epoch, to be asked whether it lives.
struct Leader {
    epoch: u64,
    client: Option<CoordinatorClient<ServiceChannel>>,
}

impl Leader {
    /// The one that the log names.
    fn of(follower: &Follower, token: Option<&Token>, role: &watch::Sender<Role>) -> Self {
        let (epoch, leader) = (follower.epoch(), follower.leader().map(str::to_owned));
        tracing::info!(epoch, leader, "standing by");
        let channel = leader
            .as_ref()
            .map(|url| ServiceChannel::lazy(url, token))
            .and_then(|channel| {
                channel
                    .inspect_err(|error| tracing::warn!(%error, "the leader cannot be asked"))
                    .ok()
            });
        role.send_replace(Role::StandingBy { leader });
        Self {
            epoch,
            client: channel.map(CoordinatorClient::new),
        }
    }

    /// Whether it answers within `limit`. The question goes through its driver, which
    /// has no answer while the log cannot be written. A refusal is an answer too.
    async fn answers(&self, limit: Duration) -> bool {
        let Some(mut client) = self.client.clone() else {
            return false;
        };
        let question = async move { client.get_run(v1::GetRunRequest {}).await };
        match within(limit, question).await {
            // An older epoch is a zombie's, or another run's at the same address.
            Ok(run) => run.epoch >= self.epoch,
            Err(status) => !is_absence(&status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(8);
    const LOOK: Duration = Duration::from_secs(1);

    fn missed(vigil: &mut Vigil, looks: u32) -> bool {
        (0..looks).for_each(|_| vigil.missed(LOOK));
        vigil.is_over()
    }

    #[test]
    fn a_leader_that_was_heard_is_given_the_patience() {
        let mut vigil = Vigil::new(PATIENCE, 3);
        vigil.answered();
        assert!(!missed(&mut vigil, 7));
        assert!(missed(&mut vigil, 1));
        vigil.answered();
        assert!(!missed(&mut vigil, 7), "an answer begins it anew");
        vigil.wrote(3);
        assert!(!missed(&mut vigil, 7), "and so does a record");
        assert!(missed(&mut vigil, 1));
    }

    #[test]
    fn a_leader_that_was_never_heard_is_given_more_and_none_at_all_is_not() {
        let mut vigil = Vigil::new(PATIENCE, 3);
        assert!(!missed(&mut vigil, 31));
        assert!(missed(&mut vigil, 1));
        vigil.answered();
        vigil.wrote(4);
        assert!(!missed(&mut vigil, 31), "a new leader is to be heard first");
        assert!(missed(&mut Vigil::new(PATIENCE, 0), 8));
    }

    #[test]
    fn a_standby_that_was_suspended_does_not_blame_the_leader() {
        let mut vigil = Vigil::new(PATIENCE, 3);
        vigil.answered();
        vigil.missed(Duration::from_secs(3600));
        assert!(!vigil.is_over());
    }
}
