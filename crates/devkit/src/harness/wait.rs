//! Waiting for a state, never for a time.

use std::time::{Duration, Instant};

/// How long a test waits for anything; generous, for it is only reached on failure.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks `look` until it yields something.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {DEADLINE:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
