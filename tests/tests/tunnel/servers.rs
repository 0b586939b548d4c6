//! Hand-made tunnel servers that do as docs/reference/tunnel.md says, as a real client's sidecar takes them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::Signal;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ServerConfig, ServerConnection, Stream};
use serde_json::Value;
use sidegate_tests::{
    ByServer, DEADLINE, Frame, Heard, Identities, Sidecar, Status, assert_reset, client_config, free_port, goaway, id, outcome, pattern,
    read_all,
};

fn not_opened() -> Vec<u8> {
    Status { outcome: outcome::NOT_OPENED, ..Status::default() }.frame()
}

/// OPEN says who, which trace, and where the application wanted to go, and comes before the handshake has cost a round trip
/// more.
#[test]
fn open_names_the_connection() {
    let world = ByServer::new("");
    let mut client = world.connect();
    let mut tunnel = world.server.accept();
    let open = tunnel.open();
    assert_eq!((open.connection_id.len(), open.span_id.len(), open.trace_flags & 1), (16, 8, 0));
    assert!(open.trace_id.is_empty(), "it is the connection's ID");
    assert_eq!(open.destination, world.server.address.to_string());
    tunnel.send(&Status::accepted(world.server.address));
    client.write_all(b"hello").unwrap();
    assert_eq!(tunnel.data(5), b"hello");
    tunnel.send(&Frame::End.of(b""));
    drop(client);
    assert_eq!(tunnel.hear(), Heard::Frame(Frame::End as u8, Vec::new()));
    let hex: String = open.connection_id.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(world.record(0)["connectionId"], hex);
}

/// The server opened nothing: what the application has sent goes over a new session, once and whole.
#[test]
fn what_was_not_opened_is_sent_again_on_a_new_session() {
    for (length, ended) in [(0, false), (0, true), (5, false), (5, true), (16_384, false), (100_000, true)] {
        let world = ByServer::new("");
        let mut used = world.used();
        let mut client = world.connect();
        let sent = pattern(length, 7);
        let (writing, bytes) = (client.try_clone().unwrap(), sent.clone());
        let writer = std::thread::spawn(move || {
            (&writing).write_all(&bytes).unwrap();
            if ended {
                writing.shutdown(Shutdown::Write).unwrap();
            }
        });
        let first = used.open();
        // All that may be sent before the answer.
        assert_eq!(used.data(length.min(16_384)), sent[..length.min(16_384)]);
        if ended && length < 16_384 {
            used.expect(Frame::End);
        }
        used.send(&not_opened());
        used.wait_gone();
        let mut new = world.server.accept();
        assert_eq!(new.open().connection_id, first.connection_id, "it is the same connection");
        new.send(&Status::accepted(world.server.address));
        if ended {
            assert!(new.data_to_end() == sent, "{length}");
        } else {
            assert!(new.data(length) == sent, "{length}");
        }
        writer.join().unwrap();
        new.send(&[Frame::Data.of(b"answer"), Frame::End.of(b"")].concat());
        if !ended {
            client.shutdown(Shutdown::Write).unwrap();
        }
        assert_eq!(read_all(&mut client).unwrap(), b"answer");
        let record = world.record(1);
        assert_eq!((&record["reason"], &record["tunnel"]), (&"closed".into(), &"new".into()));
        assert_eq!((&record["bytesUp"], &record["bytesDown"]), (&length.into(), &6.into()), "each byte is counted once");
    }
}

/// GOAWAY that has crossed with OPEN: the count tells whether that was taken.
#[test]
fn a_goaway_that_counts_one_less_means_that_nothing_was_opened() {
    let world = ByServer::new("");
    let mut used = world.used();
    let mut client = world.connect();
    client.write_all(b"again").unwrap();
    used.open();
    used.send(&goaway(1));
    used.wait_gone();
    let mut new = world.server.accept();
    new.open();
    new.send(&Status::accepted(world.server.address));
    assert_eq!(new.data(5), b"again");

    // On a session that was made for it, there is nothing to go back to.
    let mut client = world.connect();
    client.write_all(b"once").unwrap();
    let mut tunnel = world.server.accept();
    tunnel.open();
    tunnel.send(&goaway(0));
    assert_reset(&mut client);
    assert_eq!(world.web.reason("not_opened")["tunnel"], "new");
}

/// GOAWAY that counts the OPEN: the connection goes on to its end, and no other follows.
#[test]
fn a_goaway_that_counts_all_harms_nothing_under_way() {
    let world = ByServer::new("");
    let mut used = world.used();
    let mut client = world.connect();
    client.write_all(b"more").unwrap();
    used.open();
    used.send(&[goaway(2), Status::accepted(world.server.address)].concat());
    assert_eq!(used.data(4), b"more");
    used.send(&[Frame::Data.of(b"answer"), Frame::End.of(b"")].concat());
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut client).unwrap(), b"answer");
    assert_eq!(used.hear(), Heard::Frame(Frame::End as u8, Vec::new()));
    assert_eq!(used.hear(), Heard::Closed);
    assert_eq!(world.record(1)["reason"], "closed");
    world.serves_the_next();
}

/// A server that goes while its session waits: no connection is tried on it.
#[test]
fn a_goaway_while_nothing_is_under_way_is_heard() {
    let world = ByServer::new("");
    let mut used = world.used();
    used.send(&goaway(1));
    assert_eq!(used.hear(), Heard::Closed, "the client lets go by itself");
    world.serves_the_next();
    assert_eq!(world.web.records().len(), 1);
}

