//! What reaches a collector: every signal, with every attribute, by every way, and nothing that should not.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use opentelemetry_semantic_conventions::SCHEMA_URL;
use serde_json::Value;
use sidegate_core::Reason;
use sidegate_devkit::fake_collector::Body;
use sidegate_devkit::fake_collector::otlp::common::v1::{KeyValue, any_value};
use sidegate_devkit::fake_collector::otlp::metrics::v1::metric::Data;
use sidegate_devkit::fake_collector::otlp::trace::v1::status::StatusCode;
use sidegate_devkit::fake_collector::otlp::trace::v1::{Span, SpanFlags};
use sidegate_telemetry::{ATTRIBUTES, INSTRUMENTS, RESOURCE};
use sidegate_tests::{Attributes, Collector, Echo, Identities, Pair, Sidecar, ask, attributes, client_config, echo_bytes, eventually, id};

const HOUR: Duration = Duration::from_secs(3600);

fn plaintext_to(address: SocketAddr) {
    let mut tcp = TcpStream::connect(address).unwrap();
    let _ = tcp.write_all(b"GET / HTTP/1.1\r\n\r\n");
    let _ = sidegate_tests::read_all(&mut tcp);
}

/// What the span of a connection has to say, by its record in the access log.
fn expected(record: &Value) -> Attributes {
    let text = |pointer: &str| match record.pointer(pointer) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Null) | None => None,
        Some(other) => Some(other.to_string()),
    };
    let split = |pointer: &str| text(pointer).map(|a| a.parse::<SocketAddr>().unwrap());
    let inbound = record["direction"] == "inbound";
    let (downstream, to) = (split("/downstream"), split("/originalDestination"));
    let peer = if inbound { downstream } else { to };
    let (ours, theirs) = if inbound { ("server", "client") } else { ("client", "server") };
    let success = ["closed", "downstream_reset", "upstream_reset"].contains(&record["reason"].as_str().unwrap());
    let shaken = record["stages"]["handshakeMicros"].is_number();
    let certificate = |side: &str, which: &str| {
        [
            (format!("tls.{side}.hash.sha256"), text(&format!("/{which}/sha256")).map(|hex| hex.to_uppercase()).filter(|_| shaken)),
            (format!("tls.{side}.not_before"), text(&format!("/{which}/notBefore")).filter(|_| shaken)),
            (format!("tls.{side}.not_after"), text(&format!("/{which}/notAfter")).filter(|_| shaken)),
        ]
    };
    let ip = |address: Option<SocketAddr>| address.map(|a| a.ip().to_string());
    let port = |address: Option<SocketAddr>| address.map(|a| a.port().to_string());
    let constant = |yes: bool, word: &str| yes.then(|| word.to_owned());
    let mut all: Vec<(String, Option<String>)> = [
        ("error.type", text("/reason").filter(|_| !success)),
        ("network.transport", constant(true, "tcp")),
        ("network.type", constant(true, "ipv4")),
        ("network.peer.address", ip(peer)),
        ("network.peer.port", port(peer)),
        ("client.address", ip(downstream)),
        ("client.port", port(downstream)),
        ("server.address", ip(to)),
        ("server.port", port(to)),
        ("tls.established", shaken.then(|| record["tls"].is_object().to_string())),
        ("tls.protocol.name", constant(shaken, "tls")),
        ("tls.protocol.version", text("/tls/version")),
        ("tls.cipher", text("/tls/cipher")),
        ("tls.curve", text("/tls/group")),
        ("tls.resumed", text("/tls/resumed")),
        ("tls.next_protocol", text("/tls/alpn")),
        ("sidegate.sni", text("/tls/sni")),
        ("sidegate.peer.serial", text("/peerCertificate/serial")),
        ("sidegate.peer.spiffe_id", text("/peerId")),
        ("sidegate.peer.revocation", text("/revocation")),
        ("sidegate.peer.claimed_id", text("/claimedId")),
        ("sidegate.local.spiffe_id", text("/localId")),
        ("sidegate.connection.id", text("/connectionId")),
        ("sidegate.direction", text("/direction")),
        ("sidegate.transport", text("/transport")),
        ("sidegate.tunnel", text("/tunnel")),
        ("sidegate.destination", text("/destination")),
        ("sidegate.reason", text("/reason")),
        ("sidegate.detail", text("/detail")),
        ("sidegate.decision.allowed", text("/decision/allowed")),
        ("sidegate.decision.rule", text("/decision/rule")),
        ("sidegate.bytes.up", text("/bytesUp")),
        ("sidegate.bytes.down", text("/bytesDown")),
        ("sidegate.generation", text("/generation")),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    all.extend(certificate(ours, "localCertificate"));
    all.extend(certificate(theirs, "peerCertificate"));
    all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// The fields of an object as a schema has them; those of objects in it by their path.
fn fields(schema: &Value, object: &Value, path: &str, all: &mut BTreeSet<String>) {
    for (name, field) in object["properties"].as_object().unwrap() {
        let nested = field["$ref"].as_str().or_else(|| field["anyOf"][0]["$ref"].as_str());
        let nested =
            nested.map(|name| &schema["$defs"][name.strip_prefix("#/$defs/").unwrap()]).filter(|def| def["properties"].is_object());
        match nested {
            Some(nested) => fields(schema, nested, &format!("{path}{name}."), all),
            None => _ = all.insert(format!("{path}{name}")),
        }
    }
}

/// The table of docs/reference/records.md has each field of the record, and each attribute.
#[test]
fn the_docs_say_which_attribute_is_which_field() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    let schema: Value = serde_json::from_str(&read("deploy/schema/access-log.json")).unwrap();
    let mut wanted = BTreeSet::new();
    fields(&schema, &schema, "", &mut wanted);
    let docs = read("docs/reference/records.md");
    let table = docs.split_once("| in the record | as an attribute |\n").unwrap().1.split_once("\n\n").unwrap().0;
    let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let (mut of_record, mut of_otlp) = (BTreeSet::new(), BTreeSet::new());
    for row in table.lines().skip(1) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [field, attribute] = cells[..] else { panic!("{row}") };
        of_record.extend(words(field));
        of_otlp.extend(words(attribute));
    }
    assert_eq!(of_record, wanted);
    assert_eq!(of_otlp, ATTRIBUTES.iter().map(|(key, _, _)| (*key).to_owned()).collect());
}

