//! Hand-made tunnel servers that break the protocol, as a real client's sidecar takes them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};

use sidegate_tests::{ByServer, Frame, Heard, Open, Status, assert_reset, outcome, read_all, reset};

/// How a server breaks the protocol costs it its connection, and the application sees a reset.
#[test]
fn foul_answers_end_the_connection_and_are_named() {
    type Answer = fn(SocketAddr) -> Vec<u8>;
    let cases: [(&str, Answer); 13] = [
        ("kind 0", |_| Frame::raw(0, b"")),
        ("an unknown kind that must be known", |_| Frame::raw(8, b"")),
        ("the last kind that must be known", |_| Frame::raw(0x7f, b"")),
        ("a long control frame", |_| Frame::Status.of(&[0; 4097])),
        ("a long optional frame", |_| Frame::raw(0x80, &[0; 4097])),
        ("a STATUS that can't be read", |_| Frame::Status.of(&[0xff; 5])),
        ("a STATUS without an outcome", |a| Status { reached_at: a.to_string(), ..Status::default() }.frame()),
        ("a STATUS with an unknown outcome", |_| Status { outcome: 77, ..Status::default() }.frame()),
        ("two", |a| [Status::accepted(a), Status::accepted(a)].concat()),
        ("OPEN of the server", |_| Open::named(1)),
        ("WARM of the server", |_| Frame::Warm.of(b"")),
        ("data before the answer", |a| [Frame::Data.of(b"early"), Status::accepted(a)].concat()),
        ("an end before the answer", |a| [Frame::End.of(b""), Status::accepted(a)].concat()),
    ];
    let world = ByServer::new("");
    for (n, (what, answer)) in cases.into_iter().enumerate() {
        let mut client = world.connect();
        let mut tunnel = world.server.accept();
        tunnel.open();
        tunnel.send(&answer(world.server.address));
        assert_eq!(client.read(&mut [0]).map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset), "{what}");
        assert_eq!(world.record(n)["reason"], "tunnel_protocol_error", "{what}");
        tunnel.wait_gone();
    }
    world.serves_the_next();
}

/// Text of a peer never gets into our records.
#[test]
fn a_reason_that_is_none_is_not_repeated() {
    let world = ByServer::new("");
    let foul = "\u{1b}[31mforged\n{\"reason\":\"closed\"}".to_owned();
    let refused = Status { outcome: outcome::REFUSED, reason: foul.clone(), ..Status::default() }.frame();
    for (n, answer, reason) in [(0, refused, "peer_refused"), (1, reset(&foul), "peer_aborted"), (2, reset("drained"), "peer_aborted")] {
        let mut client = world.connect();
        let mut tunnel = world.server.accept();
        tunnel.open();
        tunnel.send(&answer);
        assert_reset(&mut client);
        let record = world.record(n);
        let detail = if n == 2 { "the peer's sidecar says: drained" } else { "the peer's sidecar says: a reason that is not known here" };
        assert_eq!((&record["reason"], &record["detail"]), (&reason.into(), &detail.into()));
    }
}

/// A server that takes the connection and says nothing.
#[test]
fn a_server_that_never_answers_is_given_up() {
    let world = ByServer::new("timeouts: { dial: 500ms, handshake: 1s }\n");
    let mut client = world.connect();
    let mut tunnel = world.server.accept();
    tunnel.open();
    client.write_all(b"well?").unwrap();
    assert_reset(&mut client);
    let record = world.record(0);
    assert_eq!((&record["reason"], &record["tunnel"]), (&"open_timeout".into(), &"new".into()));
    assert_eq!(tunnel.data(5), b"well?");
    assert_eq!(tunnel.reset(), "open_timeout");
    assert_eq!(tunnel.hear(), Heard::Cut);
}

/// The end of the session is not the end of the connection.
#[test]
fn a_session_that_ends_within_a_connection_is_an_abort() {
    let world = ByServer::new("");
    for n in 0..4 {
        let mut client = world.connect();
        let mut tunnel = world.server.accept();
        tunnel.open();
        tunnel.send(&[Status::accepted(world.server.address), Frame::Data.of(b"half")].concat());
        client.read_exact(&mut [0; 4]).unwrap();
        if n == 2 {
            // In the middle of a frame, which then can't be a whole one.
            tunnel.send(&Frame::Data.of(&[1; 100])[..50]);
            client.read_exact(&mut [0; 46]).unwrap();
        }
        match n {
            0 => tunnel.close(),
            1 | 2 => drop(tunnel),
            _ => tunnel.cut(),
        }
        assert_reset(&mut client);
        let expected = if n < 3 { "truncated" } else { "upstream_reset" };
        assert_eq!(world.record(n)["reason"], expected, "{n}");
    }
}

/// What a server says between two connections ends the session; the next connection gets a new one.
#[test]
fn a_session_that_does_not_keep_quiet_is_not_used() {
    let world = ByServer::new("");
    for (n, said) in
        [Frame::Data.of(b"psst"), Frame::raw(0x80, b""), Frame::raw(3, b""), vec![9], Frame::End.of(b"")].into_iter().enumerate()
    {
        let mut client = world.connect();
        client.shutdown(Shutdown::Write).unwrap();
        let mut tunnel = world.server.accept();
        tunnel.open();
        tunnel.data_to_end();
        tunnel.send(&[Status::accepted(world.server.address), Frame::End.of(b"")].concat());
        assert_eq!(read_all(&mut client).unwrap(), b"");
        assert_eq!(world.record(n)["reason"], "closed");
        tunnel.send(&said);
        tunnel.wait_gone();
    }
    assert!(world.web.records().iter().all(|r| r["tunnel"] == "new"));
}