/// What a server says may be split and joined in any way.
#[test]
fn any_segmentation_of_the_answer_is_the_same_answer() {
    let answer = |address: SocketAddr| {
        let mut all = [Status::accepted(address), Frame::raw(0x80, b"optional"), Frame::raw(0xff, &[1; 4096])].concat();
        let data = pattern(70_000, 3);
        for piece in [&data[..1], &data[1..1], &data[1..20_001], &data[20_001..20_003], &data[20_003..]] {
            all.extend(Frame::Data.of(piece));
        }
        all.extend(Frame::End.of(b""));
        (all, data)
    };
    for size in [1, 3, 4, 1000, 16_384, usize::MAX] {
        let world = ByServer::new("");
        let mut client = world.connect();
        client.shutdown(Shutdown::Write).unwrap();
        let mut tunnel = world.server.accept();
        tunnel.open();
        assert_eq!(tunnel.data_to_end(), b"");
        let (all, data) = answer(world.server.address);
        // A record for each byte costs time, so only the frames' heads are sent so.
        let (head, rest) = all.split_at(if size < 1000 { 6000 } else { 0 });
        head.chunks(size).chain(rest.chunks(size.max(1000))).for_each(|piece| tunnel.send(piece));
        assert!(read_all(&mut client).unwrap() == data, "pieces of {size}");
        assert_eq!(world.record(0)["reason"], "closed");
    }
}

/// An application that sends while the answer comes: both are there when the sidecar looks.
#[test]
fn data_that_comes_together_with_the_answer_goes_on() {
    let world = ByServer::new("timeouts: { handshake: 60s }\n");
    let mut used = world.used();
    let mut client = world.connect();
    // OPEN goes out alone, for there is nothing else yet.
    used.open();
    world.web.stop();
    let sent = pattern(200_000, 5);
    client.write_all(&sent[..100_000]).unwrap();
    used.send(&Status::accepted(world.server.address));
    world.web.signal(Signal::SIGCONT);
    assert!(used.data(100_000) == sent[..100_000]);
    client.write_all(&sent[100_000..]).unwrap();
    assert!(used.data(100_000) == sent[100_000..]);
}

/// A server that says where it was reached decides whether its session is used again: only where that is what was dialled.
#[test]
fn reuse_needs_the_servers_word_and_its_address() {
    let world = ByServer::new("");
    let here = world.server.address.to_string();
    for (n, (reached_at, reusable)) in [("", true), ("10.0.0.1:80", true), ("here", true), (&*here, false)].into_iter().enumerate() {
        let mut client = world.connect();
        client.shutdown(Shutdown::Write).unwrap();
        let mut tunnel = world.server.accept();
        tunnel.open();
        let status = Status { outcome: outcome::ACCEPTED, reached_at: reached_at.to_owned(), reusable, ..Status::default() };
        tunnel.send(&[status.frame(), Frame::End.of(b"")].concat());
        assert_eq!(read_all(&mut client).unwrap(), b"");
        tunnel.data_to_end();
        assert_eq!(tunnel.hear(), Heard::Closed, "{reached_at} {reusable}");
        assert_eq!(world.record(n)["reason"], "closed");
    }
    assert!(!world.server.is_called());
}

/// A server of another make that ends the handshake where it knows none of the protocols: it is dialled again without a
/// tunnel, and not offered one for a while.
#[test]
fn a_server_that_refuses_the_alpn_is_dialled_without_and_remembered() {
    let identities = Identities::start(&["web", "api"], Duration::from_secs(3600));
    let material = sidegate_tests::material(&identities, "api");
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_protocol_versions(&[&TLS13]).unwrap();
    let key = SingleCertAndKey::from((*material.svid.certified_key).clone());
    let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(key));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (told, handshakes) = mpsc::sync_channel(16);
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let mut tcp = tcp.unwrap();
            let mut tls = ServerConnection::new(config.clone()).unwrap();
            while tls.is_handshaking() && tls.complete_io(&mut tcp).is_ok() {}
            told.send(!tls.is_handshaking()).unwrap();
            if !tls.is_handshaking() {
                let mut all = Vec::new();
                let mut stream = Stream::new(&mut tls, &mut tcp);
                stream.read_to_end(&mut all).unwrap();
                stream.write_all(&all).unwrap();
                tls.send_close_notify();
                let _ = tls.complete_io(&mut tcp);
            }
        }
    });
    let entry = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = client_config(&identities, entry, address).replace("{ name: api,", "{ name: api, tunnel: auto,");
    let web = Sidecar::start(identities.folder(), "web", &format!("workers: 1\n{config}"));
    web.wait_ready();
    for n in 0..3 {
        let sent = pattern(50_000, n);
        assert!(sidegate_tests::exchange(entry, &sent).unwrap() == sent);
    }
    let outcomes: Vec<bool> = (0..4).map(|_| handshakes.recv_timeout(DEADLINE).unwrap()).collect();
    assert_eq!(outcomes, [false, true, true, true]);
    assert!(handshakes.try_recv().is_err());
    for record in web.wait_records(3) {
        assert_eq!((&record["reason"], &record["tunnel"], &record["peerId"]), (&"closed".into(), &Value::Null, &id("api").into()));
    }
}
