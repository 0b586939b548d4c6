//! What is known of a connection when it is judged.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use sidegate_core::{Direction, SpiffeId};

/// A connection as policy sees it: a client, a server, and what is known of the way between them.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Whether it comes to the workload or from it.
    pub direction: Direction,
    /// Who connects; none on a plaintext connection.
    pub client: Option<&'a SpiffeId>,
    /// Where they connect from.
    pub client_address: IpAddr,
    /// Who is connected to.
    pub server: Option<&'a SpiffeId>,
    /// Where the client wants to go.
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

/// What the handshake found, as far as rules may ask.
#[derive(Debug, Clone, Copy)]
pub struct TlsFacts<'a> {
    /// `1.3` or `1.2`.
    pub version: &'a str,
    /// The key exchange group by its IANA name, where there was a key exchange.
    pub group: Option<&'a str>,
    /// Whether a session was resumed.
    pub resumed: bool,
}

/// What rules may ask of a certificate.
#[derive(Debug, Clone, Copy)]
pub struct PeerCertificate<'a> {
    /// Serial number, hexadecimal.
    pub serial: &'a str,
    /// Seconds since the epoch.
    pub not_after: i64,
}

impl<'a> Query<'a> {
    /// A connection to the workload of which nothing is known but who wants to go where; others fill in more.
    #[must_use]
    pub fn inbound(client: Option<&'a SpiffeId>, client_address: IpAddr, to: SocketAddr, time: SystemTime) -> Self {
        Self {
            direction: Direction::Inbound,
            client,
            client_address,
            server: None,
            to,
            sni: None,
            destination: None,
            tls: None,
            certificate: None,
            time,
        }
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
