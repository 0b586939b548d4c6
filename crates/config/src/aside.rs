//! Work that may block or takes long, kept from the thread that answers probes.

use std::io;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// After so long somebody is told. A file on a network that is gone can't be given up: the system call does not return.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does `work` on a thread of its own, which is called `name`, and waits for it. `late` is called if that takes long.
///
/// The caller owns the thread, and has no second one as long as it waits. A thread that hangs keeps nobody from ending: it ends
/// with the process.
///
/// # Errors
/// If the system gives no thread, or `work` has panicked.
pub async fn aside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static, late: impl FnOnce()) -> io::Result<T> {
    let (done, mut result) = oneshot::channel();
    // Nobody waits for the result any more if it can't be sent.
    std::thread::Builder::new().name(name.to_owned()).spawn(move || drop(done.send(work())))?;
    let failed = |_| io::Error::other("the thread that does it failed");
    match timeout(PATIENCE, &mut result).await {
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
