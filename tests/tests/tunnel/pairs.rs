//! The tunnel between two sidecars: one connection after the other on one session, each as if it had its own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::Value;
use sidegate_tests::{Collector, DEADLINE, Echo, Pair, Sidecar, echo_bytes, eventually, free_port, pattern, read_all};

fn handshakes(sidecar: &Sidecar, direction: &str) -> f64 {
    let of = |resumed: &str| {
        let labels = format!("sidegate_direction=\"{direction}\",sidegate_outcome=\"established\",tls_resumed=\"{resumed}\"");
        sidecar.metric(&format!("sidegate_handshake_duration_seconds_count{{{labels}}}"))
    };
    of("true") + of("false")
}

fn idle(sidecar: &Sidecar, direction: &str) -> f64 {
    sidecar.metric(&format!("sidegate_tunnels_idle{{sidegate_direction=\"{direction}\"}}"))
}

fn through_tunnels(sidecar: &Sidecar, direction: &str, session: &str) -> f64 {
    sidecar.metric(&format!("sidegate_tunnel_connections_total{{sidegate_direction=\"{direction}\",sidegate_tunnel=\"{session}\"}}"))
}

fn ids(records: &[Value]) -> Vec<&str> {
    let mut ids: Vec<&str> = records.iter().map(|r| r["connectionId"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn the_next_connection_goes_on_the_same_session() {
    let echo = Echo::start();
    let pair = Pair::with_tunnel(echo.address, "auto", "");
    for n in 0..3 {
        echo_bytes(pair.entry, 20_000, n).unwrap();
        pair.web.wait_records(usize::try_from(n).unwrap() + 1);
    }
    for (sidecar, direction) in [(&pair.web, "outbound"), (&pair.api, "inbound")] {
        let records = sidecar.wait_records(3);
        let tunnels: Vec<&str> = records.iter().map(|r| r["tunnel"].as_str().unwrap()).collect();
        assert_eq!(tunnels, ["new", "reused", "reused"], "{direction}");
        for record in &records {
            assert_eq!((&record["reason"], &record["bytesUp"], &record["bytesDown"]), (&"closed".into(), &20_000.into(), &20_000.into()));
            assert_eq!((&record["transport"], &record["tls"]["alpn"]), (&"mtls".into(), &"sidegate/1".into()));
            // Who the peer is and why it was let in stands in each record, not only in the first.
            for field in ["peerId", "localId", "peerCertificate", "localCertificate", "decision", "originalDestination"] {
                assert_eq!(record[field], records[0][field], "{direction}: {field}");
                assert!(!record[field].is_null(), "{direction}: {field}");
            }
        }
        assert!(records[0]["stages"]["handshakeMicros"].is_number());
        assert!(records[1..].iter().all(|r| r["stages"]["handshakeMicros"].is_null()), "a reused session has no handshake");
        assert_eq!((handshakes(sidecar, direction), through_tunnels(sidecar, direction, "new")), (1.0, 1.0), "{direction}");
        assert_eq!(through_tunnels(sidecar, direction, "reused"), 2.0, "{direction}");
        eventually("the session to wait", || (idle(sidecar, direction) == 1.0).then_some(()));
    }
    let (outbound, inbound) = (pair.web.records(), pair.api.records());
    assert_eq!(ids(&outbound), ids(&inbound), "both ends tell the same connections");
    let mut distinct = ids(&outbound);
    distinct.dedup();
    assert_eq!(distinct.len(), 3);
}

/// A connection is one trace: the server's root is a child of the client's, whether the session is new or not.
#[test]
fn a_connection_is_one_trace_of_both_ends() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let pair = Pair::with_tunnel(echo.address, "auto", &collector.config("http", ""));
    for n in 1..=2 {
        echo_bytes(pair.entry, 1000, 1).unwrap();
        let record = pair.web.wait_records(n).pop().unwrap();
        let session = if n == 1 { "new" } else { "reused" };
        assert_eq!(record["tunnel"], session);
        let trace = eventually("the spans of both ends", || {
            let spans = collector.trace(record["connectionId"].as_str().unwrap());
            (spans.iter().filter(|s| ["outbound", "inbound"].contains(&s.name.as_str())).count() == 2).then_some(spans)
        });
        let root = |name: &str| trace.iter().find(|s| s.name == name).unwrap();
        assert!(root("outbound").parent_span_id.is_empty());
        assert_eq!(root("inbound").parent_span_id, root("outbound").span_id);
        assert!(root("inbound").span_id != root("outbound").span_id);
        let of_handshakes = trace.iter().filter(|s| s.name == "handshake").count();
        assert_eq!(of_handshakes, if n == 1 { 2 } else { 0 });
        for span in trace.iter().filter(|s| s.name == "verify" && n == 2) {
            assert_eq!(span.parent_span_id, root("inbound").span_id, "without a handshake, verify is the connection's own");
        }
    }
}

/// The answer is there before the upload has ended on a new session, not on a used one: what is held back until the
/// server's STATUS has to go on by itself then.
#[test]
fn a_large_upload_on_a_used_session_gets_through_without_an_answer() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let service = listener.local_addr().unwrap();
    // Says nothing before it has all.
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let mut tcp = tcp.unwrap();
            let length = read_all(&mut tcp).unwrap().len();
            tcp.write_all(&u64::try_from(length).unwrap().to_be_bytes()).unwrap();
        }
    });
    // No timer of the connection wakes it before this test's own deadline.
    let pair = Pair::with_tunnel(service, "auto", "timeouts: { handshake: 60s }\n");
    for (n, length) in [100, 16_384, 16_385, 100_000, 5_000_000].into_iter().enumerate() {
        let answer = sidegate_tests::exchange(pair.entry, &pattern(length, 1)).unwrap();
        assert_eq!(answer, (length as u64).to_be_bytes());
        let record = pair.web.wait_records(n + 1).pop().unwrap();
        assert_eq!((&record["tunnel"], &record["bytesUp"]), (&if n == 0 { "new" } else { "reused" }.into(), &length.into()));
    }
}

