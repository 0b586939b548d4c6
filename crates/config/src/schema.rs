//! The schema: each field with its default and why it is that.

mod admin;
pub mod audit;
mod directory;
mod live;
mod probes;
mod redirect;
mod revocation;
pub mod telemetry;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use admin::{ADMIN_SOCKET, Admin, ServePage, StatusPage};
pub use directory::{Directory, Unavailable};
pub use live::{LiveConnections, OnChange};
pub use probes::{GrpcProbe, HttpProbe, Probe, ProbeHeader, ProbeScheme, TcpProbe};
pub use redirect::{Captured, Redirect, Udp};
pub use revocation::{Denied, DenyList, Depth, Revocation, RevocationLists, Unsure};

use crate::path_use::{FileOrFolderPath, FilePath, SecretPath};
use crate::value::{Address, Cidr, DnsName, Domain, Endpoint, HostPort, Id, IdPattern, Ports, Span};

/// What a file of sidegate's configuration holds.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// `production` rejects what weakens the protection; `development` warns. Default: production.
    pub profile: Profile,
    /// Where our X.509-SVID and the trust bundles come from.
    pub identity: Identity,
    /// Connections to the workload.
    pub inbound: Inbound,
    /// Connections from the workload.
    pub outbound: Outbound,
    /// Who may talk to the workload.
    pub policy: Policy,
    /// Who is not to be trusted any more, although its certificate is valid.
    pub revocation: Revocation,
    /// What becomes of connections that are open while all this changes.
    pub live_connections: LiveConnections,
    /// The kernel rules that `sidegate redirect` makes.
    pub redirect: Redirect,
    /// How TLS is spoken inside the mesh: always TLS 1.3.
    pub tls: Tls,
    /// Bounds on what connections may use.
    pub limits: Limits,
    /// A deadline for every wait.
    pub timeouts: Timeouts,
    /// How sidegate ends.
    pub drain: Drain,
    /// The HTTP port with probes, metrics and the status page, and the socket of the admin API.
    pub admin: Admin,
    /// A line for each connection, on standard output.
    pub access_log: AccessLog,
    /// A tamper-evident record of every security event.
    pub audit: audit::Audit,
    /// Export of spans, metrics and logs by OTLP.
    pub telemetry: telemetry::Telemetry,
    /// Threads of the data plane, each with a runtime of its own. Default: the cgroup's CPU quota, rounded up.
    #[schemars(range(min = 1, max = 64))]
    pub workers: Option<u16>,
    /// How long, in microseconds, a worker polls for the next event before it sleeps, while events come that close together and
    /// no other thread needs its core. This makes answers faster if both ends are on one node, and costs CPU. Default 0: never.
    #[schemars(range(max = 1000))]
    pub poll_microseconds: u16,
}

impl Config {
    /// Whether the kernel is to send anything here.
    #[must_use]
    pub fn is_redirected(&self) -> bool {
        self.inbound.listen.is_some() || self.outbound.is_redirected()
    }

    /// The ports that sidegate itself listens on.
    #[must_use]
    pub fn own_ports(&self) -> Vec<u16> {
        let fixed = [&self.inbound.listen, &self.outbound.listen, &self.outbound.listen6, &self.admin.listen];
        let inbound = self.inbound.listeners.iter().map(|listener| &listener.listen);
        let outbound = self.outbound.listeners.iter().map(|listener| &listener.listen);
        fixed.into_iter().flatten().chain(inbound).chain(outbound).map(|address| address.0.port()).collect()
    }
}

/// How strictly the configuration is checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// What weakens protection is refused, or needs a written reason.
    #[default]
    Production,
    /// What weakens protection is a warning.
    Development,
}

impl Profile {
    /// Its name, as it is configured.
    #[must_use]
    pub const fn label(self) -> &'static str {
        if matches!(self, Self::Production) { "production" } else { "development" }
    }
}

/// Where our X.509-SVID and the trust bundles come from.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Identity {
    /// In order: the first source that has a valid SVID is used. Default: the Workload API at `SPIFFE_ENDPOINT_SOCKET`.
    pub sources: Vec<Source>,
    /// Which SVID to use if a source offers several. Default: its first.
    #[serde(rename = "use")]
    pub select: Select,
    /// How long material stays in use after the Workload API said PermissionDenied. SPIRE also says so for a moment
    /// after an entry was changed, hence not at once.
    pub permission_denied_grace: Grace,
}

/// How long; default 1 minute.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Grace(pub Span);

