//! Hand-made tunnel clients that do as docs/reference/tunnel.md says, as a real server's sidecar takes them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};

use sidegate_tests::{ByClient, Frame, Heard, Open, Status, TunnelEnd, eventually, id, outcome, pattern, read_all};

fn end() -> Vec<u8> {
    Frame::End.of(b"")
}

/// The answer says where the server was reached and whether the session may go on; what it dials is its own, whatever OPEN
/// says.
#[test]
fn the_destination_in_open_is_information() {
    let world = ByClient::new("");
    let elsewhere = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let mut tunnel = world.tunnel("web");
    let open = Open {
        connection_id: (1..=16).collect(),
        trace_id: vec![0xaa; 16],
        span_id: vec![0xbb; 8],
        trace_flags: 3,
        destination: elsewhere.local_addr().unwrap().to_string(),
    };
    tunnel.send(&open.frame());
    let mut app = world.accept();
    let status = tunnel.status();
    assert_eq!((status.outcome, status.reusable, status.reason), (outcome::ACCEPTED, true, String::new()));
    assert_eq!(status.reached_at, world.gate.address.to_string());
    tunnel.send(&end());
    assert_eq!(read_all(&mut app).unwrap(), b"");
    drop(app);
    assert_eq!(tunnel.data_to_end(), b"");
    let record = world.record(0);
    assert_eq!(record["connectionId"], "0102030405060708090a0b0c0d0e0f10");
    assert_eq!((&record["peerId"], &record["reason"]), (&id("web").into(), &"closed".into()));
    assert!(elsewhere.accept().is_err());
}

/// The bytes in docs/reference/tunnel.md are what a real sidecar takes, and what it says.
#[test]
fn the_example_of_the_specification_is_true() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/tunnel.md");
    let text = std::fs::read_to_string(file).unwrap();
    let example = text.split("```text example\n").nth(1).unwrap().split("```").next().unwrap();
    let bytes: Vec<u8> = example.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let open = Open {
        connection_id: (1..=16).collect(),
        span_id: (0xa1..=0xa8).collect(),
        trace_flags: 2,
        destination: "10.0.0.1:80".to_owned(),
        ..Open::default()
    };
    let status = Status { outcome: outcome::ACCEPTED, reached_at: "10.0.0.1:80".to_owned(), reusable: true, ..Status::default() };
    assert_eq!(bytes, [open.frame(), status.frame(), Frame::Data.of(b"hi"), end()].concat());
    let world = ByClient::new("");
    let mut tunnel = world.tunnel("web");
    tunnel.send(&open.frame());
    let app = world.accept();
    let status = Status { reached_at: world.gate.address.to_string(), ..status };
    assert_eq!(tunnel.expect(Frame::Status), status.frame()[4..]);
    drop(app);
}

/// Frames may be cut and joined in any way, also byte by byte, and what is optional is skipped.
#[test]
fn any_segmentation_is_understood() {
    let world = ByClient::new("");
    let data = pattern(40_000, 1);
    let mut stream = [Open::named(1), Frame::raw(0x80, b"optional"), Frame::Data.of(b"")].concat();
    // A field that a later version may have, behind those that are known.
    let of_later_version = [&Open { connection_id: vec![1; 16], ..Open::default() }.frame()[4..], &[0xfa, 0x01, 2, 7, 7]].concat();
    stream.splice(..Open::named(1).len(), Frame::Open.of(&of_later_version));
    for piece in [&data[..7], &data[7..20_000], &data[20_000..20_001], &data[20_001..]] {
        stream.extend(Frame::Data.of(piece));
        stream.extend(Frame::raw(0xfe, &[9; 100]));
    }
    stream.extend(end());
    for (n, size) in [1, 2, 5, 777, 16_384, stream.len()].into_iter().enumerate() {
        let mut tunnel = world.tunnel("web");
        // A record for each byte costs time, so only the beginning and the end are sent so.
        let (head, rest) = stream.split_at(if size < 100 { 400 } else { 0 });
        let (middle, tail) = rest.split_at(rest.len() - if size < 100 { 200 } else { 0 });
        for (part, size) in [(head, size), (middle, size.max(777)), (tail, size)] {
            part.chunks(size).for_each(|piece| tunnel.send(piece));
        }
        let mut app = world.accept();
        assert!(read_all(&mut app).unwrap() == data, "pieces of {size}");
        drop(app);
        assert_eq!(tunnel.status().outcome, outcome::ACCEPTED);
        assert_eq!(tunnel.data_to_end(), b"");
        tunnel.close();
        assert_eq!((&world.record(n)["reason"], &world.record(n)["bytesUp"]), (&"closed".into(), &40_000.into()));
    }
}