/// The server speaks first, as mail and databases do.
#[test]
fn a_server_that_speaks_first_is_heard_on_a_used_session() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let pair = Pair::with_tunnel(listener.local_addr().unwrap(), "auto", "");
    for n in 1..=3 {
        let mut client = TcpStream::connect(pair.entry).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"220 ready").unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.read_exact(&mut [0; 9]).unwrap();
        drop(client);
        assert!(read_all(&mut server).unwrap().is_empty());
        drop(server);
        pair.web.wait_records(n);
    }
    assert!(pair.web.records()[1..].iter().all(|r| r["tunnel"] == "reused" && r["reason"] == "closed"));
}

/// Both orders of ending, each followed by another connection on the same session.
#[test]
fn after_a_half_close_of_either_end_the_session_goes_on() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let pair = Pair::with_tunnel(listener.local_addr().unwrap(), "auto", "");
    for n in 1..=4 {
        let mut client = TcpStream::connect(pair.entry).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let (first, second) = if n % 2 == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
        first.write_all(b"the last word of the first").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(second).unwrap(), b"the last word of the first");
        let more = pattern(300_000, n);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                second.write_all(&more).unwrap();
                second.shutdown(Shutdown::Write).unwrap();
            });
            assert!(read_all(first).unwrap() == more);
        });
        let number = usize::try_from(n).unwrap();
        for sidecar in [&pair.web, &pair.api] {
            let record = sidecar.wait_records(number).pop().unwrap();
            assert_eq!((&record["reason"], &record["tunnel"]), (&"closed".into(), &if n == 1 { "new" } else { "reused" }.into()));
        }
    }
}

/// Many at a time and one after the other, with both workers; every byte is compared.
fn many(mode: &str) -> Pair {
    let echo = Echo::start();
    let pair = Pair::start_with(echo.address, Duration::from_secs(3600), "", &format!("tunnel: {mode}"), "");
    let entry = pair.entry;
    let threads: Vec<_> = (0..8_u64)
        .map(|thread| {
            std::thread::spawn(move || {
                (0..60_u64).for_each(|n| {
                    let length = [0, 1, 100, 16_380, 16_384, 16_385, 70_000, 700_000][usize::try_from((n + thread) % 8).unwrap()];
                    echo_bytes(entry, length, thread * 60 + n).unwrap_or_else(|e| panic!("{thread}/{n}, {length} bytes: {e}"));
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    for sidecar in [&pair.web, &pair.api] {
        assert!(sidecar.wait_records(480).iter().all(|r| r["reason"] == "closed"));
    }
    assert_eq!(ids(&pair.web.records()), ids(&pair.api.records()));
    pair
}

#[test]
fn many_connections_share_sessions_unharmed() {
    let pair = many("auto");
    let reused = through_tunnels(&pair.web, "outbound", "reused");
    assert!(reused > 300.0, "only {reused} of 480");
    assert_eq!(through_tunnels(&pair.api, "inbound", "reused"), reused, "both ends count the same");
    assert_eq!(handshakes(&pair.api, "inbound"), 480.0 - reused);
}

#[test]
fn with_once_each_connection_has_a_session_of_its_own() {
    let pair = many("once");
    for (sidecar, direction) in [(&pair.web, "outbound"), (&pair.api, "inbound")] {
        assert!(sidecar.records().iter().all(|r| r["tunnel"] == "new" && r["tls"]["alpn"] == "sidegate/1"));
        assert_eq!(handshakes(sidecar, direction), 480.0);
    }
    assert_eq!(idle(&pair.web, "outbound"), 0.0, "what nobody takes is not kept");
    eventually("the server to keep none either", || (idle(&pair.api, "inbound") == 0.0).then_some(()));
}

#[test]
fn with_off_there_is_no_tunnel() {
    let echo = Echo::start();
    let pair = Pair::with_tunnel(echo.address, "off", "");
    for n in 0..2 {
        echo_bytes(pair.entry, 1000, n).unwrap();
    }
    for sidecar in [&pair.web, &pair.api] {
        assert!(sidecar.wait_records(2).iter().all(|r| r["tunnel"].is_null() && r["tls"]["alpn"].is_null()));
    }
}

/// What changes the address on the way may lead elsewhere next time: a service's virtual address, a proxy.
#[test]
fn behind_another_address_a_session_is_not_used_again() {
    let echo = Echo::start();
    let between = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let identities_of = Pair::with_tunnel(echo.address, "auto", "");
    forward(TcpListener::bind(between).unwrap(), identities_of.port);
    let entry = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config =
        sidegate_tests::client_config(&identities_of.identities, entry, between).replace("{ name: api,", "{ name: api, tunnel: auto,");
    let web = Sidecar::start(identities_of.identities.folder(), "web-behind", &config);
    web.wait_ready();
    for n in 0..6 {
        echo_bytes(entry, 1000, n).unwrap();
    }
    assert!(web.wait_records(6).iter().all(|r| r["tunnel"] == "new" && r["reason"] == "closed"));
    assert_eq!((handshakes(&web, "outbound"), idle(&web, "outbound")), (6.0, 0.0));
}

/// Passes bytes on, until the listener's process ends.
fn forward(listener: TcpListener, to: SocketAddr) {
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(to).unwrap());
            for (mut from, mut into) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut into);
                    let _ = into.shutdown(Shutdown::Write);
                });
            }
        }
    });
}