/// The spans of one end of a connection, its root first: through a tunnel the trace has the other end's, too.
fn of_end(collector: &Collector, connection_id: &str, direction: &str) -> Vec<Span> {
    eventually(&format!("the spans of {direction}"), || {
        let mut others = collector.trace(connection_id);
        let root = others.iter().position(|span| span.name == direction)?;
        let mut own = vec![others.remove(root)];
        others.retain(|span| !["inbound", "outbound"].contains(&span.name.as_str()));
        // A child of a child comes with the second round.
        for _ in 0..2 {
            let (found, rest) = others.into_iter().partition(|span| own.iter().any(|parent| parent.span_id == span.parent_span_id));
            own.extend::<Vec<Span>>(found);
            others = rest;
        }
        Some(own)
    })
}

fn child<'a>(trace: &'a [Span], name: &str) -> &'a Span {
    trace.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no span {name} in {trace:#?}"))
}

/// Each end's span says what its record says, in OpenTelemetry's words; the stages lie inside it at their true times.
#[test]
fn a_connection_is_a_trace_a_log_record_and_counted() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let config = collector.config("http", ", compression: gzip");
    let pair = Pair::start_with(
        echo.address,
        HOUR,
        &config,
        "tunnel: auto, sni: api.example, alpn: [echo]",
        &format!("ports: [{{ port: {}, alpn: [echo] }}],", echo.address.port()),
    );
    echo_bytes(pair.entry, 12_345, 1).unwrap();
    plaintext_to(pair.port);
    let mut said = BTreeSet::new();
    for (sidecar, direction, reason) in
        [(&pair.web, "outbound", "closed"), (&pair.api, "inbound", "closed"), (&pair.api, "inbound", "plaintext_refused")]
    {
        let record = sidecar.record(reason, |r| r["direction"] == direction && r["reason"] == reason);
        let id = record["connectionId"].as_str().unwrap();
        let trace = of_end(&collector, id, direction);
        let root = &trace[0];
        let found = attributes(&root.attributes);
        assert_eq!(found, expected(&record), "{record:#}");
        said.extend(found.into_keys());
        assert_eq!((root.name.as_str(), root.kind), (direction, if direction == "inbound" { 2 } else { 3 }));
        // Through the tunnel the other end is the parent.
        let has_remote_parent = direction == "inbound" && reason == "closed";
        let of_parent = [SpanFlags::ContextHasIsRemoteMask, SpanFlags::ContextIsRemoteMask].map(|mask| root.flags & mask as u32 != 0);
        assert_eq!((!root.parent_span_id.is_empty(), of_parent), (has_remote_parent, [true, has_remote_parent]), "{root:?}");
        let stages = record["stages"].as_object().unwrap();
        let stages: Vec<(&str, &Value)> = stages.iter().map(|(name, micros)| (name.strip_suffix("Micros").unwrap(), micros)).collect();
        for (stage, micros) in stages.iter().copied().filter(|(name, _)| *name != "total") {
            let span = child(&trace, stage);
            let took = (span.end_time_unix_nano - span.start_time_unix_nano) / 1000;
            assert_eq!(took, micros.as_u64().unwrap(), "{stage}");
            let parent = if stage == "verify" { child(&trace, "handshake") } else { root };
            assert_eq!(span.parent_span_id, parent.span_id, "{stage}");
            assert!(parent.start_time_unix_nano <= span.start_time_unix_nano && span.end_time_unix_nano <= parent.end_time_unix_nano);
        }
        assert_eq!(trace.len(), stages.len(), "the whole, and a span for each stage but the total");
        let failed: Vec<&str> = trace
            .iter()
            .filter(|s| s.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32))
            .map(|s| s.name.as_str())
            .collect();
        assert_eq!(failed, if reason == "closed" { vec![] } else { vec!["inbound", "handshake"] });
        // The access log goes the same way, under the same trace.
        let log = eventually("its log record", || {
            collector.fake.logs().into_iter().find(|l| l.trace_id == root.trace_id && l.span_id == root.span_id)
        });
        let mut of_log = expected(&record);
        of_log.extend(stages.iter().map(|(stage, micros)| (format!("sidegate.stage.{stage}"), micros.to_string())));
        assert_eq!((log.span_id.clone(), attributes(&log.attributes)), (root.span_id.clone(), of_log.clone()));
        said.extend(of_log.into_keys());
        assert_eq!((log.event_name.as_str(), log.severity_number), ("sidegate.connection.ended", if reason == "closed" { 9 } else { 13 }));
    }
    // What these connections had no occasion to say is said in the unit tests.
    let never: BTreeSet<&str> = ATTRIBUTES.iter().map(|(key, _, _)| *key).filter(|key| !said.contains(*key)).collect();
    assert_eq!(
        never,
        ["sidegate.decision.nearest", "sidegate.decision.remarks", "sidegate.peer.claimed_id", "sidegate.stage.detect"].into()
    );
    // The outbound dial comes first, then the handshake, in it the verification, then the decision.
    let web = of_end(&collector, pair.web.reason("closed")["connectionId"].as_str().unwrap(), "outbound");
    let starts = ["outbound", "dial", "handshake", "verify", "authorize"].map(|name| child(&web, name).start_time_unix_nano);
    assert!(starts.is_sorted(), "{starts:?}");

    let names = || -> BTreeSet<String> { collector.fake.metrics().into_iter().map(|m| m.name).collect() };
    // Nothing is captured here, and there is no cluster.
    let elsewhere = ["sidegate.capture.proven", "sidegate.directory.addresses", "sidegate.directory.reachable"];
    let instruments = || INSTRUMENTS.iter().filter(|i| !elsewhere.contains(&i.name));
    let all: BTreeSet<String> = instruments().map(|i| i.name.to_owned()).collect();
    eventually("every instrument", || all.is_subset(&names()).then_some(()));
    // Both sidecars export; the scrape of each shows the same instruments.
    for sidecar in [&pair.web, &pair.api] {
        for instrument in instruments().filter(|i| !["sidegate.handshake.failures"].contains(&i.name)) {
            // The lag of the runtime is first measured after a second.
            let scraped = || sidecar.ask("/metrics").filter(|(_, scrape)| scrape.contains(&instrument.prometheus_name()));
            eventually(&format!("{} to be scraped", instrument.name), scraped);
        }
    }
    let resource = collector.fake.received().into_iter().find_map(|r| match r.body {
        Body::Traces(traces) => traces.resource_spans.into_iter().next()?.resource,
        _ => None,
    });
    let resource = attributes(&resource.unwrap().attributes);
    // The others come by the downward API or by configuration.
    let told = |key: &&str| key.starts_with("k8s.") || ["service.namespace", "service.version"].contains(key);
    let fixed: BTreeSet<&str> = RESOURCE.iter().map(|(key, _)| *key).filter(|key| !told(key)).collect();
    assert_eq!(resource.keys().map(String::as_str).collect::<BTreeSet<_>>(), fixed);
    assert!(["web", "api"].contains(&resource["service.name"].as_str()), "{resource:?}");
}

