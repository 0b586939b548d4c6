//! Ports that are not strict: detection whenever the first bytes come, servers that speak first, and the trail they leave.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use sidegate_tests::{DEADLINE, Echo, Pair, echo_bytes, eventually, exchange};

const HOUR: Duration = Duration::from_secs(3600);

fn connect(address: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    tcp
}

/// api's port gets the mode; web's sidecar has no inbound listener, so there it means nothing.
fn pair(service: SocketAddr, port: &str) -> Pair {
    let mut pair = Pair::start_unready(service, HOUR, "");
    let file = pair.identities.folder().join("api.yaml");
    let config = std::fs::read_to_string(&file).unwrap();
    let config: String = config
        .lines()
        .filter(|l| !l.starts_with("admin") && !l.starts_with("accessLog") && !l.starts_with("workers"))
        .map(|l| format!("{l}\n"))
        .collect();
    let config =
        config.replace("inbound: { listen: null,", &format!("inbound: {{ listen: null, ports: [{{ port: {}, {port} }}],", service.port()));
    pair.api.kill();
    pair.api = sidegate_tests::Sidecar::start(pair.identities.folder(), "api", &config);
    pair.api.wait_ready();
    pair.web.wait_ready();
    pair
}

/// Waits until api has counted so many. A connection is counted when its record is written, a moment after its client
/// has seen its end.
fn plaintext_connections(pair: &Pair, count: f64) {
    eventually("the count of plaintext connections", || {
        (pair.api.metric("sidegate_plaintext_connections_total{sidegate_direction=\"inbound\"}") == count).then_some(())
    });
}

/// A service that greets, then echoes one word.
fn greeter() -> (SocketAddr, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        for tcp in listener.incoming().take(2) {
            let mut tcp = tcp.unwrap();
            tcp.write_all(b"220 hello\r\n").unwrap();
            let mut word = [0; 4];
            if tcp.read_exact(&mut word).is_ok() {
                tcp.write_all(&word).unwrap();
            }
        }
    });
    (address, thread)
}

fn converse(mut tcp: TcpStream) {
    let mut banner = [0; 11];
    tcp.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"220 hello\r\n");
    tcp.write_all(b"EHLO").unwrap();
    let mut word = [0; 4];
    tcp.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"EHLO");
}

#[test]
fn permissive_takes_both_and_tells_them_apart() {
    let echo = Echo::start();
    let pair = pair(echo.address, "mode: permissive, reason: migration");
    echo_bytes(pair.entry, 100_000, 1).unwrap();
    assert_eq!(pair.api.reason("closed")["transport"], "mtls");
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16", b"\x16\x03", b"\x16\x03\x01\x00\x05\x02zzzz", b""] {
        assert_eq!(exchange(pair.port, bytes).unwrap(), bytes, "{bytes:?}");
    }
    plaintext_connections(&pair, 5.0);
    let record = pair.api.record("plaintext", |r| r["transport"] == "plaintext");
    assert_eq!(record["decision"]["rule"], "mode permissive");
    assert!(pair.api.log().contains("plaintext connection from"), "each is a warning");
}

/// A ClientHello that comes one byte at a time, the first after a while, is still TLS.
#[test]
fn a_delayed_client_hello_is_still_tls() {
    let echo = Echo::start();
    let pair = pair(echo.address, "mode: permissive, reason: migration");
    // A relay that holds back what web's sidecar sends.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let slow = listener.local_addr().unwrap();
    let target = pair.port;
    std::thread::spawn(move || {
        let (mut from, _) = listener.accept().unwrap();
        let mut to = connect(target);
        std::thread::sleep(Duration::from_millis(600));
        let (mut back_from, mut back_to) = (to.try_clone().unwrap(), from.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut back_from, &mut back_to));
        to.set_nodelay(true).unwrap();
        for _ in 0..20 {
            let mut byte = [0];
            from.read_exact(&mut byte).unwrap();
            to.write_all(&byte).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let config = sidegate_tests::client_config(&pair.identities, ([127, 0, 0, 1], sidegate_tests::free_port()).into(), slow);
    let entry: SocketAddr = config.split("listen: \"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
    let web = sidegate_tests::Sidecar::start(pair.identities.folder(), "slow", &config);
    web.wait_ready();
    echo_bytes(entry, 10_000, 1).unwrap();
    assert_eq!(pair.api.reason("closed")["transport"], "mtls");
}

/// The server speaks first and the client is plaintext: its greeting is held for a moment, then passes.
#[test]
fn a_server_that_speaks_first_is_heard_by_plaintext_clients() {
    let (address, thread) = greeter();
    let pair = pair(address, "mode: permissive, reason: migration");
    converse(connect(pair.port));
    converse(connect(pair.entry));
    thread.join().unwrap();
    let plaintext = pair.api.record("plaintext", |r| r["transport"] == "plaintext");
    assert!(
        plaintext["stages"]["detectMicros"].as_u64().unwrap() >= 200_000,
        "held for the time that a TLS client would need: {plaintext}"
    );
    let mtls = pair.api.record("mtls", |r| r["transport"] == "mtls");
    assert_eq!(mtls["peerId"], "spiffe://test.sidegate/web");
}

/// With the hint the wait begins at once, also for a server that is slow to greet.
#[test]
fn the_server_first_hint_needs_no_greeting() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let pair = pair(listener.local_addr().unwrap(), "mode: permissive, reason: legacy, serverFirst: true");
    let mut client = connect(pair.port);
    let (mut server, _) = listener.accept().unwrap();
    std::thread::sleep(Duration::from_millis(400));
    server.write_all(b"220 hello\r\n").unwrap();
    let mut banner = [0; 11];
    client.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"220 hello\r\n");
}

#[test]
fn silence_at_both_ends_has_an_end() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let pair = pair(listener.local_addr().unwrap(), "mode: permissive, reason: migration");
    // The default is a minute; a client that closes ends it sooner.
    let client = connect(pair.port);
    let (mut server, _) = listener.accept().unwrap();
    client.shutdown(std::net::Shutdown::Both).unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
}

#[test]
fn plaintext_passes_everything_as_it_is() {
    let echo = Echo::start();
    let pair = pair(echo.address, "mode: plaintext, reason: the kubelet's health checks");
    for bytes in [&b"GET /healthz HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01", b""] {
        assert_eq!(exchange(pair.port, bytes).unwrap(), bytes);
    }
    plaintext_connections(&pair, 3.0);
}
