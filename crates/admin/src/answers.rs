//! What is told of a running sidecar: the admin API and the status page answer with the same functions.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use sidegate_control::{Load, Subject};
use sidegate_core::{ConnectionRecord, Direction, Reason, TunnelUse, rfc3339};
use sidegate_identity::unix_now;
use sidegate_proxy::{Capture, ConnectionHandle, Phase, Readiness, Shared};
use sidegate_telemetry::DropSource;

use crate::controls::Controls;
use crate::v1;

/// As many rules are shown.
const RULES: usize = 100;
const DIRECTIONS: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

/// How the sidecar is doing.
pub(crate) fn status(controls: &Controls) -> v1::Status {
    let shared = &controls.shared;
    let snapshot = shared.control.snapshot.load();
    let missing = match shared.readiness() {
        Readiness::Ready => Vec::new(),
        Readiness::NotReady(lines) => lines,
    };
    let exports = shared.telemetry.exports().into_iter().map(|export| v1::Export {
        signal: export.signal.label().to_owned(),
        endpoint: export.target,
        error: export.error,
        exported: export.exported,
        dropped: export.dropped,
    });
    v1::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: controls.started.elapsed().as_secs(),
        phase: phase(*shared.phase.borrow()).to_owned(),
        ready: missing.is_empty(),
        missing,
        identities: Some(identities(shared)),
        policy_rules: snapshot.policy.len() as u64,
        generation: snapshot.generation,
        traffic: DIRECTIONS.map(|d| traffic(shared, d)).into(),
        exports: exports.collect(),
        log_filter: (controls.log_filter)(),
        profile: controls.profile.clone(),
        capture: Some(capture(&shared.capture.borrow())),
        loads: Subject::ALL.map(|subject| load(subject, shared.control.loads.get(subject))).into(),
        directory: shared.control.directory.as_ref().map(|directory| v1::Directory {
            addresses: directory.len() as u64,
            unavailable: directory.unavailable().map(|why| why.to_string()),
        }),
        drain_ends: controls.drain.ends().map(time),
    }
}

/// What has happened so far, without the latest connections.
pub(crate) fn activity(shared: &Shared) -> v1::Activity {
    let metrics = &shared.telemetry.metrics;
    let mut rules = metrics.rule_hits();
    rules.sort_by_key(|hits| std::cmp::Reverse(hits.connections));
    let hits = rules.iter().take(RULES).map(|hits| v1::RuleHits {
        rule: hits.rule.to_string(),
        direction: hits.direction.label().to_owned(),
        allowed: hits.allowed,
        connections: hits.connections,
    });
    let tunnels = |direction| v1::Tunnels {
        direction: Direction::label(direction).to_owned(),
        idle: u64::try_from(metrics.idle_tunnels(direction).get()).unwrap_or(0),
        new: metrics.tunnels(direction, TunnelUse::New),
        reused: metrics.tunnels(direction, TunnelUse::Reused),
    };
    let handshakes = |direction| {
        let (count, took) = metrics.handshakes(direction);
        v1::Handshakes { direction: Direction::label(direction).to_owned(), count, seconds: took.as_secs_f64() }
    };
    v1::Activity {
        rules: hits.collect(),
        rules_left_out: rules.len().saturating_sub(RULES) as u64,
        tunnels: DIRECTIONS.map(tunnels).into(),
        audit: Some(v1::AuditLog {
            on: shared.audit.is_on(),
            written: metrics.audit_records().get(),
            dropped: metrics.dropped_in_all(DropSource::Audit),
            copies_dropped: metrics.dropped_in_all(DropSource::AuditCopies),
            blocking: metrics.audit_blocking() as u64,
        }),
        handshakes: DIRECTIONS.map(handshakes).into(),
        latest: None,
    }
}

/// The latest connections; none if they are not remembered.
pub(crate) fn latest(shared: &Shared) -> Option<v1::Latest> {
    let ended = |records: Vec<Arc<ConnectionRecord>>| records.iter().map(|record| of_record(record)).collect();
    let latest = shared.telemetry.recent()?;
    Some(v1::Latest { handshakes: ended(latest.handshakes), refusals: ended(latest.refusals) })
}

