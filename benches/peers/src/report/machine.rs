//! The machine, for who reads the figures later.

use std::fs::read_to_string;

/// What figures depend on.
pub(crate) struct Machine {
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The processor's model.
    pub(crate) processor: String,
    /// Processors that may be used.
    pub(crate) cores: usize,
}

impl Machine {
    /// This one.
    pub(crate) fn look() -> Self {
        let unknown = || "unknown".to_owned();
        let kernel = read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| unknown(), |text| text.trim().to_owned());
        let info = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        Self { kernel, processor: model.map_or_else(unknown, |(_, model)| model.trim().to_owned()), cores }
    }
}
