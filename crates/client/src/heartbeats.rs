//! Heartbeats of one lease, beside the task it is for.
//!
//! Refuses: ending the task because the coordinator is away. Its first completion
//! wins, whoever holds the lease then.

use crate::worker::Link;
use quarry_proto::Lease;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// Heartbeats of one lease, until dropped. One that is under way then is still waited for:
/// given up, it would look like one that met nobody, and calls would turn to another address.
pub struct Heartbeats(
    #[expect(dead_code, reason = "the other end sees it dropped")] oneshot::Sender<()>,
);

impl Heartbeats {
    /// Keeps `lease` alive, saying each time how far its task is by `progress` (0 to
    /// 1), and calls `cancel` if the coordinator does not want the task any more.
    #[must_use]
    pub fn start(
        link: Link,
        lease: Lease,
        progress: impl Fn() -> f64 + Send + 'static,
        cancel: impl FnOnce() + Send + 'static,
    ) -> Self {
        let (sender, dropped) = oneshot::channel();
        tokio::spawn(async move {
            if until_cancelled(&link, &lease, progress, dropped).await {
                cancel();
            }
        });
        Self(sender)
    }
}

/// Whether the task was cancelled, and not the heartbeats dropped before.
async fn until_cancelled(
    link: &Link,
    lease: &Lease,
    progress: impl Fn() -> f64,
    mut dropped: oneshot::Receiver<()>,
) -> bool {
    let mut missed = false;
    loop {
        tokio::select! {
            biased;
            _ = &mut dropped => return false,
            () = tokio::time::sleep(lease.pause(missed)) => {}
        }
        let answer = link.heartbeat(lease, progress()).await;
        if dropped.try_recv() != Err(TryRecvError::Empty) {
            return false;
        }
        match answer {
            Ok(true) => return true,
            Ok(false) => missed = false,
            Err(status) if !missed => {
                missed = true;
                let reason = status.message();
                tracing::warn!(
                    lease = lease.id,
                    reason,
                    "a heartbeat failed; the task goes on"
                );
            }
            Err(_) => {}
        }
    }
}
