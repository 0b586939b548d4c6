//! Tickets, with which a later handshake resumes a session (RFC 8446 §4.6.1).
//!
//! A resumed handshake spares both ends certificates and signatures; the key exchange is made again. The peer is
//! verified afterwards like in any other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::server::ProducesTickets;
use rustls::{Error, NamedGroup};

use crate::session::LONGEST_TICKET;

/// Tickets that are kept for one server: as many connections as are usually opened to it at a time.
const KEPT: usize = 16;

/// What stands around a ticket in its message, at most: times, nonce, extensions.
const AROUND: usize = 1024;

/// How long a client is told that it may use a ticket, seconds.
const LIFETIME: u32 = 3600;

/// The tickets of one server, on the client's side; each is used once.
#[derive(Debug, Default)]
pub(crate) struct Tickets(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    tickets: VecDeque<Tls13ClientSessionValue>,
    group: Option<NamedGroup>,
}

impl Tickets {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// The server's name plays no part: the whole store is for one server.
impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.state().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.state().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let tickets = &mut self.state().tickets;
        if tickets.len() >= KEPT {
            tickets.pop_front();
        }
        tickets.push_back(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.state().tickets.pop_back()
    }
}

/// Makes and reads the tickets of a server, with keys of its own, and tells clients to use them for no longer than [`LIFETIME`].
/// One that is used later resumes as long as the keys live, some hours; the chain behind it is verified in any case.
#[derive(Debug)]
pub(crate) struct Ticketer(Arc<dyn ProducesTickets>);

impl Ticketer {
    pub(crate) fn with_new_keys() -> Result<Arc<dyn ProducesTickets>, Error> {
        Ok(Arc::new(Self(rustls::crypto::aws_lc_rs::Ticketer::new()?)))
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime().min(LIFETIME)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        // The client's chain is in it, and a client keeps no ticket that is longer than it may be: then there is none.
        self.0.encrypt(plain).filter(|ticket| ticket.len() <= LONGEST_TICKET - AROUND)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher)
    }
}
