//! What the standard variables fill in, and what is wrong with them.

use super::standard_variables;
use crate::load::parse_with;
use crate::schema::telemetry::{AttributeLimits, Compression, Exemplars, HistogramShape, LogLevel, Protocol, Signal, Temporality};
use crate::value::Scheme;
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

/// Starts in any case; the configuration, and the warnings a line each.
fn warned(text: &str, variables: &[(&str, &str)]) -> (crate::Config, String) {
    let variables = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
    let draft = crate::Draft::parse("f.yaml", text, variables);
    let warnings = draft.warnings.to_string();
    (draft.accept().unwrap(), warnings)
}

#[test]
fn a_value_that_is_of_no_use_is_a_warning_and_the_default() {
    for (name, value, says) in [
        ("OTEL_SDK_DISABLED", "1", "`1` is neither true nor false; it counts as false"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere://x", "telemetry.otlp.endpoint: is not an OTLP endpoint"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "a b", "telemetry.traces.otlp.endpoint: is not an OTLP endpoint"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example:4317", "profile `production` refuses that: write https://; ignored"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "yes", "`yes` is neither true nor false"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "`http/json` is not supported; use grpc, http/protobuf; ignored"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "`zstd` is not supported; use none, gzip; ignored"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "`soon` is not a number of milliseconds; ignored"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1", "`-1` is not a number of milliseconds; ignored"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000", "telemetry.otlp.timeout: must be between 1ms and 10m; ignored"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "k.pem", "`certificate` and `key` belong together; ignored"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c", "is not a list of name=value, separated by commas; ignored"),
        ("OTEL_RESOURCE_ATTRIBUTES", "=b", "has a value without a name; ignored"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "`zipkin` is not supported; use otlp, none, console, prometheus; ignored"),
        ("OTEL_TRACES_SAMPLER", "parentbased_jaeger_remote", "use always_on, always_off, traceidratio; ignored"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0", "telemetry.traces.batch.delay: must be between 1ms and 1m; ignored"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "telemetry.traces.batch.queue: 0 is too small; the least is 1; ignored"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "5", "telemetry.traces.batch.size: must not be larger than `queue`; ignored"),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "4000", "telemetry.logs.batch.size: 4000 is too large; the most is 1024; ignored"),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "many", "`many` is not a whole number from 0 on; ignored"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1", "telemetry.metrics.interval: must be between 100ms and 1h; ignored"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "all", "`all` is not supported; use trace_based, always_on, always_off; ignored"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "-5", "`-5` is not a whole number from 0 on; ignored"),
        ("OTEL_LOG_LEVEL", "loud", "`loud` is not supported; use none, off, error"),
    ] {
        let (config, warnings) = warned("", &[(name, value)]);
        assert_eq!(config, crate::Config::default(), "{name}={value}");
        assert!(warnings.starts_with(&format!("environment variable {name}: ")) && warnings.contains(says), "{warnings}");
        assert_eq!(warnings.lines().count(), 1, "{warnings}");
        assert!(!warnings.contains("hunter2"), "{warnings}");
    }
}

/// The common token is for the common collector. A signal's own headers that are bad are no reason to send it elsewhere.
#[test]
fn a_signal_whose_own_headers_are_ignored_has_none() {
    let common = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c.example"), ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=abc")];
    let headers = |config: &crate::Config, signal| config.telemetry.target(signal).unwrap().headers;
    for (bad, says) in [
        ("hunter2", "is not a list of name=value, separated by commas; ignored"),
        ("hunter2=%zz", "has a value that is not percent-encoded correctly; ignored"),
        ("hunter2 a=b", "headers: one of them is no header"),
        ("a=hunter2%0a", "headers: `a` is no header"),
    ] {
        let own = [("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://l.example"), ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", bad)];
        let (config, warnings) = warned("", &[common, own].concat());
        assert!(headers(&config, Signal::Logs).is_empty(), "{bad}");
        assert_eq!(headers(&config, Signal::Traces)["authorization"].expose(), "abc");
        assert!(warnings.starts_with("environment variable OTEL_EXPORTER_OTLP_LOGS_HEADERS: ") && warnings.contains(says), "{warnings}");
        assert!(warnings.lines().count() == 1 && !warnings.contains("hunter2"), "{warnings}");
        // Nor does anything else get some where the common ones are bad, and what the file says stays.
        let file = "telemetry: { logs: { otlp: { headers: { x: y } } } }\n";
        let (config, warnings) = warned(file, &[common[0], (common[1].0, bad), own[0], own[1]]);
        assert_eq!((headers(&config, Signal::Traces).len(), headers(&config, Signal::Logs)["x"].expose()), (0, "y"));
        assert!(warnings.lines().count() == 1 && warnings.contains("OTLP_HEADERS: ") && !warnings.contains("hunter2"), "{warnings}");
    }
    // None is what the file can say too.
    let (config, _) = warned("telemetry: { logs: { otlp: { headers: {} } } }\n", &common);
    assert_eq!(Signal::ALL.map(|signal| headers(&config, signal).len()), [1, 1, 0]);
}

