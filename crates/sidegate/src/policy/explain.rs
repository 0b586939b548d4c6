//! `sidegate policy explain`: may A call B, and why?

use std::net::{Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use anyhow::{Result, bail};
use serde::Serialize;
use sidegate_config::Config;
use sidegate_config::schema::{Captured, Mode};
use sidegate_config::value::{DnsName, Id, Moment};
use sidegate_control::Settings;
use sidegate_core::{Decision, Direction};
use sidegate_policy::{Policy, Query, RuleRef};
use sidegate_proxy::{Asked, Course, Meets, ask};

use super::{ExitStatus, explanation, load, verdict};
use crate::cli::PolicyExplainArgs;
use crate::output::{say, say_lines, say_pretty_json};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
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
    matching: Vec<Matching<'a>>,
    notes: &'a [String],
}

/// What the configuration says of the port that is connected to.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PortAnswer {
    ports: String,
    mode: &'static str,
    key: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Matching<'a> {
    rule: &'a str,
    action: &'static str,
    dry_run: bool,
}

/// Says what becomes of a connection, by which rule, and which others match or nearly do.
pub(super) fn explain(arguments: &PolicyExplainArgs) -> Result<ExitStatus> {
    let loaded = load(&arguments.files)?;
    let policy = loaded.policy();
    let is_outbound = arguments.outbound || arguments.server.is_some() || arguments.destination.is_some();
    let time = arguments.at.as_ref().map_or_else(SystemTime::now, |at: &Moment| *at.get());
    let address = arguments.from_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let query = Query {
        direction: if is_outbound { Direction::Outbound } else { Direction::Inbound },
        server: arguments.server.as_ref().map(Id::get),
        sni: arguments.sni.as_deref(),
        destination: arguments.destination.as_deref(),
        ..Query::inbound(arguments.from.as_ref().map(Id::get), address, *arguments.to.get(), time)
    };
    let mut notes = missing(arguments, is_outbound);
    let course = match &loaded.config {
        Some(config) => by_configuration(arguments, config, policy, &query, &mut notes)?,
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
        Meets::Destination(_) => true,
        Meets::Nothing => loaded.config.is_none(),
        Meets::Otherwise => false,
    };
    let asked = if loaded.config.is_some() { asked } else { query };
    let matching: Vec<_> = policy.matching(&asked).filter(|_| is_policys).collect();
    if arguments.json {
        say_pretty_json(&answer(&course, &matching, &notes))?;
    } else {
        say_answer(loaded.config.as_ref(), &course, &matching)?;
        notes.iter().for_each(|note| err!("note: {note}"));
    }
    Ok(ExitStatus::finding_if(course.reason.is_some()))
}

/// What the arguments leave open.
fn missing(arguments: &PolicyExplainArgs, is_outbound: bool) -> Vec<String> {
    let from =
        if is_outbound { "who the workload is, is not known, and so which trust domain is its own" } else { "the client has no identity" };
    [
        (arguments.from.is_none(), format!("--from was not given: {from}")),
        (arguments.from_address.is_none() && !is_outbound, "--from-address was not given: rules with `from.cidrs` do not match".to_owned()),
        (arguments.to.get().ip().is_unspecified(), "--to has no address: rules with `to.cidrs` do not match".to_owned()),
        (
            is_outbound && arguments.server.is_none(),
            "--server was not given: whether the server may answer is not checked, nor are rules that ask for it".to_owned(),
        ),
    ]
    .into_iter()
    .filter_map(|(is_missing, note)| is_missing.then_some(note))
    .collect()
}

/// What policy files say, without a configuration.
fn by_policy_alone(policy: &Policy, query: &Query<'_>, notes: &mut Vec<String>) -> Result<Course> {
    if query.direction == Direction::Outbound && query.destination.is_none() {
        bail!("only a configuration says which destination an address is of; name it with --config, or the destination with --destination");
    }
    notes.push(
        "without a configuration the modes of ports, and what destinations cover, are not considered; name one with --config".to_owned(),
    );
    let decided = policy.verdict(query);
    Ok(Course { decision: Some(decided.decision), reason: decided.reason, detail: None, meets: Meets::Nothing, plaintext: false })
}

