//! Sessions of this worker that wait for the next connection to the same server.
//!
//! Nobody waits on them: whether one still stands is looked at when it is wanted, and once a second.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use sidegate_core::{DialAddr, Direction};
use sidegate_tunnel::Control;
use tokio::net::TcpStream;

use crate::idle_permit::IdlePermit;
use crate::peer_channel::PeerChannel;
use crate::shared::{Phase, Shared};
use sidegate_net::socket;

/// A destination by its index, and an address: sessions are never shared between two, for each expects other peers.
pub(crate) type Key = (usize, DialAddr);

/// Sessions that are kept for one server.
const KEPT: usize = 64;

/// A session that waits.
struct Idle {
    tcp: TcpStream,
    channel: Box<PeerChannel>,
    /// When it is closed, if nothing has used it.
    until: Instant,
    _permit: IdlePermit,
}

/// What is kept for one server.
struct Server {
    /// The last that was used is the last.
    idle: Vec<Idle>,
    /// Until then it counts as being called.
    called_until: Instant,
    /// A session is being made in advance.
    making: bool,
}

thread_local! {
    static POOL: RefCell<HashMap<Key, Server>> = RefCell::new(HashMap::new());
}

/// Keeps a session for the next connection, or closes it where it may not be kept.
pub(crate) fn keep(shared: &Arc<Shared>, key: Key, tcp: TcpStream, mut channel: Box<PeerChannel>) {
    match IdlePermit::take(shared, Direction::Outbound).filter(|_| shared.settings.keeps_tunnels() && may_wait(shared, key, &channel)) {
        Some(permit) => keep_at(shared, permit, key, tcp, channel),
        None => close(&tcp, &mut channel),
    }
}

/// Keeps a session by the permit that was taken for it.
pub(crate) fn keep_at(shared: &Shared, permit: IdlePermit, key: Key, tcp: TcpStream, channel: Box<PeerChannel>) {
    let span = shared.settings.timeouts.tunnel_idle.duration();
    // Not all at once, where all came at once.
    let until = Instant::now() + span.mul_f64(0.75 + 0.25 * fastrand::f64());
    let idle = Idle { tcp, channel, until, _permit: permit };
    let surplus = POOL.with_borrow_mut(|pool| {
        let server = pool.entry(key).or_insert_with(|| Server { idle: Vec::new(), called_until: until, making: false });
        server.idle.push(idle);
        // The one that has waited longest.
        (server.idle.len() > KEPT).then(|| server.idle.remove(0))
    });
    if let Some(mut idle) = surplus {
        idle.close();
    }
}

/// A session to the same server that stands, the last that was used first. Of a service's address, one to an endpoint that is chosen as
/// for a new connection, so that sessions that wait draw no more connections to their servers than others get.
pub(crate) fn take(shared: &Shared, key: Key) -> Option<(TcpStream, Box<PeerChannel>)> {
    let now = Instant::now();
    let renewal = *shared.control.renewals.borrow();
    let endpoint = any_endpoint(shared, key);
    loop {
        let mut idle = POOL.with_borrow_mut(|pool| {
            let server = pool.get_mut(&key)?;
            server.called_until = now + shared.settings.timeouts.tunnel_idle.duration();
            let Some(endpoint) = endpoint else { return server.idle.pop() };
            let at = server.idle.iter().rposition(|idle| idle.reached_at() == Some(endpoint))?;
            Some(server.idle.remove(at))
        })?;
        if idle.stands(renewal, now) {
            return Some((idle.tcp, idle.channel));
        }
        idle.close();
    }
}

