//! The facts of a connection that policy decides by.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use sidegate_core::{Direction, SpiffeId};

/// A connection as policy sees it: its client, its server, and the facts of the path between them.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Whether it comes to the workload or from it.
    pub direction: Direction,
    /// The client's identity; none on a plaintext connection.
    pub client: Option<&'a SpiffeId>,
    /// The client's address.
    pub client_address: IpAddr,
    /// The server's identity.
    pub server: Option<&'a SpiffeId>,
    /// The address that the client wants to reach.
    pub to: SocketAddr,
    /// The server name that the client asked for.
    pub sni: Option<&'a str>,
    /// The name of the configured destination, on a connection from the workload.
    pub destination: Option<&'a str>,
    /// What the handshake found.
    pub tls: Option<TlsFacts<'a>>,
    /// The certificate of the peer, which is the end that is not ours.
    pub certificate: Option<PeerCertificate<'a>>,
    /// The moment of the decision.
    pub time: SystemTime,
}

/// What is known of every connection.
#[derive(Debug, Clone, Copy)]
pub struct KnownFacts {
    /// Whether it comes to the workload or from it.
    pub direction: Direction,
    /// The client's address.
    pub client_address: IpAddr,
    /// The address that the client wants to reach.
    pub to: SocketAddr,
    /// The moment of the decision.
    pub time: SystemTime,
}

/// Facts of the handshake that rules may use.
#[derive(Debug, Clone, Copy)]
pub struct TlsFacts<'a> {
    /// `1.3` or `1.2`.
    pub version: &'a str,
    /// The key exchange group by its IANA name, where there was a key exchange.
    pub group: Option<&'a str>,
    /// Whether a session was resumed.
    pub resumed: bool,
}

/// Facts of a certificate that rules may use.
#[derive(Debug, Clone, Copy)]
pub struct PeerCertificate<'a> {
    /// Serial number, hexadecimal.
    pub serial: &'a str,
    /// Seconds since the epoch.
    pub not_after: i64,
}

impl<'a> Query<'a> {
    /// A connection of which only this is known; the caller adds further facts.
    #[must_use]
    pub fn new(KnownFacts { direction, client_address, to, time }: KnownFacts) -> Self {
        Self { direction, client: None, client_address, server: None, to, sni: None, destination: None, tls: None, certificate: None, time }
    }

    /// The identity at the end that is not ours.
    #[must_use]
    pub fn peer(&self) -> Option<&'a SpiffeId> {
        match self.direction {
            Direction::Inbound => self.client,
            Direction::Outbound => self.server,
        }
    }

    /// Our own identity.
    #[must_use]
    pub fn local(&self) -> Option<&'a SpiffeId> {
        match self.direction {
            Direction::Inbound => self.server,
            Direction::Outbound => self.client,
        }
    }

    /// The address of the end that is not ours.
    #[must_use]
    pub fn peer_address(&self) -> IpAddr {
        match self.direction {
            Direction::Inbound => self.client_address,
            Direction::Outbound => self.to.ip(),
        }
    }
}
