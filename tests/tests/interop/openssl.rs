//! OpenSSL's own client and server as the peer: what is negotiated, bytes, and what is refused, with its reason.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use sidegate_tests::{Echo, Gate, Identities, Owner, Process, echo_bytes, free_port, id, pattern, program, skipped};

const HOUR: Duration = Duration::from_secs(3600);
const LARGE: usize = 1 << 20;

/// Who takes part: sidegate is web or api, OpenSSL is openssl.
fn identities() -> Option<Identities> {
    if program("openssl").is_none() {
        skipped("no openssl on PATH");
        return None;
    }
    Some(Identities::start(&["web", "api", "openssl"], HOUR))
}

fn openssl(arguments: &str) -> Command {
    let mut command = Command::new(program("openssl").unwrap());
    command.args(arguments.split_whitespace());
    command
}

/// ML-KEM came with OpenSSL 3.5; with an older one sidegate has to fall back.
fn group() -> &'static str {
    let output = openssl("version").output().unwrap().stdout;
    let text = String::from_utf8(output).unwrap();
    let version = text.split(' ').nth(1).unwrap_or_else(|| panic!("{text}"));
    let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    if version >= (3, 5) { "X25519MLKEM768" } else { "X25519" }
}

/// The options for OpenSSL's SVID and the bundle.
fn svid(identities: &Identities) -> String {
    let (certificate, key, bundle) = identities.files("openssl");
    format!("-cert {} -key {} -CAfile {}", certificate.display(), key.display(), bundle.display())
}

/// A sidegate server that lets OpenSSL in.
fn server(identities: &Identities, app: &Echo) -> Gate {
    Owner::of(identities, "api").inbound(&[&id("openssl")], app.address).ready()
}

fn s_client(identities: &Identities, gate: &Gate, options: &str) -> Process {
    let mut command = openssl(&format!("s_client -connect {} -verify_return_error {options}", gate.address));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Process::start(command, &identities.folder().join("s_client.log"))
}

fn s_server(identities: &Identities, options: &str) -> (Process, SocketAddr) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut command = openssl(&format!("s_server -accept {address} -verify_return_error {options}"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Process::start(command, &identities.folder().join("s_server.log"));
    process.wait_listening(address);
    (process, address)
}

/// Sends a pattern to the process while it is read, so that neither waits for the other.
fn send(process: &mut Process, bytes: &[u8]) -> std::thread::JoinHandle<std::process::ChildStdin> {
    let (mut stdin, bytes) = (process.child.stdin.take().unwrap(), bytes.to_vec());
    std::thread::spawn(move || {
        stdin.write_all(&bytes).unwrap();
        stdin
    })
}

#[test]
fn s_client_calls_sidegate() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let gate = server(&identities, &app);
    let mut client = s_client(&identities, &gate, &format!("-quiet -nocommands -tls1_3 {}", svid(&identities)));
    let sent = pattern(LARGE, 1);
    let writing = send(&mut client, &sent);
    assert!(client.read(LARGE) == sent, "other bytes came back");
    // It does not know half-close, and ignores the end of its input.
    drop(writing.join().unwrap());
    drop(client);

    let record = gate.sidecar.record("the transfer", |r| r["bytesUp"] == LARGE);
    assert_eq!(record["bytesDown"], LARGE);
    assert_eq!(record["localId"], id("api"));
    assert_eq!(record["peerId"], id("openssl"));
    assert_eq!(record["decision"]["allowed"], true);
    assert_eq!(record["tls"]["version"], "1.3");
    assert_eq!(record["tls"]["group"], group());
    assert!(record["tls"]["cipher"].as_str().unwrap().contains("_GCM_"), "{record}");
    // It was killed: that the kernel closed its socket for it must not pass as an orderly end.
    assert_eq!(record["reason"], "truncated", "{record}");
}

/// A command letter makes OpenSSL renew its keys and demand the same of sidegate, in the midst of a connection.
#[test]
fn keys_are_updated() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let gate = server(&identities, &app);
    let mut client = s_client(&identities, &gate, &format!("-tls1_3 {}", svid(&identities)));
    let mut stdin = client.child.stdin.take().unwrap();
    // A command letter is one only as the first of what OpenSSL reads at once, so each line waits for the last.
    stdin.write_all(b"before\n").unwrap();
    client.wait_output("before\n");
    stdin.write_all(b"K\n").unwrap();
    client.wait_log("KEYUPDATE");
    stdin.write_all(b"after\n").unwrap();
    client.wait_output("after\n");
    stdin.write_all(b"Q\n").unwrap();
    assert!(client.wait_end().success());
    let record = gate.sidecar.record("both lines", |r| r["bytesUp"] == "before\nafter\n".len());
    assert_eq!(record["bytesDown"], record["bytesUp"]);
    assert_eq!(record["reason"], "closed", "{record}");
}

/// Each suite that sidegate has, by an OpenSSL that offers no other.
#[test]
fn every_cipher_suite() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let gate = server(&identities, &app);
    for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
        let mut client = s_client(&identities, &gate, &format!("-quiet -nocommands -ciphersuites {suite} {}", svid(&identities)));
        client.child.stdin.as_mut().unwrap().write_all(suite.as_bytes()).unwrap();
        assert_eq!(client.read(suite.len()), suite.as_bytes());
        drop(client);
        gate.sidecar.record(suite, |r| r["tls"]["cipher"] == suite);
    }
}

