//! Sessions that are made in advance: there when a connection comes, and harmless where they can't be made.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use sidegate_tests::{
    DEADLINE, Echo, Frame, Identities, Pair, Sidecar, Status, TunnelServer, client_config, echo_bytes, eventually, free_port, read_all,
    server_config,
};

const WARM: &str = "limits: { warmTunnels: 1 }\n";

fn idle(sidecar: &Sidecar, direction: &str) -> f64 {
    sidecar.metric(&format!("sidegate_tunnels_idle{{sidegate_direction=\"{direction}\"}}"))
}

/// Of the records that are of connections, the tunnels; those of sessions made in advance are left out.
fn tunnels(sidecar: &Sidecar) -> Vec<String> {
    let records = sidecar.records();
    records.iter().filter(|r| r["reason"] != "prepared").map(|r| r["tunnel"].as_str().unwrap_or("none").to_owned()).collect()
}

/// Two connections at the same time need two sessions: after the first has taken the one that waits, another is made.
#[test]
fn a_session_is_there_before_the_connection() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let pair = Pair::with_tunnel(listener.local_addr().unwrap(), "auto", WARM);
    let mut open = Vec::new();
    for n in 0..4 {
        let client = TcpStream::connect(pair.entry).unwrap();
        open.push((client, listener.accept().unwrap()));
        if n == 0 {
            // Only a server whose session proved to be of use gets another.
            open.clear();
        }
        eventually("a session to wait", || (idle(&pair.web, "outbound") == 1.0 && idle(&pair.api, "inbound") == 1.0).then_some(()));
    }
    open.clear();
    for sidecar in [&pair.web, &pair.api] {
        eventually("all records", || (tunnels(sidecar).len() == 4).then_some(()));
        assert_eq!(tunnels(sidecar), ["new", "reused", "reused", "reused"]);
        let prepared = sidecar.reason("prepared");
        assert_eq!((&prepared["tunnel"], &prepared["bytesUp"], &prepared["transport"]), (&"new".into(), &0.into(), &"mtls".into()));
        assert!(prepared["stages"]["handshakeMicros"].is_number() && prepared["decision"]["allowed"] == true, "{prepared:#}");
    }
}

/// A server that is not called any more is left alone.
#[test]
fn nothing_is_made_for_who_is_not_called() {
    let echo = Echo::start();
    let pair = Pair::with_tunnel(echo.address, "auto", &format!("{WARM}timeouts: {{ tunnelIdle: 2s }}\n"));
    echo_bytes(pair.entry, 1000, 1).unwrap();
    eventually("a session to wait", || (idle(&pair.web, "outbound") == 1.0).then_some(()));
    eventually("its end", || (idle(&pair.web, "outbound") == 0.0 && idle(&pair.api, "inbound") == 0.0).then_some(()));
    let handshakes =
        "sidegate_handshake_duration_seconds_count{sidegate_direction=\"inbound\",sidegate_outcome=\"established\",tls_resumed=\"true\"}";
    let before = (pair.api.records().len(), pair.api.metric(handshakes));
    // Longer than the round in which they are made.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((pair.api.records().len(), pair.api.metric(handshakes)), before);
}

/// A server that is gone costs no failures: nobody waited for these.
#[test]
fn a_server_that_is_gone_is_not_called_again_and_again() {
    let echo = Echo::start();
    let mut pair = Pair::with_tunnel(echo.address, "auto", WARM);
    echo_bytes(pair.entry, 1000, 1).unwrap();
    eventually("a session to wait", || (idle(&pair.web, "outbound") == 1.0).then_some(()));
    pair.api.kill();
    eventually("the client to notice", || (idle(&pair.web, "outbound") == 0.0).then_some(()));
    let failed = || pair.web.records().iter().filter(|r| !["closed", "prepared"].contains(&r["reason"].as_str().unwrap())).count();
    std::thread::sleep(Duration::from_secs(4));
    assert!(failed() <= 1, "{:#?}", pair.web.records());
    // Once somebody calls it, it is looked for again.
    let config = format!("workers: 1\n{}", server_config(&pair.identities, pair.port, echo.address));
    let api = Sidecar::start(pair.identities.folder(), "api-2", &config);
    api.wait_ready();
    echo_bytes(pair.entry, 1000, 2).unwrap();
    eventually("a session to wait", || (idle(&pair.web, "outbound") == 1.0).then_some(()));
}

/// A server that shakes no hands any more: what waits for others is looked after meanwhile.
#[test]
fn a_server_that_hangs_holds_up_nothing_else() {
    let (identities, echo) = (Identities::start(&["web", "api"], Duration::from_secs(3600)), Echo::start());
    let hanging = TunnelServer::start(&identities, "api");
    let loopback = || SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (entry, other_entry, port) = (loopback(), loopback(), loopback());
    let api = Sidecar::start(identities.folder(), "api", &server_config(&identities, port, echo.address));
    let another =
        format!("listeners: [{{ name: other, listen: \"{other_entry}\", to: \"{port}\", tunnel: auto }}, {{ name: api, tunnel: auto,");
    let config = client_config(&identities, entry, hanging.address).replace("listeners: [{ name: api,", &another);
    let more = "workers: 1\ntimeouts: { dial: 15s, handshake: 15s, tunnelIdle: 3s }\n";
    let web = Sidecar::start(identities.folder(), "web", &format!("{more}{WARM}{config}"));
    api.wait_ready();
    web.wait_ready();
    // It answers once, so that it is called again in advance, and then it only accepts.
    let client = TcpStream::connect(entry).unwrap();
    let mut tunnel = hanging.accept();
    tunnel.open();
    tunnel.send(&[Status::accepted(hanging.address), Frame::End.of(b"")].concat());
    drop(client);
    eventually("its session to wait", || (idle(&web, "outbound") == 1.0).then_some(()));
    echo_bytes(other_entry, 1000, 1).unwrap();
    let start = Instant::now();
    tunnel.cut();
    eventually("the other session's end", || (idle(&api, "inbound") == 0.0).then_some(()));
    assert!(start.elapsed() < Duration::from_secs(12), "it took {:?}", start.elapsed());
}

/// Whoever drains makes nothing more.
#[test]
fn who_drains_makes_no_sessions() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let more = format!("{WARM}drain: {{ settle: 0s, quiet: 20s, deadline: 30s }}\n");
    let pair = Pair::with_tunnel(listener.local_addr().unwrap(), "auto", &more);
    drop((TcpStream::connect(pair.entry).unwrap(), listener.accept().unwrap()));
    eventually("a session to wait", || (idle(&pair.web, "outbound") == 1.0).then_some(()));
    pair.web.signal(nix::sys::signal::Signal::SIGTERM);
    eventually("the drain", || pair.web.log().contains("draining").then_some(()));
    let mut client = TcpStream::connect(pair.entry).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let (server, _) = listener.accept().unwrap();
    eventually("the session to be taken", || (idle(&pair.web, "outbound") == 0.0).then_some(()));
    // Longer than the round in which they are made.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(idle(&pair.web, "outbound"), 0.0);
    assert!(pair.web.records().iter().all(|r| r["reason"] != "prepared"));
    drop(server);
    assert_eq!(read_all(&mut client).unwrap(), b"");
}
