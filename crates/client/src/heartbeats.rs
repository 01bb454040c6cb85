//! Heartbeats of one lease, beside the task it is for.
//!
//! Refuses: ending the task because the coordinator is away. Its first completion
//! wins, whoever holds the lease then.

use crate::worker::Link;
use quarry_proto::Lease;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Heartbeats in the time of a lease. They are most of what a large fleet asks of its
/// coordinator.
const BEATS: u32 = 3;
/// A missed one is made up for in this part of the usual pause.
const HASTE: u32 = 4;

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
    let period = Duration::from_millis(u64::from(lease.duration_ms / BEATS).max(1));
    let mut missed = false;
    loop {
        let pause = if missed { period / HASTE } else { period };
        tokio::time::sleep(pause).await;
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
