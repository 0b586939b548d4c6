//! Works inside a pod's network namespace, after it has proved to be the pod's own.

use std::fs::{File, OpenOptions};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;

use nix::ifaddrs::getifaddrs;
use nix::libc::O_NONBLOCK;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::error::CniError;

/// Device and inode: what a namespace is known by.
type Identity = (u64, u64);

/// Does `work` on a thread inside the network namespace at `path`. Before, the namespace has to prove that it is the pod's: it is not the
/// node's, and has `addresses` on `interface`, which no other pod has.
pub(crate) fn inside<T: Send>(
    path: &Path,
    interface: &str,
    addresses: &[IpAddr],
    work: impl FnOnce() -> Result<T, CniError> + Send,
) -> Result<T, CniError> {
    let refused = |why: String| CniError::Namespace(format!("{}: {why}", path.display()));
    // The same descriptor is looked at and entered: what the path leads to may change meanwhile.
    let namespace = open(path).map_err(refused)?;
    let identity = identity(&namespace).map_err(refused)?;
    let enter = move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| format!("it can't be entered as a network namespace: {errno}"))?;
        if at("/proc/thread-self/ns/net") != Some(identity) {
            return Err("it was entered, and another namespace was reached".to_owned());
        }
        has_addresses(interface, addresses)
    };
    // A thread of its own: a namespace belongs to a thread, and this one does nothing else.
    thread::scope(|scope| {
        let inside = thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, || {
            enter().map_err(refused)?;
            work()
        });
        let inside = inside.map_err(|error| CniError::TryAgain(format!("no thread can be started: {error}")))?;
        inside.join().unwrap_or_else(|_| Err(CniError::TryAgain("the thread that makes the rules failed".to_owned())))
    })
}

fn open(path: &Path) -> Result<File, String> {
    // To open a pipe without a writer would wait for one.
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).map_err(|error| format!("it can't be opened: {error}"))?;
    match fstatfs(&file) {
        Ok(system) if system.filesystem_type() == NSFS_MAGIC => Ok(file),
        Ok(_) => Err("it is no namespace".to_owned()),
        Err(errno) => Err(format!("it can't be looked at: {errno}")),
    }
}

fn identity(namespace: &File) -> Result<Identity, String> {
    let metadata = namespace.metadata().map_err(|error| format!("it can't be looked at: {error}"))?;
    let identity = (metadata.dev(), metadata.ino());
    // A runtime calls plugins in the node's namespace. The first process's may be hidden from us, where we are not on a node.
    for own in ["/proc/self/ns/net", "/proc/1/ns/net"] {
        if at(own) == Some(identity) {
            return Err("it is the network namespace of the node".to_owned());
        }
    }
    if at("/proc/self/ns/net").is_none() {
        return Err("it can't be told from the node's, since /proc is not there".to_owned());
    }
    Ok(identity)
}

fn at(path: &str) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Whether the calling thread's namespace has all of these addresses on `interface`.
fn has_addresses(interface: &str, addresses: &[IpAddr]) -> Result<(), String> {
    let found: Vec<IpAddr> = getifaddrs()
        .map_err(|errno| format!("its addresses can't be read: {errno}"))?
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| {
            let address = entry.address?;
            let ipv4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
            ipv4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
        })
        .collect();
    let missing: Vec<String> = addresses.iter().filter(|address| !found.contains(address)).map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("its {interface} does not have {}, which the pod was given: it is the namespace of another pod", missing.join(", ")))
}
