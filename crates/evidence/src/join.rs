//! Joins the records of the two ends of each connection, and finds what one end has and the other lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use sidegate_audit::{ConnectionEntry, Event};
use sidegate_core::{Reason, Stage, counted};

use crate::decryption::AuditorKeys;
use crate::period::Period;
use crate::read::{ReadError, Records};

/// What one end recorded of a connection, as far as it is compared.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionEnd {
    time: String,
    direction: String,
    local_id: Option<String>,
    peer_id: Option<String>,
    bytes_up: Option<u64>,
    bytes_down: Option<u64>,
    reason: Option<String>,
    transport: Option<String>,
    tunnel: Option<String>,
    /// When the last record of it was made.
    #[serde(skip)]
    told: String,
    /// Whether a record of it is within the requested period.
    #[serde(skip)]
    is_asked_for: bool,
}

/// Whose log it is and its times, which decide what of the other log can be in it.
#[derive(Debug, Default)]
struct LogSubject {
    /// The workload's SPIFFE IDs.
    ids: BTreeSet<String>,
    /// Times of the first and the last record.
    from: String,
    until: String,
}

/// Why a connection can have no other end in the other log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum UnpairedReason {
    /// It ended before its handshake was done, so each end that knows it has its own ID for it.
    BeforeHandshake,
    Plaintext,
    /// Its other end is a third workload.
    ThirdParty,
    /// It used no tunnel, so each end has its own ID for it.
    WithoutTunnel,
    /// It is a TLS session that was opened before a connection needed one.
    MadeAhead,
    /// The other log has no records of this time.
    OtherTime,
}

impl UnpairedReason {
    fn said(self) -> &'static str {
        match self {
            Self::BeforeHandshake => "ended before the handshake was done",
            Self::Plaintext => "in plaintext",
            Self::ThirdParty => "with another workload",
            Self::WithoutTunnel => "without a tunnel, so that each end has an ID of its own",
            Self::MadeAhead => "a TLS session made before a connection needed one",
            Self::OtherTime => "at a time of which the other log has no records",
        }
    }
}

/// One connection at both ends.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    connection_id: String,
    /// What differs or is missing; empty if both ends agree.
    difference: Option<String>,
    /// Why it can have no other end here; none if it has one, or should.
    #[serde(skip_serializing_if = "Option::is_none")]
    apart: Option<UnpairedReason>,
    a: Option<ConnectionEnd>,
    b: Option<ConnectionEnd>,
}

/// Identifies a connection in a log: its ID, which its client chose, its direction, when it came and from where.
type Name = (String, String, String, String);

/// Connections of one log that share an ID, by direction and by workloads.
type Ends = BTreeMap<ConnectionKey, Vec<ConnectionEnd>>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ConnectionKey {
    outbound: bool,
    client: Option<String>,
    server: Option<String>,
}

/// Two logs, joined.
#[derive(Debug)]
pub struct Join {
    /// In the order in which the connections began, by the end that knows it.
    pub connections: Vec<Joined>,
}

/// Joins the two ends of each connection of `period`.
///
/// # Errors
/// If a log can't be read, or is encrypted to others than `keys`.
pub fn join(a: &Path, b: &Path, keys: &AuditorKeys, period: &Period) -> Result<Join, ReadError> {
    let (mut a, about_a) = connections(a, keys, period)?;
    let (mut b, about_b) = connections(b, keys, period)?;
    let mut ids: Vec<String> = a.keys().chain(b.keys()).cloned().collect();
    ids.sort();
    ids.dedup();
    let mut all: Vec<Joined> = Vec::new();
    for id in ids {
        let (a, b) = (a.remove(&id).unwrap_or_default(), b.remove(&id).unwrap_or_default());
        let pairs = pair(a, b).into_iter().filter(|(a, b)| a.iter().chain(b).any(|end| end.is_asked_for));
        all.extend(pairs.map(|(a, b)| joined(&id, (a, &about_a), (b, &about_b))));
    }
    all.sort_by(|x, y| (x.time(), &x.connection_id).cmp(&(y.time(), &y.connection_id)));
    Ok(Join { connections: all })
}

impl Join {
    /// Whether the two logs agree about every connection that they share.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.connections.iter().all(|joined| joined.difference.is_none())
    }

    /// The numbers of connections that are in both logs, that differ, and that can have no other end, a line each.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let (mut both, mut differ, mut apart) = (0, 0, BTreeMap::<UnpairedReason, u64>::new());
        for joined in &self.connections {
            both += u64::from(joined.a.is_some() && joined.b.is_some());
            differ += u64::from(joined.difference.is_some());
            if let Some(why) = joined.apart {
                *apart.entry(why).or_default() += 1;
            }
        }
        let differ = match differ {
            1 => "1 differs, or should be in both and is not".to_owned(),
            _ => format!("{differ} differ, or should be in both and are not"),
        };
        let mut lines = vec![format!("{} in both logs; {differ}", counted(both, "connection"))];
        lines.extend(apart.iter().map(|(why, count)| format!("{count} in one log only, which can have no other end here: {}", why.said())));
        lines
    }
}

