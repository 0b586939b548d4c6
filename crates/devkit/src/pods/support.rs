//! Whether pods can be made here.

use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// What this process may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Support {
    /// It is root here (or in its user namespace), and what was asked about works.
    Root,
    /// It does not work, and why.
    NotPossible(String),
}

/// Whether this process can make pods as it is: it may make network namespaces and has `ip`.
pub fn support() -> Support {
    // On a thread of its own, so that the caller stays where it is.
    match thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join() {
        Ok(Ok(())) => runs("ip", "-V", "iproute2"),
        Ok(Err(errno)) => Support::NotPossible(format!("cannot make a network namespace: {errno}; run as root")),
        Err(_) => Support::NotPossible("cannot make a network namespace: the probe panicked".to_owned()),
    }
}

/// Whether `nft` is there, which only those pods need whose traffic is to be captured.
pub fn nft_support() -> Support {
    runs("nft", "--version", "nftables")
}

fn runs(program: &str, argument: &str, package: &str) -> Support {
    match Command::new(program).arg(argument).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Support::Root,
        Ok(output) => Support::NotPossible(format!(
            "{program} {argument} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Support::NotPossible(format!("cannot start {program}: {error}; install {package}")),
    }
}
