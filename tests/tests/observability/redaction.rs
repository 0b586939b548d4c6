//! Secrets and payload go through everything, and come out nowhere.

use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

use prost::Message;
use sidegate_devkit::fake_collector::Body;
use sidegate_tests::{AuditLog, Collector, Echo, Identities, Pair, Sidecar, eventually, exchange, sidegate};

/// What must not be found: a header's value, by file and by variable, and what an application sends.
const HEADER: &str = "marked-header-3f1c";
const VARIABLE: &str = "marked-variable-77aa";
const PAYLOAD: &str = "marked-payload-e10b";

/// As it is, in hexadecimal, and as numbers in a list.
fn found(text: &[u8]) -> Option<&'static str> {
    let has = |form: &str| text.windows(form.len()).any(|w| w == form.as_bytes());
    [HEADER, VARIABLE, PAYLOAD, "PRIVATE KEY"].into_iter().find(|mark| {
        let hex: String = mark.bytes().map(|b| format!("{b:02x}")).collect();
        let numbers = mark.bytes().map(|b| b.to_string()).collect::<Vec<_>>().join(", ");
        has(mark) || has(&hex) || has(&numbers)
    })
}

#[test]
fn nothing_marked_comes_out_anywhere_by_grpc() {
    nothing_marked_comes_out_anywhere("grpc");
}

#[test]
fn nothing_marked_comes_out_anywhere_by_http() {
    nothing_marked_comes_out_anywhere("http/protobuf");
}

/// A key whose lines have run together is no PEM any more, and what says so must not quote it.
#[test]
fn a_damaged_key_is_not_quoted() {
    let identities = Identities::start(&["web"], Duration::from_secs(3600));
    let (certificate, key, bundle) = identities.files("web");
    let lines: Vec<String> = std::fs::read_to_string(&key).unwrap().lines().map(str::to_owned).collect();
    std::fs::write(&key, lines.concat()).unwrap();
    let (certificate, key, bundle) = (certificate.display(), key.display(), bundle.display());
    let sidecar = Sidecar::start(
        identities.folder(),
        "web",
        &format!(
            "profile: development\nidentity: {{ sources: [{{ files: {{ certificate: {certificate}, key: {key}, bundle: {bundle} }} }}, {{ workloadApi: {{ socket: \"unix://{}\" }} }}] }}\n\
             inbound: {{ listen: null }}\noutbound: {{ listen: null, listen6: null }}\n\
             telemetry: {{ otlp: {{ endpoint: \"https://localhost:1\", tls: {{ ca: {bundle}, certificate: {certificate}, key: {key} }} }}, metrics: {{ interval: 100ms }} }}\n",
            identities.socket("web").display()
        ),
    );
    sidecar.wait_ready();
    let status = eventually("both to fail", || {
        let (_, status, _) = sidecar.command(&["status"]);
        let words = status.split_whitespace().collect::<Vec<_>>().join(" ");
        (words.matches("holds no PEM private key").count() >= 2).then_some(words)
    });
    // As text, and as numbers in a list.
    let of_key = &lines[1][..16];
    let numbers = of_key.bytes().map(|b| b.to_string()).collect::<Vec<_>>().join(", ");
    let (_, json, _) = sidecar.command(&["status", "--json"]);
    let ready = sidecar.ask("/readyz").unwrap().1;
    for text in [status, json, ready, sidecar.log()] {
        assert!(!text.contains(of_key) && !text.contains(&numbers), "{text}");
    }
}