/// Nor are a signal's own headers for the common collector, where it goes once its own endpoint is ignored.
#[test]
fn headers_are_ignored_with_their_endpoint() {
    let common = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c.example");
    let own = [("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "nowhere://x"), ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "authorization=hunter2")];
    let (config, warnings) = warned("", &[common, own[0], own[1]]);
    let logs = config.telemetry.target(Signal::Logs).unwrap();
    assert_eq!((logs.address.host.as_str(), logs.headers.len()), ("c.example", 0));
    assert!(warnings.contains("OTEL_EXPORTER_OTLP_LOGS_HEADERS: the endpoint that it is for is ignored; ignored"), "{warnings}");
    assert!(warnings.lines().count() == 2 && !warnings.contains("hunter2"), "{warnings}");
}

#[test]
fn only_the_variable_at_fault_is_ignored() {
    let local = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
    let names = |warnings: &str| -> Vec<String> {
        warnings.lines().map(|line| line.trim_start_matches("environment variable ").split(':').next().unwrap().to_owned()).collect()
    };
    // Each alone would leave what the others say of TLS without a sense.
    let (config, warnings) = warned(
        "",
        &[
            local,
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "c.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "k.pem"),
        ],
    );
    assert!(config.telemetry.target(Signal::Logs).is_some());
    let of_tls = ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"].map(|name| format!("OTEL_EXPORTER_OTLP_{name}"));
    assert_eq!(names(&warnings), of_tls);
    // The file is right by itself.
    let (config, warnings) = warned("telemetry: { logs: { otlp: { tls: { svid: true } } } }\n", &[local]);
    assert_eq!((config.telemetry.otlp.endpoint, names(&warnings)), (None, vec![local.0.to_owned()]));
    let (config, warnings) =
        warned("telemetry: { traces: { batch: { delay: 3s } } }\n", &[("OTEL_BSP_MAX_QUEUE_SIZE", "9"), ("OTEL_BSP_EXPORT_TIMEOUT", "7")]);
    assert_eq!(names(&warnings), ["OTEL_BSP_MAX_QUEUE_SIZE"]);
    assert_eq!(config.telemetry.traces.otlp.timeout.unwrap().duration(), Duration::from_millis(7));
    let mesh = "telemetry: { otlp: { endpoint: 'https://c.example', tls: { svid: true, spiffeIds: ['spiffe://a.b/c'] } } }\n";
    let tls = [("CERTIFICATE", "ca.pem"), ("CLIENT_CERTIFICATE", "c.pem"), ("CLIENT_KEY", "k.pem")];
    let tls = tls.map(|(name, file)| (format!("OTEL_EXPORTER_OTLP_{name}"), file));
    let (config, warnings) = warned(mesh, &tls.each_ref().map(|(name, file)| (name.as_str(), *file)));
    assert!(config.telemetry.otlp.tls.svid && config.telemetry.otlp.tls.ca.is_none());
    let (mut ignored, mut all) = (names(&warnings), of_tls.to_vec());
    ignored.sort_unstable();
    all.sort_unstable();
    assert_eq!(ignored, all);
    // Neither is needed for the fault of the other.
    let audit = "audit: { copies: [{ otlp: true }] }\ntelemetry: { otlp: { endpoint: 'https://c.example' } }\n";
    let (config, warnings) = warned(audit, &[("OTEL_SDK_DISABLED", "true"), ("OTEL_LOGS_EXPORTER", "none"), ("OTEL_SERVICE_NAME", "x")]);
    assert!(config.telemetry.logs.enabled && config.telemetry.service_name.is_some());
    assert_eq!(names(&warnings), ["OTEL_SDK_DISABLED", "OTEL_LOGS_EXPORTER"]);
    // Production wants TLS; without the word for plaintext there is some.
    let (config, warnings) =
        warned("", &[("OTEL_EXPORTER_OTLP_INSECURE", "true"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector.example:4317")]);
    assert_eq!(config.telemetry.otlp.endpoint.unwrap().to_string(), "https://collector.example:4317");
    assert_eq!(names(&warnings), ["OTEL_EXPORTER_OTLP_INSECURE"]);
}

#[test]
fn mistakes_of_the_file_stay_mistakes() {
    let said = with(
        "telemetry: { otlp: { protocol: http/json }, traces: { batch: { queue: 5, size: 6 } } }\ndrain: { deadline: 1ms }\n",
        &[
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0s"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "9"),
            ("SIDEGATE__TELEMETRY__FLUSH", "2m"),
        ],
    );
    let said = said.unwrap_err().to_string();
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    let wanted = [
        "environment variable SIDEGATE__TELEMETRY__FLUSH: telemetry.flush: must be between 0s and 1m",
        "f.yaml:1:32: telemetry.otlp.protocol: `http/json` is not known; use grpc, http/protobuf",
        "f.yaml:1:80: telemetry.traces.batch.size: must not be larger than `queue`",
        "f.yaml:2:20: drain.deadline: must be between 1s and 24h",
    ];
    assert_eq!(lines, wanted);
}

#[test]
fn words_have_no_case_and_values_no_spaces_around_them() {
    let (config, warnings) = warned(
        "",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", " https://c.example "),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "HTTP/Protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", " GZIP "),
            ("OTEL_TRACES_EXPORTER", "Console, zipkin"),
            ("OTEL_METRICS_EXPORTER", "none,OTLP,"),
            ("OTEL_LOGS_EXPORTER", "NONE"),
            ("OTEL_TRACES_SAMPLER", "ParentBased_TraceIdRatio"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
            ("OTEL_METRICS_EXEMPLAR_FILTER", "Always_Off"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "LowMemory"),
            ("OTEL_LOG_LEVEL", "Warning"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
            ("OTEL_SDK_DISABLED", "FALSE"),
            ("OTEL_SPAN_LINK_COUNT_LIMIT", "any"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "  "),
        ],
    );
    let telemetry = config.telemetry;
    assert_eq!(Signal::ALL.map(|signal| telemetry.target(signal).is_some()), [false, true, false]);
    let target = telemetry.target(Signal::Metrics).unwrap();
    assert_eq!((target.protocol, target.compression), (Protocol::HttpProtobuf, Compression::Gzip));
    // No limit is the longest there is.
    assert_eq!(target.timeout, Duration::from_secs(600));
    assert!((telemetry.traces.sampler.ratio - 1.0).abs() < 1e-9);
    assert_eq!((telemetry.metrics.exemplars, telemetry.metrics.temporality), (Exemplars::AlwaysOff, Temporality::Delta));
    assert_eq!(telemetry.log_level, Some(LogLevel::Warn));
    let lines: Vec<&str> = warnings.lines().collect();
    let wanted = [
        "environment variable OTEL_TRACES_EXPORTER: `zipkin` is not supported; use otlp, none, console, prometheus; the others count",
        "environment variable OTEL_TRACES_SAMPLER_ARG: `1.5` is not a number between 0 and 1; 1 is used",
    ];
    assert_eq!(lines, wanted);
}

#[test]
fn a_signals_own_word_about_tls_comes_before_the_common_one() {
    let endpoints = [("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:1"), ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "localhost:2")];
    let schemes = |insecure: &[(&str, &str)]| {
        let (config, warnings) = warned("", &[&endpoints, insecure].concat());
        assert_eq!(warnings, "");
        [Signal::Traces, Signal::Logs].map(|signal| config.telemetry.target(signal).unwrap().address.scheme)
    };
    let (common, own) = ("OTEL_EXPORTER_OTLP_INSECURE", "OTEL_EXPORTER_OTLP_LOGS_INSECURE");
    assert_eq!(schemes(&[]), [Scheme::Https, Scheme::Https]);
    assert_eq!(schemes(&[(common, "True")]), [Scheme::Http, Scheme::Http]);
    assert_eq!(schemes(&[(common, "true"), (own, "false")]), [Scheme::Http, Scheme::Https]);
    assert_eq!(schemes(&[(own, "true")]), [Scheme::Https, Scheme::Http]);
    assert_eq!(schemes(&[("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "true")]), [Scheme::Http, Scheme::Https]);
    let both = [("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:1/x"), ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "true")];
    let traces = warned("", &both).0.telemetry.target(Signal::Traces).unwrap();
    assert_eq!((traces.address.scheme, traces.path.as_str()), (Scheme::Http, "/x/v1/traces"));
    // What the file says of the endpoint stays.
    let file = "telemetry: { otlp: { endpoint: \"https://f.example\" } }\n";
    assert_eq!(warned(file, &both).0.telemetry.target(Signal::Traces).unwrap().address.scheme, Scheme::Https);
}

#[test]
fn a_sampler_of_all_or_nothing_has_no_rates() {
    let rates = |sampler: &str| {
        let traces = warned("", &[("OTEL_TRACES_SAMPLER", sampler)]).0.telemetry.traces;
        (traces.sampler.ratio, traces.sampler.per_second, traces.failures_per_second)
    };
    assert_eq!(rates("Always_On"), (1.0, 0, 10));
    assert_eq!(rates("parentbased_always_off"), (0.0, 100, 0));
    assert_eq!(rates("traceidratio"), (1.0, 100, 10));
}

#[test]
fn a_key_in_place_of_its_file_is_not_shown() {
    let pem = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----";
    let (config, warnings) = warned("", &[("OTEL_EXPORTER_OTLP_CLIENT_KEY", pem)]);
    assert!(warnings.contains("is not the path of a file; ignored") && !warnings.contains("hunter2"), "{warnings}");
    assert_eq!(config.telemetry.otlp.tls.key, None);
}

#[test]
fn limits_of_one_signal_come_before_the_general_ones() {
    let (config, warnings) = warned(
        "telemetry: { logs: { attributeLimits: { valueLength: 3 } } }\n",
        &[
            ("OTEL_ATTRIBUTE_COUNT_LIMIT", "10"),
            ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "20"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "0"),
            ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "40"),
            ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "none"),
        ],
    );
    let limits = |count, value_length| AttributeLimits { count, value_length };
    assert_eq!(config.telemetry.traces.attribute_limits, limits(0, Some(40)));
    assert_eq!(config.telemetry.logs.attribute_limits, limits(10, Some(3)));
    assert!(warnings.contains("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT: `none`") && warnings.lines().count() == 1, "{warnings}");
    assert_eq!(AttributeLimits::default(), limits(128, None));
}

#[test]
fn a_file_that_cannot_be_read_is_kept_and_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("c.pem"), "").unwrap();
    let variables = [
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &*path("ca.pem")),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &*path("c.pem")),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &*path("")),
        ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", &*path("unused.pem")),
    ];
    // Who may read a folder is no matter here.
    let file = "profile: development\ntelemetry: { logs: { otlp: { tls: { ca: /file.pem } } } }\n";
    let (config, warnings) = warned(file, &variables);
    assert!(config.telemetry.otlp.tls.ca.is_some() && config.telemetry.otlp.tls.key.is_some());
    let lines: Vec<&str> = warnings.lines().collect();
    assert!(lines[0].contains(&format!("_CERTIFICATE: {} can't be read, and exports fail until it can: No such file", path("ca.pem"))));
    assert!(lines[1].contains("_CLIENT_KEY: ") && lines[1].ends_with("it is no regular file"), "{warnings}");
    assert_eq!(lines.len(), 2, "{warnings}");
}

