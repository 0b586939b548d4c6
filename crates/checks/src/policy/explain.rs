//! May A call B, and why? As the sidecar would decide with the configuration, or with policy files alone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use serde::Serialize;
use sidegate_config::Config;
use sidegate_config::schema::{Captured, Mode};
use sidegate_config::value::DnsName;
use sidegate_control::Settings;
use sidegate_core::{Decision, Direction, SpiffeId, without_controls};
use sidegate_policy::{KnownFacts, Policy, Query};
use sidegate_proxy::{Asked, Course, Elsewhere, Meets, ask};

use super::{LoadedPolicy, explanation, verdict};

/// A connection that is asked about. What is not given is not known.
#[derive(Debug)]
pub struct Question<'a> {
    /// Who connects; without it a client in plaintext. On a connection from the workload that is the workload.
    pub from: Option<&'a SpiffeId>,
    /// The address that they connect from.
    pub from_address: Option<IpAddr>,
    /// Where they want to go; an unspecified address if only the port is known.
    pub to: SocketAddr,
    /// The server name that they ask for.
    pub sni: Option<&'a str>,
    /// Whether it is from the workload; so it is also if there is a destination or a server.
    pub outbound: bool,
    /// The configured destination or outbound listener.
    pub destination: Option<&'a str>,
    /// Who answers.
    pub server: Option<&'a SpiffeId>,
    /// What names in `dns` of destinations stand for, since nothing is resolved here.
    pub resolved: &'a [(String, IpAddr)],
    /// When.
    pub time: SystemTime,
}

/// A name and an address that it stands for: `db.default.svc=10.1.0.7`.
///
/// # Errors
/// If it is something else.
pub fn resolved_name(text: &str) -> Result<(String, IpAddr), String> {
    let parsed = text.split_once('=').and_then(|(name, address)| Some((name.to_owned(), address.parse().ok()?)));
    parsed.ok_or_else(|| format!("`{text}` is no name and address; write for example db.default.svc=10.1.0.7"))
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// It needs a configuration.
    #[error("only a configuration says which destination an address is of; name it with --config, or the destination with --destination")]
    NoConfiguration,
    /// A connection from the workload goes to an address.
    #[error(
        "--to has no address, which says where a connection from the workload goes; add it, or name the destination with --destination"
    )]
    NoAddress,
    /// The listener that was named leads elsewhere.
    #[error("outbound listener `{0}` leads to {1}, not to {2}")]
    Listener(String, String, SocketAddr),
    /// The destination that was named does not get it.
    #[error(transparent)]
    Elsewhere(#[from] Elsewhere),
}

/// What becomes of a connection, by which rule, and which others match or nearly do.
#[derive(Debug)]
pub struct Explained<'a> {
    config: Option<&'a Config>,
    course: Course,
    matching: Vec<Matching>,
    /// What the question leaves open.
    pub notes: Vec<String>,
}

/// The answer, for tools.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainAnswer<'a> {
    /// Said by the decision, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<bool>,
    #[serde(flatten)]
    decision: Option<&'a Decision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<PortAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
    matching: &'a [Matching],
    notes: &'a [String],
}

/// What the configuration says of the port that is connected to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortAnswer {
    ports: String,
    mode: &'static str,
    key: String,
}

/// A rule that matches.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Matching {
    rule: String,
    action: &'static str,
    dry_run: bool,
}

impl Question<'_> {
    fn is_outbound(&self) -> bool {
        self.outbound || self.server.is_some() || self.destination.is_some()
    }

    fn query(&self) -> Query<'_> {
        let direction = if self.is_outbound() { Direction::Outbound } else { Direction::Inbound };
        let client_address = self.from_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        Query {
            client: self.from,
            server: self.server,
            sni: self.sni,
            destination: self.destination,
            ..Query::new(KnownFacts { direction, client_address, to: self.to, time: self.time })
        }
    }

    /// What it leaves open.
    fn missing(&self) -> Vec<String> {
        let is_outbound = self.is_outbound();
        let from = if is_outbound {
            "who the workload is, is not known, and so which trust domain is its own"
        } else {
            "the client has no identity"
        };
        [
            (self.from.is_none(), format!("--from was not given: {from}")),
            (self.from_address.is_none() && !is_outbound, "--from-address was not given: rules with `from.cidrs` do not match".to_owned()),
            (self.to.ip().is_unspecified(), "--to has no address: rules with `to.cidrs` do not match".to_owned()),
            (
                is_outbound && self.server.is_none(),
                "--server was not given: whether the server may answer is not checked, nor are rules that ask for it".to_owned(),
            ),
        ]
        .into_iter()
        .filter_map(|(is_missing, note)| is_missing.then_some(note))
        .collect()
    }
}

