//! How this worker shakes hands with each server: what keeps the server's tickets, and whether it takes tunnels.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use sidegate_control::{Destination, Tls};
use sidegate_core::DialAddr;
use sidegate_tls::ClientChoice;

/// Servers that are remembered; beyond that all are forgotten, which costs a full handshake each.
const REMEMBERED: usize = 4096;

/// How long a server that refused the tunnel's ALPN is not offered it again.
const REFUSED_FOR: Duration = Duration::from_secs(300);

/// A destination by its index, an address, and whether a tunnel is offered.
type Key = (usize, DialAddr, bool);

thread_local! {
    /// By generation of the TLS configurations.
    static CHOICES: RefCell<(u64, HashMap<Key, ClientChoice>)> = RefCell::new((0, HashMap::new()));
    static REFUSE_TUNNELS: RefCell<HashMap<DialAddr, Instant>> = RefCell::new(HashMap::new());
}

/// How to shake hands with `to`, which the destination with this `index` covers.
pub(crate) fn choice(tls: &Tls, destination: &Destination, index: usize, to: DialAddr, tunnel: bool) -> ClientChoice {
    CHOICES.with_borrow_mut(|(generation, known)| {
        if *generation != tls.generation || known.len() >= REMEMBERED {
            known.clear();
            *generation = tls.generation;
        }
        known.entry((index, to, tunnel)).or_insert_with(|| tls.context.client(&destination.alpn, tunnel)).clone()
    })
}

/// Remembers that `server` ends the handshake when a tunnel is offered.
pub(crate) fn refuses_tunnels(server: DialAddr) {
    REFUSE_TUNNELS.with_borrow_mut(|known| {
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(server, Instant::now());
    });
}

/// Whether `server` may be offered a tunnel.
pub(crate) fn may_take_tunnels(server: DialAddr) -> bool {
    REFUSE_TUNNELS.with_borrow(|known| known.get(&server).is_none_or(|since| since.elapsed() >= REFUSED_FOR))
}