impl Default for Grace {
    fn default() -> Self {
        Self(Span::seconds(60))
    }
}

/// One source; exactly one of its keys is set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Source {
    /// The SPIFFE Workload API, usually a SPIRE agent's.
    pub workload_api: Option<WorkloadApi>,
    /// PEM files, watched.
    pub files: Option<Files>,
}

/// The variable of the environment that names the Workload API's endpoint, by SPIFFE's standard.
pub const SPIFFE_ENDPOINT_SOCKET: &str = "SPIFFE_ENDPOINT_SOCKET";

/// The SPIFFE Workload API.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkloadApi {
    /// `unix:///path` or `tcp://127.0.0.1:PORT`. Default: `SPIFFE_ENDPOINT_SOCKET`.
    pub socket: Option<Endpoint>,
}

/// An SVID and bundles in PEM files. They are watched; replace them by renaming over them.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Files {
    /// The X.509-SVID, leaf first, then intermediates.
    #[schemars(with = "FilePath")]
    pub certificate: PathBuf,
    /// Its private key, PKCS#8 or SEC1. Only its owner may read it.
    #[schemars(with = "SecretPath")]
    pub key: PathBuf,
    /// Trust bundle of the SVID's own trust domain.
    #[schemars(with = "FilePath")]
    pub bundle: PathBuf,
    /// Trust bundles of other trust domains.
    #[serde(default)]
    pub federated_bundles: Vec<FederatedBundle>,
}

/// The trust bundle of another trust domain.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FederatedBundle {
    /// Whose bundle it is.
    pub trust_domain: Domain,
    /// PEM file with its CA certificates.
    #[schemars(with = "FilePath")]
    pub bundle: PathBuf,
}

/// Which SVID to use; at most one key is set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Select {
    /// The one with this SPIFFE ID.
    pub spiffe_id: Option<Id>,
    /// The one with this hint.
    pub hint: Option<String>,
}

/// Connections to the workload.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Inbound {
    /// Where redirected connections arrive; `null` for none. Default `[::]:15006`.
    pub listen: Option<Address>,
    /// The mode of every port that `ports` does not name. Default: strict.
    pub default_mode: Mode,
    /// Why `defaultMode` is not strict. Production wants it in writing.
    pub reason: Option<String>,
    /// Ports of the application that differ from the default.
    pub ports: Vec<InboundPort>,
    /// Listeners without redirection: each hands on to one address of the application.
    pub listeners: Vec<InboundListener>,
}

impl Default for Inbound {
    fn default() -> Self {
        Self {
            listen: Some(Address((std::net::Ipv6Addr::UNSPECIFIED, 15006).into())),
            default_mode: Mode::Strict,
            reason: None,
            ports: Vec::new(),
            listeners: Vec::new(),
        }
    }
}

impl Inbound {
    /// Whether anybody can connect to the workload through sidegate.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.listen.is_some() || !self.listeners.is_empty()
    }
}

/// What a port demands of who connects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Mutual TLS with an authorized SPIFFE identity; all else is refused.
    #[default]
    Strict,
    /// Mutual TLS, and plaintext from clients that have no sidecar yet. Each plaintext connection is a warning and counted.
    Permissive,
    /// Whatever comes is passed on as it is: health checks, applications that speak TLS themselves.
    Plaintext,
}

impl Mode {
    /// The word in the file.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
            Self::Plaintext => "plaintext",
        }
    }
}

/// A port of the application that differs from the default.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InboundPort {
    /// Which ports.
    pub port: Ports,
    /// Their mode.
    #[serde(default)]
    pub mode: Mode,
    /// Why the mode is not strict. Production wants it in writing.
    #[serde(default)]
    pub reason: Option<String>,
    /// The application speaks first (SMTP, MySQL, SSH): on a permissive port, don't wait for the client longer than
    /// `timeouts.detect`.
    #[serde(default)]
    pub server_first: bool,
    /// Application protocols that the port negotiates, best first. Default: none.
    #[serde(default)]
    pub alpn: Vec<String>,
}

/// A listener that hands on to one address.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InboundListener {
    /// Where it listens.
    pub listen: Address,
    /// The application's address. Its port decides mode and policy.
    pub to: Address,
}

