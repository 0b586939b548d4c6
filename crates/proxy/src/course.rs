//! What becomes of a connection by configuration and policy alone, without input or output: anyone who asks in advance gets the answer of the
//! very functions that the data path calls.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use sidegate_config::schema::{Mode, Otherwise};
use sidegate_config::value::PortRange;
use sidegate_control::{Addresses, Destination, Resolved, Settings};
use sidegate_core::{Decision, Direction, Reason, TrustDomain};
use sidegate_policy::{Policy, Query, Verdict};

/// What a port of this mode says of a client; `query.client` is who it is, if it has proven that.
pub(crate) fn inbound_verdict(policy: &Policy, mode: Mode, query: &Query<'_>) -> Verdict {
    match (mode, query.client) {
        // Who it is, is between client and application.
        (Mode::Plaintext, _) => policy.decide_plaintext(&Query { client: None, ..*query }, "mode plaintext"),
        (Mode::Permissive, None) => policy.decide_plaintext(query, "mode permissive"),
        // No handshake, no connection: policy is not asked.
        (Mode::Strict, None) => Verdict { decision: Decision::new(false, "mode strict".into()), reason: Some(Reason::PlaintextRefused) },
        (Mode::Strict | Mode::Permissive, Some(_)) => policy.decide(query),
    }
}

/// What is said of `query.server` at a destination; `own` is our trust domain. Nothing if it is not one that may answer there.
pub(crate) fn outbound_verdict(policy: &Policy, destination: &Destination, own: &TrustDomain, query: &Query<'_>) -> Option<Verdict> {
    if query.server.is_some_and(|server| !destination.peer_auth.expects(server, own)) {
        return None;
    }
    Some(policy.decide_outbound(&Query { destination: Some(&destination.name), ..*query }, &destination.rule))
}

/// Where a redirected connection from the workload leads, by its address.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Towards<'a> {
    /// To this destination.
    Destination(usize),
    /// To what the directory says of it.
    Directory,
    /// It is not known: this name has never been resolved, and may stand for the address.
    Unknown(&'a str),
    /// Out of the mesh, and there it stays.
    Refused,
    /// Out of the mesh, as it is.
    Outside,
}

impl Towards<'_> {
    /// What is decided of a connection to `to` that leads to no destination, and why it can't be if so.
    pub(crate) fn decide(self, to: SocketAddr) -> (Option<Decision>, Option<(Reason, String)>) {
        match self {
            Self::Unknown(name) => {
                let detail = format!("`{name}` has not been resolved yet, so it is not known where {to} belongs");
                (None, Some((Reason::NotReady, detail)))
            }
            Self::Refused => otherwise(Otherwise::Refuse, Reason::NotInMesh, format!("no destination covers {to}")),
            Self::Destination(_) | Self::Directory | Self::Outside => otherwise(Otherwise::Passthrough, Reason::NotInMesh, String::new()),
        }
    }
}

/// What `outbound.otherwise` makes of a connection that leads to no destination, for this reason.
pub(crate) fn otherwise(what: Otherwise, reason: Reason, why: String) -> (Option<Decision>, Option<(Reason, String)>) {
    match what {
        Otherwise::Refuse => (Some(Decision::new(false, "outbound.otherwise: refuse".into())), Some((reason, why))),
        Otherwise::Passthrough => (Some(Decision::new(true, "outbound.otherwise: passthrough".into())), None),
    }
}

/// Where a redirected connection from the workload leads.
pub(crate) fn towards<'a>(settings: &'a Settings, to: SocketAddr, resolved: &Resolved) -> Towards<'a> {
    let found = settings.destination_index(to, resolved);
    match (settings.unresolved(to, found, resolved), found, settings.otherwise) {
        (Some(name), ..) => Towards::Unknown(name),
        (None, Some(index), _) => Towards::Destination(index),
        (None, None, _) if settings.directory.is_some() => Towards::Directory,
        (None, None, Otherwise::Refuse) => Towards::Refused,
        (None, None, Otherwise::Passthrough) => Towards::Outside,
    }
}

