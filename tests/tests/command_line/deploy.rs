//! What an operator installs for telemetry: alerts, dashboard, collector. Held against the code, and tried with the real
//! programs.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use flate2::read::GzDecoder;
use serde_json::Value;
use sidegate_core::Reason;
use sidegate_telemetry::{INSTRUMENTS, InstrumentKind, METRIC_ATTRIBUTES};
use sidegate_tests::{Collector, Echo, Pair, Process, ask, echo_bytes, eventually, free_port, get, program, skipped};

const HOUR: Duration = Duration::from_secs(3600);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// Every name that a scrape may hold.
fn scraped() -> BTreeSet<String> {
    let names = INSTRUMENTS.iter().flat_map(|i| {
        let name = i.prometheus_name();
        match i.kind {
            InstrumentKind::Histogram => ["_bucket", "_count", "_sum"].map(|suffix| format!("{name}{suffix}")).into(),
            _ => vec![name],
        }
    });
    names.collect()
}

/// The words in `text` that look like one of our metrics.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let labels: BTreeSet<String> = METRIC_ATTRIBUTES.iter().map(|(name, _, _)| label(name)).collect();
    let metric = |w: &&str| (w.starts_with("sidegate_") || w.starts_with("process_")) && *w != "sidegate_" && !labels.contains(*w);
    words.filter(metric).map(str::to_owned).collect()
}

/// An attribute as a label.
fn label(attribute: &str) -> String {
    attribute.replace('.', "_")
}