/// By the standard variables alone: HTTP, gzip, headers, resource, temporality, shape of histograms.
#[test]
fn the_standard_variables_are_enough() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let pair = Pair::start(echo.address, HOUR, "");
    let entry = (std::net::Ipv4Addr::LOCALHOST, sidegate_tests::free_port()).into();
    let endpoint = format!("http://{}", collector.address);
    let sidecar = Sidecar::start_with(
        pair.identities.folder(),
        "by-environment",
        &client_config(&pair.identities, entry, pair.port),
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20t0ken"),
            ("OTEL_SERVICE_NAME", "shop"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
            ("OTEL_BSP_SCHEDULE_DELAY", "20"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "20"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
            ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "explicit_bucket_histogram"),
            ("POD_NAME", "shop-1"),
            ("POD_NAMESPACE", "default"),
            ("NODE_NAME", "node-7"),
        ],
    );
    sidecar.wait_ready();
    for _ in 0..3 {
        echo_bytes(entry, 1000, 1).unwrap();
    }
    eventually("three traces, three log records, metrics", || {
        let [_, points, _] = collector.fake.items();
        let roots = collector.fake.spans().iter().filter(|s| s.parent_span_id.is_empty()).count();
        let logs = collector.fake.logs().iter().filter(|l| l.event_name == "sidegate.connection.ended").count();
        (roots == 3 && logs == 3 && points > 0).then_some(())
    });
    let received = collector.fake.received();
    let paths: BTreeSet<&str> = received.iter().map(|r| r.path.as_str()).collect();
    assert_eq!(paths, ["/v1/traces", "/v1/metrics", "/v1/logs"].into());
    for request in &received {
        assert_eq!(request.headers["authorization"], "Bearer t0ken");
        assert_eq!(request.headers["content-encoding"], "gzip");
        assert_eq!(request.headers["content-type"], "application/x-protobuf");
        let (resource, of_resource, of_scope) = match &request.body {
            Body::Traces(t) => {
                let of = &t.resource_spans[0];
                (of.resource.clone(), &of.schema_url, &of.scope_spans[0].schema_url)
            }
            Body::Metrics(m) => {
                let of = &m.resource_metrics[0];
                (of.resource.clone(), &of.schema_url, &of.scope_metrics[0].schema_url)
            }
            Body::Logs(l) => {
                let of = &l.resource_logs[0];
                (of.resource.clone(), &of.schema_url, &of.scope_logs[0].schema_url)
            }
        };
        assert_eq!([of_resource, of_scope], [SCHEMA_URL; 2]);
        let resource = attributes(&resource.unwrap().attributes);
        for (key, value) in [
            ("service.name", "shop"),
            ("deployment.environment.name", "test"),
            ("service.namespace", "default"),
            ("service.instance.id", "default.shop-1.sidegate"),
            ("k8s.pod.name", "shop-1"),
            ("k8s.container.name", "sidegate"),
            ("k8s.namespace.name", "default"),
            ("k8s.node.name", "node-7"),
        ] {
            assert_eq!(resource[key], value);
        }
    }
    // Deltas add up to what happened.
    let connections = || -> u64 {
        let metrics = collector.fake.received().into_iter().filter_map(|r| if let Body::Metrics(m) = r.body { Some(m) } else { None });
        let metrics = metrics.flat_map(|m| m.resource_metrics).flat_map(|r| r.scope_metrics).flat_map(|s| s.metrics);
        let histograms = metrics.filter(|m| m.name == "sidegate.connection.duration").map(|m| match m.data {
            Some(Data::Histogram(histogram)) => histogram.data_points.iter().map(|p| p.count).sum::<u64>(),
            other => panic!("{other:?}"),
        });
        histograms.sum()
    };
    eventually("the deltas of three connections", || (connections() == 3).then_some(()));
}

