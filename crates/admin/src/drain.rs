//! The drain of this process, which a signal or the admin API begins, once.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

/// When the drain began, if it has, and when the process will have ended.
#[derive(Debug)]
pub struct DrainState {
    deadline: Duration,
    ends: OnceLock<(Instant, SystemTime)>,
    begun: Notify,
}

impl DrainState {
    /// A drain that has not begun, and takes `deadline` at most.
    #[must_use]
    pub fn new(deadline: Duration) -> Self {
        Self { deadline, ends: OnceLock::new(), begun: Notify::new() }
    }

    /// Begins it. A second call changes nothing.
    pub fn begin(&self) -> Instant {
        let (ends, _) = self.ends.get_or_init(|| (Instant::now() + self.deadline, SystemTime::now() + self.deadline));
        self.begun.notify_one();
        *ends
    }

    /// Waits until it has begun.
    pub async fn begun(&self) {
        self.begun.notified().await;
    }

    /// When the process will have ended, once it has begun.
    #[must_use]
    pub fn ends(&self) -> Option<SystemTime> {
        self.ends.get().map(|(_, ends)| *ends)
    }
}