/// The PromQL of the dashboard's panels.
fn dashboard() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(entries) => {
                found.extend(entries.get("expr").and_then(Value::as_str).map(str::to_owned));
                entries.values().for_each(|child| collect(child, found));
            }
            Value::Array(items) => items.iter().for_each(|child| collect(child, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(&serde_json::from_str(&read("deploy/grafana/sidegate.json")).unwrap(), &mut found);
    found
}

/// Whatever counts failures leaves out the same reasons: those that the code takes for none.
#[test]
fn what_is_no_failure_is_the_same_everywhere() {
    let no_failure: Vec<&str> = Reason::ALL.iter().filter(|reason| !reason.is_failure()).map(|reason| reason.label()).collect();
    let selector = no_failure.join("|");
    let mut found = 0;
    for file in
        ["deploy/grafana/sidegate.json", "deploy/prometheus/alerts.yaml", "docs/how-to/investigate.md", "docs/how-to/troubleshoot.md"]
    {
        for part in read(file).replace("\\\"", "\"").split("reason!~\"").skip(1) {
            assert_eq!(part.split('"').next(), Some(&*selector), "{file}");
            found += 1;
        }
    }
    assert!(found >= 2, "the dashboard and the docs count failures");
    let listed = no_failure.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
    assert!(
        read("docs/explanation/observability.md").contains(&format!("No failures are {listed}: ")),
        "docs/explanation/observability.md lists {listed}"
    );
}

#[test]
fn dashboard_and_alerts_ask_for_metrics_that_exist() {
    let known = scraped();
    let queries = dashboard();
    assert!(queries.len() > 25, "{}", queries.len());
    let mut used = BTreeSet::new();
    for text in queries.iter().chain([&read("deploy/prometheus/alerts.yaml"), &read("deploy/prometheus/alerts_test.yaml")]) {
        let asked = metrics_in(text);
        let unknown: Vec<&String> =
            asked.iter().filter(|name| !known.contains(*name) && !known.contains(&format!("{name}_bucket"))).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {text}");
        used.extend(asked);
    }
    // What nobody looks at is not worth counting.
    for instrument in INSTRUMENTS.iter().filter(|i| i.name != "sidegate.build.info") {
        let name = instrument.prometheus_name();
        assert!(used.iter().any(|u| u.starts_with(&name)), "no panel and no alert uses {name}");
    }
}

/// A selector with a label that its metric does not have finds nothing.
#[test]
fn dashboard_and_alerts_select_by_labels_that_exist() {
    // What Prometheus adds, and histograms.
    let always = ["job", "instance", "namespace", "pod", "le"].map(str::to_owned);
    let others = ["docs/how-to/investigate.md", "docs/explanation/observability.md", "docs/reference/policy.md"].map(read);
    let mut checked = 0;
    for text in
        dashboard().iter().chain([&read("deploy/prometheus/alerts.yaml"), &read("deploy/prometheus/alerts_test.yaml")]).chain(&others)
    {
        for instrument in INSTRUMENTS {
            let name = instrument.prometheus_name();
            let labels: BTreeSet<String> = instrument.attributes.iter().map(|a| label(a)).chain(always.clone()).collect();
            for suffix in ["", "_bucket", "_count", "_sum"] {
                for selector in text.split(&format!("{name}{suffix}{{")).skip(1) {
                    let selector = selector.split('}').next().unwrap();
                    let words = selector.split('"').step_by(2).map(|word| word.trim_matches([',', ' ', '=', '~', '!']));
                    for word in words.filter(|word| !word.is_empty()) {
                        assert!(labels.contains(word), "{name} has no label `{word}`: {selector}");
                        checked += 1;
                    }
                }
            }
        }
    }
    assert!(checked > 200, "{checked}");
}

/// A reason that a query names must be one, or it would never find anything.
#[test]
fn reasons_in_queries_are_reasons() {
    let labels: BTreeSet<&str> = Reason::ALL.iter().map(|r| r.label()).collect();
    let alerts = read("deploy/prometheus/alerts.yaml");
    let mut checked = 0;
    for text in dashboard().iter().chain([&alerts]) {
        for matcher in ["sidegate_reason", "error_type"].iter().flat_map(|label| text.split(label).skip(1)) {
            let Some(quoted) = matcher.trim_start_matches(['=', '~', '!']).strip_prefix('"').filter(|_| matcher.starts_with(['=', '!']))
            else {
                continue;
            };
            for reason in quoted.split('"').next().unwrap().split('|').filter(|r| !r.contains(['$', '.', '*'])) {
                assert!(labels.contains(reason), "`{reason}` in {text}");
                checked += 1;
            }
        }
    }
    assert!(checked > 3, "{checked}");
}

#[test]
fn alerts_pass_their_own_tests() {
    let Some(promtool) = program("promtool") else { return skipped("promtool is not installed") };
    let folder = tempfile::tempdir().unwrap();
    // The dashboard's queries as rules, since promtool reads those; its variables stand for something.
    let quoted = |q: &String| {
        let plain = q.replace("$__rate_interval", "5m").replace("$__range", "1h").replace("$__interval", "1m");
        serde_json::to_string(&plain.replace("$job", "sidegate").replace("$instance", ".*")).unwrap()
    };
    let rules: Vec<String> =
        dashboard().iter().enumerate().map(|(i, q)| format!("  - {{ record: \"q{i}\", expr: {} }}\n", quoted(q))).collect();
    let queries = folder.path().join("dashboard.yaml");
    std::fs::write(&queries, format!("groups:\n- name: dashboard\n  rules:\n{}", rules.concat())).unwrap();
    let queries = queries.display().to_string();
    for arguments in [
        &["check", "rules", "deploy/prometheus/alerts.yaml"][..],
        &["test", "rules", "deploy/prometheus/alerts_test.yaml"],
        &["check", "rules", &queries],
        &["check", "config", "--syntax-only", "deploy/prometheus/scrape.yaml"],
    ] {
        let output = Command::new(&promtool).args(arguments).current_dir(root()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "promtool {arguments:?}\n{}", String::from_utf8_lossy(&text));
    }
}

/// A real Prometheus scrapes a real sidecar: it understands every line, and finds the trace behind a duration.
#[test]
fn a_real_prometheus_scrapes_metrics_and_exemplars() {
    let Some(prometheus) = program("prometheus") else { return skipped("prometheus is not installed") };
    // Exemplars are of traces that are exported.
    let (collector, echo) = (Collector::start(), Echo::start());
    let pair = Pair::start(echo.address, HOUR, &collector.config("http", ""));
    echo_bytes(pair.entry, 1000, 1).unwrap();
    let record = pair.api.reason("closed");
    let folder = pair.identities.folder();
    let config = folder.join("prometheus.yaml");
    let target = pair.api.admin;
    std::fs::write(
        &config,
        format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs: [{{ job_name: sidegate, static_configs: [{{ targets: [\"{target}\"] }}] }}]\n"
        ),
    )
    .unwrap();
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let mut command = Command::new(prometheus);
    command.arg(format!("--config.file={}", config.display())).arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()));
    command.arg(format!("--web.listen-address={address}")).arg("--enable-feature=exemplar-storage");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut process = Process::start(command, &folder.join("prometheus.log"));
    let address = address.parse().unwrap();
    process.wait_listening(address);
    let ask = |path: &str| -> Option<Value> {
        let (status, body) = get(address, path)?;
        // A long answer comes in chunks, whose lengths stand between the lines.
        let json: String = body.lines().filter(|l| l.starts_with('{') || l.starts_with('"') || l.starts_with('[')).collect();
        (status == 200).then(|| serde_json::from_str(&json).ok())?
    };
    let names = eventually("the names of metrics", || {
        let answer = ask("/api/v1/label/__name__/values")?;
        let names: BTreeSet<String> = answer["data"].as_array()?.iter().map(|n| n.as_str().unwrap().to_owned()).collect();
        // Prometheus' own, which it adds when it has the whole scrape: until then names come one after the other.
        names.contains("scrape_series_added").then_some(names)
    });
    // Nothing fails here, nothing is captured, and there is no cluster.
    let of_a_cluster = ["sidegate_capture_proven", "sidegate_directory_addresses", "sidegate_directory_reachable"];
    let may_be_absent = |name: &str| name.contains("failures") || of_a_cluster.contains(&name);
    let absent: Vec<String> = scraped().into_iter().filter(|name| !names.contains(name) && !may_be_absent(name)).collect();
    assert!(absent.is_empty(), "{absent:?} were not understood; there are {names:?}");
    let trace = record["connectionId"].as_str().unwrap();
    eventually("the exemplar", || {
        let answer = ask("/api/v1/query_exemplars?query=sidegate_handshake_duration_seconds_bucket&start=0&end=9999999999")?;
        answer.to_string().contains(trace).then_some(())
    });
}

/// Each scraper gets the format that it asks for, gzip too; what needs no asking is text that promtool reads.
#[test]
fn the_scrape_comes_in_the_format_that_a_client_prefers() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let pair = Pair::start(echo.address, HOUR, &collector.config("http", ""));
    echo_bytes(pair.entry, 1000, 1).unwrap();
    let trace = format!("trace_id=\"{}\"", pair.api.reason("closed")["connectionId"].as_str().unwrap());
    let scrape = |method: &str, headers: &[(&str, &str)]| {
        let (head, body) = ask(pair.api.admin, method, "/metrics", headers).unwrap();
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200 ") && head.contains("\r\nvary: accept, accept-encoding"), "{head}");
        (head, body)
    };
    let unzipped = |body: &[u8]| {
        let mut text = String::new();
        GzDecoder::new(body).read_to_string(&mut text).unwrap();
        text
    };
    let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    let open_metrics = eventually("an exemplar", || {
        let (head, body) = scrape("GET", &[("Accept", prometheus), ("Accept-Encoding", "gzip")]);
        let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores";
        assert!(head.contains(kind) && head.contains("content-encoding: gzip"), "{head}");
        // The lag of the runtime is first measured after a second.
        Some(unzipped(&body)).filter(|text| text.contains(&trace) && text.contains("sidegate_runtime_lag_seconds_count"))
    });
    assert!(open_metrics.ends_with("# EOF\n") && open_metrics.contains("# UNIT "), "{open_metrics}");
    // What curl sends, and what an old scraper sends.
    for accept in ["*/*", "text/plain;version=0.0.4;q=1,application/openmetrics-text;q=0.5"] {
        let (head, plain) = scrape("GET", &[("Accept", accept)]);
        assert!(
            head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n") && !head.contains("content-encoding"),
            "{head}"
        );
        let plain = String::from_utf8(plain).unwrap();
        assert!(!plain.contains("trace_id") && !plain.contains("# EOF") && !plain.contains("# UNIT "), "{plain}");
        let names = |text: &str| -> BTreeSet<String> {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&plain), names(&open_metrics));
        let (head, zipped) = scrape("GET", &[("Accept", accept), ("Accept-Encoding", "br;q=1.0, gzip;q=0.8, *;q=0.1")]);
        assert!(head.contains("content-encoding: gzip"), "{head}");
        assert_eq!(names(&unzipped(&zipped)), names(&plain));
        let Some(promtool) = program("promtool") else { return skipped("promtool is not installed") };
        let file = pair.identities.folder().join("scrape.txt");
        std::fs::write(&file, &plain).unwrap();
        let mut command = Command::new(promtool);
        let output = command.args(["check", "metrics"]).stdin(std::fs::File::open(&file).unwrap()).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        // The name is OpenTelemetry's, whose suffix promtool would keep for histograms.
        let of_name = "process_unix_file_descriptor_count non-histogram and non-summary metrics should not have \"_count\" suffix\n";
        assert_eq!(said, of_name, "promtool");
    }
    let (head, body) = scrape("HEAD", &[("Accept-Encoding", "gzip")]);
    assert!(head.contains("content-encoding: gzip") && body.is_empty(), "{head}");
}

/// The ready-made configuration, in a real collector: it takes the three signals, by gRPC, HTTP and Unix socket.
#[test]
fn a_real_collector_takes_the_three_signals() {
    // Its build takes minutes: `.ci/full` makes one.
    let Some(otelcol) = std::env::var_os("SIDEGATE_TEST_OTELCOL") else {
        return eprintln!(
            "SKIPPED a_real_collector_takes_the_three_signals: SIDEGATE_TEST_OTELCOL names no collector; .ci/full builds one"
        );
    };
    let echo = Echo::start();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (grpc, http) = (free_port(), free_port());
    let mut command = Command::new(otelcol);
    command.arg("--config").arg(root().join("deploy/otel/collector.yaml"));
    for (key, value) in [
        ("exporters.debug.verbosity", "detailed".to_owned()),
        ("receivers.otlp.protocols.grpc.endpoint", format!("127.0.0.1:{grpc}")),
        ("receivers.otlp.protocols.http.endpoint", format!("127.0.0.1:{http}")),
        ("receivers.otlp/unix.protocols.grpc.endpoint", path("grpc.sock")),
        ("receivers.otlp/unix.protocols.http.endpoint", path("http.sock")),
        ("processors.batch.timeout", "100ms".to_owned()),
        ("service.telemetry.metrics.level", "none".to_owned()),
    ] {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut process = Process::start(command, &folder.path().join("otelcol.log"));
    process.wait_listening(([127, 0, 0, 1], grpc).into());
    process.wait_listening(([127, 0, 0, 1], http).into());
    for (endpoint, more) in [
        (format!("http://127.0.0.1:{grpc}"), ""),
        (format!("http://127.0.0.1:{grpc}"), ", compression: gzip"),
        (format!("http://127.0.0.1:{http}"), ", protocol: http/protobuf"),
        (format!("http://127.0.0.1:{http}"), ", protocol: http/protobuf, compression: gzip"),
        (format!("unix://{}", path("grpc.sock")), ""),
        (format!("unix://{}", path("http.sock")), ", protocol: http/protobuf"),
    ] {
        let config = format!(
            "telemetry: {{ otlp: {{ endpoint: \"{endpoint}\"{more} }}, metrics: {{ interval: 1s }}, traces: {{ batch: {{ delay: 20ms }} }}, logs: {{ batch: {{ delay: 20ms }} }} }}\n"
        );
        let before = process.log().len();
        let pair = Pair::start(echo.address, HOUR, &config);
        echo_bytes(pair.entry, 1000, 1).unwrap();
        let trace = pair.api.reason("closed")["connectionId"].as_str().unwrap().to_owned();
        // Its span, its log record, its histogram with the trace as example, each as the collector prints it.
        eventually(&format!("the three signals by {endpoint}{more}"), || {
            let log = process.log().split_off(before);
            let span = log.contains(&format!("Trace ID       : {trace}"));
            let record = log.contains(&format!("\nTrace ID: {trace}"));
            let example = log.contains(&format!("-> Trace ID: {trace}"));
            (span && record && example && log.contains("sidegate.handshake.duration")).then_some(())
        });
        let exports = pair.api.command(&["status"]).1;
        assert!(!exports.contains("FAILING"), "{exports}");
    }
}

/// Everything that is logged has a name, and the name is in the reference.
#[test]
fn every_event_has_a_name() {
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        // The devkit is no part of what runs in production.
        if !folder.ends_with("devkit") {
            sources(&folder.join("src"), &mut files);
        }
    }
    let (mut calls, mut used) = (0, BTreeSet::new());
    for file in files {
        let whole = std::fs::read_to_string(&file).unwrap();
        let text = whole.split("\n#[cfg(test)]").next().unwrap();
        let levels = ["tracing::error!(", "tracing::warn!(", "tracing::info!(", "tracing::debug!(", "tracing::trace!("];
        for call in levels.iter().flat_map(|level| text.split(level).skip(1)) {
            if call.contains("SPIFFE_ENDPOINT_SOCKET=unix") && file.ends_with("sidegate/src/authority.rs") {
                continue;
            }
            let name = call.trim_start().strip_prefix("event = event::");
            let name =
                name.unwrap_or_else(|| panic!("{}: an event without a name: {}", file.display(), call.lines().take(3).collect::<String>()));
            used.insert(name.split(|c: char| !c.is_ascii_uppercase() && c != '_' && !c.is_ascii_digit()).next().unwrap().to_lowercase());
            calls += 1;
        }
    }
    assert!(calls > 30, "{calls}");
    // Each name of the reference is in use: by a call, or as the log record of a connection or of the audit log.
    assert_eq!(used.len() + 2, sidegate_core::event::EVENTS.len(), "{used:?}");
}