/// Closes what has waited too long, or stands no more. Returns the servers that are being called and for which too few
/// sessions wait: for each of them a session is now being made, until [`made`].
pub(crate) fn sweep(shared: &Shared) -> Vec<Key> {
    let serving = *shared.phase.borrow() == Phase::Serving;
    let now = Instant::now();
    let renewal = *shared.control.renewals.borrow();
    let warm = if serving { usize::from(shared.settings.limits.warm_tunnels) } else { 0 };
    POOL.with_borrow_mut(|pool| {
        pool.retain(|_, server| {
            server.idle.retain_mut(|idle| {
                let quiet = is_quiet(&idle.tcp, &mut idle.channel);
                // Who does not want a session that was made in advance is not offered another.
                if !quiet && idle.was_never_used() {
                    server.called_until = now;
                }
                let stands = quiet && idle.is_current(renewal, now);
                if !stands {
                    idle.close();
                }
                stands
            });
            !server.idle.is_empty() || now < server.called_until
        });
        let wanted = pool.iter_mut().filter(|(_, server)| now < server.called_until && server.idle.len() < warm && !server.making);
        // Where a session to a service's address leads is known only after a connection on it.
        let wanted = wanted.filter(|(key, _)| any_endpoint(shared, **key).is_none());
        let make = |(key, server): (&Key, &mut Server)| {
            server.making = true;
            *key
        };
        wanted.map(make).collect()
    })
}

/// A session was made in advance, or could not be.
pub(crate) fn made(key: Key, success: bool) {
    POOL.with_borrow_mut(|pool| {
        if let Some(server) = pool.get_mut(&key) {
            server.making = false;
            if !success {
                server.called_until = Instant::now();
            }
        }
    });
}

/// Closes all of them.
pub(crate) fn clear() {
    let all = POOL.take();
    all.into_values().flat_map(|server| server.idle).for_each(|mut idle| idle.close());
}

impl Idle {
    fn stands(&mut self, renewal: u64, now: Instant) -> bool {
        self.is_current(renewal, now) && is_quiet(&self.tcp, &mut self.channel)
    }

    fn is_current(&self, renewal: u64, now: Instant) -> bool {
        now < self.until && self.channel.tunnel.as_ref().is_some_and(|tunnel| tunnel.renewal == renewal)
    }

    fn reached_at(&self) -> Option<SocketAddr> {
        self.channel.tunnel.as_ref()?.reached_at.map(|address| address.0)
    }

    fn was_never_used(&self) -> bool {
        self.channel.tunnel.as_ref().is_some_and(|tunnel| tunnel.opened == 0)
    }

    fn close(&mut self) {
        close(&self.tcp, &mut self.channel);
    }
}

/// Whether the session may wait: both ends are done with the last connection, its server takes another, and neither
/// identity nor policy has changed since it was made.
fn may_wait(shared: &Shared, key: Key, channel: &PeerChannel) -> bool {
    channel.tunnel.as_ref().is_some_and(|tunnel| {
        let leads_there = || tunnel.reached_at.is_some_and(|reached_at| is_behind(shared, key, *reached_at));
        (tunnel.reusable || leads_there())
            && !tunnel.going
            && tunnel.is_between_connections()
            && tunnel.renewal == *shared.control.renewals.borrow()
    })
}

/// An endpoint of the service whose address `key` has, if it is one's.
fn any_endpoint(shared: &Shared, (index, to): Key) -> Option<SocketAddr> {
    let directory = shared.control.directory.as_ref().filter(|_| shared.settings.of_directory == Some(index));
    directory?.any_endpoint(*to)
}

/// Whether the address of `key` is a service's, and `endpoint` is one that it leads to.
fn is_behind(shared: &Shared, (index, to): Key, endpoint: SocketAddr) -> bool {
    let directory = shared.control.directory.as_ref().filter(|_| shared.settings.of_directory == Some(index));
    directory.is_some_and(|directory| directory.is_behind(*to, endpoint))
}

/// Whether the server has said nothing since, not even that it goes.
fn is_quiet(tcp: &TcpStream, channel: &mut PeerChannel) -> bool {
    let Some(tunnel) = &mut channel.tunnel else { return false };
    match channel.session.try_fill(tcp) {
        Ok(None) => true,
        Ok(Some(_)) => {
            if let Ok(Some(Control::GoAway(_))) = tunnel.next_control(channel.session.plaintext()) {
                tunnel.going = true;
            }
            false
        }
        Err(_) => false,
    }
}

/// Ends a session in order, as far as its socket takes it. Without a tunnel it ends with its connection: the relay has said so.
pub(crate) fn close(tcp: &TcpStream, channel: &mut PeerChannel) {
    if channel.tunnel.is_some() {
        let _ = channel.session.poll_shutdown(tcp, &mut std::task::Context::from_waker(std::task::Waker::noop()));
    }
    socket::end_in_order(tcp);
}