/// The client closes what has waited for `tunnelIdle`, and the server hears of it.
#[test]
fn a_session_waits_only_so_long() {
    let echo = Echo::start();
    let pair = Pair::with_tunnel(echo.address, "auto", "timeouts: { tunnelIdle: 2s }\n");
    echo_bytes(pair.entry, 1000, 1).unwrap();
    for (sidecar, direction) in [(&pair.web, "outbound"), (&pair.api, "inbound")] {
        eventually("the session to wait", || (idle(sidecar, direction) == 1.0).then_some(()));
    }
    for (sidecar, direction) in [(&pair.web, "outbound"), (&pair.api, "inbound")] {
        eventually("its end", || (idle(sidecar, direction) == 0.0).then_some(()));
    }
    echo_bytes(pair.entry, 1000, 2).unwrap();
    assert_eq!(pair.web.wait_records(2)[1]["tunnel"], "new");
    assert_eq!(pair.api.wait_records(2)[1]["tunnel"], "new");
}

#[test]
fn sessions_are_not_kept_where_that_is_configured() {
    for more in ["timeouts: { tunnelIdle: 0s }\n", "limits: { idleTunnels: 0 }\n"] {
        let echo = Echo::start();
        let pair = Pair::with_tunnel(echo.address, "auto", more);
        for n in 0..3 {
            echo_bytes(pair.entry, 1000, n).unwrap();
        }
        for sidecar in [&pair.web, &pair.api] {
            assert!(sidecar.wait_records(3).iter().all(|r| r["tunnel"] == "new" && r["reason"] == "closed"), "{more}");
        }
        for (sidecar, direction) in [(&pair.web, "outbound"), (&pair.api, "inbound")] {
            assert_eq!((handshakes(sidecar, direction), idle(sidecar, direction)), (3.0, 0.0), "{more}");
        }
    }
}

/// The server alone keeps none: the client learns it in time, and no connection suffers.
#[test]
fn a_server_that_keeps_no_sessions_is_served_all_the_same() {
    for more in ["timeouts: { tunnelIdle: 0s }\n", "limits: { idleTunnels: 0 }\n"] {
        let echo = Echo::start();
        let pair = Pair::with_tunnel(echo.address, "auto", "");
        let (entry, port) = (free_port(), free_port());
        let [entry, port] = [entry, port].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let folder = pair.identities.folder();
        let api =
            Sidecar::start(folder, "api-2", &format!("{}{more}", sidegate_tests::server_config(&pair.identities, port, echo.address)));
        let config = sidegate_tests::client_config(&pair.identities, entry, port).replace("{ name: api,", "{ name: api, tunnel: auto,");
        let web = Sidecar::start(folder, "web-2", &format!("workers: 1\n{config}"));
        api.wait_ready();
        web.wait_ready();
        for n in 0..50 {
            echo_bytes(entry, 40_000, n).unwrap_or_else(|e| panic!("{more}{n}: {e}"));
        }
        assert!(web.wait_records(50).iter().all(|r| r["reason"] == "closed"), "{more}");
        let records = api.wait_records(50);
        assert!(records.iter().all(|r| r["reason"] == "closed" && r["tunnel"] == "new" && r["bytesUp"] == 40_000), "{more}");
    }
}
