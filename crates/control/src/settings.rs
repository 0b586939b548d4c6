//! The configuration as the data path wants it: fixed while sidegate runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sidegate_config::schema::{self, Config, Mode, Otherwise, Timeouts, TunnelMode};
use sidegate_config::value::{DnsName, PortRange};
use sidegate_core::{OriginalDst, SpiffeId, SpiffeIdPattern};
use sidegate_tls::{PeerAuth, ServerName};

use crate::resolver::Resolved;

/// The configuration as the data path wants it.
#[derive(Debug)]
pub struct Settings {
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Bounds.
    pub limits: schema::Limits,
    /// What becomes of live connections.
    pub live: schema::LiveConnections,
    /// Groups and resumption.
    pub tls: schema::Tls,
    /// Ports that differ from the default; the last entry is the default itself.
    pub ports: Vec<Port>,
    /// Destinations in the order of the configuration, then those of the explicit outbound listeners, then what stands for all that a
    /// directory knows.
    pub destinations: Vec<Arc<Destination>>,
    /// Every DNS name that has to be resolved.
    pub names: Vec<String>,
    /// How many of `destinations` are matched by address.
    pub matched: usize,
    /// Who is asked about what no destination covers.
    pub directory: Option<schema::Directory>,
    /// The last of `destinations`, if there is a directory. Who may answer there depends on the address.
    pub of_directory: Option<usize>,
    /// What becomes of what no destination covers.
    pub otherwise: Otherwise,
    /// Ports that sidegate itself listens on.
    pub own_ports: Vec<u16>,
    /// How many directions have a listener.
    pub directions: u64,
    /// fwmark for sidegate's own packets.
    pub mark: Option<u32>,
    /// How long a worker looks for the next event before it sleeps.
    pub poll: Duration,
}

/// What carries a connection after its admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Opaque bytes, relayed as they come.
    Tcp,
}

/// What a client says ahead of its TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preamble {
    /// Nothing.
    None,
}

/// What the application is told about a connection ahead of its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppPreamble {
    /// Nothing: it can be dialled before its client is known.
    None,
}

/// What an inbound port demands.
#[derive(Debug)]
pub struct Port {
    /// The ports.
    pub range: PortRange,
    /// Whether plaintext is accepted.
    pub mode: Mode,
    /// The application's protocol may be one in which the server speaks first.
    pub server_first: bool,
    /// ALPN protocols of the application.
    pub alpn: Vec<String>,
    /// What the client says ahead of its handshake.
    pub preamble: Preamble,
    /// What the application is told ahead of the data.
    pub app_preamble: AppPreamble,
    /// What carries a connection after its admission.
    pub protocol: Protocol,
}

/// A destination in the mesh.
#[derive(Debug)]
pub struct Destination {
    /// Its name; shared with every record.
    pub name: Arc<str>,
    /// What a decision by this destination names as its rule; shared with every record.
    pub rule: Arc<str>,
    cidrs: Vec<ipnet::IpNet>,
    /// DNS names whose addresses belong to it.
    pub dns: Vec<String>,
    ports: Vec<PortRange>,
    /// How its servers prove who they are.
    pub peer_auth: PeerAuth,
    /// The server name to send, if not the address.
    pub sni: Option<ServerName<'static>>,
    /// ALPN protocols of the application.
    pub alpn: Vec<String>,
    /// Whether sessions carry one connection after the other.
    pub tunnel: TunnelMode,
    /// What carries a connection after its admission.
    pub protocol: Protocol,
}

