//! go-spiffe as the peer: it judges the authority's Workload API, and it talks to sidegate in both directions.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use sidegate_tests::{Echo, Gate, Identities, Owner, Process, TRUST_DOMAIN, echo_bytes, free_port, id, pattern, program, read_all};

const HOUR: Duration = Duration::from_secs(3600);
const LARGE: usize = 8 << 20;

/// Who takes part: sidegate is web or api, the Go program is peer.
fn identities() -> Option<Identities> {
    if program("go").is_none() {
        // Debian's own is too old for go-spiffe, so CI can't install one: its absence is no failure.
        eprintln!("SKIPPED go-spiffe: no go on PATH");
        return None;
    }
    Some(Identities::start(&["web", "api", "peer", "other"], HOUR))
}

/// The program, built once from what is in the tree.
fn peer() -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let binary = BINARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Another run of the tests may be using the last one; a rename leaves it that.
        let (binary, new) = (folder.join("go-peer"), folder.join(format!("go-peer.{}", std::process::id())));
        let mut go = Command::new(program("go").unwrap());
        go.args(["build", "-o"]).arg(&new).arg(".").current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/go"));
        let output = go.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(new, &binary).unwrap();
        binary
    });
    Command::new(binary)
}

fn start(identities: &Identities, what: &str, arguments: &[&str]) -> Process {
    let mut command = peer();
    command.args([what, "-socket"]).arg(format!("unix://{}", identities.socket("peer").display())).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Process::start(command, &identities.folder().join(format!("peer.{what}.log")))
}

fn dial(identities: &Identities, to: &Gate, expect: &str) -> Process {
    start(identities, "dial", &["-to", &to.address.to_string(), "-expect", &id(expect)])
}

fn serve(identities: &Identities, accept: &str) -> (Process, SocketAddr) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut process = start(identities, "serve", &["-listen", &address.to_string(), "-accept", &id(accept)]);
    process.wait_listening(address);
    (process, address)
}

/// go-spiffe takes what the Workload API gives, and verifies the tokens by its bundles and by its own word.
#[test]
fn the_workload_api_is_what_go_spiffe_expects() {
    let Some(identities) = identities() else { return };
    let mut fetch = start(&identities, "fetch", &["-audience", "somebody"]);
    assert!(fetch.wait_end().success(), "{}", fetch.log());
    let fetched: Value = serde_json::from_slice(&fetch.read_rest()).unwrap();
    assert_eq!(fetched["default"], id("peer"));
    assert_eq!(fetched["bundles"], serde_json::json!([TRUST_DOMAIN]));
    assert_eq!(fetched["x509"].as_array().unwrap().len(), 1, "{fetched}");
    assert_eq!(fetched["x509"][0]["id"], id("peer"));
    assert_eq!(fetched["jwt"].as_array().unwrap().len(), 1, "{fetched}");
    assert_eq!(fetched["jwt"][0]["id"], id("peer"));
    assert_eq!(fetched["jwt"][0]["audience"], serde_json::json!(["somebody"]));
}

#[test]
fn go_calls_sidegate() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let gate = Owner::of(&identities, "api").inbound(&[&id("peer")], app.address).ready();
    let mut client = dial(&identities, &gate, "api");
    let sent = pattern(LARGE, 1);
    // The end of its input is its half-close, and what has come back by then is not all.
    client.child.stdin.take().unwrap().write_all(&sent).unwrap();
    assert!(client.wait_end().success(), "{}", client.log());
    assert!(client.read_rest() == sent, "other bytes came back");

    let record = gate.sidecar.record("the transfer", |r| r["bytesUp"] == LARGE);
    assert_eq!(record["reason"], "closed", "{record}");
    assert_eq!(record["bytesDown"], LARGE);
    assert_eq!(record["localId"], id("api"));
    assert_eq!(record["peerId"], id("peer"));
    assert_eq!(record["tls"]["version"], "1.3");
    assert_eq!(record["tls"]["group"], "X25519MLKEM768");
}

#[test]
fn sidegate_calls_go() {
    let Some(identities) = identities() else { return };
    let (_server, address) = serve(&identities, "web");
    let gate = Owner::of(&identities, "web").outbound(&id("peer"), address).ready();
    for (length, seed) in [(0, 1), (1, 2), (LARGE, 3)] {
        echo_bytes(gate.address, length, seed).unwrap();
    }
    let record = gate.sidecar.record("the transfer", |r| r["bytesUp"] == LARGE);
    assert_eq!(record["reason"], "closed", "{record}");
    assert_eq!(record["bytesDown"], LARGE);
    assert_eq!(record["peerId"], id("peer"));
    assert_eq!(record["tls"]["group"], "X25519MLKEM768");
    assert_eq!(gate.sidecar.record("nothing sent", |r| r["bytesUp"] == 0)["reason"], "closed");
}

/// No rule lets the peer in; and it is told so by a reset, not by an end that looks like an empty answer.
#[test]
fn sidegates_policy_refuses_go() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let gate = Owner::of(&identities, "api").inbound(&[&id("web")], app.address).ready();
    let mut client = dial(&identities, &gate, "api");
    assert!(!client.wait_end().success());
    assert!(client.log().contains("connection reset by peer"), "{}", client.log());
    assert_eq!(gate.sidecar.reason("denied_by_default")["peerId"], id("peer"));
    assert_eq!(app.accepted.load(Ordering::Relaxed), 0);
}

#[test]
fn sidegate_wants_another_than_go() {
    let Some(identities) = identities() else { return };
    let (_server, address) = serve(&identities, "web");
    let gate = Owner::of(&identities, "web").outbound(&id("other"), address).ready();
    assert!(echo_bytes(gate.address, 10, 1).is_err());
    let record = gate.sidecar.reason("unexpected_peer");
    assert_eq!(record["peerId"], id("peer"));
    assert_eq!(record["bytesUp"], 0);
}

#[test]
fn go_refuses_sidegate_as_server() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let gate = Owner::of(&identities, "api").inbound(&[&id("peer")], app.address).ready();
    let mut client = dial(&identities, &gate, "other");
    assert!(!client.wait_end().success());
    assert!(client.log().contains("unexpected ID"), "{}", client.log());
    gate.sidecar.reason("peer_rejected_us");
    assert_eq!(app.accepted.load(Ordering::Relaxed), 0);
}

/// The server's alert comes when sidegate's own handshake is long done. The client says nothing: see `interop_envoy`.
#[test]
fn go_refuses_sidegate_as_client() {
    let Some(identities) = identities() else { return };
    let (server, address) = serve(&identities, "other");
    let gate = Owner::of(&identities, "web").outbound(&id("peer"), address).ready();
    let mut client = TcpStream::connect(gate.address).unwrap();
    assert!(read_all(&mut client).is_err(), "a refusal is no orderly end");
    let record = gate.sidecar.reason("peer_rejected_us");
    assert_eq!(record["peerId"], id("peer"));
    assert_eq!(record["bytesDown"], 0);
    server.wait_log("unexpected ID");
}
