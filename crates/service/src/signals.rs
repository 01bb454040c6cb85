//! Stopping: SIGINT and SIGTERM cancel a token, a second signal ends the process
//! at once; so does, once, the end of the process that started this one. Owns
//! the exit code of the impatient end.

use std::io::Read;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Set by a parent that holds the other end of this process's standard input
/// and wants it to stop when the parent ends, however it ends.
pub const STOP_WITH_PARENT: &str = "QUARRY_STOP_WITH_PARENT";

/// A token that is cancelled by the first SIGINT or SIGTERM, or by the end of the
/// parent if [`STOP_WITH_PARENT`] is set. The second signal exits with 128 + its
/// number, as a shell reports a killed process. Must be called in a Tokio
/// runtime, and once.
///
/// # Errors
/// If the process may not install signal handlers.
pub fn shutdown() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    if std::env::var_os(STOP_WITH_PARENT).is_some() {
        stop_with_parent(token.clone());
    }
    let cancelled = token.clone();
    tokio::spawn(async move {
        // Not the token: the parent's end may have cancelled that already.
        let mut signalled = false;
        loop {
            let (name, number) = tokio::select! {
                _ = interrupt.recv() => ("SIGINT", 2),
                _ = terminate.recv() => ("SIGTERM", 15),
            };
            if signalled {
                tracing::warn!(signal = name, "second signal, exiting at once");
                std::process::exit(128 + number);
            }
            tracing::info!(
                signal = name,
                "shutting down; a second signal exits at once"
            );
            signalled = true;
            cancelled.cancel();
        }
    });
    Ok(token)
}

/// Cancels `token` when standard input ends. A plain thread, because nothing can
/// interrupt the read: it ends with the process.
fn stop_with_parent(token: CancellationToken) {
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut byte = [0_u8];
        while matches!(stdin.read(&mut byte), Ok(1)) {}
        tracing::info!("the process that started this one has ended, shutting down");
        token.cancel();
    });
}
