//! Invariant 5: half-close, FIN and RST pass as the application sent them, also under back-pressure.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use sidegate_tests::{DEADLINE, Pair, eventually, pattern, read_all};
use socket2::SockRef;

const HOUR: Duration = Duration::from_secs(3600);

/// A connection through both sidecars: the application's end and the service's.
struct Through {
    pair: Pair,
    client: TcpStream,
    server: TcpStream,
}

fn through(more: &str) -> Through {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let pair = Pair::start(listener.local_addr().unwrap(), HOUR, more);
    let client = TcpStream::connect(pair.entry).unwrap();
    let (server, _) = listener.accept().unwrap();
    for tcp in [&client, &server] {
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        tcp.set_write_timeout(Some(DEADLINE)).unwrap();
    }
    Through { pair, client, server }
}

fn reset(tcp: TcpStream) {
    SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
}

fn is_reset<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|e| matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe))
}

#[test]
fn the_client_half_closes_and_still_receives() {
    let Through { pair, mut client, mut server } = through("");
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut server).unwrap(), b"question");
    let answer = pattern(5_000_000, 1);
    let sending = {
        let answer = answer.clone();
        std::thread::spawn(move || server.write_all(&answer))
    };
    assert!(read_all(&mut client).unwrap() == answer);
    sending.join().unwrap().unwrap();
    pair.web.reason("closed");
    pair.api.reason("closed");
}

#[test]
fn the_server_half_closes_and_still_receives() {
    let Through { pair, mut client, mut server } = through("");
    server.write_all(b"banner").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut client).unwrap(), b"banner");
    let upload = pattern(5_000_000, 2);
    let sending = {
        let upload = upload.clone();
        std::thread::spawn(move || client.write_all(&upload))
    };
    assert!(read_all(&mut server).unwrap() == upload);
    sending.join().unwrap().unwrap();
    pair.web.reason("closed");
    assert_eq!(pair.api.reason("closed")["bytesUp"], 5_000_000);
}

#[test]
fn a_reset_passes_in_both_directions() {
    let Through { pair, mut client, mut server } = through("");
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    reset(client);
    assert!(is_reset(server.read(&mut [0; 16])));
    pair.web.reason("downstream_reset");
    pair.api.reason("downstream_reset");
    let Through { pair, mut client, mut server } = through("");
    // Not before it is relayed: a reset that comes sooner is a failed dial.
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    reset(server);
    assert!(is_reset(client.read(&mut [0; 16])));
    pair.api.reason("upstream_reset");
    pair.web.reason("upstream_reset");
}

/// Nobody reads: everything between is full. A reset of the writer must get through all the same.
#[test]
fn a_reset_passes_under_back_pressure() {
    let Through { pair, mut client, mut server } = through("");
    client.set_nonblocking(true).unwrap();
    let chunk = [7; 65_536];
    let mut stalled = 0;
    while stalled < 50 {
        match client.write(&chunk) {
            Ok(_) => stalled = 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stalled += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
    }
    reset(client);
    pair.web.reason("downstream_reset");
    pair.api.reason("downstream_reset");
    let mut buffer = vec![0; 1 << 20];
    let end = loop {
        match server.read(&mut buffer) {
            Ok(0) => break Ok(0),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    assert!(is_reset(end), "what was cut off must not look complete");
}

/// A slow reader holds the writer back; nothing is lost, and nothing piles up in the sidecars.
#[test]
fn back_pressure_reaches_the_sender() {
    let Through { pair, mut client, mut server } = through("");
    let sent = pattern(30_000_000, 3);
    let sending = {
        let sent = sent.clone();
        std::thread::spawn(move || {
            client.write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        })
    };
    let mut received = Vec::new();
    let mut buffer = vec![0; 300_000];
    while received.len() < 3_000_000 {
        let read = server.read(&mut buffer).unwrap();
        received.extend_from_slice(&buffer[..read]);
        std::thread::sleep(Duration::from_millis(5));
    }
    for sidecar in [&pair.web, &pair.api] {
        let (_, resident) = sidecar.usage();
        assert!(resident < 64 * 1024, "{resident} KiB while 27 MB wait");
    }
    received.extend(read_all(&mut server).unwrap());
    sending.join().unwrap();
    assert!(received == sent);
}

#[test]
fn silence_has_an_end() {
    let Through { pair, mut client, mut server } = through("timeouts: { idle: 1s }\n");
    assert!(is_reset(client.read(&mut [0; 16])));
    assert!(is_reset(server.read(&mut [0; 16])));
    // Whichever end noticed first reset the other.
    eventually("an idle timeout", || {
        pair.web.records().iter().chain(&pair.api.records()).any(|r| r["reason"] == "idle_timeout").then_some(())
    });
    let Through { pair, mut client, server } = through("timeouts: { halfOpen: 1s }\n");
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 16]).unwrap(), 0);
    eventually("a half-open timeout", || {
        pair.web.records().iter().chain(&pair.api.records()).any(|r| r["reason"] == "half_open_timeout").then_some(())
    });
}

/// The peer's sidecar is killed in the midst of an answer: that must not look like its end.
#[test]
fn a_killed_peer_does_not_look_like_an_end() {
    let Through { mut pair, mut client, mut server } = through("");
    server.write_all(b"the first half").unwrap();
    client.read_exact(&mut [0; 14]).unwrap();
    pair.api.kill();
    assert!(is_reset(client.read(&mut [0; 16])));
}

/// A server that refuses an upload and resets: what it said before still arrives.
#[test]
fn what_was_said_before_a_reset_arrives() {
    let Through { pair: _pair, mut client, mut server } = through("");
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    let uploading = {
        let mut client = client.try_clone().unwrap();
        std::thread::spawn(move || while client.write_all(&[1; 65_536]).is_ok() {})
    };
    std::thread::sleep(Duration::from_millis(100));
    server.write_all(b"413 too large").unwrap();
    // What the client has sent is unread, so the kernel resets.
    drop(server);
    let mut said = Vec::new();
    let mut buffer = [0; 64];
    while let Ok(read) = client.read(&mut buffer) {
        if read == 0 {
            break;
        }
        said.extend_from_slice(&buffer[..read]);
    }
    assert_eq!(said, b"413 too large");
    uploading.join().unwrap();
}

/// A peer whose session fails by what it sent hears why, also if it is in the middle of sending more.
#[test]
fn a_peer_that_is_writing_sees_the_alert() {
    let service = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let pair = Pair::with_tunnel(service.local_addr().unwrap(), "off", "");
    let choice = sidegate_tls::TlsContext::new(&sidegate_tests::material(&pair.identities, "web")).unwrap().client(&[], false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let heard = runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(pair.port).await.unwrap();
        let mut session = sidegate_tls::connect(&tcp, &choice, "x".try_into().unwrap()).await.unwrap();
        std::future::poll_fn(|cx| session.poll_flush(&tcp, cx)).await.unwrap();
        // A record that nobody has sealed, and much behind it.
        let junk = [&[23, 3, 3, 0, 32][..], &[0; 32], &[9; 400_000]].concat();
        let mut sent = 0;
        while sent < junk.len() {
            tcp.writable().await.unwrap();
            match tcp.try_write(&junk[sent..]) {
                Ok(written) => sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("it can't send on after {sent} bytes: {error}"),
            }
        }
        std::future::poll_fn(|cx| session.poll_fill(&tcp, cx)).await
    });
    let error = format!("{heard:?}");
    assert!(error.contains("BadRecordMac"), "{error}");
    assert_eq!(pair.api.wait_records(1)[0]["reason"], "tls_protocol_error");
}
