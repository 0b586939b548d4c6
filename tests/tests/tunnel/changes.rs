//! Tunnels while something changes: a sidecar dies or drains, identity or policy is another, limits are reached.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use sidegate_tests::{DEADLINE, Echo, Pair, Sidecar, assert_reset, assert_reset_at, echo_bytes, eventually, id, server_config};

const HOUR: Duration = Duration::from_secs(3600);

fn idle(sidecar: &Sidecar, direction: &str) -> f64 {
    sidecar.metric(&format!("sidegate_tunnels_idle{{sidegate_direction=\"{direction}\"}}"))
}

/// A pair with a session that waits for the next connection.
fn with_idle_session(service: SocketAddr, more: &str) -> Pair {
    let pair = Pair::with_tunnel(service, "auto", more);
    echo_bytes(pair.entry, 1000, 1).unwrap();
    for (sidecar, direction) in [(&pair.web, "outbound"), (&pair.api, "inbound")] {
        eventually("a session to wait", || (idle(sidecar, direction) == 1.0).then_some(()));
    }
    pair
}

/// Killed while sessions to it wait, and back at the same address with another process.
#[test]
fn after_the_servers_sidecar_was_killed_the_next_connection_works() {
    let echo = Echo::start();
    let mut pair = with_idle_session(echo.address, "");
    for n in 0..3 {
        pair.api.kill();
        eventually("the client to notice", || (idle(&pair.web, "outbound") == 0.0).then_some(()));
        let config = format!("workers: 1\n{}", server_config(&pair.identities, pair.port, echo.address));
        pair.api = Sidecar::start(pair.identities.folder(), &format!("api-{n}"), &config);
        pair.api.wait_ready();
        echo_bytes(pair.entry, 100_000, n).unwrap();
        let record = pair.web.wait_records(usize::try_from(n).unwrap() + 2).pop().unwrap();
        assert_eq!((&record["reason"], &record["tunnel"]), (&"closed".into(), &"new".into()));
        eventually("a session to wait", || (idle(&pair.web, "outbound") == 1.0).then_some(()));
    }
}

/// The server's sidecar has stopped and its kernel still takes what we send: no answer to OPEN, then none to anything.
#[test]
fn a_server_that_hangs_is_given_up_in_time() {
    let echo = Echo::start();
    let pair = with_idle_session(echo.address, "timeouts: { dial: 1s, handshake: 1s }\n");
    pair.api.stop();
    let mut client = TcpStream::connect(pair.entry).unwrap();
    client.write_all(b"is anybody there").unwrap();
    assert_reset(&mut client);
    let record = pair.web.wait_records(2).pop().unwrap();
    assert_eq!((&record["reason"], &record["tunnel"], &record["bytesDown"]), (&"open_timeout".into(), &"reused".into(), &0.into()));
    // The session that did not answer is not tried again.
    assert_reset_at(pair.entry);
    let record = pair.web.wait_records(3).pop().unwrap();
    assert_eq!((&record["reason"], &record["tunnel"]), (&"handshake_timeout".into(), &serde_json::Value::Null));
    pair.api.signal(Signal::SIGCONT);
    eventually("service again", || echo_bytes(pair.entry, 1000, 2).ok());
}

/// Killed in the middle of a connection on a session that was used before.
#[test]
fn a_killed_server_does_not_look_like_an_end_on_a_used_session() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut pair = Pair::with_tunnel(listener.local_addr().unwrap(), "auto", "");
    for n in 0..2 {
        let mut client = TcpStream::connect(pair.entry).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"the first half").unwrap();
        client.read_exact(&mut [0; 14]).unwrap();
        if n == 1 {
            pair.api.kill();
            assert_reset(&mut client);
        } else {
            drop((client, server));
        }
        pair.web.wait_records(n + 1);
    }
    let record = pair.web.records().pop().unwrap();
    assert_eq!(record["tunnel"], "reused");
    assert!(["truncated", "upstream_reset"].contains(&record["reason"].as_str().unwrap()), "{record:#}");
}

