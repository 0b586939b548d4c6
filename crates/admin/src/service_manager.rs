//! Tells a service manager how the sidecar is doing, by the protocol of sd_notify(3): a systemd unit with `Type=notify` has
//! started when the sidecar is ready.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sidegate_core::{event, without_controls};
use sidegate_proxy::{Phase, Readiness, Shared};

/// How often readiness is looked at until the sidecar is ready for the first time.
const READINESS_INTERVAL: Duration = Duration::from_millis(100);

/// The service manager that has started this process.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How long it waits for a sign of life, if it wants any.
    watchdog: Option<Duration>,
    /// A failure is logged once.
    has_failed: AtomicBool,
}

impl ServiceManager {
    /// The one that `NOTIFY_SOCKET` names.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let name = std::env::var("NOTIFY_SOCKET").ok().filter(|name| !name.is_empty())?;
        let connected = address(&name).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            // A manager that does not read must not stop the control plane.
            socket.set_nonblocking(true)?;
            Ok(Self { socket, address, watchdog: watchdog(), has_failed: AtomicBool::new(false) })
        });
        connected
            .inspect_err(|error| tracing::warn!(event = event::SERVICE_MANAGER_UNREACHABLE, "the socket {name} of NOTIFY_SOCKET: {error}"))
            .ok()
    }

    /// Tells it what the sidecar waits for, then that it is ready, then signs of life. It is the thread of the control plane that
    /// gives them, so a thread that hangs gives none.
    pub async fn follow(self: Arc<Self>, shared: Arc<Shared>) {
        let mut told = None;
        loop {
            // It drains before it was ever ready; the manager has been told.
            if *shared.phase.borrow() > Phase::Serving {
                return;
            }
            let missing = match shared.readiness() {
                Readiness::Ready => break,
                Readiness::NotReady(missing) => missing.join("; "),
            };
            if told.as_ref() != Some(&missing) {
                self.tell(&format!("STATUS=waiting: {}", without_controls(&missing)));
                told = Some(missing);
            }
            tokio::time::sleep(READINESS_INTERVAL).await;
        }
        self.tell("READY=1\nSTATUS=started; `sidegate status` says how it is doing");
        let Some(watchdog) = self.watchdog else { return };
        // Half of the time that the manager allows, as sd_watchdog_enabled(3) advises.
        let mut interval = tokio::time::interval(watchdog / 2);
        loop {
            interval.tick().await;
            self.tell("WATCHDOG=1");
        }
    }

    /// Tells it that the sidecar drains and will end.
    pub fn tell_stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    fn tell(&self, state: &str) {
        if let Err(error) = self.socket.send_to_addr(state.as_bytes(), &self.address)
            && !self.has_failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(event = event::SERVICE_MANAGER_UNREACHABLE, "the socket of NOTIFY_SOCKET: {error}");
        }
    }
}

/// A path, or with an `@` before it a name in the abstract namespace.
fn address(name: &str) -> std::io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

/// `WATCHDOG_USEC`, unless `WATCHDOG_PID` says that it is meant for another process.
fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    // Half of less than two milliseconds would be a busy loop.
    number("WATCHDOG_USEC").filter(|micros| is_ours && *micros >= 2000).map(Duration::from_micros)
}