/// Connections from the workload.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Outbound {
    /// Where redirected connections arrive, IPv4 loopback; `null` for none. Default `127.0.0.1:15001`.
    pub listen: Option<Address>,
    /// The same for IPv6. Default `[::1]:15001`.
    pub listen6: Option<Address>,
    /// What is in the mesh; the first that covers an address decides.
    pub destinations: Vec<Destination>,
    /// Who is asked about an address that no destination covers: the directory of a cluster. Default: nobody.
    pub directory: Option<Directory>,
    /// What becomes of everything else. Default: refuse.
    pub otherwise: Otherwise,
    /// Why `otherwise` is `passthrough`. Production wants it in writing.
    pub reason: Option<String>,
    /// Listeners without redirection: each leads to one peer.
    pub listeners: Vec<OutboundListener>,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            listen: Some(Address((std::net::Ipv4Addr::LOCALHOST, 15001).into())),
            listen6: Some(Address((std::net::Ipv6Addr::LOCALHOST, 15001).into())),
            destinations: Vec::new(),
            directory: None,
            otherwise: Otherwise::Refuse,
            reason: None,
            listeners: Vec::new(),
        }
    }
}

impl Outbound {
    /// Whether the workload can connect to anybody through sidegate.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.is_redirected() || !self.listeners.is_empty()
    }

    /// Whether the kernel is to send here what leaves.
    #[must_use]
    pub fn is_redirected(&self) -> bool {
        self.listen.is_some() || self.listen6.is_some()
    }
}

/// What becomes of a connection to a destination that is not in the mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Otherwise {
    /// It is reset, and the record says so.
    #[default]
    Refuse,
    /// It goes out as the application sent it. Counted as plaintext.
    Passthrough,
}

/// A set of addresses in the mesh, and who may answer there.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Destination {
    /// Its name in records and metrics.
    #[schemars(length(max = 256))]
    pub name: String,
    /// Address blocks. With neither `cidrs` nor `dns`: every address.
    #[serde(default)]
    pub cidrs: Vec<Cidr>,
    /// DNS names, resolved and refreshed as their TTL says.
    #[serde(default)]
    pub dns: Vec<DnsName>,
    /// Ports; default all.
    #[serde(default)]
    pub ports: Vec<Ports>,
    /// Who may answer. Default: any workload of our own trust domain.
    #[serde(default)]
    pub spiffe_ids: Vec<IdPattern>,
    /// Server name to ask for; default none.
    #[serde(default)]
    pub sni: Option<DnsName>,
    /// Application protocols to offer, best first; default none.
    #[serde(default)]
    pub alpn: Vec<String>,
    /// Whether connections go through a tunnel where the peer is a sidegate. Default: auto.
    #[serde(default)]
    pub tunnel: TunnelMode,
}

/// Whether connections go through a tunnel where the peer is a sidegate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TunnelMode {
    /// They do, and a session carries one after the other where the address proves to be a single pod's.
    #[default]
    Auto,
    /// They do, each on a session of its own.
    Once,
    /// They do not: plain mutual TLS, as to any other peer.
    Off,
}

/// A listener that leads to one peer.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutboundListener {
    /// Its name in records and metrics.
    #[schemars(length(max = 256))]
    pub name: String,
    /// Where it listens; loopback, for it gives anyone who connects our identity.
    pub listen: Address,
    /// The peer; a name is resolved and refreshed.
    pub to: HostPort,
    /// Who may answer. Default: any workload of our own trust domain.
    #[serde(default)]
    pub spiffe_ids: Vec<IdPattern>,
    /// Server name to ask for; default none.
    #[serde(default)]
    pub sni: Option<DnsName>,
    /// Application protocols to offer, best first; default none.
    #[serde(default)]
    pub alpn: Vec<String>,
    /// Whether connections go through a tunnel where the peer is a sidegate. Default: auto.
    #[serde(default)]
    pub tunnel: TunnelMode,
}

/// Who may talk to the workload.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    /// Policy files, or directories of which every `*.yaml` and `*.yml` is one, in the order of their names. Read again when
    /// they change, also when files come or go. Without any rule every peer is denied.
    #[schemars(with = "Vec<FileOrFolderPath>")]
    pub files: Vec<PathBuf>,
}

/// How TLS is spoken inside the mesh.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tls {
    /// Key exchange groups, best first. Default: all; traffic recorded today with a group that is not post-quantum can be
    /// decrypted by a future quantum computer.
    #[schemars(length(min = 1))]
    pub groups: Vec<Group>,
    /// Whether a later handshake with the same peer omits certificates and signatures. The peer is verified and authorized in any case.
    /// Default true.
    pub resumption: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self { groups: vec![Group::X25519Mlkem768, Group::X25519, Group::Secp256r1, Group::Secp384r1], resumption: true }
    }
}

