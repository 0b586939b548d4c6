//! The drain of this process, which a signal or the admin API begins, once.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use sidegate_config::schema::Drain;
use sidegate_core::{Reason, event};
use sidegate_proxy::{Phase, Shared};
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

/// Not ready any more; then no inbound; outbound until `deadline`, or until nothing has been open for a while.
pub async fn drain(config: &Drain, shared: &Shared, deadline: Instant) {
    let settle = Instant::now() + config.settle.duration();
    let quiet = config.quiet.duration();
    shared.advance(Phase::Settling);
    let mut last_open = Instant::now();
    loop {
        let now = Instant::now();
        if now >= settle {
            shared.advance(Phase::Draining);
        }
        if shared.registry.open() > 0 {
            last_open = now;
        }
        if now >= settle && now.duration_since(last_open) >= quiet {
            tracing::info!(event = event::DRAINED, "drained");
            return;
        }
        if now >= deadline {
            tracing::warn!(
                event = event::DRAIN_DEADLINE,
                open = shared.registry.open(),
                "the drain deadline has passed; what is open is cut"
            );
            shared.registry.cut_all(Reason::Drained);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