impl Settings {
    /// Compiles `config`, which has been validated.
    #[must_use]
    pub fn new(config: &Config) -> Arc<Self> {
        let inbound = &config.inbound;
        let mut ports: Vec<Port> = inbound
            .ports
            .iter()
            .map(|p| Port { server_first: p.server_first, alpn: p.alpn.clone(), ..Port::new(p.port.0, p.mode) })
            .collect();
        ports.push(Port::new(PortRange { first: 1, last: u16::MAX }, inbound.default_mode));
        let mut destinations: Vec<Destination> = config
            .outbound
            .destinations
            .iter()
            .map(|d| Destination {
                name: d.name.as_str().into(),
                rule: format!("destination {}", d.name).into(),
                cidrs: d.cidrs.iter().map(|c| *c.get()).collect(),
                dns: d.dns.iter().map(|name| name.get().clone()).collect(),
                ports: d.ports.iter().map(|p| p.0).collect(),
                peer_auth: PeerAuth::spiffe(d.spiffe_ids.iter().map(|i| i.get().clone())),
                sni: server_name(d.sni.as_ref()),
                alpn: d.alpn.clone(),
                tunnel: d.tunnel,
                protocol: Protocol::Tcp,
            })
            .collect();
        let matched = destinations.len();
        destinations.extend(config.outbound.listeners.iter().map(|l| Destination {
            name: l.name.as_str().into(),
            rule: format!("destination {}", l.name).into(),
            cidrs: Vec::new(),
            dns: if l.to.get().address().is_some() { Vec::new() } else { vec![l.to.get().host.clone()] },
            ports: Vec::new(),
            peer_auth: PeerAuth::spiffe(l.spiffe_ids.iter().map(|i| i.get().clone())),
            sni: server_name(l.sni.as_ref()),
            alpn: l.alpn.clone(),
            tunnel: l.tunnel,
            protocol: Protocol::Tcp,
        }));
        let of_directory = config.outbound.directory.as_ref().map(|_| destinations.len());
        destinations.extend(config.outbound.directory.as_ref().map(|d| Destination::of_directory("directory", &[], d.tunnel)));
        let destinations: Vec<Arc<Destination>> = destinations.into_iter().map(Arc::new).collect();
        let mut names: Vec<String> = destinations.iter().flat_map(|d| d.dns.iter().cloned()).collect();
        names.sort_unstable();
        names.dedup();
        Arc::new(Self {
            names,
            timeouts: config.timeouts.clone(),
            live: config.live_connections.clone(),
            limits: config.limits.clone(),
            tls: config.tls.clone(),
            ports,
            destinations,
            matched,
            directory: config.outbound.directory.clone(),
            of_directory,
            otherwise: config.outbound.otherwise,
            own_ports: config.own_ports(),
            directions: u64::from(config.inbound.is_served()) + u64::from(config.outbound.is_served()),
            mark: config.redirect.exempt_mark,
            poll: Duration::from_micros(config.poll_microseconds.into()),
        })
    }

    /// Index of what covers an inbound port; the default covers every port.
    #[must_use]
    pub fn port_index(&self, port: u16) -> usize {
        self.ports.iter().position(|p| p.range.contains(port)).unwrap_or(self.ports.len() - 1)
    }

    /// What the inbound port of `to` demands.
    #[must_use]
    pub fn port(&self, to: OriginalDst) -> &Port {
        &self.ports[self.port_index(to.port())]
    }

    /// Index of the first destination that covers `address`.
    #[must_use]
    pub fn destination_index(&self, address: SocketAddr, resolved: &Resolved) -> Option<usize> {
        self.destinations[..self.matched].iter().position(|d| d.covers(address, resolved))
    }
}

impl Settings {
    /// Whether sessions are kept between two connections.
    #[must_use]
    pub fn keeps_tunnels(&self) -> bool {
        !self.timeouts.tunnel_idle.duration().is_zero() && self.limits.idle_tunnels > 0
    }

    /// A name that has never been resolved, may stand for `address`, and would lead it elsewhere than to destination `found`: as long as
    /// there is one, it is not known where the address belongs. Of earlier destinations only those count that expect other servers, so that a
    /// name that does not exist holds up no more than it has to.
    #[must_use]
    pub fn unresolved(&self, address: SocketAddr, found: Option<usize>, resolved: &Resolved) -> Option<&str> {
        let earlier = &self.destinations[..found.unwrap_or(self.matched)];
        let expects_others = |d: &&Arc<Destination>| found.is_none_or(|found| d.peer_auth != self.destinations[found].peer_auth);
        let candidates = earlier.iter().filter(|d| d.serves_port(address.port())).filter(expects_others);
        candidates.flat_map(|d| &d.dns).find(|name| !resolved.contains_key(*name)).map(String::as_str)
    }
}

impl Port {
    fn new(range: PortRange, mode: Mode) -> Self {
        Self {
            range,
            mode,
            server_first: false,
            alpn: Vec::new(),
            preamble: Preamble::None,
            app_preamble: AppPreamble::None,
            protocol: Protocol::Tcp,
        }
    }
}

impl Destination {
    /// What a directory knows under `name`.
    pub(crate) fn of_directory(name: &str, ids: &[SpiffeId], tunnel: TunnelMode) -> Self {
        Self {
            name: name.into(),
            rule: format!("directory {name}").into(),
            cidrs: Vec::new(),
            dns: Vec::new(),
            ports: Vec::new(),
            peer_auth: PeerAuth::spiffe(ids.iter().map(SpiffeIdPattern::exactly)),
            sni: None,
            alpn: Vec::new(),
            tunnel,
            protocol: Protocol::Tcp,
        }
    }

    /// Whether it covers a port.
    #[must_use]
    pub fn serves_port(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|p| p.contains(port))
    }

    fn covers(&self, address: SocketAddr, resolved: &Resolved) -> bool {
        let ip = address.ip();
        let anywhere = self.cidrs.is_empty() && self.dns.is_empty();
        self.serves_port(address.port())
            && (anywhere
                || self.cidrs.iter().any(|c| c.contains(&ip))
                || self.dns.iter().any(|name| resolved.get(name).is_some_and(|found| found.covers(ip))))
    }
}

fn server_name(sni: Option<&DnsName>) -> Option<ServerName<'static>> {
    sni.and_then(|name| ServerName::try_from(name.get().clone()).ok())
}
