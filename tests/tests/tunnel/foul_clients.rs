//! Hand-made tunnel clients that break the protocol, as a real server's sidecar takes them.

use std::io::{Read, Write};
use std::time::Duration;

use sidegate_tests::{ByClient, Frame, Heard, Open, Status, assert_reset, goaway, outcome, read_all, reset};

fn end() -> Vec<u8> {
    Frame::End.of(b"")
}

/// Every way to break the protocol: the connection is reset at the application, if there is one, and its record says so.
#[test]
fn foul_frames_end_the_connection_and_are_named() {
    let world = ByClient::new("");
    let begin: [(&str, Vec<u8>); 14] = [
        ("kind 0", Frame::raw(0, b"")),
        ("an unknown kind that must be known", Frame::raw(8, b"x")),
        ("the last kind that must be known", Frame::raw(0x7f, b"")),
        ("a long OPEN", Frame::Open.of(&[0; 4097])),
        ("a very long OPEN", vec![1, 0xff, 0xff, 0xff]),
        ("a long optional frame", Frame::raw(0x80, &[0; 4097])),
        ("an OPEN that can't be read", Frame::Open.of(&[0xff; 5])),
        ("an OPEN whose field is of another type", Frame::Open.of(&[0x08, 1])),
        ("data without OPEN", Frame::Data.of(b"x")),
        ("END without OPEN", end()),
        ("STATUS", Status::accepted(world.gate.address)),
        ("RESET without OPEN", reset("closed")),
        ("GOAWAY at once", goaway(0)),
        ("an HTTP request", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ];
    let mut number = 0;
    for (what, said) in begin {
        let mut tunnel = world.tunnel("web");
        let _ = tunnel.try_send(&said);
        tunnel.wait_gone();
        let record = world.record(number);
        assert_eq!((&record["reason"], &record["tunnel"]), (&"tunnel_protocol_error".into(), &"new".into()), "{what}");
        number += 1;
    }
    let no_names = [vec![], vec![0; 16], vec![1; 15], vec![1; 17]];
    for connection_id in no_names {
        let mut tunnel = world.tunnel("web");
        tunnel.send(&Open { connection_id, ..Open::default() }.frame());
        let status = tunnel.status();
        assert_eq!((status.outcome, status.reason.as_str()), (outcome::REFUSED, "tunnel_protocol_error"));
        assert_eq!(world.record(number)["reason"], "tunnel_protocol_error");
        number += 1;
    }
    world.dialled_nobody();
    let within: [(&str, Vec<u8>); 7] = [
        ("OPEN twice", Open::named(2)),
        ("the same OPEN twice", Open::named(1)),
        ("WARM", Frame::Warm.of(b"")),
        ("STATUS", Status::accepted(world.gate.address)),
        ("an unknown kind", Frame::raw(0x30, b"")),
        ("a RESET that can't be read", Frame::Reset.of(&[0xff; 5])),
        ("a long END", Frame::End.of(&[0; 4097])),
    ];
    for (what, said) in within {
        let mut tunnel = world.tunnel("web");
        let mut app = world.opened(&mut tunnel, 1);
        tunnel.send(&[Frame::Data.of(b"good"), said, Frame::Data.of(b"bad")].concat());
        app.read_exact(&mut [0; 4]).unwrap_or_else(|e| panic!("{what}: what was good before it is passed on: {e}"));
        assert_reset(&mut app);
        assert_eq!(world.record(number)["reason"], "tunnel_protocol_error", "{what}");
        tunnel.wait_gone();
        number += 1;
    }
    world.serves_others();
}

/// How a client's sidecar may vanish; the application never takes that for an end.
#[test]
fn a_session_that_ends_within_a_connection_is_an_abort() {
    let world = ByClient::new("");
    for n in 0..6 {
        let mut tunnel = world.tunnel("web");
        let mut app = world.opened(&mut tunnel, 1);
        tunnel.send(&Frame::Data.of(&[1; 100])[..54]);
        app.read_exact(&mut [0; 50]).unwrap();
        let reason = match n {
            0 => {
                tunnel.close();
                "truncated"
            }
            1 => {
                drop(tunnel);
                "truncated"
            }
            2 => {
                tunnel.cut();
                "downstream_reset"
            }
            // RESET in the middle of a frame would be data; the frame is ended first.
            3 | 4 => {
                tunnel.send(&[vec![1; 50], reset(if n == 3 { "downstream_reset" } else { "drained" })].concat());
                app.read_exact(&mut [0; 50]).unwrap();
                tunnel.cut();
                if n == 3 { "downstream_reset" } else { "peer_aborted" }
            }
            _ => {
                tunnel.send(&[vec![1; 50], vec![Frame::Data as u8, 0]].concat());
                app.read_exact(&mut [0; 50]).unwrap();
                drop(tunnel);
                "truncated"
            }
        };
        assert_reset(&mut app);
        assert_eq!(world.record(n)["reason"], reason, "{n}");
    }
    world.serves_others();
}

/// A client that shakes hands and says nothing is let go, also if it says something every now and then.
#[test]
fn a_client_that_opens_nothing_is_let_go() {
    let world = ByClient::new("timeouts: { handshake: 1s }\n");
    let mut silent = world.tunnel("web");
    silent.wait_gone();
    assert_eq!(world.record(0)["reason"], "handshake_timeout");
    let mut slow = world.tunnel("web");
    // Whole frames that mean nothing buy no time.
    while slow.try_send(&Frame::raw(0x80, b"")).is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(world.record(1)["reason"], "handshake_timeout");
    world.serves_others();
}

/// Who is told to go and sends on without reading is not listened to for ever, and costs no memory.
#[test]
fn a_client_that_does_not_go_costs_nothing() {
    let world = ByClient::new("timeouts: { tunnelIdle: 100ms }\n");
    let mut tunnel = world.tunnel("web");
    let app = world.opened(&mut tunnel, 1);
    tunnel.send(&end());
    drop(app);
    tunnel.data_to_end();
    assert_eq!(tunnel.goaway(), 1);
    let (_, before) = world.gate.sidecar.usage();
    let flood = Frame::Open.of(b"").repeat(100_000);
    while tunnel.try_send(&flood).is_ok() {}
    let (_, after) = world.gate.sidecar.usage();
    assert!(after < before + 16 * 1024, "{before} KiB became {after}");
    world.serves_others();
}

/// A half-closed connection whose client goes on after its END: that is no data of this connection.
#[test]
fn nothing_may_follow_end_but_the_next_open() {
    let world = ByClient::new("");
    let mut tunnel = world.tunnel("web");
    let mut app = world.opened(&mut tunnel, 1);
    tunnel.send(&[Frame::Data.of(b"all"), end(), Frame::Data.of(b"more"), end()].concat());
    assert_eq!(read_all(&mut app).unwrap(), b"all");
    app.write_all(b"answer").unwrap();
    drop(app);
    assert_eq!(tunnel.data_to_end(), b"answer");
    assert!(!matches!(tunnel.hear(), Heard::Frame(..)), "the session is over");
    assert_eq!((&world.record(0)["reason"], &world.record(0)["bytesUp"]), (&"closed".into(), &3.into()));
    world.dialled_nobody();
    world.serves_others();
}
