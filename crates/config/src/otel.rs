//! The standard `OTEL_*` variables, as far as the file leaves something out.
//!
//! Names and meanings are those of OpenTelemetry's specification (SDK environment variables, OTLP exporter). Each becomes
//! a key of the configuration, so that it is checked like one; an empty variable is none.

use serde_json::Value as Json;

use crate::document::{Node, Place, Problems, Value};
use crate::environment;

/// How a variable's text becomes a value.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Milliseconds,
    /// `name=value,name=value`, percent-encoded.
    Pairs,
    /// A list of exporters; whether `otlp` is among them.
    Exporters,
    Endpoint,
    /// A word of the specification for each of ours.
    Words(&'static [(&'static str, &'static str)]),
}

const SIGNALS: [(&str, &str); 4] = [("", "otlp"), ("TRACES_", "traces.otlp"), ("METRICS_", "metrics.otlp"), ("LOGS_", "logs.otlp")];

const EXPORTER: [(&str, &str, Kind); 8] = [
    ("ENDPOINT", "endpoint", Kind::Endpoint),
    ("PROTOCOL", "protocol", Kind::Text),
    ("HEADERS", "headers", Kind::Pairs),
    ("COMPRESSION", "compression", Kind::Text),
    ("TIMEOUT", "timeout", Kind::Milliseconds),
    ("CERTIFICATE", "tls.ca", Kind::Text),
    ("CLIENT_CERTIFICATE", "tls.certificate", Kind::Text),
    ("CLIENT_KEY", "tls.key", Kind::Text),
];

const OTHERS: [(&str, &str, Kind); 17] = [
    ("OTEL_SERVICE_NAME", "serviceName", Kind::Text),
    ("OTEL_RESOURCE_ATTRIBUTES", "resource", Kind::Pairs),
    ("OTEL_TRACES_EXPORTER", "traces.enabled", Kind::Exporters),
    ("OTEL_METRICS_EXPORTER", "metrics.enabled", Kind::Exporters),
    ("OTEL_LOGS_EXPORTER", "logs.enabled", Kind::Exporters),
    ("OTEL_METRIC_EXPORT_INTERVAL", "metrics.interval", Kind::Milliseconds),
    ("OTEL_METRIC_EXPORT_TIMEOUT", "metrics.otlp.timeout", Kind::Milliseconds),
    (
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "metrics.temporality",
        Kind::Words(&[("cumulative", "cumulative"), ("delta", "delta"), ("lowmemory", "delta")]),
    ),
    (
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        "metrics.histograms",
        Kind::Words(&[("explicit_bucket_histogram", "explicit"), ("base2_exponential_bucket_histogram", "exponential")]),
    ),
    ("OTEL_BSP_SCHEDULE_DELAY", "traces.batch.delay", Kind::Milliseconds),
    ("OTEL_BSP_EXPORT_TIMEOUT", "traces.otlp.timeout", Kind::Milliseconds),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "traces.batch.queue", Kind::Number),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "traces.batch.size", Kind::Number),
    ("OTEL_BLRP_SCHEDULE_DELAY", "logs.batch.delay", Kind::Milliseconds),
    ("OTEL_BLRP_EXPORT_TIMEOUT", "logs.otlp.timeout", Kind::Milliseconds),
    ("OTEL_BLRP_MAX_QUEUE_SIZE", "logs.batch.queue", Kind::Number),
    ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "logs.batch.size", Kind::Number),
];

/// Fills in what `root` leaves out.
pub(crate) fn apply(root: &mut Node, variables: &[(String, String)], problems: &mut Problems) {
    let of = |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, text)| text.trim()).filter(|text| !text.is_empty());
    let insecure = of("OTEL_EXPORTER_OTLP_INSECURE").is_some_and(|text| text.eq_ignore_ascii_case("true"));
    // First: it stands above what says which signals are exported.
    if of("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        let place = Place { source: "environment variable OTEL_SDK_DISABLED".into(), line: 0, column: 0 };
        for signal in ["traces", "metrics", "logs"] {
            fill_in(root, &["telemetry", signal, "enabled"], Json::Bool(false), &place);
        }
    }
    let mut fill = |name: &str, path: &str, kind: Kind| {
        let Some(text) = of(name) else { return };
        let place = Place { source: format!("environment variable {name}").into(), line: 0, column: 0 };
        let path: Vec<&str> = std::iter::once("telemetry").chain(path.split('.')).collect();
        match value(text, kind, insecure) {
            Ok(Given::Value(value)) => fill_in(root, &path, value, &place),
            // Headers are one thing: those of the file are not mixed with others.
            Ok(Given::Pairs(_)) if path.ends_with(&["headers"]) && !is_absent(root, &path) => {}
            Ok(Given::Pairs(pairs)) => {
                for (key, value) in pairs {
                    fill_in(root, &[&path[..], &[key.as_str()]].concat(), Json::String(value), &place);
                }
            }
            Err(message) => problems.push(&place, "", message),
        }
    };
    for (infix, section) in SIGNALS {
        for (suffix, key, kind) in EXPORTER {
            fill(&format!("OTEL_EXPORTER_OTLP_{infix}{suffix}"), &format!("{section}.{key}"), kind);
        }
    }
    for (name, path, kind) in OTHERS {
        fill(name, path, kind);
    }
    sampler(root, &of, problems);
}

