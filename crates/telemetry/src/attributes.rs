//! The attributes of a connection, on its span and on its log record alike. They have OpenTelemetry's names where there are some.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_semantic_conventions::attribute as semconv;
use sidegate_config::schema::telemetry as schema;
use sidegate_core::{AddressText, CertificateFacts, ConnectionRecord, Direction, RevocationStatus, Transport, TunnelUse};

use crate::wire::WireBuffer;

macro_rules! attributes {
    ($($constant:ident $key:expr, $kind:literal $meaning:literal;)*) => {
        $(pub(crate) const $constant: &str = $key;)*

        /// The attributes of a connection: name, type, meaning.
        pub const ATTRIBUTES: &[(&str, &str, &str)] = &[$(($key, $kind, $meaning)),*];
    };
}

attributes! {
    ERROR_TYPE semconv::ERROR_TYPE, "string" "The reason, if the connection failed.";
    NETWORK_TRANSPORT semconv::NETWORK_TRANSPORT, "string" "Always tcp.";
    NETWORK_TYPE semconv::NETWORK_TYPE, "string" "ipv4 or ipv6.";
    NETWORK_PEER_ADDRESS semconv::NETWORK_PEER_ADDRESS, "string" "Who is at the other end on the network: inbound the client, outbound the server.";
    NETWORK_PEER_PORT semconv::NETWORK_PEER_PORT, "int" "Its port.";
    CLIENT_ADDRESS semconv::CLIENT_ADDRESS, "string" "Who connected.";
    CLIENT_PORT semconv::CLIENT_PORT, "int" "Its port.";
    SERVER_ADDRESS semconv::SERVER_ADDRESS, "string" "Where the connection was meant to go.";
    SERVER_PORT semconv::SERVER_PORT, "int" "Its port.";
    TLS_ESTABLISHED semconv::TLS_ESTABLISHED, "boolean" "Whether the TLS handshake came about; absent where there was none.";
    TLS_PROTOCOL_NAME semconv::TLS_PROTOCOL_NAME, "string" "Always tls.";
    TLS_PROTOCOL_VERSION semconv::TLS_PROTOCOL_VERSION, "string" "1.3 or 1.2.";
    TLS_CIPHER semconv::TLS_CIPHER, "string" "The cipher suite by its IANA name.";
    TLS_CURVE semconv::TLS_CURVE, "string" "The key exchange group by its IANA name.";
    TLS_RESUMED semconv::TLS_RESUMED, "boolean" "Whether a session was resumed.";
    TLS_NEXT_PROTOCOL semconv::TLS_NEXT_PROTOCOL, "string" "The application protocol that was negotiated (ALPN).";
    SNI "sidegate.sni", "string" "The server name that the client asked for (SNI).";
    TLS_CLIENT_HASH_SHA256 semconv::TLS_CLIENT_HASH_SHA256, "string" "SHA-256 of the client's certificate.";
    TLS_CLIENT_NOT_BEFORE semconv::TLS_CLIENT_NOT_BEFORE, "string" "Since when it is valid.";
    TLS_CLIENT_NOT_AFTER semconv::TLS_CLIENT_NOT_AFTER, "string" "Until when it is valid.";
    TLS_SERVER_HASH_SHA256 semconv::TLS_SERVER_HASH_SHA256, "string" "SHA-256 of the server's certificate.";
    TLS_SERVER_NOT_BEFORE semconv::TLS_SERVER_NOT_BEFORE, "string" "Since when it is valid.";
    TLS_SERVER_NOT_AFTER semconv::TLS_SERVER_NOT_AFTER, "string" "Until when it is valid.";
    PEER_SERIAL "sidegate.peer.serial", "string" "Serial number of the peer's certificate, hexadecimal.";
    PEER_ID "sidegate.peer.spiffe_id", "string" "The peer's SPIFFE ID, verified.";
    PEER_REVOCATION "sidegate.peer.revocation", "string" "Whether the peer's chain was looked up in revocation lists: not_checked, good, unknown_allowed or expired_allowed.";
    CLAIMED_ID "sidegate.peer.claimed_id", "string" "What a peer that could not be verified claimed to be. Never to be trusted.";
    LOCAL_ID "sidegate.local.spiffe_id", "string" "Our SPIFFE ID.";
    CONNECTION_ID "sidegate.connection.id", "string" "The connection's ID, as in the access log; the same at both ends of a tunnel; also the trace ID, where no other came.";
    DIRECTION "sidegate.direction", "string" "inbound or outbound, as the workload sees it.";
    TRANSPORT "sidegate.transport", "string" "mtls or plaintext, once that was settled.";
    TUNNEL "sidegate.tunnel", "string" "new or reused, where the connection went through a tunnel: whether its session was made for it.";
    DESTINATION "sidegate.destination", "string" "Name of the configured destination that covered an outbound connection.";
    REASON "sidegate.reason", "string" "Why the connection ended.";
    DETAIL "sidegate.detail", "string" "What exactly happened.";
    ALLOWED "sidegate.decision.allowed", "boolean" "Whether the connection may be.";
    RULE "sidegate.decision.rule", "string" "The rule that decided, with file and line; or the default.";
    NEAREST "sidegate.decision.nearest", "string" "Where no rule allowed the connection: the rules that came nearest and the condition that each lacked.";
    REMARKS "sidegate.decision.remarks", "string" "Rules that matched without deciding, audit and dry run, and conditions that could not be evaluated.";
    BYTES_UP "sidegate.bytes.up", "int" "Application bytes from who connected to who accepted.";
    BYTES_DOWN "sidegate.bytes.down", "int" "Application bytes the other way.";
    STAGE_DETECT "sidegate.stage.detect", "int" "How long the stage took, µs.";
    STAGE_DIAL "sidegate.stage.dial", "int" "How long the stage took, µs.";
    STAGE_HANDSHAKE "sidegate.stage.handshake", "int" "How long the stage took, µs; verification included.";
    STAGE_VERIFY "sidegate.stage.verify", "int" "How long the stage took, µs.";
    STAGE_AUTHORIZE "sidegate.stage.authorize", "int" "How long the stage took, µs.";
    STAGE_TOTAL "sidegate.stage.total", "int" "From accept to close, µs.";
    GENERATION "sidegate.generation", "int" "Generation of identity, policy and names that decided about the connection.";
}