/// The longest frame of data that the header can name.
#[test]
fn a_frame_of_sixteen_mebibytes_is_passed_on_as_it_comes() {
    let world = ByClient::new("");
    let mut tunnel = world.tunnel("web");
    let mut app = world.opened(&mut tunnel, 1);
    let data = pattern((1 << 24) - 1, 3);
    let frame = Frame::Data.of(&data);
    // What has come of a frame goes on before the rest is there.
    tunnel.send(&frame[..5_000]);
    let mut first = vec![0; 4_996];
    app.read_exact(&mut first).unwrap();
    let reading = std::thread::spawn(move || read_all(&mut app).unwrap());
    tunnel.send(&frame[5_000..]);
    tunnel.send(&end());
    first.extend(reading.join().unwrap());
    assert!(first == data);
}

/// END and the next OPEN in one record, with data; each connection gets its own.
#[test]
fn the_next_open_may_follow_in_the_same_record() {
    let world = ByClient::new("");
    let mut tunnel = world.tunnel("web");
    tunnel.send(&[Open::named(1), Frame::Data.of(b"one"), end(), Open::named(2), Frame::Data.of(b"two"), end(), Open::named(3)].concat());
    for (n, expected) in [b"one", b"two"].into_iter().enumerate() {
        let mut app = world.accept();
        assert_eq!(read_all(&mut app).unwrap(), expected);
        app.write_all(b"answer").unwrap();
        drop(app);
        assert_eq!(tunnel.status().outcome, outcome::ACCEPTED);
        assert_eq!(tunnel.data_to_end(), b"answer");
        let record = world.record(n);
        assert_eq!((&record["reason"], &record["bytesUp"], &record["bytesDown"]), (&"closed".into(), &3.into(), &6.into()));
        assert_eq!(record["tunnel"], if n == 0 { "new" } else { "reused" });
    }
    let _third = world.accept();
    assert_eq!(tunnel.status().outcome, outcome::ACCEPTED);
}

/// A session made in advance: it waits as any other, and its handshake's record says what it was for.
#[test]
fn a_session_may_be_made_in_advance() {
    let world = ByClient::new("");
    let mut tunnel = world.tunnel("web");
    tunnel.send(&Frame::Warm.of(b""));
    let record = world.gate.sidecar.reason("prepared");
    assert_eq!((&record["tunnel"], &record["peerId"]), (&"new".into(), &id("web").into()));
    let idle = "sidegate_tunnels_idle{sidegate_direction=\"inbound\"}";
    eventually("the session to wait", || (world.gate.sidecar.metric(idle) == 1.0).then_some(()));
    world.dialled_nobody();
    let app = world.opened(&mut tunnel, 1);
    tunnel.send(&end());
    app.shutdown(Shutdown::Write).unwrap();
    assert_eq!(tunnel.data_to_end(), b"");
    assert_eq!((&world.record(1)["tunnel"], &world.record(1)["reason"]), (&"reused".into(), &"closed".into()));
    tunnel.close();
    eventually("its end", || (world.gate.sidecar.metric(idle) == 0.0).then_some(()));
    assert_eq!(world.gate.sidecar.records().len(), 2);
}

