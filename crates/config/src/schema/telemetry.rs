//! What is exported, where to and how much of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use sidegate_core::Secret;

use crate::path_use::{FilePath, SecretPath};
use crate::value::{Collector, CollectorAddress, DnsName, IdPattern, Scheme, Span};

/// Export by OTLP. Whatever is left out here is taken from the standard `OTEL_*` variables of the environment.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Telemetry {
    /// The collector. Without an endpoint nothing is exported.
    pub otlp: Otlp,
    /// A span for each connection, with its stages as children.
    pub traces: Traces,
    /// The instruments that `/metrics` shows too.
    pub metrics: Metrics,
    /// Access log and events.
    pub logs: Logs,
    /// `service.name`. Default: the last part of the SPIFFE ID.
    pub service_name: Option<String>,
    /// Further resource attributes.
    pub resource: BTreeMap<String, String>,
    /// At the end, how long the last export may take. Default 3s.
    pub flush: Span,
    /// From which level on sidegate logs what becomes of telemetry itself: exports that fail, what is dropped. Default: as everything
    /// else, by `sidegate run --log`, whose word about `sidegate_telemetry` comes first.
    pub log_level: Option<LogLevel>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp: Otlp::default(),
            traces: Traces::default(),
            metrics: Metrics::default(),
            logs: Logs::default(),
            service_name: None,
            resource: BTreeMap::new(),
            flush: Span::seconds(3),
            log_level: None,
        }
    }
}

/// From which level on something is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Errors.
    Error,
    /// Warnings too.
    Warn,
    /// What happens seldom too.
    Info,
    /// What helps to find a fault too.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Its name in a log filter.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// A collector and how to speak to it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Otlp {
    /// `https://host:port`, `http://host:port` or `unix:///path`. For `http/protobuf` the signal's path, `/v1/traces` and
    /// the like, is added to the common endpoint; a signal's own endpoint is used as it is.
    pub endpoint: Option<Collector>,
    /// Default grpc.
    pub protocol: Option<Protocol>,
    /// Sent with every request, such as a token. Never shown. Those of a signal replace the common ones; `{}` is none.
    #[schemars(schema_with = "secrets")]
    pub headers: Option<BTreeMap<String, Secret>>,
    /// Default none.
    pub compression: Option<Compression>,
    /// For one request. Default 10s.
    pub timeout: Option<Span>,
    /// TLS 1.3 towards an `https` endpoint. How the collector is verified, and what it is shown, are each taken from the
    /// signal's own if it says anything of it.
    pub tls: CollectorTls,
}

/// How OTLP is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Protocol {
    /// gRPC, usually port 4317.
    #[default]
    #[serde(rename = "grpc")]
    Grpc,
    /// Protobuf over HTTP/1.1, usually port 4318.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

/// How requests are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not.
    #[default]
    None,
    /// gzip.
    Gzip,
}

/// How a collector is verified, and what we show it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CollectorTls {
    /// PEM file with the CA certificates that may have issued the collector's certificate. Default: those of the system.
    #[schemars(with = "Option<FilePath>")]
    pub ca: Option<PathBuf>,
    /// Instead: the collector is a SPIFFE workload and must have one of these IDs.
    pub spiffe_ids: Vec<IdPattern>,
    /// The name that the collector's certificate must have. Default: the endpoint's host.
    pub server_name: Option<DnsName>,
    /// PEM file with our certificate, for a collector that asks for one.
    #[schemars(with = "Option<FilePath>")]
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key.
    #[schemars(with = "Option<SecretPath>")]
    pub key: Option<PathBuf>,
    /// Instead of `certificate` and `key`: our X.509-SVID.
    pub svid: bool,
}

/// Spans.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Traces {
    /// Default true: where there is a collector, spans go to it.
    pub enabled: bool,
    /// What differs from `telemetry.otlp`.
    pub otlp: Otlp,
    /// Which connections that ended well are exported.
    pub sampler: Sampler,
    /// Connections that failed are exported up to this many a second for each reason; 0 for
    /// none. Default 10; all are counted.
    pub failures_per_second: u32,
    /// How they are gathered.
    pub batch: Batch,
    /// How many attributes each may have, and how long.
    pub attribute_limits: AttributeLimits,
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            enabled: true,
            otlp: Otlp::default(),
            sampler: Sampler::default(),
            failures_per_second: 10,
            batch: Batch::default(),
            attribute_limits: AttributeLimits::default(),
        }
    }
}

