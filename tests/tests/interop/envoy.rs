//! A real Envoy as the peer, in both directions: mutual TLS by SPIFFE, bytes, half-close, and each side's refusal.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use sidegate_tests::{Echo, Envoy, Gate, Identities, Owner, echo_bytes, eventually, exchange, id, program, read_all, skipped};

const HOUR: Duration = Duration::from_secs(3600);
const LARGE: usize = 8 << 20;

/// Who takes part: sidegate is web or api, Envoy is envoy.
fn identities() -> Option<Identities> {
    if program("envoy").is_none() {
        skipped("no envoy on PATH or in SIDEGATE_TEST_ENVOY");
        return None;
    }
    Some(Identities::start(&["web", "api", "envoy", "other"], HOUR))
}

fn envoy_server(identities: &Identities, client: &str, app: SocketAddr) -> Envoy {
    Envoy::server(identities, "envoy", client, app).unwrap()
}

fn envoy_client(identities: &Identities, server: &str, gate: &Gate) -> Envoy {
    Envoy::client(identities, "envoy", server, gate.address).unwrap()
}

/// `echo_bytes` sends all, half-closes and reads to the end, so the large transfer runs both ways at once and each
/// FIN has to pass through both proxies on its own.
#[test]
fn sidegate_calls_envoy() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let envoy = envoy_server(&identities, "web", app.address);
    let gate = Owner::of(&identities, "web").outbound(&id("envoy"), envoy.address).ready();

    for (length, seed) in [(0, 1), (1, 2), (LARGE, 3), (LARGE, 4)] {
        echo_bytes(gate.address, length, seed).unwrap();
    }
    let record = gate.sidecar.record("a large transfer", |r| r["bytesUp"] == LARGE);
    assert_eq!(record["reason"], "closed", "{record}");
    assert_eq!(record["bytesDown"], LARGE);
    assert_eq!(record["localId"], id("web"));
    assert_eq!(record["peerId"], id("envoy"));
    assert_eq!(record["tls"]["version"], "1.3");
    assert_eq!(record["tls"]["group"], "X25519MLKEM768");
    assert_eq!(gate.sidecar.record("nothing sent", |r| r["bytesUp"] == 0)["reason"], "closed");
    // Envoy saw the same.
    let (client, bytes) = (format!("client={} ", id("web")), format!("up={LARGE} down={LARGE} "));
    envoy.wait_access(&[&client, &bytes, "version=TLSv1.3 ", "flags=- "]);
}

#[test]
fn envoy_calls_sidegate() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let gate = Owner::of(&identities, "api").inbound(&[&id("envoy")], app.address).ready();
    let envoy = envoy_client(&identities, "api", &gate);

    for (length, seed) in [(0, 1), (1, 2), (LARGE, 3), (LARGE, 4)] {
        echo_bytes(envoy.address, length, seed).unwrap();
    }
    let record = gate.sidecar.record("a large transfer", |r| r["bytesUp"] == LARGE);
    assert_eq!(record["reason"], "closed", "{record}");
    assert_eq!(record["bytesDown"], LARGE);
    assert_eq!(record["localId"], id("api"));
    assert_eq!(record["peerId"], id("envoy"));
    assert_eq!(record["decision"]["allowed"], true);
    assert_eq!(record["tls"]["version"], "1.3");
    let (server, bytes) = (format!("server={} ", id("api")), format!("up={LARGE} down={LARGE} "));
    envoy.wait_access(&[&server, &bytes, "flags=- "]);
}

/// Envoy's certificate is good, but no rule lets it in: its connection is reset before the application hears of it.
#[test]
fn sidegates_policy_refuses_envoy() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let gate = Owner::of(&identities, "api").inbound(&[&id("web")], app.address).ready();
    let envoy = envoy_client(&identities, "api", &gate);

    assert!(nothing_comes(envoy.address));
    let record = gate.sidecar.reason("denied_by_default");
    assert_eq!(record["peerId"], id("envoy"));
    assert_eq!(record["decision"]["allowed"], false);
    envoy.wait_access(&["down=0 "]);
    assert_eq!(app.accepted.load(Ordering::Relaxed), 0);
}

/// Envoy lets web in and proves who it is, but web wants somebody else.
#[test]
fn sidegate_wants_another_than_envoy() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let envoy = envoy_server(&identities, "web", app.address);
    let gate = Owner::of(&identities, "web").outbound(&id("other"), envoy.address).ready();

    assert!(nothing_comes(gate.address));
    let record = gate.sidecar.reason("unexpected_peer");
    assert_eq!(record["peerId"], id("envoy"));
    assert_eq!(record["bytesUp"], 0, "nothing may be sent to who is not expected");
    envoy.wait_access(&["up=0 down=0 "]);
}

/// In TLS 1.3 a server judges the client after the client has finished its handshake, so the alert comes late. The
/// client says nothing: to what it sends after the alert, the kernel of Envoy's host answers with a reset.
#[test]
fn envoy_refuses_sidegate_as_client() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let envoy = envoy_server(&identities, "other", app.address);
    let gate = Owner::of(&identities, "web").outbound(&id("envoy"), envoy.address).ready();

    let mut client = TcpStream::connect(gate.address).unwrap();
    assert!(read_all(&mut client).is_err(), "a refusal is no orderly end");
    let record = gate.sidecar.reason("peer_rejected_us");
    assert_eq!(record["peerId"], id("envoy"));
    assert_eq!(record["bytesDown"], 0);
    assert!(record["detail"].as_str().unwrap().contains("CertificateUnknown"), "{record}");
    envoy.wait_access(&["up=0 down=0 ", "downstream_failure=TLS_error"]);
}

/// The same with a client that speaks at once: Envoy's alert is under way, what we send is answered with a reset, and
/// still the alert is what is recorded, every time.
#[test]
fn a_late_alert_is_heard_before_the_reset() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let envoy = envoy_server(&identities, "other", app.address);
    let gate = Owner::of(&identities, "web").outbound(&id("envoy"), envoy.address).ready();
    for _ in 0..60 {
        assert!(nothing_comes(gate.address));
    }
    let records = eventually("all records", || Some(gate.sidecar.records()).filter(|all| all.len() == 60));
    assert!(records.iter().all(|r| r["reason"] == "peer_rejected_us"), "{records:#?}");
}

#[test]
fn envoy_refuses_sidegate_as_server() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let gate = Owner::of(&identities, "api").inbound(&[&id("envoy")], app.address).ready();
    let envoy = envoy_client(&identities, "other", &gate);

    assert!(nothing_comes(envoy.address));
    gate.sidecar.reason("peer_rejected_us");
    envoy.wait_access(&["flags=UF", "CERTIFICATE_VERIFY_FAILED"]);
    assert_eq!(app.accepted.load(Ordering::Relaxed), 0);
}

/// Whether a request fails, or ends without a byte of an answer: what a proxy makes of a reset is its own affair.
fn nothing_comes(address: SocketAddr) -> bool {
    !matches!(exchange(address, b"anybody there?"), Ok(answer) if !answer.is_empty())
}
