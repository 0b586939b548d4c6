//! How much memory buffers may take.

use std::fs;

use sidegate_config::schema::Limits;

/// Without a limit of the cgroup.
const DEFAULT: usize = 256 << 20;

/// `limits.bufferedBytes`, or a quarter of what the cgroup allows.
pub(crate) fn buffered_bytes(limits: &Limits) -> usize {
    let configured = limits.buffered_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    configured.unwrap_or_else(|| cgroup_limit().map_or(DEFAULT, |limit| limit / 4))
}

/// The memory limit of this process's cgroup, of version 2 or 1; none if there is none. A container sees its own at the root.
fn cgroup_limit() -> Option<usize> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let files = own.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        match controllers {
            "" => Some(format!("/sys/fs/cgroup{path}/memory.max")),
            _ if controllers.split(',').any(|c| c == "memory") => Some(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes")),
            _ => None,
        }
    });
    let at_root = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"].map(str::to_owned);
    files.chain(at_root).filter_map(|file| limit(&fs::read_to_string(file).ok()?)).min()
}

/// Version 1 says a number beyond all memory where there is no limit.
fn limit(text: &str) -> Option<usize> {
    text.trim().parse().ok().filter(|limit| *limit < 1 << 50)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_that_memory_can_have() {
        assert_eq!(limit("67108864\n"), Some(64 << 20));
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
        let configured = Limits { buffered_bytes: Some(5 << 20), ..Limits::default() };
        assert_eq!(buffered_bytes(&configured), 5 << 20);
    }
}
