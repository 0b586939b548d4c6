//! One pod.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::error::PodError;
use super::ip;
use super::namespace::Namespace;

/// A network namespace with a name, an address of each family and a wire to the switch of its [`Network`].
///
/// Clones are the same pod; it vanishes with the last of them and with the sockets, threads and processes made inside.
///
/// [`Network`]: super::Network
#[derive(Debug, Clone)]
pub struct Pod {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    number: u8,
    namespace: Namespace,
    /// Keeps the other end of the wire alive. None for the switch itself.
    _switch: Option<Pod>,
}

impl Pod {
    /// `number` becomes the last part of the addresses.
    pub(crate) fn new(name: &str, number: u8, switch: Option<Self>) -> Result<Self, PodError> {
        let namespace = Namespace::new(name)?;
        Ok(Self { inner: Arc::new(Inner { name: name.to_owned(), number, namespace, _switch: switch }) })
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its IPv4 address, in 10.77.0.0/24.
    pub fn ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.inner.number)
    }

    /// Its IPv6 address, in fd77::/64.
    pub fn ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(self.inner.number))
    }

    /// Where other programs (`nsenter --net=…`, `ip link set … netns …`) find the namespace as long as the pod lives.
    pub fn netns_path(&self) -> PathBuf {
        self.inner.namespace.path()
    }

    /// Runs a closure inside and waits for it. Sockets and processes that it makes belong to the pod for good.
    ///
    /// One closure runs at a time, on the pod's one thread: what takes long belongs into [`Pod::spawn`].
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, PodError> {
        self.inner.namespace.run(job)
    }

    /// Runs a closure on a new thread inside, and does not wait. The thread keeps the namespace alive.
    pub fn spawn<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, PodError> {
        // A thread begins in the namespace of the thread that starts it.
        self.run(move || thread::Builder::new().spawn(job))?.map_err(|source| PodError::Thread { pod: self.name().to_owned(), source })
    }

    /// Starts a process inside. Killing and reaping it is the caller's business.
    pub fn spawn_process(&self, mut command: Command) -> Result<Child, PodError> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(move || command.spawn())?.map_err(|source| PodError::Start { program, source })
    }

    /// Runs `ip` commands inside, one a line.
    pub(crate) fn ip(&self, script: String) -> Result<(), PodError> {
        let name = self.name().to_owned();
        self.run(move || ip::batch(&name, &script))?
    }
}
