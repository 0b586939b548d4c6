//! Further destinations of the audit log: syslog over TLS, alive and dead, and standard output.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use sidegate_devkit::fake_collector::otlp::common::v1::any_value;
use sidegate_tests::{AuditLog, Collector, Echo, Identities, Pair, Sidecar, client_config, echo_bytes, eventually, free_port, id};

const HOUR: Duration = Duration::from_secs(3600);

/// Messages by syslog: the header without its length, and the record.
type Messages = Arc<Mutex<Vec<(String, Value)>>>;

/// Takes syslog over TLS from clients of the mesh.
fn siem(port: u16, identities: &Identities) -> Messages {
    let (certificate, key, bundle) = identities.files("siem");
    let certificates = |file: &Path| CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&bundle));
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&certificate), PrivateKeyDer::from_pem_file(key).unwrap());
    let config = Arc::new(config.unwrap());
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let messages = Messages::default();
    let all = messages.clone();
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), tcp.unwrap());
            let messages = messages.clone();
            std::thread::spawn(move || take(stream, &messages));
        }
    });
    all
}

/// Reads messages, each with its length before it (RFC 5425 §4.3), until the client is gone.
fn take(mut stream: impl Read, messages: &Messages) {
    loop {
        let mut length = String::new();
        while !length.ends_with(' ') {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_err() {
                return;
            }
            length.push(char::from(byte[0]));
        }
        let mut message = vec![0; length.trim().parse().unwrap()];
        if stream.read_exact(&mut message).is_err() {
            return;
        }
        let text = String::from_utf8(message).unwrap();
        let (header, json) = text.split_at(text.find('{').unwrap());
        messages.lock().unwrap().push((header.to_owned(), serde_json::from_str(json).unwrap()));
    }
}

/// While it is dead new connections are refused; when it comes back it gets what has waited, in order. What it misses, which
/// are records of refusals, is counted.
#[test]
fn a_dead_syslog_that_blocks_refuses_connections_until_it_is_back() {
    let (echo, port) = (Echo::start(), free_port());
    let copies = format!(
        ", copies: [{{ syslog: {{ to: \"127.0.0.1:{port}\", tls: {{ spiffeIds: [\"{}\"], svid: true }} }}, queue: 64, onFailure: block-new-connections }}]",
        id("siem")
    );
    let pair = Pair::start(echo.address, HOUR, &AuditLog::config("", &copies));
    let refused = |sidecar: &Sidecar| sidecar.records().iter().any(|r| r["reason"] == "audit_unavailable");
    eventually("a refusal", || {
        let _ = echo_bytes(pair.entry, 100, 1);
        (refused(&pair.web) || refused(&pair.api)).then_some(())
    });
    let messages = siem(port, &pair.identities);
    eventually("a connection", || echo_bytes(pair.entry, 77, 1).ok());
    for (name, sidecar) in [("web", &pair.web), ("api", &pair.api)] {
        let pid = format!(" sidegate {} ", sidecar.pid());
        let seqs = || -> Vec<u64> {
            let messages = messages.lock().unwrap();
            messages.iter().filter(|(header, _)| header.contains(&pid)).map(|(_, record)| record["seq"].as_u64().unwrap()).collect()
        };
        let ended =
            AuditLog::of(&pair.identities, name).record("an end", |r| r["event"] == "connection.ended" && r["connection"]["bytesUp"] == 77);
        let last = ended["seq"].as_u64().unwrap();
        eventually("all records", || seqs().contains(&last).then_some(()));
        let seqs = seqs();
        assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{seqs:?}");
        let lost = sidecar
            .metric("sidegate_telemetry_dropped_total{sidegate_telemetry_signal=\"audit_copies\",sidegate_telemetry_cause=\"queue_full\"}");
        let missed = (1..=last).filter(|seq| !seqs.contains(seq)).count();
        assert_eq!(missed as f64, lost, "{seqs:?}");
    }
    let messages = messages.lock().unwrap();
    for (header, record) in messages.iter() {
        let fields: Vec<&str> = header.split(' ').collect();
        assert_eq!((fields[0], fields[1], fields[3 + 3]), ("<109>1", record["time"].as_str().unwrap(), "-"), "{header}");
        assert_eq!(fields[5], record["event"]);
    }
}

/// A destination that may be dead: nothing waits for it.
#[test]
fn a_dead_syslog_that_drops_costs_only_its_copies() {
    let (echo, port) = (Echo::start(), free_port());
    let copies = format!(
        ", copies: [{{ syslog: {{ to: \"127.0.0.1:{port}\", tls: {{ spiffeIds: [\"{}\"], svid: true }} }}, queue: 16 }}]",
        id("siem")
    );
    let pair = Pair::start(echo.address, HOUR, &AuditLog::config("", &copies));
    eventually("a loss", || {
        echo_bytes(pair.entry, 100, 1).expect("connections go on");
        (pair
            .api
            .metric("sidegate_telemetry_dropped_total{sidegate_telemetry_signal=\"audit_copies\",sidegate_telemetry_cause=\"queue_full\"}")
            > 0.0)
            .then_some(())
    });
    assert_eq!(AuditLog::of(&pair.identities, "api").proved()["missing"], 0);
    assert!(pair.api.log().contains(&format!("audit records don't reach syslog 127.0.0.1:{port}")), "{}", pair.api.log());
}

/// The same records as log records, the last one too.
#[test]
fn records_go_to_the_collector() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let more = format!(
        "{}{}drain: {{ settle: 0s, quiet: 50ms }}\n",
        collector.config("http", ""),
        AuditLog::config("", ", copies: [{ otlp: true }]")
    );
    let mut pair = Pair::start(echo.address, HOUR, &more);
    echo_bytes(pair.entry, 100, 1).unwrap();
    pair.api.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(pair.api.wait_end().success());
    let written = AuditLog::of(&pair.identities, "api").records();
    let exported: Vec<Value> = collector
        .fake
        .logs()
        .into_iter()
        .filter(|log| log.event_name == "sidegate.audit.record")
        .map(|log| match log.body.unwrap().value.unwrap() {
            any_value::Value::StringValue(json) => serde_json::from_str(&json).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    let missing: Vec<&Value> = written.iter().filter(|record| !exported.contains(record)).collect();
    assert!(missing.is_empty() && written.last().unwrap()["cause"] == "shutdown", "{missing:#?}");
}

/// Instead of the access log; without any file the chain begins anew with each process.
#[test]
fn records_go_to_standard_output() {
    let identities = Identities::start(&["web"], HOUR);
    let config = client_config(&identities, ([127, 0, 0, 1], free_port()).into(), ([127, 0, 0, 1], free_port()).into());
    let more = "accessLog: { format: off }\naudit: { copies: [{ stdout: true }] }\n";
    let sidecar = Sidecar::start(identities.folder(), "web", &format!("{config}{more}"));
    sidecar.wait_ready();
    let svid = sidecar.record("the SVID", |r| r["event"] == "identity.received");
    assert_eq!(svid["svid"]["spiffeId"], id("web"));
    let seqs: Vec<u64> = sidecar.records().iter().map(|r| r["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
}
