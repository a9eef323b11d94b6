//! Drains the outbox: what is due goes out, several messages at once, each subject in its order.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use store::{Mutation, OutboxRecord};

use crate::service::Inner;

/// Messages under way at once.
const AT_ONCE: usize = 16;
const PAGE: u32 = 200;
const LOOK_EVERY: Duration = Duration::from_secs(2);

pub(crate) async fn run(inner: Arc<Inner>) {
    loop {
        let more = match drain(&inner).await {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(error = %error.message, "the outbox cannot be read");
                false
            }
        };
        if inner.stop.is_cancelled() {
            return;
        }
        if !more {
            tokio::select! {
                _ = inner.stop.cancelled() => return,
                _ = inner.told.notified() => {}
                _ = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

/// Whether there may be more that is due.
async fn drain(inner: &Inner) -> app::Result<bool> {
    let now = inner.settings.clock.wall();
    inner.store.commit(Mutation::LapseClaims { now, alone: None }).await?;
    let due = inner.store.due_outbox(now, PAGE).await?;
    let delivering: Vec<_> = due.into_iter().map(|message| deliver(inner, message)).collect();
    let mut delivering = futures_util::stream::iter(delivering).buffer_unordered(AT_ONCE);
    let mut sent = false;
    while let Some(delivered) = delivering.next().await {
        sent |= delivered?;
    }
    Ok(sent)
}

/// A message that was begun is brought to its end also when the service stops: half a sending is worse than a late one.
async fn deliver(inner: &Inner, message: OutboxRecord) -> app::Result<bool> {
    if inner.stop.is_cancelled() {
        return Ok(false);
    }
    inner.outlets.deliver(&inner.store, &message, &inner.holder.name).await
}