/// What is above a limit is left out and counted, or cut; each signal has limits of its own.
#[test]
fn attributes_stay_within_the_limits_of_the_standard_variables() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let pair = Pair::start(echo.address, HOUR, "");
    let entry = (std::net::Ipv4Addr::LOCALHOST, sidegate_tests::free_port()).into();
    let config = format!("{}{}", client_config(&pair.identities, entry, pair.port), collector.config("http", ""));
    let limits = [("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "5"), ("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4")];
    let sidecar = Sidecar::start_with(pair.identities.folder(), "limited", &config, &limits);
    sidecar.wait_ready();
    echo_bytes(entry, 1000, 1).unwrap();
    let record = sidecar.record("closed", |r| r["reason"] == "closed");
    let whole = expected(&record);
    let root = collector.trace(record["connectionId"].as_str().unwrap()).remove(0);
    let found = attributes(&root.attributes);
    assert_eq!((found.len(), root.dropped_attributes_count as usize), (5, whole.len() - 5), "{found:?}");
    assert!(found.iter().all(|(key, value)| whole.get(key) == Some(value)), "{found:?}");
    let log = eventually("its log record", || collector.fake.logs().into_iter().find(|log| log.span_id == root.span_id));
    assert_eq!(log.dropped_attributes_count, 0);
    let is_text = |a: &KeyValue| a.value.as_ref().is_some_and(|value| matches!(value.value, Some(any_value::Value::StringValue(_))));
    let (texts, others): (Vec<KeyValue>, Vec<KeyValue>) = log.attributes.into_iter().partition(is_text);
    assert!(texts.len() > 5 && others.len() > 5, "{texts:?} {others:?}");
    for (key, value) in attributes(&texts) {
        assert_eq!(value, whole[&key].chars().take(4).collect::<String>(), "{key}");
    }
    for (key, value) in attributes(&others).into_iter().filter(|(key, _)| !key.starts_with("sidegate.stage.")) {
        assert_eq!(value, whole[&key], "{key}");
    }
}

/// Values that sidegate can't use, as a namespace may have them for others: each is a warning, and the default holds.
#[test]
fn standard_variables_that_are_of_no_use_keep_nothing_from_starting() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let pair = Pair::start(echo.address, HOUR, "");
    let entry = (std::net::Ipv4Addr::LOCALHOST, sidegate_tests::free_port()).into();
    let endpoint = format!("http://{}", collector.address);
    let ignored = [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "t0ken"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "zipkin:9411/api?v=2"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1"),
        ("OTEL_SDK_DISABLED", "1"),
    ];
    let good = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_LOG_LEVEL", "ERROR"),
        // It can't be read, so these exports fail, and nothing else does.
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://localhost:9"),
        ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "/nowhere/logs.pem"),
    ];
    let variables = [&ignored[..], &good[..]].concat();
    let config = client_config(&pair.identities, entry, pair.port);
    let sidecar = Sidecar::start_with(pair.identities.folder(), "by-bad-variables", &config, &variables);
    sidecar.wait_ready();
    echo_bytes(entry, 1000, 1).unwrap();
    eventually("a trace", || collector.fake.spans().iter().any(|span| span.parent_span_id.is_empty()).then_some(()));
    let received = collector.fake.received();
    // By gRPC, without compression and headers.
    let plain =
        |r: &sidegate_devkit::fake_collector::Received| r.path.ends_with("TraceService/Export") && !r.headers.contains_key("grpc-encoding");
    assert!(received.iter().all(plain), "{received:?}");
    let why = "can't be read as PEM";
    eventually("why logs are not exported", || sidecar.command(&["status"]).1.contains(why).then_some(()));
    let log = sidecar.log();
    let warned: Vec<&str> = log.lines().filter(|line| line.contains("\"sidegate.config.variable\"")).collect();
    for (name, _) in ignored.iter().chain(&good[4..]) {
        let of_it = warned.iter().filter(|line| line.contains(&format!("environment variable {name}: "))).count();
        assert_eq!(of_it, 1, "{name}: {warned:?}");
    }
    assert_eq!(warned.len(), ignored.len() + 1, "{warned:?}");
    assert!(!log.contains("t0ken"), "{log}");
    assert!(!log.contains("sidegate.telemetry.export_failing"), "a warning, and OTEL_LOG_LEVEL is for errors: {log}");

    let file = pair.identities.folder().join("by-bad-variables.yaml");
    let output = std::process::Command::new(sidegate_tests::sidegate())
        .args(["check", "--config"])
        .arg(&file)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("warning: environment variable OTEL_")).count(), ignored.len() + 1, "{said}");
}