#[test]
fn sidegate_refuses_s_client() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let gate = server(&identities, &app);
    let svid = svid(&identities);
    let (_, _, bundle) = identities.files("openssl");
    let forged = forge(identities.folder(), &id("openssl"));
    for (options, reason) in [
        (format!("-tls1_2 {svid}"), "no_common_tls"),
        (format!("-tls1_3 -groups P-521 {svid}"), "no_common_tls"),
        (format!("-tls1_3 -CAfile {}", bundle.display()), "no_peer_certificate"),
        (format!("-tls1_3 -CAfile {} {forged}", bundle.display()), "unknown_issuer"),
    ] {
        let mut client = s_client(&identities, &gate, &format!("-quiet {options}"));
        client.wait_end();
        let record = gate.sidecar.reason(reason);
        assert_eq!(record["peerId"], serde_json::Value::Null, "{record}");
        // The alert reached it, whichever its words are.
        assert!(client.log().contains("alert"), "{options}: {}", client.log());
    }
    // What the forged certificate says is a claim, and recorded as no more.
    assert_eq!(gate.sidecar.reason("unknown_issuer")["claimedId"], id("openssl"));
    assert_eq!(app.accepted.load(Ordering::Relaxed), 0);
}

#[test]
fn sidegate_calls_s_server() {
    let Some(identities) = identities() else { return };
    let (mut server, address) = s_server(&identities, &format!("-quiet -tls1_3 -Verify 1 {}", svid(&identities)));
    let gate = Owner::of(&identities, "web").outbound(&id("openssl"), address).ready();
    let (sent, answer) = (pattern(LARGE, 1), pattern(LARGE, 2));
    let mut client = std::net::TcpStream::connect(gate.address).unwrap();
    client.write_all(&sent).unwrap();
    assert!(server.read(LARGE) == sent, "other bytes arrived");
    let writing = send(&mut server, &answer);
    let mut received = vec![0; LARGE];
    std::io::Read::read_exact(&mut client, &mut received).unwrap();
    assert!(received == answer, "other bytes came back");
    drop(client);

    let record = gate.sidecar.record("the transfer", |r| r["bytesUp"] == LARGE);
    assert_eq!(record["bytesDown"], LARGE);
    assert_eq!(record["peerId"], id("openssl"));
    assert_eq!(record["localId"], id("web"));
    assert_eq!(record["tls"]["version"], "1.3");
    assert_eq!(record["tls"]["group"], group());
    drop(writing.join().unwrap());
}

#[test]
fn sidegate_refuses_s_server() {
    let Some(identities) = identities() else { return };
    let svid = svid(&identities);
    let forged = forge(identities.folder(), &id("openssl"));
    for (number, (options, expected, reason)) in [
        (format!("-tls1_2 -Verify 1 {svid}"), "openssl", "no_common_tls"),
        (format!("-tls1_3 {forged}"), "openssl", "unknown_issuer"),
        (format!("-tls1_3 -Verify 1 {svid}"), "api", "unexpected_peer"),
    ]
    .into_iter()
    .enumerate()
    {
        let (_server, address) = s_server(&identities, &format!("-quiet {options}"));
        // Its socket is web's, its files are its own.
        let gate = Owner::of(&identities, "web").named(&format!("web{number}")).outbound(&id(expected), address).ready();
        assert!(echo_bytes(gate.address, 10, 1).is_err());
        let record = gate.sidecar.reason(reason);
        assert_eq!(record["bytesUp"], 0, "{record}");
    }
}

/// OpenSSL does not trust sidegate's issuer, or nobody it knows: its alert is what the record shows.
#[test]
fn openssl_refuses_sidegate() {
    let Some(identities) = identities() else { return };
    let app = Echo::start();
    let (certificate, key, _) = identities.files("openssl");
    forge(identities.folder(), "spiffe://elsewhere.test/ca");
    let foreign = identities.folder().join("forged.cert.pem");
    let options = format!("-tls1_3 -cert {} -key {} -CAfile {}", certificate.display(), key.display(), foreign.display());

    let gate = server(&identities, &app);
    let mut client = s_client(&identities, &gate, &format!("-quiet {options}"));
    assert!(!client.wait_end().success());
    gate.sidecar.reason("peer_rejected_us");

    let (_server, address) = s_server(&identities, &format!("-quiet -Verify 1 {options}"));
    let gate = Owner::of(&identities, "web").outbound(&id("openssl"), address).ready();
    let mut client = std::net::TcpStream::connect(gate.address).unwrap();
    assert!(sidegate_tests::read_all(&mut client).is_err(), "a refusal is no orderly end");
    assert_eq!(gate.sidecar.reason("peer_rejected_us")["peerId"], id("openssl"));
    assert_eq!(app.accepted.load(Ordering::Relaxed), 0);
}

/// A certificate by an issuer nobody knows, with the form of an X.509-SVID of `id`; as options for OpenSSL.
fn forge(folder: &Path, id: &str) -> String {
    let (certificate, key) = (folder.join("forged.cert.pem"), folder.join("forged.key.pem"));
    let mut command = openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /O=forged");
    command.args(["-addext", &format!("subjectAltName=URI:{id}"), "-addext", "keyUsage=critical,digitalSignature"]);
    // OpenSSL makes a CA of what signs itself, unless told otherwise.
    command.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"]).arg(&key).arg("-out").arg(&certificate);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    format!("-cert {} -key {}", certificate.display(), key.display())
}