/// The latest record of each connection, by its ID, and the subject of the log.
fn connections(log: &Path, keys: &AuditorKeys, period: &Period) -> Result<(BTreeMap<String, Ends>, LogSubject), ReadError> {
    let mut last: BTreeMap<Name, ConnectionEnd> = BTreeMap::new();
    let mut about = LogSubject::default();
    for record in Records::of(log, keys)? {
        let record = record?;
        if matches!(record.event, Event::LogSealed { .. }) {
            return Err(ReadError::Encrypted(log.to_owned()));
        }
        if about.from.is_empty() {
            about.from.clone_from(&record.time);
        }
        about.until.clone_from(&record.time);
        let is_asked_for = period.has(&record);
        match record.event {
            Event::IdentityReceived { svid } | Event::IdentityRotated { svid, .. } => drop(about.ids.insert(svid.spiffe_id)),
            Event::ConnectionAdmitted { connection }
            | Event::ConnectionEnded { connection, .. }
            | Event::ConnectionRefused { connection } => {
                let ConnectionEntry { connection_id, time, direction, downstream, local_id, peer_id, .. } = connection;
                let ConnectionEntry { bytes_up, bytes_down, reason, transport, tunnel, .. } = connection;
                about.ids.extend(local_id.clone());
                let name = (connection_id, direction.clone(), time.clone(), downstream);
                let told = record.time;
                let is_asked_for = is_asked_for || last.get(&name).is_some_and(|before| before.is_asked_for);
                let end = ConnectionEnd {
                    time,
                    direction,
                    local_id,
                    peer_id,
                    bytes_up,
                    bytes_down,
                    reason,
                    transport,
                    tunnel,
                    told,
                    is_asked_for,
                };
                last.insert(name, end);
            }
            _ => {}
        }
    }
    let mut by_id: BTreeMap<String, Ends> = BTreeMap::new();
    for ((id, ..), end) in last {
        by_id.entry(id).or_default().entry(end.who()).or_default().push(end);
    }
    Ok((by_id, about))
}

impl ConnectionEnd {
    /// Why it can have no other end in the log that is about `other`.
    fn apart_from(&self, other: &LogSubject) -> Option<UnpairedReason> {
        let stage = Reason::ALL.iter().find(|reason| self.reason.as_deref() == Some(reason.label())).map(|reason| reason.stage());
        if self.reason.as_deref() == Some("prepared") {
            Some(UnpairedReason::MadeAhead)
        } else if self.transport.as_deref() == Some("plaintext") {
            Some(UnpairedReason::Plaintext)
        } else if self.peer_id.is_none()
            && matches!(stage, Some(Stage::Accept | Stage::Detect | Stage::Dial | Stage::Handshake | Stage::Verify))
        {
            Some(UnpairedReason::BeforeHandshake)
        } else if self.peer_id.as_ref().is_some_and(|peer| !other.ids.contains(peer)) {
            Some(UnpairedReason::ThirdParty)
        } else if self.tunnel.is_none() {
            Some(UnpairedReason::WithoutTunnel)
        } else {
            (self.time > other.until || self.told < other.from).then_some(UnpairedReason::OtherTime)
        }
    }

    fn who(&self) -> ConnectionKey {
        let outbound = self.direction == "outbound";
        let (client, server) = if outbound { (&self.local_id, &self.peer_id) } else { (&self.peer_id, &self.local_id) };
        ConnectionKey { outbound, client: client.clone(), server: server.clone() }
    }
}

impl ConnectionKey {
    /// Whether both can be ends of one connection: a fact that only one end knows fits any.
    fn may_be(&self, other: &Self) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
        same(&self.client, &other.client) && same(&self.server, &other.server)
    }

    fn is_other_end_of(&self, other: &Self) -> bool {
        self.outbound != other.outbound
    }
}

