//! Waiting for a source.

use tokio::sync::watch;

/// Waits for a change. The sender of a source that is not configured is gone; that is no change.
pub(crate) async fn change<T>(source: &mut watch::Receiver<T>) {
    if source.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