/// RFC 3339, to the second.
pub(crate) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn capture(capture: &Capture) -> v1::Capture {
    let (state, since) = match capture {
        Capture::NotProved => ("not_proved", None),
        Capture::Proven { since } => ("proven", Some(*since)),
        Capture::Missing { .. } => ("missing", None),
    };
    v1::Capture { state: state.to_owned(), since: since.map(time), why: capture.missing().map(str::to_owned) }
}

fn load(subject: Subject, load: Load) -> v1::Load {
    let files = load.files.into_iter().map(|file| v1::File { file: file.file, sha256: file.sha256 });
    let refused = load.refused.into_iter().map(|(source, refusal)| v1::Refusal { source, since: time(refusal.since), why: refusal.why });
    v1::Load { subject: subject.label().to_owned(), since: load.since.map(time), files: files.collect(), refused: refused.collect() }
}

pub(crate) fn of_record(record: &ConnectionRecord) -> v1::EndedConnection {
    let json = serde_json::to_string(record).unwrap_or_default();
    v1::EndedConnection { json, line: sidegate_telemetry::line(record) }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Settling => "settling",
        Phase::Draining => "draining",
        Phase::Ending => "ending",
    }
}

fn traffic(shared: &Shared, direction: Direction) -> v1::Traffic {
    let metrics = &shared.telemetry.metrics;
    let ended = Reason::ALL.iter().map(|reason| v1::Ended {
        reason: reason.label().to_owned(),
        connections: metrics.ended(direction, *reason),
        success: !reason.is_failure(),
    });
    v1::Traffic {
        direction: direction.label().to_owned(),
        open: shared.registry.open_in(direction) as u64,
        handshakes_in_flight: u64::try_from(metrics.handshakes_in_flight(direction).get()).unwrap_or(0),
        ended: ended.filter(|e| e.connections > 0).collect(),
    }
}

pub(crate) fn identities(shared: &Shared) -> v1::Identities {
    let state = shared.control.snapshot.load().identity.clone();
    let now = unix_now();
    let svid = state.material.as_ref().map(|material| {
        let facts = material.svid.facts();
        v1::Svid {
            spiffe_id: material.svid.id.to_string(),
            sha256: facts.sha256(),
            serial: facts.serial,
            not_before: rfc3339(facts.not_before),
            not_after: rfc3339(facts.not_after),
            seconds_left: facts.not_after - now,
        }
    });
    let bundles = state.material.iter().flat_map(|material| &material.bundles).map(|(domain, bundle)| {
        let last = bundle.authorities.iter().map(|a| a.not_after).max();
        v1::Bundle {
            trust_domain: domain.to_string(),
            authorities: u32::try_from(bundle.authorities.len()).unwrap_or(u32::MAX),
            seconds_left: last.map_or(0, |last| last - now),
            not_after: last.and_then(rfc3339),
        }
    });
    let sources = state.sources.iter().map(|s| v1::Source { name: s.name.clone(), healthy: s.healthy, message: s.message.clone() });
    v1::Identities { svid, bundles: bundles.collect(), sources: sources.collect(), rotations: state.rotations }
}

pub(crate) fn connection(live: &ConnectionHandle) -> v1::Connection {
    let admission = live.admission();
    let admission = admission.as_deref();
    let rule = admission.and_then(|a| a.rule.as_ref());
    v1::Connection {
        connection_id: live.id().to_string(),
        time: humantime::format_rfc3339_micros(live.since).to_string(),
        direction: live.direction.label().to_owned(),
        downstream: live.downstream.to_string(),
        original_destination: live.destination().map(|d| d.to_string()),
        admitted: admission.is_some(),
        transport: admission.and_then(|a| a.transport).map(|transport| transport.label().to_owned()),
        peer_id: admission.and_then(|a| a.peer.as_ref()).map(ToString::to_string),
        decision: rule.map(|rule| v1::Decision { allowed: true, rule: rule.to_string() }),
        bytes_up: live.bytes_up.load(Ordering::Relaxed),
        bytes_down: live.bytes_down.load(Ordering::Relaxed),
    }
}

/// The open connections that have begun last, the newest first, at most `most`.
pub(crate) fn newest(shared: &Shared, most: usize) -> v1::ListConnectionsResponse {
    let all = shared.registry.all();
    v1::ListConnectionsResponse { connections: all.iter().rev().take(most).map(|live| connection(live)).collect(), open: all.len() as u64 }
}
