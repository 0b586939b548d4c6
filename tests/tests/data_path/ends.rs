//! Invariant 5: what one application sees of the other's end is what it would see without sidecars. A stream that was cut never
//! looks like one that has ended in order.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use sidegate_tests::{DEADLINE, Pair, eventually};
use socket2::SockRef;

/// What lies between the two applications.
struct Between {
    /// None: nothing.
    pair: Option<Pair>,
    service: TcpListener,
    entry: SocketAddr,
    name: &'static str,
}

const KINDS: [&str; 5] = ["nothing", "auto", "once", "off", "plaintext"];

impl Between {
    fn new(name: &'static str) -> Self {
        let service = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        service.set_nonblocking(true).unwrap();
        let address = service.local_addr().unwrap();
        let plaintext = format!("ports: [{{ port: {}, mode: plaintext, reason: a test }}],", address.port());
        let (pair, entry) = match name {
            "nothing" => (None, address),
            "plaintext" => {
                let pair = Pair::start_with(address, Duration::from_secs(3600), "workers: 1\n", "tunnel: off", &plaintext);
                let entry = pair.port;
                (Some(pair), entry)
            }
            mode => {
                let pair = Pair::with_tunnel(address, mode, "");
                let entry = pair.entry;
                (Some(pair), entry)
            }
        };
        Self { pair, service, entry, name }
    }

    /// Both ends of a connection.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.entry).unwrap();
        let (server, _) = eventually("the application's connection", || self.service.accept().ok());
        server.set_nonblocking(false).unwrap();
        (client, server)
    }
}

/// One step of an application.
#[derive(Debug, Clone, Copy)]
enum Step {
    Write(usize),
    Read(usize),
    HalfClose,
    /// As the kernel does for a process that is killed: with a reset if something is unread.
    Close,
    Reset,
}

/// How long a step waits for the other end.
const PATIENCE: Duration = Duration::from_millis(50);

/// What an application has done and seen.
#[derive(Debug, Default)]
struct Seen {
    written: u64,
    read: u64,
    half_closed: bool,
    /// Its stream was cut: nobody may take it for ended.
    cut: bool,
    /// The other end's stream has ended in order.
    end: bool,
}

/// A script that ends somehow.
fn script(random: &mut fastrand::Rng) -> Vec<Step> {
    let mut steps: Vec<Step> = (0..random.usize(..6))
        .map(|_| match random.u8(..7) {
            0..3 => Step::Write(random.usize(1..200_000)),
            3..6 => Step::Read(random.usize(1..200_000)),
            _ => Step::HalfClose,
        })
        .collect();
    steps.extend(match random.u8(..4) {
        0 => vec![Step::Reset],
        1 => vec![Step::Close],
        _ => vec![Step::HalfClose, Step::Read(usize::MAX), Step::Close],
    });
    steps
}

