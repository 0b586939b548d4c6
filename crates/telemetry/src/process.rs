//! Reads the system's facts about this process.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// CPU time in user space and in the kernel.
pub(crate) fn cpu_time() -> Option<[Duration; 2]> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let duration = |time: TimeVal| -> Option<Duration> {
        Some(Duration::new(u64::try_from(time.tv_sec()).ok()?, u32::try_from(time.tv_usec()).ok()? * 1000))
    };
    Some([duration(usage.user_time())?, duration(usage.system_time())?])
}

/// Resident memory, bytes.
pub(crate) fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

/// Open descriptors. A process that may not be dumped may not list its own, unless it is root; since Linux 6.2 their
/// number is the size of the folder.
#[must_use]
pub fn descriptors() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    match std::fs::metadata(FOLDER).map(|meta| meta.len()) {
        Ok(count) if count > 0 => Some(count),
        // One of them is the listing itself.
        _ => std::fs::read_dir(FOLDER).ok().map(|entries| (entries.count() as u64).saturating_sub(1)),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_system_answers() {
        assert!(super::cpu_time().is_some());
        assert!(super::memory().unwrap() > 100_000);
        let before = super::descriptors().unwrap();
        // Other tests of this process may close some meanwhile.
        let files: Vec<_> = (0..200).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!(super::descriptors().unwrap() >= before + 100, "{before}");
        drop(files);
    }
}
