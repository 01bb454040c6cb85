//! Work that would hold up whatever shares its thread. Refuses: knowing how much is much.

use std::panic::resume_unwind;
use tokio::task::spawn_blocking;

/// Does `work`: at once, or, if it is `large`, on a thread for what blocks. Small work is
/// done sooner at once, and in an order that a simulation can repeat.
pub async fn aside<T: Send + 'static>(large: bool, work: impl FnOnce() -> T + Send + 'static) -> T {
    if !large {
        return work();
    }
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Never begun: the runtime is ending, and whoever waits with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::AssertUnwindSafe;
    use std::thread;

    #[tokio::test]
    async fn only_large_work_leaves_the_thread() {
        let here = thread::current().id();
        let there = || thread::current().id();
        assert_eq!(aside(false, there).await, here);
        assert_ne!(aside(true, there).await, here);
    }

    #[tokio::test]
    async fn a_panic_comes_back() {
        for large in [false, true] {
            let panics = aside(large, || panic!("out of luck"));
            let outcome = futures::FutureExt::catch_unwind(AssertUnwindSafe(panics)).await;
            let message = outcome.map(|(): ()| ()).unwrap_err();
            assert_eq!(message.downcast_ref(), Some(&"out of luck"));
        }
    }
}
