//! Invariant 5 through tunnels: an abort is an abort at the other end, on a new session and on a used one.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use sidegate_tests::{DEADLINE, Pair, Sidecar, eventually, id};
use socket2::SockRef;

/// Two sidecars whose session has carried `before` connections, and the service's listener.
struct Used {
    pair: Pair,
    listener: TcpListener,
    before: usize,
}

impl Used {
    fn new(before: usize) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let pair = Pair::with_tunnel(listener.local_addr().unwrap(), "auto", "");
        let used = Self { pair, listener, before };
        for n in 0..before {
            let (client, server) = used.connect();
            client.shutdown(Shutdown::Write).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
            used.pair.web.wait_records(n + 1);
            used.pair.api.wait_records(n + 1);
        }
        used
    }

    /// A connection over which a byte has gone each way: it is relayed.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let mut client = TcpStream::connect(self.pair.entry).unwrap();
        client.write_all(b"x").unwrap();
        let (mut server, _) = self.listener.accept().unwrap();
        for tcp in [&client, &server] {
            tcp.set_read_timeout(Some(DEADLINE)).unwrap();
            tcp.set_write_timeout(Some(DEADLINE)).unwrap();
        }
        server.read_exact(&mut [0]).unwrap();
        server.write_all(b"y").unwrap();
        client.read_exact(&mut [0]).unwrap();
        (client, server)
    }

    /// Both ends' records say so, of the connection under test, and its session carries no other.
    #[track_caller]
    fn ended(&self, reason: &str) {
        let session = if self.before == 0 { "new" } else { "reused" };
        let records = [&self.pair.web, &self.pair.api].map(|sidecar| sidecar.wait_records(self.before + 1)[self.before].clone());
        for record in &records {
            assert_eq!((&record["reason"], &record["tunnel"]), (&reason.into(), &session.into()), "{record:#}");
        }
        assert_eq!(records[0]["connectionId"], records[1]["connectionId"]);
        drop(self.connect());
        let next = |sidecar: &Sidecar| sidecar.wait_records(self.before + 2)[self.before + 1]["tunnel"].clone();
        assert_eq!(next(&self.pair.web), "new", "a session that was broken off is not used again");
    }
}

fn reset(tcp: TcpStream) {
    SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
}

#[track_caller]
fn assert_reset<T: std::fmt::Debug>(result: io::Result<T>) {
    let kind = result.expect_err("a reset must not look like an end").kind();
    assert!(matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{kind}");
}

/// Reads what is there until the end, of whatever kind.
fn read_out(tcp: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    while tcp.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Writes until everything on the way is full.
fn fill(tcp: &TcpStream) {
    tcp.set_nonblocking(true).unwrap();
    let mut stalled = 0;
    while stalled < 50 {
        match (&*tcp).write(&[7; 65_536]) {
            Ok(_) => stalled = 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stalled += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
    }
    tcp.set_nonblocking(false).unwrap();
}

fn the_client_resets(before: usize) {
    let used = Used::new(before);
    let (client, mut server) = used.connect();
    reset(client);
    assert_reset(server.read(&mut [0]));
    used.ended("downstream_reset");
}

#[test]
fn a_client_that_resets_is_reset_at_the_server() {
    the_client_resets(0);
}

#[test]
fn a_client_that_resets_on_a_used_session_is_reset_at_the_server() {
    the_client_resets(2);
}

fn the_server_resets(before: usize) {
    let used = Used::new(before);
    let (mut client, server) = used.connect();
    reset(server);
    assert_reset(client.read(&mut [0]));
    used.ended("upstream_reset");
}

#[test]
fn a_server_that_resets_is_reset_at_the_client() {
    the_server_resets(0);
}

#[test]
fn a_server_that_resets_on_a_used_session_is_reset_at_the_client() {
    the_server_resets(2);
}

/// The end that has heard END reads no more; the reset must reach it all the same.
fn the_client_resets_after_its_half_close(before: usize) {
    let used = Used::new(before);
    let (client, mut server) = used.connect();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    reset(client);
    // Nobody writes: silence must not hide the reset until a timeout.
    eventually("the server's socket to be reset", || server.take_error().unwrap());
    used.ended("downstream_reset");
}

#[test]
fn a_reset_after_the_clients_half_close_passes() {
    the_client_resets_after_its_half_close(0);
}

#[test]
fn a_reset_after_the_clients_half_close_passes_on_a_used_session() {
    the_client_resets_after_its_half_close(1);
}

fn the_server_resets_after_its_half_close(before: usize) {
    let used = Used::new(before);
    let (mut client, server) = used.connect();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    reset(server);
    eventually("the client's socket to be reset", || client.take_error().unwrap());
    used.ended("upstream_reset");
}

#[test]
fn a_reset_after_the_servers_half_close_passes() {
    the_server_resets_after_its_half_close(0);
}

#[test]
fn a_reset_after_the_servers_half_close_passes_on_a_used_session() {
    the_server_resets_after_its_half_close(1);
}

/// Nobody reads: everything between is full, and no frame gets through any more.
fn the_client_resets_under_back_pressure(before: usize) {
    let used = Used::new(before);
    let (client, mut server) = used.connect();
    fill(&client);
    reset(client);
    for sidecar in [&used.pair.web, &used.pair.api] {
        let record = sidecar.wait_records(before + 1)[before].clone();
        assert_eq!(record["reason"], "downstream_reset", "{record:#}");
    }
    assert_reset(read_out(&mut server));
}

#[test]
fn a_clients_reset_passes_under_back_pressure() {
    the_client_resets_under_back_pressure(0);
}

#[test]
fn a_clients_reset_passes_under_back_pressure_on_a_used_session() {
    the_client_resets_under_back_pressure(1);
}

fn the_server_resets_under_back_pressure(before: usize) {
    let used = Used::new(before);
    let (mut client, server) = used.connect();
    fill(&server);
    reset(server);
    for sidecar in [&used.pair.web, &used.pair.api] {
        let record = sidecar.wait_records(before + 1)[before].clone();
        assert_eq!(record["reason"], "upstream_reset", "{record:#}");
    }
    assert_reset(read_out(&mut client));
}

#[test]
fn a_servers_reset_passes_under_back_pressure() {
    the_server_resets_under_back_pressure(0);
}

#[test]
fn a_servers_reset_passes_under_back_pressure_on_a_used_session() {
    the_server_resets_under_back_pressure(1);
}

/// An operator cuts a connection: neither end may take that for its end.
fn an_operator_cuts(before: usize) {
    let used = Used::new(before);
    let (mut client, mut server) = used.connect();
    // Half-closed, so that each end waits and reads nothing of the tunnel.
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let (status, _, err) = used.pair.api.command(&["cut", "--peer", &id("web")]);
    assert!(status.success(), "{err}");
    eventually("the client's socket to be reset", || client.take_error().unwrap());
    assert_reset(server.read(&mut [0]));
    assert_eq!(used.pair.api.wait_records(before + 1)[before]["reason"], "cut");
}

#[test]
fn a_cut_is_a_reset_at_both_ends() {
    an_operator_cuts(0);
}

#[test]
fn a_cut_on_a_used_session_is_a_reset_at_both_ends() {
    an_operator_cuts(1);
}
