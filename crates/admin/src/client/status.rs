//! How a running sidecar is doing, on one screen.

use std::time::SystemTime;

use sidegate_core::{counted, without_controls, wrapped};

use crate::v1;

/// A status as a person reads it.
#[must_use]
pub fn screen(status: &v1::Status) -> String {
    let mut lines = vec![format!(
        "sidegate {}, profile {}, up {}: {}, {}",
        status.version,
        status.profile,
        span(i64::try_from(status.uptime_seconds).unwrap_or(i64::MAX)),
        status.phase,
        if status.ready { "ready" } else { "NOT READY" }
    )];
    // What an agent says has no lines of its own, which could look like ours.
    let mut add = |name: &str, text: String| {
        let block = wrapped(&without_controls(&format!("{:12}{text}", "")), 2);
        lines.push(format!("{name:<12}{}", block.get(12..).unwrap_or_default()));
    };
    if let Some(ends) = &status.drain_ends {
        add("", format!("draining; ends by {ends} at the latest"));
    }
    for line in &status.missing {
        add("", line.clone());
    }
    if let Some(capture) = status.capture.as_ref().filter(|capture| capture.state != "not_proved") {
        let state = if capture.why.is_none() { format!("proven, {}", since(capture.since.as_ref())) } else { "MISSING".to_owned() };
        add("capture", state);
    }
    let identities = status.identities.clone().unwrap_or_default();
    match &identities.svid {
        Some(svid) => {
            add("identity", svid.spiffe_id.clone());
            let rotations = counted(identities.rotations, "rotation");
            add("", format!("{}, serial {}, {rotations} so far", expires(svid.seconds_left), svid.serial));
        }
        None => add("identity", "none".to_owned()),
    }
    for bundle in &identities.bundles {
        let authorities = counted(bundle.authorities.into(), "CA");
        add("bundle", format!("{}: {authorities}, the last {}", bundle.trust_domain, expires(bundle.seconds_left)));
    }
    for source in &identities.sources {
        let health = if source.healthy { "" } else { "TROUBLE: " };
        add("source", format!("{}: {health}{}", source.name, source.message));
    }
    if let Some(directory) = &status.directory {
        let health = directory.unavailable.as_ref().map_or_else(String::new, |why| format!("; UNAVAILABLE: {why}"));
        add("directory", format!("{} known{health}", counted(directory.addresses, "address")));
    }
    for load in &status.loads {
        let files = counted(load.files.len() as u64, "file");
        match load.subject.as_str() {
            "policy" => {
                add("policy", format!("{}, {files}, in force {}", counted(status.policy_rules, "rule"), since(load.since.as_ref())));
            }
            "revocation" if load.since.is_none() && load.refused.is_empty() => {}
            "revocation" => add("revocation", format!("{files}, in force {}", since(load.since.as_ref()))),
            _ if load.refused.is_empty() => {}
            subject => add(subject, format!("in use {}", since(load.since.as_ref()))),
        }
        for refusal in &load.refused {
            add("", format!("REFUSED {}: {}", since(Some(&refusal.since)), refusal.why));
        }
    }
    add("snapshot", format!("generation {}", status.generation));
    for traffic in &status.traffic {
        let total: u64 = traffic.ended.iter().map(|e| e.connections).sum();
        add(&traffic.direction, format!("{} open, {} in handshake; {total} ended", traffic.open, traffic.handshakes_in_flight));
        let mut failures: Vec<&v1::Ended> = traffic.ended.iter().filter(|e| !e.success).collect();
        failures.sort_by_key(|e| std::cmp::Reverse(e.connections));
        for failure in failures.iter().take(8) {
            add("", format!("{:>8} {}", failure.connections, failure.reason));
        }
    }
    for export in &status.exports {
        let text = match (&export.endpoint, &export.error) {
            (None, _) => "not exported".to_owned(),
            (Some(to), None) => format!("{} to {to}, {} dropped", export.exported, export.dropped),
            (Some(to), Some(error)) => format!("{} to {to}, {} dropped; FAILING: {error}", export.exported, export.dropped),
        };
        add(&export.signal, text);
    }
    add("log", status.log_filter.clone());
    lines.join("\n") + "\n"
}

/// `for 3m05s (since 2026-01-31T08:00:00Z)`, of an RFC 3339 time.
fn since(time: Option<&String>) -> String {
    match time.and_then(|time| Some((time, age(time, SystemTime::now())?))) {
        Some((time, age)) => format!("for {age} (since {time})"),
        None => "not yet".to_owned(),
    }
}

/// How long an RFC 3339 time has been past at `now`.
pub(super) fn age(time: &str, now: SystemTime) -> Option<String> {
    let age = now.duration_since(humantime::parse_rfc3339(time).ok()?).unwrap_or_default();
    Some(span(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)))
}

/// `expires in 2m05s`, or `EXPIRED 2m05s ago`.
#[must_use]
pub fn expires(seconds_left: i64) -> String {
    if seconds_left < 0 { format!("EXPIRED {} ago", span(-seconds_left)) } else { format!("expires in {}", span(seconds_left)) }
}

/// The two largest units of a length of time, such as `2m05s`.
#[must_use]
pub fn span(seconds: i64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        7200..172_800 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_shows_what_is_wrong() {
        let status = v1::Status {
            version: "1".to_owned(),
            profile: "production".to_owned(),
            phase: "serving".to_owned(),
            missing: vec!["no valid X.509-SVID".to_owned()],
            uptime_seconds: 7265,
            traffic: vec![v1::Traffic {
                direction: "inbound".to_owned(),
                ended: vec![
                    v1::Ended { reason: "closed".to_owned(), connections: 5, success: true },
                    v1::Ended { reason: "expired".to_owned(), connections: 2, success: false },
                ],
                ..v1::Traffic::default()
            }],
            exports: vec![v1::Export {
                signal: "traces".to_owned(),
                endpoint: Some("https://o:4317".to_owned()),
                error: Some("refused".to_owned()),
                ..v1::Export::default()
            }],
            ..v1::Status::default()
        };
        let screen = screen(&status);
        for say in
            ["up 2h01m: serving, NOT READY", "no valid X.509-SVID", "identity    none", "7 ended", "       2 expired", "FAILING: refused"]
        {
            assert!(screen.contains(say), "{say}\n{screen}");
        }
        assert!(!screen.contains("closed"));
        assert_eq!([5, 125, 90_000, 200_000].map(span), ["5s", "2m05s", "25h00m", "2d07h"]);
        assert_eq!(expires(-3), "EXPIRED 3s ago");
    }
}
