//! What else the machine was busy with: who sees much of that should not believe the figures.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::time::ClockId;
use nix::unistd::{SysconfVar, sysconf};

use crate::process::Processes;

/// Everybody's CPU time from here on.
pub(crate) struct Others {
    start: Instant,
    all: Duration,
    ours: Duration,
}

impl Others {
    /// From now on.
    pub(crate) fn watch(proxies: &Processes) -> Result<Self> {
        Ok(Self { start: Instant::now(), all: all()?, ours: ours(proxies)? })
    }

    /// What neither the rig nor the proxies used, as a share of the machine in percent. What a hypervisor gave to others
    /// is part of it.
    pub(crate) fn percent(&self, proxies: &Processes) -> Result<f64> {
        let (all, ours) = (all()? - self.all, ours(proxies)? - self.ours);
        let machine = self.start.elapsed().as_secs_f64() * std::thread::available_parallelism().map_or(1, usize::from) as f64;
        Ok(all.saturating_sub(ours).as_secs_f64() / machine * 100.0)
    }
}

/// The rig itself, and the proxies.
fn ours(proxies: &Processes) -> Result<Duration> {
    Ok(Duration::from(ClockId::CLOCK_PROCESS_CPUTIME_ID.now()?) + proxies.cpu()?)
}

/// All processes of the machine, and what was taken from it.
fn all() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat").context("/proc/stat can't be read")?;
    // user nice system idle iowait irq softirq steal; interrupts count for what they interrupt.
    let ticks: Vec<u64> = text.lines().next().unwrap_or_default().split_whitespace().skip(1).map_while(|n| n.parse().ok()).collect();
    let busy: u64 = [0, 1, 2, 7].into_iter().filter_map(|index| ticks.get(index)).sum();
    let frequency = sysconf(SysconfVar::CLK_TCK)?.context("the kernel's tick is unknown")?;
    Ok(Duration::from_millis(busy * 1000 / u64::try_from(frequency)?.max(1)))
}