/// `OTEL_TRACES_SAMPLER` and its argument.
fn sampler<'a>(root: &mut Node, of: &impl Fn(&str) -> Option<&'a str>, problems: &mut Problems) {
    const NAME: &str = "OTEL_TRACES_SAMPLER";
    let Some(sampler) = of(NAME) else { return };
    let place = |name: &str| Place { source: format!("environment variable {name}").into(), line: 0, column: 0 };
    let ratio = match sampler.strip_prefix("parentbased_").unwrap_or(sampler) {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => match of("OTEL_TRACES_SAMPLER_ARG").map_or(Ok(1.0), str::parse::<f64>) {
            Ok(ratio) => ratio,
            Err(_) => return problems.push(&place("OTEL_TRACES_SAMPLER_ARG"), "", "is no number between 0 and 1"),
        },
        _ => {
            return problems.push(&place(NAME), "", format!("`{sampler}` is not known; use always_on, always_off, traceidratio"));
        }
    };
    fill_in(root, &["telemetry", "traces", "sampler", "ratio"], Json::from(ratio), &place(NAME));
}

enum Given {
    Value(Json),
    Pairs(Vec<(String, String)>),
}

fn value(text: &str, kind: Kind, insecure: bool) -> Result<Given, String> {
    Ok(Given::Value(match kind {
        Kind::Text => Json::String(text.to_owned()),
        Kind::Number => Json::from(text.parse::<i64>().map_err(|_| format!("`{text}` is not a whole number"))?),
        Kind::Milliseconds => {
            let millis: u64 = text.parse().map_err(|_| format!("`{text}` is not a number of milliseconds"))?;
            Json::String(format!("{millis}ms"))
        }
        // For gRPC the scheme may be left out; then a variable of its own says whether there is TLS.
        Kind::Endpoint if !text.contains("://") => Json::String(format!("{}://{text}", if insecure { "http" } else { "https" })),
        Kind::Endpoint => Json::String(text.to_owned()),
        Kind::Words(words) => match words.iter().find(|(theirs, _)| theirs.eq_ignore_ascii_case(text)) {
            Some((_, ours)) => Json::String((*ours).to_owned()),
            None => {
                let known: Vec<&str> = words.iter().map(|(theirs, _)| *theirs).collect();
                return Err(format!("`{text}` is not known; use {}", known.join(", ")));
            }
        },
        Kind::Exporters => {
            let names: Vec<&str> = text.split(',').map(str::trim).collect();
            match names.iter().find(|name| !["otlp", "none", "prometheus", "console"].contains(name)) {
                // The scrape is always there; without `otlp` nothing is sent.
                None => Json::Bool(names.contains(&"otlp")),
                Some(unknown) => return Err(format!("`{unknown}` is not known; use otlp or none")),
            }
        }
        Kind::Pairs => {
            let mut pairs = Vec::new();
            for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
                // The text may hold a secret: it is not repeated.
                let (key, value) = pair.split_once('=').ok_or("is no list of name=value, parted by commas")?;
                let value = percent_decoded(value.trim()).ok_or("holds a value that is not well percent-encoded")?;
                pairs.push((key.trim().to_owned(), value));
            }
            return Ok(Given::Pairs(pairs));
        }
    }))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// Whether the file says nothing at `path`, and has nothing else in the way there.
fn is_absent(node: &Node, path: &[&str]) -> bool {
    let (Some((key, rest)), Value::Map(entries)) = (path.split_first(), &node.value) else { return false };
    entries.iter().find(|(k, _, _)| k == key).is_none_or(|(_, _, child)| is_absent(child, rest))
}

/// Sets what is absent; what the file says stays.
fn fill_in(root: &mut Node, path: &[&str], value: Json, place: &Place) {
    if is_absent(root, path) {
        environment::set(root, path, Node { place: place.clone(), value: Value::Scalar(value) }, place);
    }
}

#[cfg(test)]
mod tests {
    use crate::load::parse_with;
    use crate::schema::telemetry::{Compression, HistogramShape, Protocol, Signal, Temporality};
    use std::time::Duration;