/// A connection that went well seldom has more.
pub(crate) const USUAL: usize = 32;

/// How many attributes a span or a log record has at most, and how many characters each of its texts
/// (OpenTelemetry specification, "Attribute limits").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttributeBounds {
    count: usize,
    /// None for no bound.
    value_length: Option<usize>,
}

impl From<&schema::AttributeLimits> for AttributeBounds {
    fn from(limits: &schema::AttributeLimits) -> Self {
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Self { count: size(limits.count), value_length: limits.value_length.map(size) }
    }
}

impl AttributeBounds {
    fn cut(self, text: &str) -> &str {
        let end = self.value_length.and_then(|most| text.char_indices().nth(most));
        end.map_or(text, |(end, _)| &text[..end])
    }
}

/// Where attributes are written.
enum AttributeSink<'a> {
    /// Repeated `KeyValue`s in a field of a log record, encoded at once.
    LogRecord(&'a mut WireBuffer, u32),
    /// The list of the SDK's span.
    Span(&'a mut Vec<KeyValue>),
}

/// Attributes under construction.
pub(crate) struct Attributes<'a> {
    sink: AttributeSink<'a>,
    limits: AttributeBounds,
    count: usize,
    dropped: u32,
}

impl<'a> Attributes<'a> {
    /// Those of a log record, in its field `field`.
    pub(crate) fn of_log_record(out: &'a mut WireBuffer, field: u32, limits: AttributeBounds) -> Self {
        Self { sink: AttributeSink::LogRecord(out, field), limits, count: 0, dropped: 0 }
    }

    /// Those of a span.
    pub(crate) fn of_span(list: &'a mut Vec<KeyValue>, limits: AttributeBounds) -> Self {
        Self { sink: AttributeSink::Span(list), limits, count: 0, dropped: 0 }
    }