impl LoadedPolicy {
    /// Says what becomes of a connection.
    ///
    /// # Errors
    /// If the question does not say enough, or contradicts the configuration.
    pub fn explain(&self, question: &Question<'_>) -> Result<Explained<'_>, ExplainError> {
        let policy = self.policy();
        let query = question.query();
        let mut notes = question.missing();
        let course = match &self.config {
            Some(config) => by_configuration(question, config, policy, &query, &mut notes)?,
            None => by_policy_alone(policy, &query, &mut notes)?,
        };
        let asked = Query {
            client: query.client.filter(|_| !matches!(course.meets, Meets::Port(_, Mode::Plaintext, _))),
            destination: if let Meets::Destination(name) = &course.meets { Some(name) } else { None },
            ..query
        };
        // Where policy is not asked no rule matters.
        let is_policys = match &course.meets {
            Meets::Port(_, mode, _) => *mode != Mode::Strict || query.client.is_some(),
            Meets::Destination(_) | Meets::Directory => true,
            Meets::Nothing => self.config.is_none(),
            Meets::Otherwise => false,
        };
        let asked = if self.config.is_some() { asked } else { query };
        let matching = policy.matching(&asked).filter(|_| is_policys);
        let matching = matching.map(|rule| Matching { rule: rule.label.to_owned(), action: rule.action, dry_run: rule.dry_run }).collect();
        Ok(Explained { config: self.config.as_ref(), course, matching, notes })
    }
}

impl Explained<'_> {
    /// Whether the connection can't be.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.course.reason.is_some()
    }

    /// The answer, for tools.
    #[must_use]
    pub fn answer(&self) -> ExplainAnswer<'_> {
        let Self { course, matching, notes, .. } = self;
        let port = match &course.meets {
            Meets::Port(range, mode, index) => Some(PortAnswer { ports: range.to_string(), mode: mode.label(), key: key_of_port(*index) }),
            _ => None,
        };
        let transport = if course.plaintext { "plaintext" } else { "mtls" };
        ExplainAnswer {
            allowed: course.decision.is_none().then_some(false),
            decision: course.decision.as_ref(),
            reason: course.reason.map(sidegate_core::Reason::label),
            detail: course.detail.as_deref(),
            port,
            destination: if let Meets::Destination(name) = &course.meets { Some(name) } else { None },
            transport: (course.meets != Meets::Nothing && course.reason.is_none()).then_some(transport),
            matching,
            notes,
        }
    }

    /// The answer in lines.
    #[must_use]
    pub fn text(&self) -> String {
        let course = &self.course;
        let mut text = match (&course.decision, &course.detail) {
            (Some(decision), _) => format!("{}\n", verdict(decision)),
            (None, detail) => format!("DENIED: {}\n", without_controls(detail.as_deref().unwrap_or("nothing can be decided"))),
        };
        match &course.meets {
            Meets::Port(range, mode, index) => {
                let ports = if index.is_some() { format!("port {range}") } else { "every other port".to_owned() };
                text += &format!("  {ports} has mode {} by `{}`\n", mode.label(), key_of_port(*index));
            }
            Meets::Destination(name) => {
                let key = self.config.map_or_else(String::new, |config| key_of(config, name));
                text += &format!("  it goes to destination {name}{key}\n");
            }
            Meets::Directory => text += "  it goes to the one that the directory of the cluster expects there, by `outbound.directory`\n",
            Meets::Nothing | Meets::Otherwise => {}
        }
        if let (Some(_), Some(detail)) = (&course.decision, &course.detail) {
            text += &format!("  {}\n", without_controls(detail));
        }
        if course.plaintext && course.reason.is_none() {
            text += "  it is in plaintext on the network\n";
        }
        if let Some(decision) = &course.decision {
            text += &explanation(decision, "  ");
            if !self.matching.is_empty() {
                text += "rules that match:\n";
            }
            for rule in &self.matching {
                let decides = if *rule.rule == *decision.rule { ", decides" } else { "" };
                let dry_run = if rule.dry_run { " (dry run)" } else { "" };
                text += &format!("  {:<5} {}{dry_run}{decides}\n", rule.action, without_controls(&rule.rule));
            }
        }
        text
    }
}

/// What policy files say, without a configuration.
fn by_policy_alone(policy: &Policy, query: &Query<'_>, notes: &mut Vec<String>) -> Result<Course, ExplainError> {
    if query.direction == Direction::Outbound && query.destination.is_none() {
        return Err(ExplainError::NoConfiguration);
    }
    notes.push(
        "without a configuration the modes of ports, and what destinations cover, are not considered; name one with --config".to_owned(),
    );
    let decided = policy.verdict(query);
    Ok(Course { decision: Some(decided.decision), reason: decided.reason, detail: None, meets: Meets::Nothing, plaintext: false })
}

