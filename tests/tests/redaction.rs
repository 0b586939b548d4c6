//! Secrets and payload go through everything, and come out nowhere.

use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

use prost::Message;
use sidegate_telemetry::sink::Body;
use sidegate_tests::{Collector, Echo, Pair, eventually, exchange, sidegate};

/// What must not be found: a header's value, by file and by variable, and what an application sends.
const HEADER: &str = "marked-header-3f1c";
const VARIABLE: &str = "marked-variable-77aa";
const PAYLOAD: &str = "marked-payload-e10b";

fn found(text: &[u8]) -> Option<&'static str> {
    [HEADER, VARIABLE, PAYLOAD, "PRIVATE KEY"].into_iter().find(|mark| text.windows(mark.len()).any(|w| w == mark.as_bytes()))
}

#[test]
fn nothing_marked_comes_out_anywhere() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let headers = format!(", headers: {{ x-token: {HEADER} }}");
    let pair = Pair::start(echo.address, Duration::from_secs(6), &collector.config("http", &headers));
    // As loud as it gets.
    for sidecar in [&pair.web, &pair.api] {
        let (status, _, err) = sidecar.command(&["log-filter", "trace"]);
        assert!(status.success(), "{err}");
    }
    let payload = PAYLOAD.repeat(2000);
    exchange(pair.entry, payload.as_bytes()).unwrap();
    // A refusal and a failure speak of what they saw, too.
    let _ = exchange(pair.port, format!("GET /{PAYLOAD} HTTP/1.1\r\nauthorization: {PAYLOAD}\r\n\r\n").as_bytes());
    pair.set_policy(&format!("rules: [{{ {PAYLOAD}"));
    eventually("the policy's refusal", || (pair.api.metric("sidegate_policy_reloads_total{outcome=\"failure\"}") > 0.0).then_some(()));
    pair.api.reason("plaintext_refused");
    let record = pair.api.reason("closed");
    collector.trace(record["connectionId"].as_str().unwrap());
    eventually("a rotation", || (pair.api.metric("sidegate_identity_rotations_total{outcome=\"success\"}") > 0.0).then_some(()));

    let mut open = std::net::TcpStream::connect(pair.entry).unwrap();
    open.write_all(PAYLOAD.as_bytes()).unwrap();
    open.read_exact(&mut [0; PAYLOAD.len()]).unwrap();
    let mut outputs: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, sidecar) in [("web", &pair.web), ("api", &pair.api)] {
        outputs.push((format!("{name}'s records"), format!("{:?}", sidecar.records()).into_bytes()));
        outputs.push((format!("{name}'s scrape"), sidecar.ask("/metrics").unwrap().1.into_bytes()));
        outputs.push((format!("{name}'s readiness"), sidecar.ask("/readyz").unwrap().1.into_bytes()));
        for command in [&["status"][..], &["status", "--json"], &["status", "--config"], &["connections", "--json"]] {
            let (_, out, err) = sidecar.command(command);
            outputs.push((format!("{name}'s {command:?}"), (out + &err).into_bytes()));
        }
        let log = sidecar.log();
        assert!(log.contains("\"level\":\"TRACE\""), "{name} is not as loud as it should be");
        // The mistake in the policy file is quoted from the file, which is no secret.
        let log: String = log.lines().filter(|l| !l.contains("sidegate.policy.refused")).collect();
        outputs.push((format!("{name}'s log"), log.into_bytes()));
    }
    let received = collector.sink.received();
    assert!(received.iter().all(|r| r.headers["x-token"] == HEADER), "the collector gets it, and nobody else");
    for (i, request) in received.iter().enumerate() {
        let bytes = match &request.body {
            Body::Traces(t) => t.encode_to_vec(),
            Body::Metrics(m) => m.encode_to_vec(),
            Body::Logs(l) if format!("{l:?}").contains("sidegate.policy.refused") => continue,
            Body::Logs(l) => l.encode_to_vec(),
        };
        outputs.push((format!("export {i}"), bytes));
    }
    let config = pair.identities.folder().join("api.yaml");
    for (name, arguments, text) in [
        ("the printed configuration", &["check", "--print-config"][..], None),
        (
            "a mistake beside a secret",
            &["check"],
            Some(format!("telemetry: {{ otlp: {{ headers: {{ \"a b\": {HEADER}, c: [{HEADER}] }} }} }}\n")),
        ),
        ("a mistake in a secret", &["check"], Some(format!("telemetry: {{ otlp: {{ headers: {{ a: \"{HEADER}\\u0007\" }} }} }}\n"))),
    ] {
        let file = pair.identities.folder().join("mistake.yaml");
        std::fs::write(&file, text.unwrap_or_else(|| std::fs::read_to_string(&config).unwrap())).unwrap();
        let mut command = Command::new(sidegate());
        command.args(arguments).arg("--config").arg(&file);
        command.env("OTEL_EXPORTER_OTLP_LOGS_HEADERS", format!("a={VARIABLE}"));
        let output = command.output().unwrap();
        outputs.push((name.to_owned(), [output.stdout, output.stderr].concat()));
        let mut command = Command::new(sidegate());
        command.args(arguments).arg("--config").arg(&file).env("OTEL_EXPORTER_OTLP_HEADERS", VARIABLE);
        let output = command.output().unwrap();
        assert!(!output.status.success(), "a list without = is a mistake");
        outputs.push((format!("{name}, and one in a variable"), [output.stdout, output.stderr].concat()));
    }
    for (name, bytes) in &outputs {
        assert!(!bytes.is_empty(), "{name} is empty");
        if let Some(mark) = found(bytes) {
            panic!("{mark} is in {name}:\n{}", String::from_utf8_lossy(bytes));
        }
    }
    assert!(outputs.iter().any(|(_, bytes)| bytes.windows(10).any(|w| w == b"[redacted]")), "it says that something is left out");
}