fn leaf(identities: &Identities, name: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    let (certificate, _, _) = identities.files(name);
    rustls::pki_types::CertificateDer::from_pem_file(certificate).unwrap().to_vec()
}

/// The SVID is what we show the collector, its SPIFFE ID is what we want to see; after a rotation the new one is shown.
#[test]
fn mutual_tls_with_the_svid_follows_rotations() {
    let echo = Echo::start();
    let identities = Identities::start(&["web", "api", "collector"], Duration::from_secs(6));
    let (certificate, key, bundle) = identities.files("collector");
    let collector = Collector::start_tls(&certificate, &key, Some(&bundle));
    for (name, protocol) in [("by-grpc", "grpc"), ("by-http", "http/protobuf")] {
        let tls = format!(", protocol: {protocol}, tls: {{ svid: true, spiffeIds: [\"{}\"] }}", id("collector"));
        let entry = (std::net::Ipv4Addr::LOCALHOST, sidegate_tests::free_port()).into();
        let config = format!("{}{}", client_config(&identities, entry, echo.address), collector.config("https", &tls));
        let sidecar = Sidecar::start(identities.folder(), name, &config);
        sidecar.wait_ready();
        let shown = || -> BTreeSet<Vec<u8>> { collector.fake.received().into_iter().filter_map(|r| r.client).collect() };
        let before = shown();
        eventually("requests under three SVIDs", || (shown().difference(&before).count() >= 3).then_some(()));
        let (_, status, _) = sidecar.command(&["status"]);
        assert!(status.contains(" to https://localhost:") && !status.contains("FAILING"), "{status}");
        // Dead before the next begins: its certificates would count as the other's.
        drop(sidecar);
    }
    assert!(!collector.fake.received().iter().any(|r| r.client.as_ref() == Some(&leaf(&identities, "collector"))));
}

