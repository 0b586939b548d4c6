//! Turns, so that nobody keeps a worker for long.
//!
//! A step of a handshake keeps its worker busy for some tenths of a millisecond. In a storm of them each established
//! connection would have to wait for all; so only one at a time may take its step, and only after everybody else who is
//! ready has had a turn.

use std::pin::pin;
use std::sync::Arc;
use std::task::Context;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;

thread_local! {
    static TURN: Arc<Semaphore> = Arc::new(Semaphore::new(1));
}

/// Waits for the worker's next turn, which ends when what is returned is dropped. First come, first served.
pub async fn turn() -> Option<OwnedSemaphorePermit> {
    // The semaphore is never closed.
    let turn = TURN.with(Arc::clone).acquire_owned().await.ok();
    yield_now().await;
    turn
}

/// Lets everybody else who is ready have a turn, and the runtime look for new events, before the task that is being polled
/// goes on.
///
/// A task that only wakes itself would be ready all the time, and as long as anybody is the runtime looks for events only
/// every 61st poll: small messages would wait behind bulk.
pub fn give_way(cx: &mut Context<'_>) {
    let _ = pin!(yield_now()).poll(cx);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::turn;

    /// However many want a turn, who only wants to run runs between any two of them.
    #[tokio::test]
    async fn others_run_between_two_turns() {
        let (steps, others) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let other = tokio::spawn({
            let others = others.clone();
            async move {
                loop {
                    others.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            }
        });
        let step = |_| {
            let (steps, others) = (steps.clone(), others.clone());
            tokio::spawn(async move {
                let _turn = turn().await;
                let before = steps.fetch_add(1, Ordering::Relaxed);
                assert!(others.load(Ordering::Relaxed) > before, "step {before} came before anybody else had run");
            })
        };
        for task in (0..100).map(step).collect::<Vec<_>>() {
            task.await.unwrap();
        }
        other.abort();
    }
}