/// Pairs what both logs have of one ID. Another peer may have used the same ID: the workloads decide, as far as they are known.
fn pair(mut a: Ends, mut b: Ends) -> Vec<(Vec<ConnectionEnd>, Vec<ConnectionEnd>)> {
    let mut pairs = Vec::new();
    // The best fit first.
    let fits: [fn(&ConnectionKey, &ConnectionKey) -> bool; 3] = [
        |a, b| a.is_other_end_of(b) && (&a.client, &a.server) == (&b.client, &b.server),
        |a, b| a.is_other_end_of(b) && a.may_be(b),
        ConnectionKey::may_be,
    ];
    for fits in fits {
        a.retain(|who, ends| {
            let Some(other) = b.keys().find(|other| fits(who, other)).cloned() else { return true };
            pairs.push((std::mem::take(ends), b.remove(&other).unwrap_or_default()));
            false
        });
    }
    // No other workload comes into question.
    if a.len() == 1 && b.len() == 1 && pairs.is_empty() {
        pairs.extend(a.into_values().zip(b.into_values()));
    } else {
        pairs.extend(a.into_values().map(|ends| (ends, Vec::new())));
        pairs.extend(b.into_values().map(|ends| (Vec::new(), ends)));
    }
    pairs
}

fn joined(id: &str, (mut a, about_a): (Vec<ConnectionEnd>, &LogSubject), (mut b, about_b): (Vec<ConnectionEnd>, &LogSubject)) -> Joined {
    let many = (a.len() > 1 || b.len() > 1).then(|| {
        let connections = |count: usize| counted(count as u64, "connection");
        format!("the ID was used more than once by these two: by {} in A and {} in B", connections(a.len()), connections(b.len()))
    });
    let (a, b) = (a.pop(), b.pop());
    let apart = match (&a, &b) {
        _ if many.is_some() => None,
        (Some(end), None) => end.apart_from(about_b),
        (None, Some(end)) => end.apart_from(about_a),
        _ => None,
    };
    let difference = many.or_else(|| match (&a, &b) {
        (Some(a), Some(b)) => difference((a, about_a), (b, about_b)),
        _ if apart.is_some() => None,
        (Some(_), None) => Some("in A only".to_owned()),
        _ => Some("in B only".to_owned()),
    });
    Joined { connection_id: id.to_owned(), difference, apart, a, b }
}

impl Joined {
    /// Human-readable: one line if both ends agree, else one more for each end.
    #[must_use]
    pub fn lines(&self) -> String {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
        let end = |end: &ConnectionEnd| {
            let who = end.who();
            let reason = end.reason.as_deref().unwrap_or("open");
            let (up, down) = (bytes(end.bytes_up), bytes(end.bytes_down));
            format!("{} -> {}, {reason}, {up} B up, {down} B down", or_dash(&who.client), or_dash(&who.server))
        };
        let verdict = match (&self.difference, self.apart) {
            (Some(difference), _) => format!("DIFFERS: {difference}"),
            (None, Some(apart)) => format!("apart: {}", apart.said()),
            (None, None) => "ok".to_owned(),
        };
        let head = format!("{} {} {verdict}", self.time(), self.connection_id);
        match (&self.a, &self.b) {
            (Some(a), Some(b)) if self.difference.is_none() && end(a) == end(b) => format!("{head}: {}", end(a)),
            (a, b) => {
                let more = [("A", a), ("B", b)]
                    .into_iter()
                    .filter_map(|(log, side)| side.as_ref().map(|side| format!("\n    {log}: {} {}", side.direction, end(side))));
                head + &more.collect::<String>()
            }
        }
    }

    fn time(&self) -> &str {
        self.a.as_ref().or(self.b.as_ref()).map_or("", |end| &end.time)
    }
}