/// What the sidecar would do.
fn by_configuration(
    question: &Question<'_>,
    config: &Config,
    policy: &Policy,
    query: &Query<'_>,
    notes: &mut Vec<String>,
) -> Result<Course, ExplainError> {
    let to = query.to;
    let any_address = to.ip().is_unspecified();
    let meets = |address: SocketAddr| address.port() == to.port() && (any_address || address.ip().to_canonical() == to.ip().to_canonical());
    let listener = config.outbound.listeners.iter().find(|listener| query.destination == Some(&listener.name));
    let by_listener = match (query.direction, listener) {
        (Direction::Inbound, _) => config.inbound.listeners.iter().any(|listener| meets(listener.to.0)),
        (Direction::Outbound, None) => false,
        (Direction::Outbound, Some(listener)) => {
            let leads = listener.to.get();
            let good = leads.address().map_or(leads.port == to.port(), meets);
            if !good {
                return Err(ExplainError::Listener(listener.name.clone(), leads.to_string(), to));
            }
            if leads.address().is_none() && !any_address {
                notes.push(format!("`{}` is taken to stand for {}, since nothing is resolved here", leads.host, to.ip()));
            }
            true
        }
    };
    if query.direction == Direction::Outbound && !by_listener {
        if query.destination.is_none() && any_address {
            return Err(ExplainError::NoAddress);
        }
        notes.extend(unresolved(question, config, to));
    }
    notes.extend(passes_by(config, query, by_listener));
    Ok(ask(&Settings::new(config), policy, &Asked { query: *query, by_listener, names: question.resolved })?)
}

/// Names of destinations that may stand for the address, as far as nothing is said of them.
fn unresolved(question: &Question<'_>, config: &Config, to: SocketAddr) -> Vec<String> {
    let serves = |ports: &[sidegate_config::value::Ports]| ports.is_empty() || ports.iter().any(|range| range.get().contains(to.port()));
    let mut notes = Vec::new();
    for destination in config.outbound.destinations.iter().filter(|destination| serves(&destination.ports)) {
        let is_named = question.destination == Some(destination.name.as_str());
        for name in destination.dns.iter().map(DnsName::get).filter(|name| question.resolved.iter().all(|(known, _)| known != *name)) {
            notes.push(if is_named {
                format!(
                    "`{name}` is taken to stand for the address, since nothing is resolved here; say otherwise with --resolved NAME=ADDRESS"
                )
            } else {
                format!(
                    "destination `{}` may cover the address by `{name}`, which is not resolved here; say so with --resolved NAME=ADDRESS",
                    destination.name
                )
            });
        }
    }
    notes
}

/// Why the connection may not even come to the sidecar.
fn passes_by(config: &Config, query: &Query<'_>, by_listener: bool) -> Option<String> {
    let to = query.to;
    let (is_captured, captured, far) = match query.direction {
        Direction::Inbound => (config.inbound.listen.is_some(), &config.redirect.inbound, query.client_address),
        Direction::Outbound => (config.outbound.is_redirected(), &config.redirect.outbound, to.ip()),
    };
    if by_listener {
        return None;
    }
    if !is_captured {
        return Some("no listener of the configuration takes this connection: it passes by the sidecar".to_owned());
    }
    let Captured { include_ports, exclude_ports, include_cidrs, exclude_cidrs } = captured;
    let of_ports = |ports: &[sidegate_config::value::Ports]| ports.iter().any(|range| range.get().contains(to.port()));
    let of_blocks = |blocks: &[sidegate_config::value::Cidr]| blocks.iter().any(|block| block.get().contains(&far));
    let is_left_out = of_ports(exclude_ports)
        || of_blocks(exclude_cidrs)
        || !include_ports.is_empty() && !of_ports(include_ports)
        || !include_cidrs.is_empty() && !of_blocks(include_cidrs);
    is_left_out.then(|| "the kernel rules leave this connection out, by section `redirect`: it passes by the sidecar".to_owned())
}

fn key_of_port(index: Option<usize>) -> String {
    index.map_or_else(|| "inbound.defaultMode".to_owned(), |index| format!("inbound.ports[{index}]"))
}

/// Where the configuration has a destination.
fn key_of(config: &Config, name: &str) -> String {
    let destination = config.outbound.destinations.iter().position(|d| d.name == name).map(|at| format!(", `outbound.destinations[{at}]`"));
    let listener = || config.outbound.listeners.iter().position(|l| l.name == name).map(|at| format!(", `outbound.listeners[{at}]`"));
    destination.or_else(listener).unwrap_or_default()
}