    /// Whether there is room for one more; counts it either way.
    fn is_room(&mut self) -> bool {
        let room = self.count < self.limits.count;
        if room {
            self.count += 1;
        } else {
            self.dropped += 1;
        }
        room
    }

    pub(crate) fn text(&mut self, key: impl Into<Cow<'static, str>>, value: &str) {
        if !self.is_room() {
            return;
        }
        let value = self.limits.cut(value);
        match &mut self.sink {
            AttributeSink::LogRecord(out, field) => out.text_attribute(*field, &key.into(), value),
            AttributeSink::Span(all) => all.push(KeyValue::new(key.into(), value.to_owned())),
        }
    }

    pub(crate) fn optional(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    pub(crate) fn boolean(&mut self, key: impl Into<Cow<'static, str>>, value: bool) {
        if !self.is_room() {
            return;
        }
        match &mut self.sink {
            AttributeSink::LogRecord(out, field) => out.varint_attribute(*field, &key.into(), 2, value.into()),
            AttributeSink::Span(all) => all.push(KeyValue::new(key.into(), value)),
        }
    }

    /// An int64, the largest for what is larger.
    pub(crate) fn number(&mut self, key: &'static str, value: u64) {
        self.integer(key, i64::try_from(value).unwrap_or(i64::MAX));
    }

    pub(crate) fn integer(&mut self, key: impl Into<Cow<'static, str>>, value: i64) {
        if !self.is_room() {
            return;
        }
        match &mut self.sink {
            // Negative ones in two's complement, as protobuf has them.
            AttributeSink::LogRecord(out, field) => out.varint_attribute(*field, &key.into(), 3, value.cast_unsigned()),
            AttributeSink::Span(all) => all.push(KeyValue::new(key.into(), value)),
        }
    }

    /// How many attributes were dropped.
    pub(crate) fn dropped(&self) -> u32 {
        self.dropped
    }

    fn address(&mut self, ip_key: &'static str, port_key: &'static str, address: SocketAddr) {
        self.text(ip_key, AddressText::of_ip(address.ip()).as_str());
        self.number(port_key, address.port().into());
    }

    fn certificate(&mut self, client: bool, facts: &CertificateFacts) {
        let [hash, not_before, not_after] = if client {
            [TLS_CLIENT_HASH_SHA256, TLS_CLIENT_NOT_BEFORE, TLS_CLIENT_NOT_AFTER]
        } else {
            [TLS_SERVER_HASH_SHA256, TLS_SERVER_NOT_BEFORE, TLS_SERVER_NOT_AFTER]
        };
        self.text(hash, &facts.sha256_upper());
        self.optional(not_before, facts.not_before());
        self.optional(not_after, facts.not_after());
    }
}

/// Everything that is known of a connection.
pub(crate) fn connection(record: &ConnectionRecord, all: &mut Attributes<'_>) {
    if !record.is_success() {
        all.text(ERROR_TYPE, record.reason.label());
    }
    all.text(CONNECTION_ID, &record.connection_id.to_string());
    all.text(DIRECTION, record.direction.label());
    all.text(REASON, record.reason.label());
    all.optional(DETAIL, record.detail.as_deref());
    all.optional(LOCAL_ID, record.local_id.as_deref());
    all.optional(PEER_ID, record.peer.id().map(|id| &**id));
    all.optional(PEER_REVOCATION, record.peer.revocation().map(RevocationStatus::label));
    all.optional(CLAIMED_ID, record.peer.claimed_id());
    all.optional(DESTINATION, record.destination.as_deref());
    all.optional(TRANSPORT, record.transport.map(Transport::label));
    all.optional(TUNNEL, record.tunnel.map(TunnelUse::label));
    network(all, record);
    tls(all, record);
    if let Some(decision) = &record.decision {
        all.boolean(ALLOWED, decision.allowed);
        all.text(RULE, &decision.rule);
        if let Some(explanation) = &decision.explanation {
            all.optional(NEAREST, joined(&explanation.nearest).as_deref());
            all.optional(REMARKS, joined(&explanation.remarks).as_deref());
        }
    }
    all.number(BYTES_UP, record.bytes_up);
    all.number(BYTES_DOWN, record.bytes_down);
    all.number(GENERATION, record.generation);
}

/// A list as one text; none for an empty list.
fn joined(all: &[impl ToString]) -> Option<String> {
    (!all.is_empty()).then(|| all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

/// How long each stage took. Only for a log record, since a span has children for them.
pub(crate) fn stages(record: &ConnectionRecord, all: &mut Attributes<'_>) {
    let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let stages = &record.stages;
    for (key, lap) in [
        (STAGE_DETECT, stages.detect),
        (STAGE_DIAL, stages.dial),
        (STAGE_HANDSHAKE, stages.handshake),
        (STAGE_VERIFY, stages.verify),
        (STAGE_AUTHORIZE, stages.authorize),
    ] {
        if let Some(lap) = lap {
            all.number(key, micros(lap.took));
        }
    }
    all.number(STAGE_TOTAL, micros(stages.total));
}

fn network(all: &mut Attributes<'_>, record: &ConnectionRecord) {
    let peer = match record.direction {
        Direction::Inbound => Some(*record.downstream),
        Direction::Outbound => record.original_destination.map(|to| *to),
    };
    all.text(NETWORK_TRANSPORT, "tcp");
    let family = match peer.unwrap_or(*record.downstream).ip() {
        IpAddr::V4(_) => "ipv4",
        IpAddr::V6(_) => "ipv6",
    };
    all.text(NETWORK_TYPE, family);
    if let Some(peer) = peer {
        all.address(NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT, peer);
    }
    all.address(CLIENT_ADDRESS, CLIENT_PORT, *record.downstream);
    if let Some(server) = record.original_destination {
        all.address(SERVER_ADDRESS, SERVER_PORT, *server);
    }
}

fn tls(all: &mut Attributes<'_>, record: &ConnectionRecord) {
    if record.stages.handshake.is_none() && record.tls.is_none() {
        return;
    }
    all.text(TLS_PROTOCOL_NAME, "tls");
    all.boolean(TLS_ESTABLISHED, record.tls.is_some());
    if let Some(tls) = &record.tls {
        all.text(TLS_PROTOCOL_VERSION, tls.version);
        all.text(TLS_CIPHER, tls.cipher);
        all.optional(TLS_CURVE, tls.group);
        all.boolean(TLS_RESUMED, tls.resumed);
        all.optional(TLS_NEXT_PROTOCOL, tls.alpn.as_deref());
        all.optional(SNI, tls.sni.as_deref());
    }
    let peer_is_client = record.direction == Direction::Inbound;
    if let Some(certificate) = record.peer.certificate() {
        all.certificate(peer_is_client, certificate);
        all.text(PEER_SERIAL, &certificate.serial);
    }
    if let Some(certificate) = &record.local_certificate {
        all.certificate(!peer_is_client, certificate);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use opentelemetry_proto::tonic::common::v1::KeyValueList;
    use prost::Message;
    use sidegate_core::{Decision, Explanation, HandshakeFacts, Lap, NearestRule, Peer, Reason, Remark, Says, Stage};
    use std::collections::BTreeSet;
    use std::sync::Arc;

    impl Default for AttributeBounds {
        fn default() -> Self {
            Self::from(&schema::AttributeLimits::default())
        }
    }

    /// A peer that has proved `id`.
    pub(crate) fn peer(id: &str) -> Peer {
        let certificate = CertificateFacts::new(b"them", "1f".to_owned(), 1_700_000_000, 1_800_000_000);
        Peer::Spiffe { id: id.into(), certificate: Arc::new(certificate), revocation: RevocationStatus::Good }
    }

    /// A record with every field set that there can be with `reason`.
    pub(crate) fn full(direction: Direction, reason: Reason) -> ConnectionRecord {
        let mut record = ConnectionRecord::new(direction, ([10, 0, 0, 1], 40_000).into());
        let lap =
            |from: u64, took: u64| Some(Lap { start: record.accepted + Duration::from_micros(from), took: Duration::from_micros(took) });
        record.stages.detect = lap(0, 100);
        record.stages.dial = lap(100, 200);
        record.stages.handshake = lap(300, 1000);
        record.stages.verify = lap(800, 150);
        record.stages.authorize = lap(1300, 5);
        record.stages.total = Duration::from_millis(50);
        record.original_destination = Some(([10, 0, 0, 2], 8080).into());
        record.destination = Some("api".into());
        record.transport = Some(Transport::Mtls);
        record.tunnel = Some(TunnelUse::New);
        record.local_id = Some("spiffe://a.b/us".into());
        record.peer = match peer("spiffe://a.b/them") {
            Peer::Spiffe { certificate, .. } if reason.stage() == Stage::Verify => {
                Peer::unverified(Some("spiffe://a.b/who".to_owned()), Some(certificate))
            }
            verified => verified,
        };
        record.local_certificate = Some(Arc::new(CertificateFacts::new(b"us", "2f".to_owned(), 1_700_000_000, 1_800_000_000)));
        record.tls = Some(std::sync::Arc::new(HandshakeFacts {
            version: "1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
            group: Some("X25519MLKEM768"),
            alpn: Some("h2".to_owned()),
            sni: Some("api.example".to_owned()),
            resumed: false,
        }));
        let explanation = Explanation {
            nearest: vec![NearestRule { rule: "web (p.yaml:3)".into(), lacked: "port".to_owned() }],
            remarks: vec![Remark { rule: "look (p.yaml:9)".into(), says: Says::Audit, detail: None }],
            remarks_left_out: 0,
        };
        let default = Decision::new(false, "default".into());
        record.decision = Some(Decision { explanation: Some(Box::new(explanation)), ..default });
        record.reason = reason;
        record.detail = Some("what exactly".to_owned());
        record
    }

    #[test]
    fn the_reference_lists_what_is_said_and_nothing_else() {
        let mut said = BTreeSet::new();
        for (direction, reason) in
            [(Direction::Inbound, Reason::Expired), (Direction::Outbound, Reason::Expired), (Direction::Inbound, Reason::Closed)]
        {
            let mut out = WireBuffer::default();
            let record = full(direction, reason);
            let mut all = Attributes::of_log_record(&mut out, 1, AttributeBounds::default());
            connection(&record, &mut all);
            stages(&record, &mut all);
            let attributes = KeyValueList::decode(out.into_bytes().as_slice()).unwrap().values;
            let keys: BTreeSet<String> = attributes.iter().map(|a| a.key.clone()).collect();
            assert_eq!(keys.len(), attributes.len(), "nothing is said twice");
            said.extend(keys);
        }
        assert_eq!(said, ATTRIBUTES.iter().map(|(key, _, _)| (*key).to_owned()).collect());
    }

    #[test]
    fn both_forms_say_the_same_within_the_limits() {
        let record = full(Direction::Inbound, Reason::Expired);
        for limits in [
            AttributeBounds::default(),
            AttributeBounds { count: 7, value_length: Some(5) },
            AttributeBounds { count: 0, value_length: Some(0) },
        ] {
            let (mut out, mut list) = (WireBuffer::default(), Vec::new());
            let mut of_log = Attributes::of_log_record(&mut out, 1, limits);
            connection(&record, &mut of_log);
            let dropped = of_log.dropped();
            let mut of_span = Attributes::of_span(&mut list, limits);
            connection(&record, &mut of_span);
            assert_eq!(of_span.dropped(), dropped);
            let encoded = KeyValueList::decode(out.into_bytes().as_slice()).unwrap().values;
            let converted: Vec<_> = list.iter().map(opentelemetry_proto::tonic::common::v1::KeyValue::from).collect();
            assert_eq!(encoded, converted);
            assert!(encoded.len() <= limits.count && (encoded.len() + dropped as usize) > 30);
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let limits = |most| AttributeBounds { count: 1, value_length: most };
        assert_eq!([limits(None), limits(Some(9)), limits(Some(2)), limits(Some(0))].map(|l| l.cut("Größe")), ["Größe", "Größe", "Gr", ""]);
        assert_eq!(limits(Some(3)).cut("Größe"), "Grö");
    }
}