fn play(mut tcp: TcpStream, steps: &[Step]) -> Seen {
    let mut seen = Seen::default();
    let mut buffer = vec![0; 64 * 1024];
    let mut failed = false;
    tcp.set_write_timeout(Some(PATIENCE)).unwrap();
    for step in steps {
        // Two scripts may wait for each other, but not at their end.
        tcp.set_read_timeout(Some(if matches!(step, Step::Read(usize::MAX)) { DEADLINE } else { PATIENCE })).unwrap();
        match *step {
            Step::Write(_) | Step::HalfClose if failed || seen.half_closed => {}
            Step::Write(length) => {
                let mut left = length;
                while left > 0 {
                    match tcp.write(&buffer[..left.min(buffer.len())]) {
                        Ok(written) => (left, seen.written) = (left - written, seen.written + written as u64),
                        Err(error) => {
                            failed = error.kind() != ErrorKind::WouldBlock;
                            break;
                        }
                    }
                }
            }
            Step::HalfClose => {
                // It fails on a connection that was reset.
                seen.half_closed = tcp.shutdown(Shutdown::Write).is_ok();
                failed |= !seen.half_closed;
            }
            Step::Read(length) => {
                let mut left = length;
                while left > 0 && !failed && !seen.end {
                    let room = left.min(buffer.len());
                    match tcp.read(&mut buffer[..room]) {
                        Ok(0) => seen.end = true,
                        Ok(read) => (left, seen.read) = (left - read, seen.read + read as u64),
                        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => failed = true,
                        Err(error) if error.kind() == ErrorKind::WouldBlock && length < usize::MAX => break,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            Step::Close => {
                seen.cut = !seen.half_closed && unread(&tcp) > 0;
                return seen;
            }
            Step::Reset => {
                SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
                seen.cut = !seen.half_closed;
                return seen;
            }
        }
    }
    seen
}

/// Bytes that have come and were not read.
fn unread(tcp: &TcpStream) -> i32 {
    nix::sys::socket::recv(tcp.as_raw_fd(), &mut [0], nix::sys::socket::MsgFlags::MSG_PEEK | nix::sys::socket::MsgFlags::MSG_DONTWAIT)
        .map_or(0, |length| i32::try_from(length).unwrap())
}

/// What `reader` may take `writer`'s stream for.
#[track_caller]
fn check(case: &str, writer: &Seen, reader: &Seen) {
    assert!(reader.read <= writer.written, "{case}: more came than was sent: {writer:?} {reader:?}");
    if reader.end {
        assert!(!writer.cut, "{case}: a stream that was cut looks like one that has ended in order: {writer:?} {reader:?}");
        assert_eq!(reader.read, writer.written, "{case}: a stream has ended in order, but not all of it came: {writer:?} {reader:?}");
    }
}

#[test]
fn an_end_in_order_is_one_and_a_cut_is_a_cut() {
    let cases = std::env::var("SIDEGATE_TEST_ENDS").map_or(80, |cases| cases.parse().unwrap());
    for name in KINDS {
        let between = Between::new(name);
        for seed in 0..cases {
            let mut random = fastrand::Rng::with_seed(seed);
            let (of_client, of_server) = (script(&mut random), script(&mut random));
            let case = format!("{}, seed {seed}: client {of_client:?}, server {of_server:?}", between.name);
            println!("{case}");
            let (client, server) = between.connect();
            let server = std::thread::spawn(move || play(server, &of_server));
            let client = play(client, &of_client);
            let server = server.join().unwrap();
            check(&case, &client, &server);
            check(&case, &server, &client);
        }
        let Some(pair) = between.pair else { continue };
        // What one sidecar tells, the other tells too; a connection that was over at one end may still be reset at the other.
        if name != "plaintext" {
            let both = [&pair.web, &pair.api].map(|sidecar| sidecar.wait_records(usize::try_from(cases).unwrap()));
            for record in &both[0] {
                let twin = both[1].iter().find(|r| r["connectionId"] == record["connectionId"]);
                assert!(twin.is_some() || name == "off", "{record:#}");
                let Some(twin) = twin else { continue };
                let reasons = [record["reason"].as_str().unwrap(), twin["reason"].as_str().unwrap()];
                // Both applications may reset at the same time.
                let both_reset = reasons == ["downstream_reset", "upstream_reset"];
                assert!(reasons[0] == reasons[1] || reasons.contains(&"closed") || both_reset, "{record:#}\n{twin:#}");
            }
        }
    }
}

/// A server that resets in the middle of its answer, while the client sends on.
#[test]
fn a_reset_in_the_middle_of_both_streams_is_a_reset() {
    for name in KINDS {
        let between = Between::new(name);
        for _ in 0..10 {
            let (client, mut server) = between.connect();
            let mut upload = client.try_clone().unwrap();
            let uploading = std::thread::spawn(move || while_ok(|| upload.write_all(&[7; 64 * 1024])));
            server.read_exact(&mut [0; 100_000]).unwrap();
            server.write_all(&[9; 100_000]).unwrap();
            SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
            drop(server);
            let read = io::copy(&mut &client, &mut io::sink());
            // The kernel tells it once, to the call that comes first.
            let ends = [uploading.join().unwrap().kind(), read.map_or_else(|error| error.kind(), |_| ErrorKind::UnexpectedEof)];
            assert!(ends.contains(&ErrorKind::ConnectionReset), "{name}: {ends:?}");
        }
    }
}

fn while_ok(mut act: impl FnMut() -> io::Result<()>) -> io::Error {
    loop {
        if let Err(error) = act() {
            return error;
        }
    }
}
