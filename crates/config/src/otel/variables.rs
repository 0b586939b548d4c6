//! The list of the standard `OTEL_*` variables: name, the keys that each fills in, what its value may be.

/// How a variable's text becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VariableKind {
    Text,
    /// A path. The file need not be readable for the sidecar to start.
    File,
    Number,
    Milliseconds,
    /// Milliseconds; 0 is no limit.
    Timeout,
    /// `name=value,name=value`, percent-encoded. What the file has is not mixed with it.
    Headers,
    /// The same; each name by itself fills in what the file leaves out.
    Attributes,
    /// A list of exporters; whether `otlp` is among them.
    Exporters,
    Endpoint,
    /// Whether an endpoint without a scheme has no TLS.
    Insecure,
    /// A word of the specification for each of ours.
    Words(&'static [(&'static str, &'static str)]),
    Sampler,
    SamplerArgument,
    Disabled,
    /// It limits what sidegate does not have.
    Unused,
}

/// A standard variable that sidegate knows.
#[derive(Debug)]
pub struct StandardVariable {
    /// Its name.
    pub name: String,
    /// The keys of the configuration that it fills in.
    pub keys: Vec<String>,
    /// What its value may be.
    pub value: &'static str,
    pub(super) kind: VariableKind,
}

const SIGNALS: [(&str, &str); 4] = [("", "otlp"), ("TRACES_", "traces.otlp"), ("METRICS_", "metrics.otlp"), ("LOGS_", "logs.otlp")];

const PAIRS: &str = "`name=value,name=value`, values percent-encoded";
const MILLISECONDS: &str = "milliseconds";
const TIMEOUT: &str = "milliseconds; 0 is the longest, 10m";
const NUMBER: &str = "number";
const FILE: &str = "PEM file; exports fail while it can't be read";
const EXPORTERS: &str = "a list of `otlp`, `none`, `console`, `prometheus`: true if `otlp` is in it, else false";

const PROTOCOLS: VariableKind = VariableKind::Words(&[("grpc", "grpc"), ("http/protobuf", "http/protobuf")]);
const COMPRESSIONS: VariableKind = VariableKind::Words(&[("none", "none"), ("gzip", "gzip")]);
const TEMPORALITIES: VariableKind = VariableKind::Words(&[("cumulative", "cumulative"), ("delta", "delta"), ("lowmemory", "delta")]);
const HISTOGRAMS: VariableKind =
    VariableKind::Words(&[("explicit_bucket_histogram", "explicit"), ("base2_exponential_bucket_histogram", "exponential")]);
const EXEMPLARS: VariableKind =
    VariableKind::Words(&[("trace_based", "traceBased"), ("always_on", "alwaysOn"), ("always_off", "alwaysOff")]);
const LEVELS: VariableKind = VariableKind::Words(&[
    ("none", "off"),
    ("off", "off"),
    ("error", "error"),
    ("warn", "warn"),
    ("warning", "warn"),
    ("info", "info"),
    ("debug", "debug"),
    ("trace", "trace"),
]);

/// What each has for all signals, and for each signal by itself.
const EXPORTER: [(&str, &str, VariableKind, &str); 9] = [
    ("ENDPOINT", "endpoint", VariableKind::Endpoint, "URL; without a scheme it is `https://`, or `http://` if `…_INSECURE` is `true`"),
    ("INSECURE", "endpoint", VariableKind::Insecure, "`true` or `false`; a signal's own comes before the common one"),
    ("PROTOCOL", "protocol", PROTOCOLS, "`grpc`, `http/protobuf`"),
    ("HEADERS", "headers", VariableKind::Headers, PAIRS),
    ("COMPRESSION", "compression", COMPRESSIONS, "`none`, `gzip`"),
    ("TIMEOUT", "timeout", VariableKind::Timeout, TIMEOUT),
    ("CERTIFICATE", "tls.ca", VariableKind::File, FILE),
    ("CLIENT_CERTIFICATE", "tls.certificate", VariableKind::File, FILE),
    ("CLIENT_KEY", "tls.key", VariableKind::File, FILE),
];

