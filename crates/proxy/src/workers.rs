//! The data plane's threads: one runtime each, no work stealing, nothing shared but atomics.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use sidegate_core::{Reason, event};
use sidegate_net::Buffer;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use crate::listener::Listeners;
use crate::outbound::warm;
use crate::shared::{Phase, Shared};
use crate::spin;
use crate::tunnel_pool;

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts a worker for each of `listeners`.
    ///
    /// # Errors
    /// If the system gives no thread or runtime.
    pub fn start(shared: &Arc<Shared>, listeners: Vec<Listeners>) -> io::Result<Self> {
        let mut threads = Vec::with_capacity(listeners.len());
        let count = listeners.len();
        for (index, listeners) in listeners.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                runtime.block_on(work(&shared, listeners, index, count));
            })?;
            threads.push(thread);
        }
        Ok(Self { threads })
    }

    /// Waits for the end of all workers, after [`Phase::Ending`], but not longer than `until`.
    pub fn join(self, until: std::time::Instant) {
        for thread in self.threads {
            while !thread.is_finished() && std::time::Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !thread.is_finished() {
                tracing::error!(event = event::WORKER_FAILED, "a worker does not end; records of its connections are lost");
            } else if thread.join().is_err() {
                tracing::error!(event = event::WORKER_FAILED, "a worker ended by a panic");
            }
        }
    }
}

async fn work(shared: &Arc<Shared>, listeners: Listeners, index: usize, workers: usize) {
    let tasks = TaskTracker::new();
    if let Err(error) = listeners.serve(shared, &tasks) {
        tracing::error!(event = event::WORKER_FAILED, "a worker can't serve its listeners: {error}");
        shared.advance(Phase::Ending);
    }
    let mut phase = shared.phase.subscribe();
    tokio::select! {
        _ = phase.wait_for(|p| *p == Phase::Ending) => {}
        () = tend(shared, &tasks, index, workers) => {}
        () = spin::keep_awake(shared.settings.poll) => {}
    }
    shared.registry.cut_all(Reason::Drained);
    tunnel_pool::clear();
    tasks.close();
    // Every connection ends at once when cut; whatever does not is ended with the runtime, and recorded as cancelled.
    let _ = timeout(Duration::from_secs(2), tasks.wait()).await;
}

/// Once a second: measures how late a timer fires, for so long does anything on this worker wait for its turn; gives back
/// buffers that nobody needs; closes sessions that have waited too long for a connection, and makes others in advance.
async fn tend(shared: &Arc<Shared>, tasks: &TaskTracker, index: usize, workers: usize) {
    const EVERY: Duration = Duration::from_secs(1);
    let timeouts = &shared.settings.timeouts;
    let most = timeouts.dial.duration() + timeouts.handshake.duration();
    loop {
        let due = Instant::now() + EVERY;
        sleep_until(due).await;
        if let Some(lag) = shared.telemetry.metrics.lag(workers).get(index) {
            lag.record(due.elapsed());
        }
        spin::look_for_others();
        Buffer::trim();
        for key in tunnel_pool::sweep(shared) {
            let shared = shared.clone();
            tasks.spawn(async move {
                let made = timeout(most, warm(&shared, key)).await;
                // A server that is gone is not called again and again: the next connection to it will tell.
                tunnel_pool::made(key, made.unwrap_or(false));
            });
        }
    }
}

/// How many CPUs the cgroup allows, rounded up, at least 1. A pod with half a core on a host of 64 wants one worker.
#[must_use]
pub fn cpu_quota() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let v2 = std::fs::read_to_string("/sys/fs/cgroup/cpu.max").ok().and_then(|text| quota_v2(&text));
    let v1 = || {
        let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/cpu/{name}")).ok()?.trim().parse::<i64>().ok();
        quota(read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?)
    };
    v2.or_else(v1).map_or(cores, |quota| quota.min(cores))
}

fn quota_v2(text: &str) -> Option<usize> {
    let (quota_us, period_us) = text.trim().split_once(' ')?;
    quota(quota_us.parse().ok()?, period_us.parse().ok()?)
}

fn quota(quota_us: i64, period_us: i64) -> Option<usize> {
    if quota_us <= 0 || period_us <= 0 {
        return None;
    }
    usize::try_from(quota_us.div_euclid(period_us) + i64::from(quota_us % period_us != 0)).ok()
}

#[cfg(test)]
mod tests {
    use super::quota_v2;

    #[test]
    fn the_quota_is_rounded_up() {
        for (text, cpus) in
            [("50000 100000\n", Some(1)), ("150000 100000", Some(2)), ("200000 100000", Some(2)), ("max 100000", None), ("x", None)]
        {
            assert_eq!(quota_v2(text), cpus, "{text}");
        }
    }
}