    fn with(text: &str, variables: &[(&str, &str)]) -> Result<crate::Config, crate::Problems> {
        parse_with("f.yaml", text, variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn the_standard_variables_fill_in_what_the_file_leaves_out() {
        let config = with(
            "telemetry: { traces: { batch: { size: 7 } } }\n",
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/base/"),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc, x=1"),
                ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x=2"),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
                ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://localhost:9/logs"),
                ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc"),
                ("OTEL_SERVICE_NAME", "shop"),
                ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod,team=a%2Cb"),
                ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "9"),
                ("OTEL_BSP_SCHEDULE_DELAY", "100"),
                ("OTEL_METRIC_EXPORT_INTERVAL", "5000"),
                ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "DELTA"),
                ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "explicit_bucket_histogram"),
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
                ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", ""),
            ],
        )
        .unwrap()
        .telemetry;
        let traces = config.target(Signal::Traces).unwrap();
        assert_eq!((traces.path.as_str(), traces.protocol), ("/base/v1/traces", Protocol::HttpProtobuf));
        assert_eq!(traces.headers["authorization"].expose(), "Bearer abc");
        assert_eq!((traces.compression, traces.timeout), (Compression::Gzip, Duration::from_millis(2500)));
        assert_eq!(config.target(Signal::Metrics).unwrap().headers["x"].expose(), "2");
        let logs = config.target(Signal::Logs).unwrap();
        assert_eq!((logs.path.as_str(), logs.protocol), ("/logs", Protocol::Grpc));
        assert_eq!((config.service_name.as_deref(), config.resource["team"].as_str()), (Some("shop"), "a,b"));
        // The file comes first.
        assert_eq!((config.traces.batch.size, config.traces.batch.delay.duration()), (7, Duration::from_millis(100)));
        assert_eq!(config.metrics.interval.duration(), Duration::from_secs(5));
        assert_eq!((config.metrics.temporality, config.metrics.histograms), (Temporality::Delta, HistogramShape::Explicit));
        assert!((config.traces.sampler.ratio - 0.25).abs() < 1e-9);
    }

    #[test]
    fn what_is_a_signals_own_comes_before_what_is_common() {
        let text = "telemetry:
  otlp: { endpoint: \"https://c.example/base\", headers: { X-Token: a }, tls: { ca: ca.pem, svid: true } }
  traces: { otlp: { endpoint: \"https://t.example/own\", headers: { x-other: b }, tls: { serverName: t.example } } }
  metrics: { otlp: { endpoint: \"https://m.example\" } }
  logs: { otlp: { endpoint: \"unix:///run/x.sock\" } }
";
        let config = with(text, &[]).unwrap().telemetry;
        let [traces, metrics, logs] = Signal::ALL.map(|signal| config.target(signal).unwrap());
        assert_eq!([&*traces.path, &metrics.path, &logs.path], ["/own", "/", "/v1/logs"]);
        let headers = |t: &crate::schema::telemetry::Target| t.headers.keys().cloned().collect::<Vec<_>>();
        assert_eq!([headers(&traces), headers(&metrics)], [["x-other"], ["x-token"]]);
        // Another name to verify by, but still our SVID to show.
        assert_eq!((&traces.tls.ca, traces.tls.svid, traces.tls.server_name.is_some()), (&None, true, true));
        assert_eq!((metrics.tls.ca.is_some(), metrics.tls.svid), (true, true));
    }

    #[test]
    fn exporters_can_be_turned_off() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
        let config = with("", &[endpoint, ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_LOGS_EXPORTER", "otlp")]).unwrap().telemetry;
        let targets = |c: &crate::schema::telemetry::Telemetry| Signal::ALL.map(|s| c.target(s).is_some());
        assert_eq!(targets(&config), [false, true, true]);
        let config = with("", &[endpoint, ("OTEL_SDK_DISABLED", "true")]).unwrap().telemetry;
        assert_eq!(targets(&config), [false; 3]);
        assert_eq!(targets(&with("", &[]).unwrap().telemetry), [false; 3]);
    }

    #[test]
    fn mistakes_name_the_variable_and_show_no_secret() {
        let problems = with(
            "",
            &[
                ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
                ("OTEL_TRACES_SAMPLER", "sometimes"),
                ("OTEL_TRACES_EXPORTER", "zipkin"),
            ],
        )
        .unwrap_err()
        .to_string();
        for say in [
            "variable OTEL_EXPORTER_OTLP_HEADERS: is no list",
            "variable OTEL_EXPORTER_OTLP_TIMEOUT: `soon`",
            "variable OTEL_EXPORTER_OTLP_PROTOCOL: telemetry.otlp.protocol: `http/json` is not known; use grpc, http/protobuf",
            "`sometimes` is not known",
            "`zipkin` is not known",
        ] {
            assert!(problems.contains(say), "{problems}");
        }
        assert!(!problems.contains("hunter2"), "{problems}");
    }
}