fn nothing_marked_comes_out_anywhere(protocol: &str) {
    let (collector, echo) = (Collector::start(), Echo::start());
    let headers = format!(", protocol: {protocol}, headers: {{ x-token: {HEADER} }}");
    let pair =
        Pair::start(echo.address, Duration::from_secs(6), &format!("{}{}", collector.config("http", &headers), AuditLog::config("", "")));
    // As loud as it gets.
    for sidecar in [&pair.web, &pair.api] {
        let (status, _, err) = sidecar.command(&["log-filter", "trace,rustls=trace"]);
        assert!(status.success(), "{err}");
    }
    let payload = PAYLOAD.repeat(2000);
    exchange(pair.entry, payload.as_bytes()).unwrap();
    // A refusal and a failure speak of what they saw, too.
    let _ = exchange(pair.port, format!("GET /{PAYLOAD} HTTP/1.1\r\nauthorization: {PAYLOAD}\r\n\r\n").as_bytes());
    pair.set_policy(&format!("rules: [{{ {PAYLOAD}"));
    eventually("the policy's refusal", || {
        (pair.api.metric("sidegate_policy_reloads_total{sidegate_outcome=\"failure\"}") > 0.0).then_some(())
    });
    pair.api.reason("plaintext_refused");
    let record = pair.api.reason("closed");
    collector.trace(record["connectionId"].as_str().unwrap());
    eventually("a rotation", || (pair.api.metric("sidegate_identity_rotations_total{sidegate_outcome=\"success\"}") > 0.0).then_some(()));

    let mut open = std::net::TcpStream::connect(pair.entry).unwrap();
    open.write_all(PAYLOAD.as_bytes()).unwrap();
    open.read_exact(&mut [0; PAYLOAD.len()]).unwrap();
    let mut outputs: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, sidecar) in [("web", &pair.web), ("api", &pair.api)] {
        outputs.push((format!("{name}'s records"), format!("{:?}", sidecar.records()).into_bytes()));
        outputs.push((format!("{name}'s scrape"), sidecar.ask("/metrics").unwrap().1.into_bytes()));
        outputs.push((format!("{name}'s readiness"), sidecar.ask("/readyz").unwrap().1.into_bytes()));
        for command in [&["status"][..], &["status", "--json"], &["status", "--print-config"], &["connections", "--json"]] {
            let (_, out, err) = sidecar.command(command);
            outputs.push((format!("{name}'s {command:?}"), (out + &err).into_bytes()));
        }
        let log = sidecar.log();
        assert!(log.contains("\"level\":\"TRACE\""), "{name} is not as loud as it should be");
        // The mistake in the policy file is quoted from the file, which is no secret.
        let log: String = log.lines().filter(|l| !l.contains("sidegate.policy.refused")).collect();
        outputs.push((format!("{name}'s log"), log.into_bytes()));
    }
    for name in ["web", "api"] {
        let log = AuditLog::of(&pair.identities, name);
        log.record("what was just received", |r| r["event"] == "identity.rotated");
        for file in sidegate_audit::folder::files(&log.folder).unwrap() {
            outputs.push((format!("{name}'s audit log"), std::fs::read(file).unwrap()));
        }
        let folder = log.folder.display().to_string();
        for command in [&["show"][..], &["verify"], &["report", "--allow-unproved"]] {
            let (_, out, err) = AuditLog::command(&[command, &[&folder]].concat());
            outputs.push((format!("audit {command:?} of {name}"), (out + &err).into_bytes()));
        }
    }
    let received = collector.fake.received();
    assert!(received.iter().all(|r| r.headers["x-token"] == HEADER), "the collector gets it, and nobody else");
    for (i, request) in received.iter().enumerate() {
        let bytes = match &request.body {
            Body::Traces(t) => t.encode_to_vec(),
            Body::Metrics(m) => m.encode_to_vec(),
            Body::Logs(l) => {
                let mut logs = l.clone();
                let records = logs.resource_logs.iter_mut().flat_map(|r| &mut r.scope_logs).map(|s| &mut s.log_records);
                records.for_each(|records| records.retain(|r| r.event_name != "sidegate.policy.refused"));
                logs.encode_to_vec()
            }
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
        let said = String::from_utf8_lossy(&output.stderr);
        // A file with mistakes is refused as before; the variable is ignored, with a warning.
        assert!(
            !output.status.success() || said.contains("warning: environment variable OTEL_EXPORTER_OTLP_HEADERS: is not a list"),
            "{said}"
        );
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
