//! Runs work that may block or take long on a thread of its own, so that the thread that answers probes stays free.

use std::io;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// After this time the caller is told that the work is late. The work itself can't be cancelled: a system call on a file of a network
/// file system that is gone does not return.
const LATE_AFTER: Duration = Duration::from_secs(5);

/// Runs `work` on a thread of its own, named `name`, and waits for its result. Calls `late` if that takes long.
///
/// A caller that waits has one such thread. A thread that hangs does not keep the process from ending.
///
/// # Errors
/// If the system can't start a thread, or `work` panics.
pub async fn aside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static, late: impl FnOnce()) -> io::Result<T> {
    let (done, mut result) = oneshot::channel();
    // Nobody waits for the result any more if it can't be sent.
    std::thread::Builder::new().name(name.to_owned()).spawn(move || drop(done.send(work())))?;
    let failed = |_| io::Error::other("the thread that does it failed");
    match timeout(LATE_AFTER, &mut result).await {
        Ok(result) => result.map_err(failed),
        Err(_) => {
            late();
            result.await.map_err(failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[tokio::test]
    async fn the_result_comes_from_another_thread() {
        let named = aside("elsewhere", || std::thread::current().name().map(str::to_owned), || {}).await;
        assert_eq!(named.unwrap().as_deref(), Some("elsewhere"));
        let failed = aside::<()>("elsewhere", || panic!("on purpose"), || {}).await;
        assert_eq!(failed.unwrap_err().to_string(), "the thread that does it failed");
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_told_and_waited_for() {
        let (go, wait) = sync_channel::<()>(1);
        let told = Cell::new(false);
        let late = || {
            told.set(true);
            go.send(()).unwrap();
        };
        aside("elsewhere", move || wait.recv().is_ok(), late).await.unwrap();
        assert!(told.get());
    }
}