/// Which connections that ended well are exported as spans.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sampler {
    /// This part of them, by the trace ID, as consistent samplers elsewhere choose. Default 1.
    #[schemars(range(min = 0, max = 1))]
    pub ratio: f64,
    /// And not more than this many a second; 0 for no bound. Default 100.
    pub per_second: u32,
    /// Peers that are sampled by themselves; the first entry that covers a peer counts.
    pub peers: Vec<PeerSampler>,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { ratio: 1.0, per_second: 100, peers: Vec::new() }
    }
}

/// How connections with some peers are sampled.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerSampler {
    /// Which peers.
    pub spiffe_ids: Vec<IdPattern>,
    /// This part of their connections.
    #[schemars(range(min = 0, max = 1))]
    pub ratio: f64,
    /// And not more than this many a second, for all of them together; 0 for no bound.
    #[serde(default)]
    pub per_second: u32,
}

/// How records are gathered before they are sent.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Batch {
    /// How many connections or events may wait; further ones are dropped and counted. Default 2048.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queue: u32,
    /// How many are sent in one request. Default 512; at most 1024, for a connection's spans take some KiB and collectors
    /// refuse messages of more than 4 MiB.
    #[schemars(range(min = 1, max = 1024))]
    pub size: u32,
    /// How long the first of them waits for others. Default 1s.
    pub delay: Span,
}

impl Default for Batch {
    fn default() -> Self {
        Self { queue: 2048, size: 512, delay: Span::seconds(1) }
    }
}

/// Limits of the attributes of a span or a log record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AttributeLimits {
    /// How many attributes it has at most; further ones are left out. Default 128.
    pub count: u32,
    /// How many characters a text has at most; longer ones are cut. Default: no limit.
    pub value_length: Option<u32>,
}

impl Default for AttributeLimits {
    fn default() -> Self {
        Self { count: 128, value_length: None }
    }
}

/// Metrics.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Metrics {
    /// Default true: where there is a collector, metrics go to it. `/metrics` does not depend on this.
    pub enabled: bool,
    /// What differs from `telemetry.otlp`.
    pub otlp: Otlp,
    /// Time between two exports. Default 1m.
    pub interval: Span,
    /// Default cumulative, which survives a lost export.
    pub temporality: Temporality,
    /// What histograms become in OTLP. Default exponential. `/metrics` always has classic buckets.
    pub histograms: HistogramShape,
    /// Which connections are exemplars of their durations. Default traceBased.
    pub exemplars: Exemplars,
    /// How many peers have a series of their own; the rest is `other`. Default 100.
    #[schemars(range(min = 0, max = 10_000))]
    pub peers: u16,
    /// How many rules have a series of their own; the rest is `other`. Default 200.
    #[schemars(range(min = 0, max = 10_000))]
    pub rules: u16,
    /// Changes to single instruments, for export and scrape alike; every entry that names an instrument applies.
    pub views: Vec<View>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            enabled: true,
            otlp: Otlp::default(),
            interval: Span::seconds(60),
            temporality: Temporality::default(),
            histograms: HistogramShape::default(),
            exemplars: Exemplars::default(),
            peers: 100,
            rules: 200,
            views: Vec::new(),
        }
    }
}

/// What a sum's value counts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Temporality {
    /// The start of the process.
    #[default]
    Cumulative,
    /// The last export that arrived.
    Delta,
}

/// What a histogram becomes in OTLP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HistogramShape {
    /// A base-2 exponential histogram.
    #[default]
    Exponential,
    /// The classic buckets that `/metrics` has.
    Explicit,
}

/// Which connections are exemplars of their durations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Exemplars {
    /// Those whose trace is exported.
    #[default]
    TraceBased,
    /// Every connection that ended, also where its trace can't be found.
    AlwaysOn,
    /// None.
    AlwaysOff,
}

