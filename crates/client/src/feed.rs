//! The newest activation, whatever happens to the coordinator or the way to it.
//!
//! Owns: the stream of activations, resumed after every break from the last one
//! heard, at whichever coordinator is called. Refuses: activations that do not rise
//! (law 3). One that was followed by another while the stream was broken is passed
//! over: only the newest is of use.

use crate::Activation;
use crate::trainer::{Link, plain};
use quarry_service::patience::new_backoff;
use std::pin::pin;
use tokio::sync::watch;
use tonic::Status;

/// Keeps the newest activation after number `after` in `announce`. Never ends.
pub async fn follow(link: Link, mut after: u64, announce: watch::Sender<Option<Activation>>) {
    let mut backoff = new_backoff();
    let mut away = false;
    loop {
        let news = |activation: Activation| {
            if std::mem::take(&mut away) {
                tracing::info!("the coordinator is back");
            }
            backoff.reset();
            announce.send_replace(Some(activation));
        };
        if let Err(status) = hear(&link, &mut after, news).await
            && !std::mem::replace(&mut away, true)
        {
            let reason = plain(&status).to_string();
            tracing::warn!(
                reason,
                "lost the coordinator, training goes on and reconnects"
            );
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

/// Hands on the activations of one stream, and their numbers to `after`, until the
/// coordinator closes it.
async fn hear(
    link: &Link,
    after: &mut u64,
    mut news: impl FnMut(Activation),
) -> Result<(), Status> {
    let mut turned = pin!(link.turned());
    let mut stream = link.watch(*after).await?;
    loop {
        let next = tokio::select! {
            biased;
            next = stream.next() => next?,
            // A leader that cannot write may hold the stream open for ever.
            () = &mut turned => return Err(Status::unavailable("other calls got no answer")),
        };
        let Some(activation) = next else {
            return Ok(());
        };
        let number = activation.activation;
        if number > *after {
            *after = number;
            news(activation);
        } else {
            let after = *after;
            tracing::warn!(
                activation = number,
                after,
                "ignored an activation that does not rise"
            );
        }
    }
}
