//! How many descriptors a process may have, and so how many connections can be open at once.

use anyhow::{Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What would be enough for everything.
const WANTED: u64 = 50_000;
/// For everything but idle connections.
const OTHERS: u64 = 1_000;
/// A connection has two descriptors in a proxy.
const EACH: u64 = 2;
/// And a sidecar that serves both directions keeps as many for the other one.
const DIRECTIONS: u32 = 2;

/// Numbers of idle connections to measure: as asked for, or the default as far as it goes. Raises the limit of this process,
/// and of those that it starts, as far as that goes.
pub(crate) fn connections(asked: &[u32], default: &[u32]) -> Result<Vec<u32>> {
    let (_, allowed) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let raised = allowed < WANTED && setrlimit(Resource::RLIMIT_NOFILE, WANTED, WANTED).is_ok();
    let limit = if raised { WANTED } else { allowed };
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?;
    let most = u32::try_from(limit.saturating_sub(OTHERS) / EACH)?;
    let mut counts = asked.to_vec();
    if counts.is_empty() {
        // Whole hundreds look like what they are.
        let most = most / DIRECTIONS;
        counts = default.iter().map(|count| (*count).min(most / 100 * 100)).collect();
    }
    counts.sort_unstable();
    counts.dedup();
    let last = counts.last().copied().unwrap_or(0);
    ensure!((1..=most).contains(&last), "{limit} descriptors (ulimit -Hn) are enough for {most} connections, not for {last}");
    Ok(counts)
}