/// A collector that is somebody else gets nothing; the same one by its name and CA does.
#[test]
fn a_collector_must_be_who_it_should_be() {
    let echo = Echo::start();
    let identities = Identities::start(&["web", "collector"], HOUR);
    let entry = || (std::net::Ipv4Addr::LOCALHOST, sidegate_tests::free_port()).into();
    let (certificate, key, bundle) = identities.files("collector");
    // What stands for the system's CA certificates.
    let system = bundle.display().to_string();
    let start = |name: &str, export: &str| {
        let config = format!("{}{export}", client_config(&identities, entry(), echo.address));
        Sidecar::start_with(identities.folder(), name, &config, &[("SSL_CERT_FILE", &system)])
    };
    // The client may meet the end of the connection before it reads why; some attempt reads it.
    let failing = |sidecar: &Sidecar, why: &str| {
        eventually(why, || sidecar.log().contains(why).then_some(()));
        eventually("the same from status", || {
            let (_, status, _) = sidecar.command(&["status"]);
            (status.contains("FAILING") && status.contains(why)).then_some(())
        });
    };
    let spiffe = Collector::start_tls(&certificate, &key, None);
    let tls = format!(", tls: {{ spiffeIds: [\"{}\"] }}", id("another"));
    failing(&start("wrong-id", &spiffe.config("https", &tls)), "ApplicationVerificationFailure");
    let tls = format!(", tls: {{ ca: \"{}\" }}", bundle.display());
    failing(&start("wrong-name", &spiffe.config("https", &tls)), "not valid for name");
    assert_eq!(spiffe.fake.requests(), 0);

    // A certificate with a name, as public ones have.
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let path = |what: &str| identities.folder().join(format!("named.{what}.pem"));
    std::fs::write(path("cert"), signed.cert.pem()).unwrap();
    std::fs::write(path("key"), signed.signing_key.serialize_pem()).unwrap();
    let named = Collector::start_tls(&path("cert"), &path("key"), Some(&bundle));
    failing(&start("unknown-ca", &named.config("https", "")), "UnknownIssuer");
    let ca = format!("ca: \"{}\"", path("cert").display());
    failing(&start("no-certificate", &named.config("https", &format!(", tls: {{ {ca} }}"))), "CertificateRequired");
    assert_eq!(named.fake.requests(), 0);
    let (own, own_key, _) = identities.files("web");
    let tls = format!(", tls: {{ {ca}, certificate: \"{}\", key: \"{}\" }}", own.display(), own_key.display());
    let good = start("good", &named.config("https", &tls));
    eventually("metrics by TLS", || (named.fake.items()[1] > 0).then_some(()));
    drop(good);
}