/// A server drains while its clients hold sessions: they are told, what is under way is not harmed, and what comes later is
/// refused as by any server that is gone.
#[test]
fn a_server_that_drains_sends_its_clients_away() {
    let echo = Echo::start();
    let more = "drain: { settle: 1s, quiet: 3s, deadline: 20s }\n";
    let mut pair = with_idle_session(echo.address, more);
    pair.api.signal(Signal::SIGTERM);
    let mut served = 0;
    let refused = eventually("new connections to be refused", || match echo_bytes(pair.entry, 30_000, served) {
        Ok(()) => {
            served += 1;
            None
        }
        Err(error) => Some(error),
    });
    assert!(served > 0, "while it settles it serves: {refused}");
    eventually("the client to let go", || (idle(&pair.web, "outbound") == 0.0).then_some(()));
    assert!(pair.api.wait_end().success());
    pair.api.wait_records(usize::try_from(served).unwrap() + 1);
    // Whoever was let in was served to its end; whoever was not has been told by the kernel, or by the sidecar.
    assert!(pair.api.records().iter().all(|r| r["reason"] == "closed"));
    for record in pair.web.records().iter().filter(|r| r["reason"] != "closed") {
        assert_eq!((&record["reason"], &record["bytesDown"]), (&"dial_refused".into(), &0.into()), "{record:#}");
    }
}

/// A client drains: its sessions end in order at the server.
#[test]
fn a_client_that_drains_closes_its_sessions() {
    let echo = Echo::start();
    let mut pair = with_idle_session(echo.address, "drain: { settle: 0s, quiet: 1s, deadline: 10s }\n");
    pair.web.signal(Signal::SIGTERM);
    assert!(pair.web.wait_end().success());
    eventually("the server's end of them", || (idle(&pair.api, "inbound") == 0.0).then_some(()));
    assert_eq!(pair.api.records().len(), 1, "an idle session that ends is no connection");
}

/// Either end has a new SVID: what waits is let go, for the next session shows the new one.
#[test]
fn a_rotation_ends_what_waits() {
    let echo = Echo::start();
    let pair = with_idle_session(echo.address, "");
    let first = pair.web.wait_records(1)[0].clone();
    pair.identities.authority.rotate_now();
    for (sidecar, direction) in [(&pair.web, "outbound"), (&pair.api, "inbound")] {
        eventually("what waits to be let go", || (idle(sidecar, direction) == 0.0).then_some(()));
    }
    echo_bytes(pair.entry, 1000, 2).unwrap();
    let second = pair.web.wait_records(2)[1].clone();
    assert_eq!(second["tunnel"], "new");
    for certificate in ["peerCertificate", "localCertificate"] {
        assert_ne!(first[certificate]["serial"], second[certificate]["serial"], "{certificate}");
    }
}

/// A rotation while a connection is open: the session has had its time when that ends.
#[test]
fn a_session_that_an_svid_has_outlived_is_not_used_again() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let pair = Pair::with_tunnel(listener.local_addr().unwrap(), "auto", "");
    let rotations = |sidecar: &Sidecar| sidecar.metric("sidegate_identity_rotations_total{sidegate_outcome=\"success\"}");
    let open = (TcpStream::connect(pair.entry).unwrap(), listener.accept().unwrap());
    pair.identities.authority.rotate_now();
    eventually("a rotation at each end", || (rotations(&pair.web) == 1.0 && rotations(&pair.api) == 1.0).then_some(()));
    drop(open);
    let first = pair.web.wait_records(1)[0].clone();
    drop((TcpStream::connect(pair.entry).unwrap(), listener.accept().unwrap()));
    let second = pair.web.wait_records(2)[1].clone();
    assert_eq!((&first["reason"], &second["reason"], &second["tunnel"]), (&"closed".into(), &"closed".into(), &"new".into()));
    for certificate in ["peerCertificate", "localCertificate"] {
        assert_ne!(first[certificate]["serial"], second[certificate]["serial"], "{certificate}");
    }
}

