//! `sidegate policy explain`: may A call B, and why?

use std::net::Ipv4Addr;
use std::time::SystemTime;

use anyhow::{Result, bail};
use serde::Serialize;
use sidegate_config::value::{Id, Moment};
use sidegate_core::{Decision, Direction};
use sidegate_policy::Query;

use super::{Outcome, explanation, load, verdict};
use crate::cli::PolicyExplain;
use crate::say::{say, say_lines, say_pretty_json};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(flatten)]
    decision: &'a Decision,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    matching: Vec<Matching<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Matching<'a> {
    rule: &'a str,
    action: &'static str,
    dry_run: bool,
}

/// Says what becomes of a connection, by which rule, and which others match or nearly do.
pub(super) fn explain(arguments: &PolicyExplain) -> Result<Outcome> {
    if arguments.server.is_some() && arguments.destination.is_none() {
        bail!("only a connection from the workload has a --server; name its --destination too");
    }
    let loaded = load(&arguments.files)?;
    if let (Some(name), Some(known)) = (&arguments.destination, &loaded.destinations())
        && !known.contains(name)
    {
        bail!("the configuration has no destination `{name}`; it has {}", known.iter().cloned().collect::<Vec<_>>().join(", "));
    }
    let address = arguments.from_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let time = arguments.at.as_ref().map_or_else(SystemTime::now, |at: &Moment| *at.get());
    let query = Query {
        direction: if arguments.destination.is_some() { Direction::Outbound } else { Direction::Inbound },
        server: arguments.server.as_ref().map(Id::get),
        sni: arguments.sni.as_deref(),
        destination: arguments.destination.as_deref(),
        ..Query::inbound(arguments.from.as_ref().map(Id::get), address, *arguments.to.get(), time)
    };
    let judged = loaded.policy().judge(&query);
    let decision = &judged.decision;
    let matching: Vec<_> = loaded.policy().matching(&query).collect();
    if arguments.json {
        let matching = matching.iter().map(|rule| Matching { rule: rule.label, action: rule.action, dry_run: rule.dry_run });
        let answer = Answer { decision, reason: judged.reason.map(sidegate_core::Reason::label), matching: matching.collect() };
        say_pretty_json(&answer)?;
        return Ok(Outcome::finding_if(!decision.allowed));
    }
    say_lines(&verdict(decision))?;
    say_lines(&explanation(decision, "  "))?;
    if !matching.is_empty() {
        out!("rules that match:");
    }
    for rule in matching {
        let decides = if *rule.label == *decision.rule { ", decides" } else { "" };
        let dry_run = if rule.dry_run { " (dry run)" } else { "" };
        say(&format!("  {:<5} {}{dry_run}{decides}", rule.action, rule.label))?;
    }
    for (missing, what) in [
        (arguments.from.is_none(), "--from was not given: a client in plaintext, on a port where that may pass"),
        (arguments.from_address.is_none(), "--from-address was not given: rules with `from.cidrs` do not match"),
        (arguments.to.get().ip().is_unspecified(), "--to has no address: rules with `to.cidrs` do not match"),
    ] {
        if missing {
            err!("note: {what}");
        }
    }
    Ok(Outcome::finding_if(!decision.allowed))
}
