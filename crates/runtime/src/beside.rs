//! Looking after work that is under way: whoever looks goes on together with it, and never instead of it.

use std::convert::Infallible;

/// Carries out `work`; `watching` goes on beside it until that has ended. Watching may ask the store and wait for whatever it
/// likes: in an arm of a `select!` it would keep the work from going on meanwhile, and wait for ever for what that holds.
pub(crate) async fn beside<T>(work: impl Future<Output = T>, watching: impl Future<Output = Infallible>) -> T {
    tokio::select! {
        outcome = work => outcome,
        never = watching => match never {},
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::time::Duration;

    use tokio::sync::Mutex;
    use tokio::task::yield_now;

    use super::*;

    async fn look(door: &Mutex<()>, looks: &AtomicU32) -> Infallible {
        loop {
            drop(door.lock().await);
            looks.fetch_add(1, Relaxed);
            yield_now().await;
        }
    }

    /// Mutation: `watching` is waited for in the arm of a tick while the work stands still; then this hangs.
    #[tokio::test]
    async fn whoever_watches_may_wait_for_what_the_work_holds() {
        let (door, looks) = (Mutex::new(()), AtomicU32::new(0));
        let work = async {
            for _ in 0..100 {
                let _held = door.lock().await;
                yield_now().await;
            }
            "done"
        };
        let both = tokio::time::timeout(Duration::from_secs(20), beside(work, look(&door, &looks)));
        assert_eq!(both.await, Ok("done"), "the work and its watcher wait for each other");
        assert!(looks.load(Relaxed) > 1, "nobody watched");
    }
}