/// A connection that is open for longer than the SVIDs of both ends were valid: the next one is none the worse for it.
#[test]
fn a_connection_after_one_that_has_outlived_its_svid_works() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let pair = Pair::start_with(listener.local_addr().unwrap(), Duration::from_secs(5), "workers: 1\n", "tunnel: auto", "");
    let open = (TcpStream::connect(pair.entry).unwrap(), listener.accept().unwrap());
    let made = |sidecar: &Sidecar| sidecar.metric("sidegate_identity_rotations_total{sidegate_outcome=\"success\"}");
    let before = (made(&pair.web), made(&pair.api));
    let rotated = |sidecar: &Sidecar, before: f64| made(sidecar) >= before + 4.0;
    eventually("four rotations at each end", || (rotated(&pair.web, before.0) && rotated(&pair.api, before.1)).then_some(()));
    drop(open);
    pair.web.wait_records(1);
    for n in 2..=3 {
        drop((TcpStream::connect(pair.entry).unwrap(), listener.accept().unwrap()));
        assert!(pair.web.wait_records(n).iter().all(|r| r["reason"] == "closed"), "{:#?}", pair.web.records());
    }
    assert!(pair.api.wait_records(3).iter().all(|r| r["reason"] == "closed"));
}

/// SVIDs of seconds, both ends, while connections follow each other on used sessions: none fails, none is refused.
#[test]
fn short_lived_svids_harm_no_connection_on_used_sessions() {
    let echo = Echo::start();
    let pair = Pair::start_with(echo.address, Duration::from_secs(5), "", "tunnel: auto", "");
    let rotations = |sidecar: &Sidecar| sidecar.metric("sidegate_identity_rotations_total{sidegate_outcome=\"success\"}");
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let (stop, entry) = (stop.clone(), pair.entry);
            std::thread::spawn(move || {
                let (mut count, mut failures) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    failures.extend(echo_bytes(entry, [200, 60_000][thread % 2], thread as u64).err());
                    count += 1;
                }
                (count, failures)
            })
        })
        .collect();
    eventually("three rotations at each end", || (rotations(&pair.web) >= 3.0 && rotations(&pair.api) >= 3.0).then_some(()));
    stop.store(true, Ordering::Relaxed);
    let (counts, failures): (Vec<usize>, Vec<Vec<String>>) = threads.into_iter().map(|t| t.join().unwrap()).unzip();
    for sidecar in [&pair.web, &pair.api] {
        let records = sidecar.wait_records(counts.iter().sum());
        let failed: Vec<&serde_json::Value> = records.iter().filter(|r| r["reason"] != "closed").collect();
        assert!(failed.is_empty(), "{failures:?}\n{failed:#?}");
        let of = |session: &str| records.iter().filter(|r| r["tunnel"] == session).count();
        assert!(of("reused") > of("new") && of("new") >= 3, "{} new, {} reused", of("new"), of("reused"));
    }
}

/// Policy changes while a connection is open: it is cut, and the next one is refused on a session of its own.
#[test]
fn a_peer_that_is_denied_meanwhile_is_refused_and_told() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let pair = Pair::with_tunnel(listener.local_addr().unwrap(), "auto", "");
    let mut client = TcpStream::connect(pair.entry).unwrap();
    let (server, _) = listener.accept().unwrap();
    pair.set_policy("rules:\n  - name: nobody\n    action: deny\n");
    assert_reset(&mut client);
    drop(server);
    pair.web.wait_records(1);
    assert_reset_at(pair.entry);
    let denied = pair.api.reason("denied_by_rule");
    let refused = pair.web.reason("peer_refused");
    assert_eq!((&denied["tunnel"], &refused["tunnel"]), (&"new".into(), &"new".into()), "the old session has had its time");
    assert_eq!(denied["connectionId"], refused["connectionId"]);
    assert_eq!(denied["peerId"], id("web"));
    assert!(denied["decision"]["rule"].as_str().unwrap().starts_with("nobody ("), "{denied}");
    assert_eq!(refused["detail"], "the peer's sidecar says: denied_by_rule");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "who is refused must not even be dialled for");
}