/// What the sidecar would do.
fn by_configuration(
    arguments: &PolicyExplainArgs,
    config: &Config,
    policy: &Policy,
    query: &Query<'_>,
    notes: &mut Vec<String>,
) -> Result<Course> {
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
                bail!("outbound listener `{}` leads to {leads}, not to {to}", listener.name);
            }
            if leads.address().is_none() && !any_address {
                notes.push(format!("`{}` is taken to stand for {}, since nothing is resolved here", leads.host, to.ip()));
            }
            true
        }
    };
    if query.direction == Direction::Outbound && !by_listener {
        if query.destination.is_none() && any_address {
            bail!(
                "--to has no address, which says where a connection from the workload goes; add it, or name the destination with --destination"
            );
        }
        notes.extend(unresolved(arguments, config, to));
    }
    notes.extend(passes_by(config, query, by_listener));
    let course = ask(&Settings::new(config), policy, &Asked { query: *query, by_listener, names: &arguments.resolved })?;
    Ok(course)
}

/// Names of destinations that may stand for the address, as far as nothing is said of them.
fn unresolved(arguments: &PolicyExplainArgs, config: &Config, to: SocketAddr) -> Vec<String> {
    let serves = |ports: &[sidegate_config::value::Ports]| ports.is_empty() || ports.iter().any(|range| range.get().contains(to.port()));
    let mut notes = Vec::new();
    for destination in config.outbound.destinations.iter().filter(|destination| serves(&destination.ports)) {
        let is_named = arguments.destination.as_ref() == Some(&destination.name);
        for name in destination.dns.iter().map(DnsName::get).filter(|name| arguments.resolved.iter().all(|(known, _)| known != *name)) {
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

fn answer<'a>(course: &'a Course, matching: &[RuleRef<'a>], notes: &'a [String]) -> Answer<'a> {
    let port = match &course.meets {
        Meets::Port(range, mode, index) => Some(PortAnswer { ports: range.to_string(), mode: mode.label(), key: key_of_port(*index) }),
        _ => None,
    };
    let transport = if course.plaintext { "plaintext" } else { "mtls" };
    Answer {
        allowed: course.decision.is_none().then_some(false),
        decision: course.decision.as_ref(),
        reason: course.reason.map(sidegate_core::Reason::label),
        detail: course.detail.as_deref(),
        port,
        destination: if let Meets::Destination(name) = &course.meets { Some(name) } else { None },
        transport: (course.meets != Meets::Nothing && course.reason.is_none()).then_some(transport),
        matching: matching.iter().map(|rule| Matching { rule: rule.label, action: rule.action, dry_run: rule.dry_run }).collect(),
        notes,
    }
}

fn key_of_port(index: Option<usize>) -> String {
    index.map_or_else(|| "inbound.defaultMode".to_owned(), |index| format!("inbound.ports[{index}]"))
}

fn say_answer(config: Option<&Config>, course: &Course, matching: &[RuleRef<'_>]) -> Result<()> {
    match (&course.decision, &course.detail) {
        (Some(decision), _) => say_lines(&verdict(decision))?,
        (None, detail) => say(&format!("DENIED: {}", detail.as_deref().unwrap_or("nothing can be decided")))?,
    }
    match &course.meets {
        Meets::Port(range, mode, index) => {
            let ports = if index.is_some() { format!("port {range}") } else { "every other port".to_owned() };
            say(&format!("  {ports} has mode {} by `{}`", mode.label(), key_of_port(*index)))?;
        }
        Meets::Destination(name) => {
            say(&format!("  it goes to destination {name}{}", config.map_or_else(String::new, |c| key_of(c, name))))?;
        }
        Meets::Nothing | Meets::Otherwise => {}
    }
    if let (Some(_), Some(detail)) = (&course.decision, &course.detail) {
        say(&format!("  {detail}"))?;
    }
    if course.plaintext && course.reason.is_none() {
        say("  it is in plaintext on the network")?;
    }
    if let Some(decision) = &course.decision {
        say_lines(&explanation(decision, "  "))?;
        if !matching.is_empty() {
            out!("rules that match:");
        }
        for rule in matching {
            let decides = if *rule.label == *decision.rule { ", decides" } else { "" };
            let dry_run = if rule.dry_run { " (dry run)" } else { "" };
            say(&format!("  {:<5} {}{dry_run}{decides}", rule.action, rule.label))?;
        }
    }
    Ok(())
}

/// Where the configuration has a destination.
fn key_of(config: &Config, name: &str) -> String {
    let destination = config.outbound.destinations.iter().position(|d| d.name == name).map(|at| format!(", `outbound.destinations[{at}]`"));
    let listener = || config.outbound.listeners.iter().position(|l| l.name == name).map(|at| format!(", `outbound.listeners[{at}]`"));
    destination.or_else(listener).unwrap_or_default()
}