/// The first that fills in a key counts.
const OTHERS: [(&str, &[&str], VariableKind, &str); 32] = [
    ("OTEL_SERVICE_NAME", &["serviceName"], VariableKind::Text, "text"),
    ("OTEL_RESOURCE_ATTRIBUTES", &["resource"], VariableKind::Attributes, PAIRS),
    ("OTEL_LOG_LEVEL", &["logLevel"], LEVELS, "`none`, `error`, `warn`, `info`, `debug`, `trace`"),
    ("OTEL_TRACES_EXPORTER", &["traces.enabled"], VariableKind::Exporters, EXPORTERS),
    ("OTEL_METRICS_EXPORTER", &["metrics.enabled"], VariableKind::Exporters, EXPORTERS),
    ("OTEL_LOGS_EXPORTER", &["logs.enabled"], VariableKind::Exporters, EXPORTERS),
    (
        "OTEL_TRACES_SAMPLER",
        &["traces.sampler.ratio"],
        VariableKind::Sampler,
        "`always_on` (1, and no `perSecond`), `always_off` (0, and no failures), `traceidratio`; `parentbased_` before them makes no difference",
    ),
    ("OTEL_TRACES_SAMPLER_ARG", &["traces.sampler.ratio"], VariableKind::SamplerArgument, "for `traceidratio`: 0 to 1, default 1"),
    ("OTEL_METRICS_EXEMPLAR_FILTER", &["metrics.exemplars"], EXEMPLARS, "`trace_based`, `always_on`, `always_off`"),
    ("OTEL_METRIC_EXPORT_INTERVAL", &["metrics.interval"], VariableKind::Milliseconds, MILLISECONDS),
    ("OTEL_METRIC_EXPORT_TIMEOUT", &["metrics.otlp.timeout"], VariableKind::Timeout, TIMEOUT),
    (
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        &["metrics.temporality"],
        TEMPORALITIES,
        "`cumulative`, `delta`, `lowmemory` (as `delta`)",
    ),
    (
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        &["metrics.histograms"],
        HISTOGRAMS,
        "`base2_exponential_bucket_histogram`, `explicit_bucket_histogram`",
    ),
    ("OTEL_BSP_SCHEDULE_DELAY", &["traces.batch.delay"], VariableKind::Milliseconds, MILLISECONDS),
    ("OTEL_BSP_EXPORT_TIMEOUT", &["traces.otlp.timeout"], VariableKind::Timeout, TIMEOUT),
    ("OTEL_BSP_MAX_QUEUE_SIZE", &["traces.batch.queue"], VariableKind::Number, NUMBER),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", &["traces.batch.size"], VariableKind::Number, NUMBER),
    ("OTEL_BLRP_SCHEDULE_DELAY", &["logs.batch.delay"], VariableKind::Milliseconds, MILLISECONDS),
    ("OTEL_BLRP_EXPORT_TIMEOUT", &["logs.otlp.timeout"], VariableKind::Timeout, TIMEOUT),
    ("OTEL_BLRP_MAX_QUEUE_SIZE", &["logs.batch.queue"], VariableKind::Number, NUMBER),
    ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", &["logs.batch.size"], VariableKind::Number, NUMBER),
    ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", &["traces.attributeLimits.count"], VariableKind::Number, NUMBER),
    ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", &["traces.attributeLimits.valueLength"], VariableKind::Number, "number of characters"),
    ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", &["logs.attributeLimits.count"], VariableKind::Number, NUMBER),
    ("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", &["logs.attributeLimits.valueLength"], VariableKind::Number, "number of characters"),
    (
        "OTEL_ATTRIBUTE_COUNT_LIMIT",
        &["traces.attributeLimits.count", "logs.attributeLimits.count"],
        VariableKind::Number,
        "number; the variable of one signal comes first",
    ),
    (
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        &["traces.attributeLimits.valueLength", "logs.attributeLimits.valueLength"],
        VariableKind::Number,
        "number of characters; the variable of one signal comes first",
    ),
    ("OTEL_SPAN_EVENT_COUNT_LIMIT", &[], VariableKind::Unused, UNUSED),
    ("OTEL_SPAN_LINK_COUNT_LIMIT", &[], VariableKind::Unused, UNUSED),
    ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", &[], VariableKind::Unused, UNUSED),
    ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", &[], VariableKind::Unused, UNUSED),
    ("OTEL_PROPAGATORS", &[], VariableKind::Unused, "any: sidegate reads and writes no headers of requests"),
];

const UNUSED: &str = "any: spans have no events and no links";

/// All of them, in the order in which they are applied.
#[must_use]
pub fn standard_variables() -> Vec<StandardVariable> {
    let below = |key: &str| format!("telemetry.{key}");
    // First: it stands above what says which signals are exported.
    let disabled = StandardVariable {
        name: "OTEL_SDK_DISABLED".to_owned(),
        keys: ["traces.enabled", "metrics.enabled", "logs.enabled"].map(below).into(),
        value: "`true`: false for each that the file does not set; `false`: nothing",
        kind: VariableKind::Disabled,
    };
    let exporter = SIGNALS.iter().flat_map(|(infix, section)| {
        EXPORTER.iter().map(move |(suffix, key, kind, value)| StandardVariable {
            name: format!("OTEL_EXPORTER_OTLP_{infix}{suffix}"),
            keys: vec![below(&format!("{section}.{key}"))],
            value,
            kind: *kind,
        })
    });
    let others = OTHERS.iter().map(|(name, keys, kind, value)| StandardVariable {
        name: (*name).to_owned(),
        keys: keys.iter().map(|key| below(key)).collect(),
        value,
        kind: *kind,
    });
    std::iter::once(disabled).chain(exporter).chain(others).collect()
}
