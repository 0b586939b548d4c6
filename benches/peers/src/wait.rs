//! Waiting for a state, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often one looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Asks `look` until it yields something; its last error, or that there was nothing, is the error if it never does.
pub(crate) fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= end {
            return None.with_context(|| format!("waited {patience:?} in vain for {what}"));
        }
        std::thread::sleep(INTERVAL);
    }
}
