//! Stopping: SIGINT and SIGTERM cancel a token, a second signal ends the process
//! at once. Owns the exit code of the impatient end.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGINT or SIGTERM. The second one
/// exits with 128 + its number, as a shell reports a killed process. Must be
/// called in a Tokio runtime, and once.
///
/// # Errors
/// If the process may not install signal handlers.
pub fn shutdown() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        loop {
            let (name, number) = tokio::select! {
                _ = interrupt.recv() => ("SIGINT", 2),
                _ = terminate.recv() => ("SIGTERM", 15),
            };
            if cancelled.is_cancelled() {
                tracing::warn!(signal = name, "second signal, exiting at once");
                std::process::exit(128 + number);
            }
            tracing::info!(
                signal = name,
                "shutting down; a second signal exits at once"
            );
            cancelled.cancel();
        }
    });
    Ok(token)
}