/// Why a redirected connection may not go to `to`: that is sidegate itself, or not for others.
pub(crate) fn out_of_bounds(settings: &Settings, direction: Direction, to: SocketAddr) -> Option<String> {
    let is_own_port = settings.own_ports.contains(&to.port());
    match direction {
        Direction::Inbound if is_own_port => Some(format!("{to} is sidegate itself")),
        // Redirection can't bring loopback from outside; and what listens on localhost only is to stay private.
        Direction::Inbound if to.ip().is_loopback() => Some(not_reachable(to)),
        Direction::Outbound if is_own_port && to.ip().is_loopback() => Some(format!("{to} is sidegate itself")),
        Direction::Inbound | Direction::Outbound => None,
    }
}

/// Said of an address that a redirected connection should not have.
pub(crate) fn not_reachable(to: SocketAddr) -> String {
    format!("{to} is not an address of this pod that others may reach")
}

/// A connection that is only asked about.
#[derive(Debug)]
pub struct Asked<'a> {
    /// What is known of it. Without a destination one from the workload finds it by its address.
    pub query: Query<'a>,
    /// Whether an explicit listener of the configuration takes it: then the kernel does not say where it goes.
    pub by_listener: bool,
    /// Addresses of names, as far as they are known.
    pub names: &'a [(String, IpAddr)],
}

/// What becomes of a connection.
#[derive(Debug)]
pub struct Course {
    /// The decision; none if it does not come that far.
    pub decision: Option<Decision>,
    /// Why it can't be, if so.
    pub reason: Option<Reason>,
    /// More about that.
    pub detail: Option<String>,
    /// The entry of the configuration that its port, or its address, meets.
    pub meets: Meets,
    /// Whether it is in plaintext on the network.
    pub plaintext: bool,
}

/// An entry of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meets {
    /// None: it is refused before.
    Nothing,
    /// A port of the workload: which, its mode, and its index in `inbound.ports`; without one it is every other port.
    Port(PortRange, Mode, Option<usize>),
    /// A destination, by name.
    Destination(String),
    /// `outbound.directory`, which says at the time who is expected.
    Directory,
    /// `outbound.otherwise`.
    Otherwise,
}

/// The destination that was named does not get the connection.
#[derive(Debug, thiserror::Error)]
pub enum Elsewhere {
    /// There is no such destination.
    #[error("the configuration has no destination `{0}`; it has {1}")]
    Unknown(String, String),
    /// Another one does.
    #[error("destination `{0}` does not get {1}: destination `{2}` does; ask for that one, or without --destination")]
    Other(String, SocketAddr, String),
    /// None does.
    #[error("destination `{0}` does not cover {1}, nor does another; look at its `cidrs`, `dns` and `ports`, or ask without --destination")]
    Nowhere(String, SocketAddr),
}

