//! Heartbeats of one lease, beside the task it is for.
//!
//! Refuses: ending the task because the coordinator is away. Its first completion
//! wins, whoever holds the lease then.

use crate::worker::Link;
use quarry_proto::Lease;
use tokio::task::JoinHandle;

/// Heartbeats of one lease, until dropped.
pub struct Heartbeats(JoinHandle<()>);

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
        Self(tokio::spawn(async move {
            until_cancelled(&link, &lease, progress).await;
            cancel();
        }))
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn until_cancelled(link: &Link, lease: &Lease, progress: impl Fn() -> f64) {
    let mut missed = false;
    loop {
        tokio::time::sleep(lease.pause(missed)).await;
        match link.heartbeat(lease, progress()).await {
            Ok(true) => return,
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
