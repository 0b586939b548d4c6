//! A record as a person reads it.

use std::fmt::Write;

use sidegate_core::{AddressText, ConnectionRecord, Direction, Peer, Reason, duration, without_controls};

/// Most lines are shorter.
const USUAL: usize = 384;

/// One line for `record`, fit for a terminal.
#[must_use]
pub fn line(record: &ConnectionRecord) -> String {
    let mut text = String::with_capacity(USUAL);
    let arrow = match record.direction {
        Direction::Inbound => "inbound ",
        Direction::Outbound => "outbound",
    };
    let _ = write!(text, "{} ", humantime::format_rfc3339_millis(record.time));
    let to = record.original_destination.map(|to| AddressText::new(*to));
    let to = to.as_ref().map_or("?", AddressText::as_str);
    text.extend([arrow, " ", AddressText::new(*record.downstream).as_str(), " -> ", to, " "]);
    match &record.peer {
        Peer::Spiffe { id, .. } => text.push_str(id),
        Peer::Unverified { claimed_id: Some(claimed), .. } => text.extend(["claims ", claimed]),
        Peer::Unverified { claimed_id: None, .. } | Peer::Unknown => text.push('-'),
    }
    if let Some(tls) = &record.tls {
        let resumed = if tls.resumed { " resumed" } else { "" };
        text.extend([" TLS", tls.version, " ", tls.group.unwrap_or("-"), " ", tls.cipher, resumed]);
    } else if let Some(transport) = record.transport {
        let _ = write!(text, " {}", transport.label());
    }
    if let Some(decision) = &record.decision {
        text.extend([if decision.allowed { " allowed by " } else { " DENIED by " }, &decision.rule]);
        if let Some(explanation) = &decision.explanation {
            for remark in &explanation.remarks {
                let _ = write!(text, " [{remark}]");
            }
        }
    }
    let _ = write!(text, " {}B up {}B down {}", record.bytes_up, record.bytes_down, duration(record.stages.total));
    if record.reason != Reason::Closed {
        let _ = write!(text, " {}", record.reason);
    }
    if let Some(detail) = &record.detail {
        let _ = write!(text, ": {detail}");
    }
    let nearest = record.decision.iter().filter_map(|decision| decision.explanation.as_deref()).flat_map(|e| &e.nearest);
    for (at, rule) in nearest.enumerate() {
        let _ = write!(text, "{} {rule}", if at == 0 { "; nearest:" } else { ";" });
    }
    // Names of rules and text of peers may hold control characters.
    without_controls(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::tests::full;

    #[test]
    fn a_denial_says_what_was_lacking_and_what_was_remarked() {
        let text = line(&full(Direction::Inbound, Reason::DeniedByDefault));
        assert!(text.contains(" DENIED by default [audit look (p.yaml:9)] "), "{text}");
        assert!(text.ends_with(" denied_by_default: what exactly; nearest: web (p.yaml:3): port"), "{text}");
    }
}
