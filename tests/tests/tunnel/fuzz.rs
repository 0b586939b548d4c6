//! Random frames, cut and joined at random, against both ends of a tunnel: whatever comes, the sidecar goes on serving
//! others, and nothing is left behind.
//!
//! The seed is fixed, and printed with what fails; `SIDEGATE_TEST_SEED` sets another, `SIDEGATE_TEST_SESSIONS` how many.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use fastrand::Rng;
use sidegate_tests::{
    Echo, Frame, Identities, Open, Owner, Sidecar, Status, TunnelEnd, TunnelServer, client_config, eventually, free_port, goaway, id,
    outcome, reset,
};

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    number("SIDEGATE_TEST_SEED", 20_261_125)
}

fn sessions() -> u64 {
    number("SIDEGATE_TEST_SESSIONS", 1000)
}

/// Says with which session a test failed.
struct Session(u64);

impl Drop for Session {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("session {} of SIDEGATE_TEST_SEED={}", self.0, seed());
        }
    }
}

fn bytes(rng: &mut Rng, most: usize) -> Vec<u8> {
    let length = rng.usize(..=most);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

/// A frame that may be good, nearly good, or nothing.
fn frame(rng: &mut Rng, here: SocketAddr) -> Vec<u8> {
    let mut frame = match rng.u8(..20) {
        0 | 1 => Open::named(rng.u8(..4)),
        2 => Open { connection_id: bytes(rng, 20), trace_id: bytes(rng, 20), span_id: bytes(rng, 10), ..Open::default() }.frame(),
        3 => Status::accepted(here),
        4 => Status { outcome: rng.i32(..5), reason: "x".repeat(rng.usize(..40)), reached_at: here.to_string(), reusable: rng.bool() }
            .frame(),
        5 => Status { outcome: outcome::NOT_OPENED, ..Status::default() }.frame(),
        6..=9 => Frame::Data.of(&bytes(rng, 3000)),
        10 => Frame::Data.of(&bytes(rng, 100_000)),
        11 | 12 => Frame::End.of(b""),
        13 => reset(["downstream_reset", "upstream_reset", "drained", "?"][rng.usize(..4)]),
        14 => goaway(rng.u64(..4)),
        15 => Frame::Warm.of(b""),
        16 => Frame::raw(rng.u8(0x80..), &bytes(rng, 4096)),
        17 => Frame::raw(rng.u8(..), &bytes(rng, 5000)),
        18 => bytes(rng, 50),
        _ => Vec::new(),
    };
    // Now and then one bit is wrong.
    if rng.u8(..20) == 0 && !frame.is_empty() {
        let at = rng.usize(..frame.len());
        frame[at] ^= 1 << rng.u8(..8);
    }
    frame
}

/// Sends frames, cut at random places, and ends in one of the ways there are.
fn play(mut end: TunnelEnd, rng: &mut Rng, begin: Vec<u8>, here: SocketAddr) {
    let mut stream = begin;
    for _ in 0..rng.usize(..8) {
        stream.extend(frame(rng, here));
    }
    let mut rest = &stream[..];
    while !rest.is_empty() {
        let most = [1, 10, 1000, 20_000, usize::MAX][rng.usize(..5)];
        let (piece, later) = rest.split_at(rng.usize(1..=most.min(rest.len())));
        // The sidecar may have had enough.
        if end.try_send(piece).is_err() {
            return;
        }
        rest = later;
    }
    match rng.u8(..3) {
        0 => end.close(),
        1 => end.cut(),
        _ => drop(end),
    }
}

/// Nothing is open any more, nothing waits, and no descriptor was lost.
fn is_clean(sidecar: &Sidecar, descriptors: usize) {
    for direction in ["inbound", "outbound"] {
        for metric in ["sidegate_connections_open", "sidegate_tunnels_idle"] {
            let name = format!("{metric}{{sidegate_direction=\"{direction}\"}}");
            eventually(&name, || (sidecar.metric(&name) == 0.0).then_some(()));
        }
    }
    eventually("all descriptors to be closed", || (sidecar.usage().0 <= descriptors).then_some(()));
    assert!(!sidecar.log().contains("panicked"), "{}", sidecar.log());
}

const SHORT: &str = "timeouts: { dial: 2s, handshake: 2s, idle: 2s, halfOpen: 1s, tunnelIdle: 1s }\n";

#[test]
fn a_server_survives_any_client() {
    let (identities, echo) = (Identities::start(&["api"], Duration::from_secs(3600)), Echo::start());
    let gate = Owner::of(&identities, "api").more(SHORT).inbound(&[&id("web"), &id("good")], echo.address).ready();
    let material = sidegate_tests::material(&identities, "web");
    let descriptors = gate.sidecar.usage().0 + 2;
    for n in 0..sessions() {
        let (mut rng, _session) = (Rng::with_seed(seed() + n), Session(n));
        // Half of them begin as they should, so that the rest meets an open connection.
        let begin = if rng.bool() { Open::named(200) } else { Vec::new() };
        play(TunnelEnd::connect(&material, gate.address), &mut rng, begin, gate.address);
    }
    let mut good = TunnelEnd::connect(&sidegate_tests::material(&identities, "good"), gate.address);
    good.send(&[Open::named(1), Frame::Data.of(b"still there?"), Frame::End.of(b"")].concat());
    assert_eq!(good.status().outcome, outcome::ACCEPTED);
    assert_eq!(good.data_to_end(), b"still there?");
    good.close();
    is_clean(&gate.sidecar, descriptors);
    let reasons: std::collections::BTreeSet<String> = gate.sidecar.records().iter().map(|r| r["reason"].to_string()).collect();
    assert!(reasons.len() > 3 && reasons.contains("\"tunnel_protocol_error\""), "{reasons:?} prove nothing");
}

#[test]
fn a_client_survives_any_server() {
    let identities = Identities::start(&["web", "api"], Duration::from_secs(3600));
    let server = TunnelServer::start(&identities, "api");
    let entry = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = client_config(&identities, entry, server.address).replace("{ name: api,", "{ name: api, tunnel: auto,");
    let web = Sidecar::start(identities.folder(), "web", &format!("workers: 1\n{SHORT}{config}"));
    web.wait_ready();
    let descriptors = web.usage().0 + 2;
    for n in 0..sessions() {
        let (mut rng, _session) = (Rng::with_seed(seed() + n), Session(n));
        let mut application = TcpStream::connect(entry).unwrap();
        let said = bytes(&mut rng, 30_000);
        let ends = rng.bool();
        let talking = std::thread::spawn(move || {
            let _ = application.write_all(&said);
            if ends {
                let _ = application.shutdown(Shutdown::Write);
            }
            let _ = application.read_to_end(&mut Vec::new());
        });
        // A used session may have taken the connection; then there is nobody to play with, and the connection has ended.
        while !talking.is_finished() {
            if let Some(tunnel) = server.try_accept() {
                let begin = if rng.bool() { Status::accepted(server.address) } else { Vec::new() };
                play(tunnel, &mut rng, begin, server.address);
            }
        }
        talking.join().unwrap();
    }
    let mut application = TcpStream::connect(entry).unwrap();
    application.write_all(b"still there?").unwrap();
    let mut tunnel = server.accept();
    tunnel.open();
    assert_eq!(tunnel.data(12), b"still there?");
    tunnel.send(&[Status::accepted(server.address), Frame::Data.of(b"yes")].concat());
    application.read_exact(&mut [0; 3]).unwrap();
    drop((application, tunnel));
    is_clean(&web, descriptors);
    let reasons: std::collections::BTreeSet<String> = web.records().iter().map(|r| r["reason"].to_string()).collect();
    assert!(reasons.len() > 3 && reasons.contains("\"tunnel_protocol_error\""), "{reasons:?} prove nothing");
}