/// Ends while the batch still waits for company: what there is goes out first.
#[test]
fn the_end_flushes() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let config = collector.config("http", "").replace("20ms", "60s").replace("100ms", "1h");
    let mut pair = Pair::start(echo.address, HOUR, &format!("{config}drain: {{ settle: 0s, quiet: 0s }}\n"));
    echo_bytes(pair.entry, 100, 1).unwrap();
    let record = pair.api.reason("closed");
    pair.api.signal(Signal::SIGTERM);
    assert!(pair.api.wait_end().success());
    let [spans, points, logs] = collector.fake.items();
    assert!(spans >= 5 && points > 10 && logs >= 3, "{spans} {points} {logs}");
    collector.trace(record["connectionId"].as_str().unwrap());
    let said: Vec<String> = collector.fake.logs().into_iter().map(|l| l.event_name).collect();
    for event in ["sidegate.lifecycle.started", "sidegate.identity.received", "sidegate.lifecycle.draining", "sidegate.lifecycle.drained"] {
        assert!(said.iter().any(|e| e == event), "{event} is missing in {said:?}");
    }
}

/// Failed connections go out up to a rate for each reason; what does not is counted, and nothing is lost between the two.
#[test]
fn a_flood_of_failures_is_exported_in_part_and_counted_whole() {
    const FLOOD: u64 = 60;
    let (collector, echo) = (Collector::start(), Echo::start());
    let config = collector
        .config("http", "")
        .replace("traces: {", "traces: { failuresPerSecond: 2,")
        .replace("logs: {", "logs: { failuresPerSecond: 3, events: false,");
    let pair = Pair::start(echo.address, HOUR, &config);
    for _ in 0..FLOOD {
        plaintext_to(pair.port);
    }
    let reason = Reason::PlaintextRefused.label();
    let counted = |labels: &str| pair.api.metric(&format!("sidegate_telemetry_dropped_total{{{labels}}}"));
    eventually("the count", || {
        let name = format!("sidegate_handshake_failures_total{{sidegate_direction=\"inbound\",error_type=\"{reason}\"}}");
        (pair.api.metric(&name) == 60.0).then_some(())
    });
    // Two spans each: the whole and its handshake.
    for (signal, item, each) in [("traces", 0, 2.0), ("logs", 2, 1.0)] {
        eventually(&format!("all {signal} to be exported or counted"), || {
            #[allow(clippy::cast_precision_loss)]
            let exported = collector.fake.items()[item] as f64;
            let dropped = counted(&format!("sidegate_telemetry_signal=\"{signal}\",sidegate_telemetry_cause=\"rate_limited\""));
            (exported > 0.0 && dropped > 0.0 && exported + dropped == 60.0 * each).then_some(())
        });
    }
}

