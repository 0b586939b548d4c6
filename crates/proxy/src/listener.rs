//! Listeners: bound early, accepting as long as the phase of their direction lasts.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use sidegate_config::schema::Config;
use sidegate_core::{Direction, event};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::inbound::{self, inbound};
use crate::outbound::{self, outbound};
use crate::shared::{Phase, Shared};
use sidegate_control::Settings;
use sidegate_net::socket::{self, Facing};

/// What the kernel holds while a worker is busy or nothing is served yet; it caps this at net.core.somaxconn.
const BACKLOG: i32 = 4096;
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MOST: Duration = Duration::from_secs(1);

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address} for {what}: {error}{}", hint(*.address, .error))]
pub struct BindError {
    what: &'static str,
    address: SocketAddr,
    error: io::Error,
}

/// What to do about it.
fn hint(address: SocketAddr, error: &io::Error) -> String {
    match (error.kind(), sidegate_net::port_holder(address.port())) {
        (io::ErrorKind::AddrInUse, Some(uid)) => format!("; a process of user {uid} listens there, end it"),
        (io::ErrorKind::AddrNotAvailable, _) => "; use an address of this host".to_owned(),
        _ => String::new(),
    }
}

#[derive(Debug, Clone)]
enum Kind {
    Inbound(inbound::Route),
    Outbound(outbound::Route),
}

/// All listeners of one worker, bound.
#[derive(Debug)]
pub struct Listeners(Vec<(StdListener, Kind)>);

impl Listeners {
    /// Binds the listeners of `workers` workers; with `SO_REUSEPORT` the kernel spreads connections among them.
    ///
    /// # Errors
    /// The first that can't be bound.
    pub fn bind(config: &Config, settings: &Settings, workers: usize) -> Result<Vec<Self>, BindError> {
        (0..workers).map(|_| Self::bind_one(config, settings)).collect()
    }

    fn bind_one(config: &Config, settings: &Settings) -> Result<Self, BindError> {
        let mut all = Vec::new();
        let mut add = |what, address: SocketAddr, kind: Kind| -> Result<(), BindError> {
            let optional = what == "outbound.listen6";
            let facing = match kind {
                Kind::Inbound(_) => Facing::Mesh,
                Kind::Outbound(_) => Facing::Workload,
            };
            match bind(address, facing, settings) {
                Ok(listener) => all.push((listener, kind)),
                // A kernel without IPv6 has nothing to capture there.
                Err(error) if optional && matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL)) => {
                    tracing::info!(event = event::NO_IPV6, "no IPv6 here: {address} is not listened on");
                }
                Err(error) => return Err(BindError { what, address, error }),
            }
            Ok(())
        };
        if let Some(address) = &config.inbound.listen {
            add("inbound.listen", address.0, Kind::Inbound(inbound::Route::Redirected))?;
        }
        if let Some(address) = &config.outbound.listen {
            add("outbound.listen", address.0, Kind::Outbound(outbound::Route::Redirected))?;
        }
        if let Some(address) = &config.outbound.listen6 {
            add("outbound.listen6", address.0, Kind::Outbound(outbound::Route::Redirected))?;
        }
        for listener in &config.inbound.listeners {
            add("inbound.listeners", listener.listen.0, Kind::Inbound(inbound::Route::To(listener.to.0.into())))?;
        }
        for (index, listener) in config.outbound.listeners.iter().enumerate() {
            let route = outbound::Route::To(listener.to.get().clone(), settings.matched + index);
            add("outbound.listeners", listener.listen.0, Kind::Outbound(route))?;
        }
        Ok(Self(all))
    }

    /// Accepts on all of them, each connection a task of `tasks`, until the phase of their direction is over.
    pub(crate) fn serve(self, shared: &Arc<Shared>, tasks: &TaskTracker) -> io::Result<()> {
        for (listener, kind) in self.0 {
            listener.set_nonblocking(true)?;
            tasks.spawn(accept(TcpListener::from_std(listener)?, kind, shared.clone(), tasks.clone()));
        }
        Ok(())
    }
}

const EAFNOSUPPORT: i32 = nix::libc::EAFNOSUPPORT;
const EADDRNOTAVAIL: i32 = nix::libc::EADDRNOTAVAIL;

fn bind(address: SocketAddr, facing: Facing, settings: &Settings) -> io::Result<StdListener> {
    let socket = match Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)) {
        // [::] means every address; a kernel without IPv6 has them all in 0.0.0.0.
        Err(error) if error.raw_os_error() == Some(EAFNOSUPPORT) && address.ip() == Ipv6Addr::UNSPECIFIED => {
            return bind((Ipv4Addr::UNSPECIFIED, address.port()).into(), facing, settings);
        }
        socket => socket?,
    };
    if address.is_ipv6() {
        // [::] also takes IPv4.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket::prepare(&socket, facing, &settings.timeouts)?;
    // Accepted sockets have it from there: the kernel rules let nobody else answer on a capture port.
    sidegate_net::claim(&socket, settings.mark)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn accept(listener: TcpListener, kind: Kind, shared: Arc<Shared>, tasks: TaskTracker) {
    let (direction, last) = match &kind {
        Kind::Inbound(_) => (Direction::Inbound, Phase::Settling),
        Kind::Outbound(_) => (Direction::Outbound, Phase::Draining),
    };
    let mut phase = shared.phase.subscribe();
    // Until the first SVID connections wait in the kernel's queue: an application that starts first is not refused.
    if phase.wait_for(|p| *p >= Phase::Serving).await.is_err() {
        return;
    }
    let over = async move {
        let _ = phase.wait_for(|p| *p > last).await;
    };
    tokio::pin!(over);
    let mut pause = PAUSE_FIRST;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut over => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, from)) => {
                pause = PAUSE_FIRST;
                // It has that from the listener on Linux, but not on everything that passes for it (gVisor).
                let _ = socket::reset_when_dropped(&SockRef::from(&tcp));
                match &kind {
                    Kind::Inbound(route) => drop(tasks.spawn(inbound(shared.clone(), Box::new((tcp, from.into(), *route))))),
                    Kind::Outbound(route) => drop(tasks.spawn(outbound(shared.clone(), Box::new((tcp, from.into(), route.clone()))))),
                }
            }
            // The client was gone before we came; the next one may be there already.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                shared.telemetry.metrics.accept_errors(direction).inc();
                if pause == PAUSE_FIRST {
                    tracing::error!(event = event::ACCEPT_FAILED, "accept on {:?} failed, trying again: {error}", listener.local_addr());
                }
                // The descriptor table does not empty itself by our asking: a busy loop would only take the CPU from
                // the connections that could end.
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MOST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn connections_come_prepared() {
        let settings = Settings::new(&Config::default());
        let timeouts = &settings.timeouts;
        for (facing, patience) in [(Facing::Mesh, Some(timeouts.tcp_user.duration())), (Facing::Workload, None)] {
            let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), facing, &settings).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let socket = SockRef::from(&accepted);
            assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO), "it is reset unless it ends in order");
            assert!(socket.tcp_nodelay().unwrap());
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), timeouts.keepalive.duration());
            assert_eq!(socket.tcp_user_timeout().unwrap(), patience, "{facing:?}");
        }
    }
}
