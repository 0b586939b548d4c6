//! Root without root.

use std::time::{Duration, Instant};
use std::{fs, io, thread};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::error::PodError;
use super::ip;

/// Makes an unprivileged process root of a user namespace and of an empty network of its own, where it can make pods.
///
/// Call it first thing in `main`: the kernel refuses it to a process with more than one thread. The owners of files
/// stay the same; only one user, 0, exists inside, so there the sidecar is recognized by its mark and not by its uid.
/// Loopback of the new network is up, and it has no way out.
pub fn enter_user_namespace() -> Result<(), PodError> {
    let (uid, gid) = (geteuid(), getegid());
    unshare_alone().map_err(|errno| failed("unshare", errno.into()))?;
    // Without this the kernel lets nobody but real root write a gid_map.
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    ip::batch("(own network)", "link set lo up\n")
}

/// A thread that has been joined (as after [`super::support`]) still counts for a moment, and the kernel says EINVAL.
fn unshare_alone() -> nix::Result<()> {
    let deadline = Instant::now() + Duration::from_millis(200);
    loop {
        match unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET) {
            Err(Errno::EINVAL) if Instant::now() < deadline => thread::yield_now(),
            outcome => return outcome,
        }
    }
}

fn write(path: &'static str, text: &str) -> Result<(), PodError> {
    fs::write(path, text).map_err(|source| failed(path, source))
}

fn failed(step: &'static str, source: io::Error) -> PodError {
    PodError::UserNamespace { step, source }
}