/// What the data path makes of a connection.
///
/// # Errors
/// If it does not go to the destination that it is said to go to.
pub fn ask(settings: &Settings, policy: &Policy, asked: &Asked<'_>) -> Result<Course, Elsewhere> {
    let to = SocketAddr::new(asked.query.to.ip().to_canonical(), asked.query.to.port());
    let query = &Query { to, ..asked.query };
    let index = match query.destination {
        Some(name) => Some(index_of(settings, name, to, asked.names)?),
        None => None,
    };
    let is_redirected = !asked.by_listener && index.is_none_or(|index| index < settings.matched);
    if is_redirected && let Some(detail) = out_of_bounds(settings, query.direction, to) {
        return Ok(Course { reason: Some(Reason::OwnPort), detail: Some(detail), ..Course::of(Meets::Nothing) });
    }
    if query.direction == Direction::Inbound {
        let index = settings.port_index(to.port());
        let port = &settings.ports[index];
        let Verdict { decision, reason } = inbound_verdict(policy, port.mode, query);
        let meets = Meets::Port(port.range, port.mode, (index + 1 < settings.ports.len()).then_some(index));
        let plaintext = port.mode == Mode::Plaintext || query.client.is_none();
        return Ok(Course { decision: Some(decision), reason, plaintext, ..Course::of(meets) });
    }
    let resolved = resolved(asked.names);
    let towards = index.map_or_else(|| towards(settings, to, &resolved), Towards::Destination);
    let index = match (towards, settings.of_directory) {
        (Towards::Destination(index), _) => index,
        // Who is expected is not known here, so the one that is named is taken to be.
        (Towards::Directory, Some(index)) => {
            let Destination { name, rule, .. } = &*settings.destinations[index];
            let Verdict { decision, reason } = policy.decide_outbound(&Query { destination: Some(name), ..*query }, rule);
            return Ok(Course { decision: Some(decision), reason, ..Course::of(Meets::Directory) });
        }
        _ => {
            let (decision, refused) = towards.decide(to);
            let (reason, detail) = refused.unzip();
            return Ok(Course { decision, reason, detail, plaintext: true, ..Course::of(Meets::Otherwise) });
        }
    };
    let destination = &settings.destinations[index];
    let course = Course::of(Meets::Destination(destination.name.to_string()));
    // Where the destination names its servers, our own trust domain does not matter.
    let named = query.server.filter(|_| destination.peer_auth.names_peers());
    let Some(own) = query.client.or(named).map(sidegate_core::SpiffeId::trust_domain) else {
        let Verdict { decision, reason } =
            policy.decide_outbound(&Query { destination: Some(&destination.name), ..*query }, &destination.rule);
        return Ok(Course { decision: Some(decision), reason, ..course });
    };
    Ok(match outbound_verdict(policy, destination, own, query) {
        Some(Verdict { decision, reason }) => Course { decision: Some(decision), reason, ..course },
        None => {
            let (decision, reason, detail) = unexpected(destination, own);
            Course { decision: Some(decision), reason: Some(reason), detail: Some(detail), ..course }
        }
    })
}

/// The index of the destination `name`, which must be the one that `to` leads to. Its own names are taken to stand for `to` as far as
/// nothing else is known of them.
fn index_of(settings: &Settings, name: &str, to: SocketAddr, names: &[(String, IpAddr)]) -> Result<usize, Elsewhere> {
    let Some(index) = settings.destinations.iter().position(|destination| *destination.name == *name) else {
        let known = settings.destinations.iter().map(|destination| destination.name.to_string()).collect::<Vec<_>>();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(Elsewhere::Unknown(name.to_owned(), known));
    };
    let destination = &settings.destinations[index];
    if index >= settings.matched {
        return Ok(index);
    }
    if to.ip().is_unspecified() {
        return if destination.serves_port(to.port()) { Ok(index) } else { Err(Elsewhere::Nowhere(name.to_owned(), to)) };
    }
    let mut resolved = resolved(names);
    for own in &destination.dns {
        resolved.entry(own.clone()).or_insert_with(|| Addresses::default().with(vec![to.ip()], Instant::now()));
    }
    match settings.destination_index(to, &resolved) {
        Some(found) if found == index => Ok(index),
        Some(other) => Err(Elsewhere::Other(name.to_owned(), to, settings.destinations[other].name.to_string())),
        None => Err(Elsewhere::Nowhere(name.to_owned(), to)),
    }
}

impl Course {
    fn of(meets: Meets) -> Self {
        Self { decision: None, reason: None, detail: None, meets, plaintext: false }
    }
}

/// What is decided of a server that is not one that may answer.
pub(crate) fn unexpected(destination: &Destination, own: &TrustDomain) -> (Decision, Reason, String) {
    (Decision::new(false, destination.rule.clone()), Reason::UnexpectedPeer, format!("expected {}", destination.peer_auth.expected(own)))
}

fn resolved(names: &[(String, IpAddr)]) -> Resolved {
    let mut resolved = Resolved::new();
    for (name, _) in names {
        let of_name = names.iter().filter(|(other, _)| other == name).map(|(_, ip)| ip.to_canonical()).collect();
        resolved.insert(name.clone(), Addresses::default().with(of_name, Instant::now()));
    }
    resolved
}