#[test]
fn a_key_that_others_can_read_is_not_shown_to_a_collector_in_production() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for name in ["c.pem", "k.pem"] {
        std::fs::write(path(name), "").unwrap();
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c.example"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &*path("c.pem")),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &*path("k.pem")),
    ];
    let (config, warnings) = warned("", &variables);
    let tls = config.telemetry.target(Signal::Traces).unwrap().tls;
    assert_eq!((tls.certificate, tls.key), (None, None));
    let lines: Vec<&str> = warnings.lines().collect();
    assert!(lines[0].contains("CLIENT_KEY: telemetry.otlp.tls.key: ") && lines[0].contains("chmod 0600; ignored"), "{warnings}");
    assert!(lines[1].contains("CLIENT_CERTIFICATE: ") && lines[1].contains("belong together; ignored"), "{warnings}");
}

/// A variable that is listed and not looked at, or a key that there is not, would be a lie in the docs.
#[test]
fn every_variable_of_the_list_fills_in_its_keys() {
    let schema = serde_json::to_value(crate::Config::default()).unwrap();
    for variable in standard_variables() {
        for key in &variable.keys {
            let (section, name) = key.rsplit_once('.').unwrap();
            let pointer = format!("/{}", section.replace('.', "/"));
            assert!(schema.pointer(&pointer).is_some_and(|section| section.get(name).is_some()), "{key}");
        }
        assert!(
            !variable.value.is_empty() && (variable.kind == super::VariableKind::Unused) == variable.keys.is_empty(),
            "{}",
            variable.name
        );
    }
}