/// The application behind the server's sidecar is down: the client hears why, on a used session as on a new one.
#[test]
fn an_application_that_is_down_is_told_of() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let service = listener.local_addr().unwrap();
    let pair = Pair::with_tunnel(service, "auto", "");
    let client = TcpStream::connect(pair.entry).unwrap();
    drop((listener.accept().unwrap(), client));
    pair.web.wait_records(1);
    drop(listener);
    for (n, session) in [(1, "reused"), (2, "new")] {
        assert_reset_at(pair.entry);
        let record = &pair.web.wait_records(n + 1)[n];
        assert_eq!((&record["reason"], &record["tunnel"]), (&"peer_refused".into(), &session.into()));
        assert_eq!(record["detail"], "the peer's sidecar says: dial_refused");
        assert_eq!(pair.api.wait_records(n + 1)[n]["reason"], "dial_refused");
    }
}

/// The server's limit of connections is reached while a session to it waits: the client is told so, and no end is
/// simulated.
#[test]
fn a_limit_that_is_reached_is_told_on_a_used_session() {
    let echo = Echo::start();
    let pair = Pair::start_with(echo.address, HOUR, "workers: 1\n", "tunnel: auto", "");
    let folder = pair.identities.folder();
    let port = SocketAddr::from(([127, 0, 0, 1], sidegate_tests::free_port()));
    let entry = SocketAddr::from(([127, 0, 0, 1], sidegate_tests::free_port()));
    let config = format!("workers: 1\nlimits: {{ connections: 2 }}\n{}", server_config(&pair.identities, port, echo.address));
    let api = Sidecar::start(folder, "api-limited", &config);
    let config = sidegate_tests::client_config(&pair.identities, entry, port).replace("{ name: api,", "{ name: api, tunnel: auto,");
    let web = Sidecar::start(folder, "web-limited", &format!("workers: 1\n{config}"));
    api.wait_ready();
    web.wait_ready();
    let held = |count: usize| -> Vec<TcpStream> {
        (0..count)
            .map(|_| {
                let mut tcp = TcpStream::connect(entry).unwrap();
                tcp.set_read_timeout(Some(DEADLINE)).unwrap();
                tcp.write_all(b"x").unwrap();
                tcp.read_exact(&mut [0]).unwrap();
                tcp
            })
            .collect()
    };
    // Two sessions, one of which then waits while the other's connection and a stranger's fill the limit.
    let mut two = held(2);
    drop(two.pop());
    eventually("a session to wait", || (idle(&api, "inbound") == 1.0).then_some(()));
    // A stranger without an identity would give way.
    let choice = sidegate_tls::TlsContext::new(&sidegate_tests::material(&pair.identities, "web")).unwrap().client(&[], false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let other = runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(port).await.unwrap();
        let mut session = sidegate_tls::connect(&tcp, &choice, "x".try_into().unwrap()).await.unwrap();
        std::future::poll_fn(|cx| session.poll_flush(&tcp, cx)).await.unwrap();
        (tcp, session)
    });
    let open = "sidegate_connections_open{sidegate_direction=\"inbound\"}";
    eventually("the limit", || (api.metric(open) == 2.0).then_some(()));
    assert_reset_at(entry);
    let record = web.wait_records(2)[1].clone();
    // Nothing was opened on the session that waited, and a new one is not let in either: it is reset, sooner or later.
    assert!(
        ["dial_refused", "dial_reset", "handshake_reset", "handshake_closed"].contains(&record["reason"].as_str().unwrap()),
        "{record:#}"
    );
    assert!(record["tunnel"].is_null() && record["bytesUp"] == 0);
    let refused = || api.records().iter().filter(|r| r["reason"] == "connection_limit").count();
    eventually("both refusals", || (refused() >= 2).then_some(()));
    drop(other);
    eventually("room", || (api.metric(open) == 1.0).then_some(()));
    drop(held(1));
    drop(two);
}