/// The scrape shows which trace a duration is of; views and peers are as configured.
#[test]
fn the_scrape_has_exemplars_and_follows_views() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let views = "metrics: { peers: 0, views: [{ instrument: \"process.*\", drop: true }, { instrument: sidegate.bytes, name: mesh.bytes, attributes: [sidegate.flow] }],";
    let config = collector.config("http", "").replace("metrics: {", views);
    let pair = Pair::start(echo.address, HOUR, &config);
    echo_bytes(pair.entry, 1000, 1).unwrap();
    let record = pair.api.reason("closed");
    let trace = format!("# {{trace_id=\"{}\"", record["connectionId"].as_str().unwrap());
    let open_metrics = || ask(pair.api.admin, "GET", "/metrics", &[("Accept", "application/openmetrics-text")]);
    let scrape = eventually("an exemplar", || {
        let text = String::from_utf8(open_metrics()?.1).unwrap();
        (text.matches(&trace).count() == 2).then_some(text)
    });
    collector.trace(record["connectionId"].as_str().unwrap());
    let exemplified: Vec<&str> = scrape.lines().filter(|l| l.contains(&trace)).map(|l| l.split('_').nth(1).unwrap()).collect();
    assert_eq!(exemplified, ["connection", "handshake"]);
    assert!(!scrape.contains("process_") && scrape.contains("mesh_bytes_total{sidegate_flow=\"up\"} 1000\n"), "{scrape}");
    assert!(scrape.contains("sidegate_peer_connections_total{sidegate_direction=\"inbound\",sidegate_peer_spiffe_id=\"other\",sidegate_outcome=\"allowed\"} 1\n"), "{scrape}");
    let rule = format!("sidegate_decision_rule=\"{}\"", record["decision"]["rule"].as_str().unwrap());
    assert!(scrape.contains(&format!("{{sidegate_direction=\"inbound\",sidegate_decision_allowed=\"true\",{rule}}} 1\n")), "{scrape}");
    let names: BTreeSet<String> =
        eventually("metrics", || Some(collector.fake.metrics()).filter(|m| !m.is_empty())).into_iter().map(|m| m.name).collect();
    assert!(
        names.contains("mesh.bytes") && !names.contains("sidegate.bytes") && !names.iter().any(|n| n.starts_with("process.")),
        "{names:?}"
    );
}