/// A key exchange group, by its IANA name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Group {
    /// Post-quantum: X25519 and ML-KEM-768 together.
    #[serde(rename = "X25519MLKEM768")]
    X25519Mlkem768,
    /// Curve25519.
    #[serde(rename = "X25519")]
    X25519,
    /// P-256.
    #[serde(rename = "secp256r1")]
    Secp256r1,
    /// P-384.
    #[serde(rename = "secp384r1")]
    Secp384r1,
}

/// Bounds on what connections may use.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections in each direction, so that neither can starve the other. Default 20000; never more than the
    /// process has descriptors for, two a connection; a direction without a listener needs none.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: u32,
    /// TLS handshakes in flight in each direction, and as many connections whose protocol is not known yet on permissive
    /// ports. Further ones wait for their turn, address by address. Default 1024: a core finishes some thousands a second.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub handshakes: u32,
    /// Inbound connections without an identity: before their handshake is done, and on plaintext ports to their end. Default half of
    /// the inbound connections. Where there are more, the one that was silent for the longest is cut, of the address (IPv6: /64)
    /// that has the most.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub unidentified: Option<u32>,
    /// Bytes in the buffers of all connections together. Default a quarter of the cgroup's memory limit, 256 MiB without one. With half
    /// of it in use connections get by with small buffers; with all of it, no more handshakes begin until there is room.
    #[schemars(range(min = 1_048_576))]
    pub buffered_bytes: Option<u64>,
    /// Sessions in each direction that are kept between two connections. Default 256: a descriptor and some KiB each.
    #[schemars(range(max = 1_000_000))]
    pub idle_tunnels: u32,
    /// Sessions that are made in advance for each single pod that is being called while none waits, in each worker. Default 1;
    /// 0 makes none.
    #[schemars(range(max = 16))]
    pub warm_tunnels: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 20_000, handshakes: 1024, unidentified: None, buffered_bytes: None, idle_tunnels: 256, warm_tunnels: 1 }
    }
}

/// A deadline for every wait.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Timeouts {
    /// TCP connect. Default 5s: three SYNs.
    pub dial: Span,
    /// TLS handshake. Default 10s.
    pub handshake: Span,
    /// On a permissive port, how long bytes of a server that speaks first are held back for a client that may still
    /// speak TLS. Default 200ms.
    pub detect: Span,
    /// On a permissive port, how long a connection may be silent at both ends. Default 1m.
    pub silent: Span,
    /// No byte in either direction. Default 1h; `0s` for never.
    pub idle: Span,
    /// One direction closed and no byte in the other. Default 5m.
    pub half_open: Span,
    /// Towards the mesh, how long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`). Linux counts a reader that takes
    /// nothing for so long too, hence the default of 15m, about when the system itself would give up on a dead host.
    pub tcp_user: Span,
    /// First keepalive probe after this much silence. Default 60s.
    pub keepalive: Span,
    /// How long a session towards a peer's sidecar is kept for the next connection; at the server's side twice as long, so
    /// that it is the client who closes it. Default 30s; `0s` keeps none.
    pub tunnel_idle: Span,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            dial: Span::seconds(5),
            handshake: Span::seconds(10),
            detect: Span(std::time::Duration::from_millis(200)),
            silent: Span::seconds(60),
            idle: Span::seconds(3600),
            half_open: Span::seconds(300),
            tcp_user: Span::seconds(900),
            keepalive: Span::seconds(60),
            tunnel_idle: Span::seconds(30),
        }
    }
}

/// How sidegate ends.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Drain {
    /// From SIGTERM to the end of the process, whatever hangs. The last fourth of it, at most `telemetry.flush` and 3s, is for the
    /// last audit records and exports; until then open connections may go on, and outbound stays up, for the application drains
    /// too. Default 25s, below Kubernetes' 30s.
    pub deadline: Span,
    /// How long inbound connections are still accepted after SIGTERM, until clients no longer send them here. Default 3s.
    pub settle: Span,
    /// End before the deadline when no connection has been open, in either direction, for this long. Default 5s.
    pub quiet: Span,
}

impl Default for Drain {
    fn default() -> Self {
        Self { deadline: Span::seconds(25), settle: Span::seconds(3), quiet: Span::seconds(5) }
    }
}

/// A line for each connection, on standard output.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLog {
    /// Default `auto`.
    pub format: LogFormat,
}

/// How a record is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// One readable line.
    Text,
    /// Nothing.
    Off,
}