/// A change to an instrument.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct View {
    /// Which: a name such as `sidegate.handshake.duration`, or its beginning with a final `*`.
    pub instrument: String,
    /// It is neither exported nor scraped.
    #[serde(default)]
    pub drop: bool,
    /// Its name there.
    #[serde(default)]
    pub name: Option<String>,
    /// Only these attributes are kept; what differs by others only is added up, and of gauges the smallest is taken.
    #[serde(default)]
    pub attributes: Option<Vec<String>>,
    /// What the histogram becomes in OTLP.
    #[serde(default)]
    pub histogram: Option<HistogramShape>,
    /// Resolution of an exponential histogram: 2 to this power buckets for each doubling. At most and by default 3.
    #[serde(default)]
    #[schemars(range(min = 0, max = 3))]
    pub scale: Option<u8>,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Logs {
    /// Default true: where there is a collector, logs go to it.
    pub enabled: bool,
    /// What differs from `telemetry.otlp`.
    pub otlp: Otlp,
    /// The access log, a log record for each connection. Default true.
    pub access_log: bool,
    /// Events, as they are on standard error. Default true.
    pub events: bool,
    /// Of connections that failed, this many a second for each reason; 0 for none. Default 100; standard
    /// output has all.
    pub failures_per_second: u32,
    /// How they are gathered.
    pub batch: Batch,
    /// How many attributes each may have, and how long.
    pub attribute_limits: AttributeLimits,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            enabled: true,
            otlp: Otlp::default(),
            access_log: true,
            events: true,
            failures_per_second: 100,
            batch: Batch::default(),
            attribute_limits: AttributeLimits::default(),
        }
    }
}

/// A kind of telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Metrics.
    Metrics,
    /// Log records.
    Logs,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// The stable name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// Where and how one signal is exported, with what is common and what is its own brought together.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The collector.
    pub address: CollectorAddress,
    /// The path of HTTP requests.
    pub path: String,
    /// How OTLP is spoken.
    pub protocol: Protocol,
    /// Sent with every request.
    pub headers: BTreeMap<String, Secret>,
    /// How requests are compressed.
    pub compression: Compression,
    /// For one request.
    pub timeout: Duration,
    /// TLS towards an `https` endpoint.
    pub tls: CollectorTls,
}

impl Telemetry {
    /// A signal's own settings, and whether it is wanted.
    pub(crate) fn own(&self, signal: Signal) -> (&Otlp, bool) {
        match signal {
            Signal::Traces => (&self.traces.otlp, self.traces.enabled),
            Signal::Metrics => (&self.metrics.otlp, self.metrics.enabled),
            Signal::Logs => (&self.logs.otlp, self.logs.enabled && (self.logs.access_log || self.logs.events)),
        }
    }

    /// Where `signal` goes; none if it is not exported.
    #[must_use]
    pub fn target(&self, signal: Signal) -> Option<Target> {
        let (own, wanted) = self.own(signal);
        let endpoint = own.endpoint.as_ref().or(self.otlp.endpoint.as_ref()).filter(|_| wanted)?;
        let address = endpoint.get().clone();
        let path = match own.endpoint.as_ref().filter(|_| address.scheme != Scheme::Unix) {
            Some(_) if !address.path.is_empty() => address.path.clone(),
            Some(_) => "/".to_owned(),
            None => format!("{}/v1/{}", address.path.trim_end_matches('/'), signal.label()),
        };
        let headers = own.headers.as_ref().or(self.otlp.headers.as_ref());
        Some(Target {
            address,
            path,
            protocol: own.protocol.or(self.otlp.protocol).unwrap_or_default(),
            headers: headers.into_iter().flatten().map(|(name, value)| (name.to_lowercase(), value.clone())).collect(),
            compression: own.compression.or(self.otlp.compression).unwrap_or_default(),
            timeout: own.timeout.as_ref().or(self.otlp.timeout.as_ref()).map_or(Duration::from_secs(10), Span::duration),
            tls: CollectorTls::merged(&own.tls, &self.otlp.tls),
        })
    }
}

impl CollectorTls {
    /// How the collector is verified, and what we show it: each as a whole from `own` if that says anything of it.
    fn merged(own: &Self, common: &Self) -> Self {
        let verifies = own.ca.is_some() || !own.spiffe_ids.is_empty() || own.server_name.is_some();
        let shows = own.certificate.is_some() || own.key.is_some() || own.svid;
        let (verify, show) = (if verifies { own } else { common }, if shows { own } else { common });
        Self {
            ca: verify.ca.clone(),
            spiffe_ids: verify.spiffe_ids.clone(),
            server_name: verify.server_name.clone(),
            certificate: show.certificate.clone(),
            key: show.key.clone(),
            svid: show.svid,
        }
    }
}

/// Names with texts that are never shown, not even in an error message.
fn secrets(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["object", "null"], "additionalProperties": { "type": "string", "format": "secret" } })
}