/// Who has a good SVID but no permission learns why, and the application nothing at all.
#[test]
fn a_peer_without_permission_is_told_and_nobody_is_dialled_for() {
    let world = ByClient::new("");
    let mut tunnel = world.tunnel("intruder");
    tunnel.send(&[Open::named(1), Frame::Data.of(b"let me in")].concat());
    let status = tunnel.status();
    assert_eq!((status.outcome, status.reason.as_str(), status.reusable), (outcome::REFUSED, "denied_by_default", false));
    tunnel.wait_gone();
    assert_eq!((&world.record(0)["reason"], &world.record(0)["bytesUp"]), (&"denied_by_default".into(), &0.into()));
    world.dialled_nobody();
}

/// Nor may it keep a place for later.
#[test]
fn a_peer_without_permission_makes_no_session_in_advance() {
    let world = ByClient::new("");
    let mut tunnel = world.tunnel("intruder");
    tunnel.send(&Frame::Warm.of(b""));
    assert_eq!(tunnel.hear(), Heard::Cut);
    assert_eq!(world.record(0)["reason"], "denied_by_default");
    assert_eq!(world.gate.sidecar.metric("sidegate_tunnels_idle{sidegate_direction=\"inbound\"}"), 0.0);
}

/// A connection's name is its peer's: no second live one of the same peer, but another peer may choose the same.
#[test]
fn a_name_that_is_taken_is_refused() {
    let world = ByClient::new("");
    let (mut one, mut two, mut other) = (world.tunnel("web"), world.tunnel("web"), world.tunnel("shop"));
    let app = world.opened(&mut one, 7);
    two.send(&Open::named(7));
    let status = two.status();
    assert_eq!((status.outcome, status.reason.as_str()), (outcome::REFUSED, "duplicate_connection_id"));
    let refused = world.gate.sidecar.reason("duplicate_connection_id");
    assert_ne!(refused["connectionId"], "07".repeat(16), "a record of the other's name would confuse");
    let app_of_other = world.opened(&mut other, 7);
    // Once it has ended the name is free.
    one.send(&end());
    drop((app, app_of_other));
    one.data_to_end();
    world.gate.sidecar.reason("closed");
    let mut again = world.tunnel("web");
    world.opened(&mut again, 7);
}

/// A session that waits is let go by the server after twice its own limit, with a word.
#[test]
fn a_server_says_goaway_to_who_waits_too_long() {
    let world = ByClient::new("timeouts: { tunnelIdle: 500ms }\n");
    let mut tunnel = world.tunnel("web");
    let app = world.opened(&mut tunnel, 1);
    tunnel.send(&end());
    drop(app);
    tunnel.data_to_end();
    assert_eq!(tunnel.goaway(), 1);
    // What has crossed with it was not opened, and the server says so; it waits for the client to close.
    tunnel.send(&[Open::named(2), Frame::Data.of(b"too late"), end()].concat());
    assert_eq!(tunnel.status().outcome, outcome::NOT_OPENED);
    tunnel.close();
    world.dialled_nobody();
    assert_eq!(world.gate.sidecar.records().len(), 1, "what was not opened has no record");
}

/// Beyond the places for sessions that wait, a client is sent away at once.
#[test]
fn sessions_that_wait_are_bounded() {
    let world = ByClient::new("limits: { idleTunnels: 2 }\n");
    let mut waiting: Vec<TunnelEnd> = Vec::new();
    let idle = "sidegate_tunnels_idle{sidegate_direction=\"inbound\"}";
    for n in 0..2 {
        let mut tunnel = world.tunnel("web");
        tunnel.send(&Frame::Warm.of(b""));
        eventually("it to wait", || (world.gate.sidecar.metric(idle) == f64::from(n) + 1.0).then_some(()));
        waiting.push(tunnel);
    }
    let mut more = world.tunnel("web");
    more.send(&Frame::Warm.of(b""));
    assert_eq!(more.goaway(), 0);
    more.wait_gone();
    // Those who wait are served, and make room.
    let mut first = waiting.remove(0);
    let _app = world.opened(&mut first, 1);
    let mut next = world.tunnel("web");
    next.send(&Frame::Warm.of(b""));
    let _app = world.opened(&mut next, 2);
    drop(waiting);
}
