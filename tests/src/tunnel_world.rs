//! A sidecar, and the test as everybody else: its application, and its peer's sidecar by hand.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::Value;
use sidegate_devkit::harness::{DEADLINE, Identities, Sidecar, client_config, free_port, id, read_all};

use crate::gate::{Gate, Owner};
use crate::material::material;
use crate::tunnel_end::{Frame, Open, Status, TunnelEnd, TunnelServer, outcome};

/// A server's sidecar, its service, and the client that the test is.
pub struct ByClient {
    /// The sidecar, which lets `web` and `shop` in.
    pub gate: Gate,
    service: TcpListener,
    identities: Identities,
}

impl ByClient {
    /// With this YAML in the sidecar's configuration.
    pub fn new(more: &str) -> Self {
        let identities = Identities::start(&["api"], Duration::from_secs(3600));
        let service = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let gate = Owner::of(&identities, "api").more(more).inbound(&[&id("web"), &id("shop")], service.local_addr().unwrap()).ready();
        Self { gate, service, identities }
    }

    /// A new session of workload `name`.
    pub fn tunnel(&self, name: &str) -> TunnelEnd {
        TunnelEnd::connect(&material(&self.identities, name), self.gate.address)
    }

    /// The application's end of the next connection.
    pub fn accept(&self) -> TcpStream {
        let (tcp, _) = self.service.accept().unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        tcp
    }

    /// Nobody was dialled for.
    pub fn dialled_nobody(&self) {
        self.service.set_nonblocking(true).unwrap();
        assert_eq!(self.service.accept().map(drop).map_err(|e| e.kind()), Err(ErrorKind::WouldBlock));
        self.service.set_nonblocking(false).unwrap();
    }

    /// The application's end of a connection that is accepted, on this session.
    pub fn opened(&self, tunnel: &mut TunnelEnd, name: u8) -> TcpStream {
        tunnel.send(&Open::named(name));
        let app = self.accept();
        assert_eq!(tunnel.status().outcome, outcome::ACCEPTED);
        app
    }

    /// The record of the connection after `number` others.
    pub fn record(&self, number: usize) -> Value {
        self.gate.sidecar.wait_records(number + 1)[number].clone()
    }

    /// Others are served as if nothing had been.
    pub fn serves_others(&self) {
        let mut tunnel = self.tunnel("shop");
        let mut app = self.opened(&mut tunnel, 250);
        tunnel.send(&[Frame::Data.of(b"hello"), Frame::End.of(b"")].concat());
        assert_eq!(read_all(&mut app).unwrap(), b"hello");
        app.write_all(b"world").unwrap();
        drop(app);
        assert_eq!(tunnel.data_to_end(), b"world");
        tunnel.close();
    }
}

/// A client's sidecar, and the server that the test is.
pub struct ByServer {
    /// The server.
    pub server: TunnelServer,
    /// The sidecar.
    pub web: Sidecar,
    entry: SocketAddr,
    _identities: Identities,
}

impl ByServer {
    /// With this YAML in the sidecar's configuration.
    pub fn new(more: &str) -> Self {
        let identities = Identities::start(&["web", "api"], Duration::from_secs(3600));
        let server = TunnelServer::start(&identities, "api");
        let entry = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = client_config(&identities, entry, server.address).replace("{ name: api,", "{ name: api, tunnel: auto,");
        let web = Sidecar::start(identities.folder(), "web", &format!("workers: 1\n{config}{more}"));
        web.wait_ready();
        Self { server, web, entry, _identities: identities }
    }

    /// The application connects.
    pub fn connect(&self) -> TcpStream {
        let tcp = TcpStream::connect(self.entry).unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        tcp.set_write_timeout(Some(DEADLINE)).unwrap();
        tcp
    }

    /// A session that has carried one connection and waits for the next.
    pub fn used(&self) -> TunnelEnd {
        let mut client = self.connect();
        client.write_all(b"first").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut tunnel = self.server.accept();
        tunnel.open();
        assert_eq!(tunnel.data_to_end(), b"first");
        tunnel.send(&[Status::accepted(self.server.address), Frame::End.of(b"")].concat());
        assert_eq!(read_all(&mut client).unwrap(), b"");
        assert_eq!(self.web.wait_records(1)[0]["reason"], "closed");
        tunnel
    }

    /// The record of the connection after `before` others.
    pub fn record(&self, before: usize) -> Value {
        self.web.wait_records(before + 1)[before].clone()
    }

    /// The next connection is served, on a new session.
    pub fn serves_the_next(&self) {
        let mut client = self.connect();
        client.write_all(b"next").unwrap();
        let mut tunnel = self.server.accept();
        tunnel.open();
        assert_eq!(tunnel.data(4), b"next");
        tunnel.send(&[Status::accepted(self.server.address), Frame::Data.of(b"served")].concat());
        client.read_exact(&mut [0; 6]).unwrap();
    }
}

/// Fails unless the next read finds a reset: what was lost must not look like an end.
#[track_caller]
pub fn assert_reset(tcp: &mut TcpStream) {
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    let kind = tcp.read(&mut [0]).expect_err("what was lost must not look like an end").kind();
    assert_eq!(kind, ErrorKind::ConnectionReset);
}

/// As [`assert_reset`], of a new connection to `address`. The reset may come before connect() has returned.
#[track_caller]
pub fn assert_reset_at(address: SocketAddr) {
    match TcpStream::connect(address) {
        Ok(mut tcp) => assert_reset(&mut tcp),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}