/// What two ends must agree on: the workloads, and the bytes each way of a connection that ended in order.
fn difference((a, about_a): (&ConnectionEnd, &LogSubject), (b, about_b): (&ConnectionEnd, &LogSubject)) -> Option<String> {
    if a.direction == b.direction {
        return Some(format!("both ends say that it is {}", a.direction));
    }
    if !a.who().may_be(&b.who()) {
        return Some("the ends disagree about who they are".to_owned());
    }
    let in_order = [a, b].iter().all(|end| end.reason.as_deref() == Some("closed"));
    if in_order && (a.bytes_up, a.bytes_down) != (b.bytes_up, b.bytes_down) {
        return Some("the ends disagree about how many bytes went".to_owned());
    }
    // A log that was read before the connection ended has no end of it yet.
    match (&a.reason, &b.reason) {
        (Some(_), None) if a.told <= about_b.until => Some("it has ended in A only".to_owned()),
        (None, Some(_)) if b.told <= about_a.until => Some("it has ended in B only".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(direction: &str, local: &str, peer: &str) -> ConnectionEnd {
        let id = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        ConnectionEnd {
            time: "t".to_owned(),
            direction: direction.to_owned(),
            local_id: id(local),
            peer_id: id(peer),
            bytes_up: Some(1),
            bytes_down: Some(2),
            reason: Some("closed".to_owned()),
            transport: Some("mtls".to_owned()),
            tunnel: Some("new".to_owned()),
            told: "t".to_owned(),
            is_asked_for: true,
        }
    }

    fn about(id: &str) -> LogSubject {
        LogSubject { ids: [id.to_owned()].into(), from: "a".to_owned(), until: "z".to_owned() }
    }

    fn alone(end: &ConnectionEnd) -> Joined {
        joined("c", (vec![end.clone()], &about("web")), (Vec::new(), &about("api")))
    }

    fn ends(all: &[ConnectionEnd]) -> Ends {
        let mut ends = Ends::new();
        all.iter().for_each(|end| ends.entry(end.who()).or_default().push(end.clone()));
        ends
    }

    /// The differences that are found among connections of one ID.
    fn differences(a: &[ConnectionEnd], b: &[ConnectionEnd]) -> Vec<Option<String>> {
        let (web, api) = (about("web"), LogSubject { ids: ["api", "eve"].map(str::to_owned).into(), ..about("") });
        pair(ends(a), ends(b)).into_iter().map(|(a, b)| joined("c", (a, &web), (b, &api)).difference).collect()
    }

    #[test]
    fn ends_that_agree_are_no_difference_and_all_else_is() {
        let (a, b) = (end("outbound", "web", "api"), end("inbound", "api", "web"));
        assert_eq!(differences(std::slice::from_ref(&a), std::slice::from_ref(&b)), [None]);
        let liar = ConnectionEnd { peer_id: Some("eve".to_owned()), ..b.clone() };
        let lossy = ConnectionEnd { bytes_down: Some(3), ..b.clone() };
        let open = ConnectionEnd { reason: None, ..b.clone() };
        for (other, says) in [(&liar, "who they are"), (&lossy, "how many bytes"), (&open, "in A only"), (&a, "both ends say")] {
            let told = differences(std::slice::from_ref(&a), std::slice::from_ref(other));
            assert!(matches!(told.as_slice(), [Some(told)] if told.contains(says)), "{told:?}");
        }
        assert_eq!(alone(&a).difference.as_deref(), Some("in A only"));
        // It was not looked at again since.
        let early = (vec![open], &LogSubject { until: "s".to_owned(), ..about("api") });
        assert_eq!(joined("c", (vec![a], &about("web")), early).difference, None);
    }

    #[test]
    fn what_can_have_no_other_end_is_no_difference() {
        let a = end("outbound", "web", "api");
        let reason = |reason: &str, peer: &str| ConnectionEnd { reason: Some(reason.to_owned()), ..end("outbound", "web", peer) };
        let text = |text: &str| Some(text.to_owned());
        for (end, apart) in [
            (reason("prepared", "api"), UnpairedReason::MadeAhead),
            (reason("not_in_mesh", ""), UnpairedReason::BeforeHandshake),
            (reason("dial_refused", ""), UnpairedReason::BeforeHandshake),
            (ConnectionEnd { transport: text("plaintext"), ..end("outbound", "web", "") }, UnpairedReason::Plaintext),
            (end("outbound", "web", "bank"), UnpairedReason::ThirdParty),
            (ConnectionEnd { tunnel: None, ..a.clone() }, UnpairedReason::WithoutTunnel),
            (ConnectionEnd { time: "zz".to_owned(), ..a.clone() }, UnpairedReason::OtherTime),
        ] {
            let told = alone(&end);
            assert_eq!((told.apart, &told.difference), (Some(apart), &None), "{end:?}");
            assert!(told.lines().contains(apart.said()), "{}", told.lines());
        }
        assert_eq!(alone(&a).apart, None);
    }

    #[test]
    fn an_id_that_another_peer_has_used_too_is_no_disagreement_of_honest_ends() {
        let (a, b, eve) = (end("outbound", "web", "api"), end("inbound", "api", "web"), end("inbound", "api", "eve"));
        // Between these two is a connection of another workload with the same ID.
        let only = None;
        assert_eq!(differences(std::slice::from_ref(&a), &[eve.clone(), b.clone()]), [None, only.clone()]);
        // An end that was refused before the workloads were known.
        let early = end("outbound", "web", "");
        assert_eq!(differences(&[early], &[eve, b.clone()]), [None, only]);
        let twice = differences(&[a], &[b.clone(), ConnectionEnd { time: "u".to_owned(), ..b }]);
        assert!(matches!(twice.as_slice(), [Some(told)] if told.contains("by 1 connection in A and 2 connections in B")), "{twice:?}");
    }
}
