//! Heartbeats of one lease, beside the task it is for.
//!
//! Refuses: ending the task because the coordinator is away. Its first completion
//! wins, whoever holds the lease then.

use crate::worker::Link;
use quarry_proto::Lease;
use quarry_service::CancellationToken;

/// Heartbeats of one lease, until dropped. One that is under way then is still waited for:
/// given up, it would look like one that met nobody, and calls would turn to another address.
pub struct Heartbeats(CancellationToken);

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
        let dropped = CancellationToken::new();
        let heartbeats = Self(dropped.clone());
        tokio::spawn(async move {
            if until_cancelled(&link, &lease, progress, &dropped).await {
                cancel();
            }
        });
        heartbeats
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Whether the task was cancelled, and not the heartbeats dropped before.
async fn until_cancelled(
    link: &Link,
    lease: &Lease,
    progress: impl Fn() -> f64,
    dropped: &CancellationToken,
) -> bool {
    let mut missed = false;
    loop {
        tokio::select! {
            biased;
            () = dropped.cancelled() => return false,
            () = tokio::time::sleep(lease.pause(missed)) => {}
        }
        let answer = link.heartbeat(lease, progress()).await;
        if dropped.is_cancelled() {
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
