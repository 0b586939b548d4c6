//! A hand-made end of a tunnel: real TLS with a real SVID, and frames as docs/reference/tunnel.md has them, or not.

use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use prost::Message;
use sidegate_devkit::harness::{DEADLINE, Identities, eventually, free_port};
use sidegate_identity::Material;
use sidegate_tls::{Filled, ServerName, Session, TUNNEL, TlsContext, WireError};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::material::material;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the specification")]
pub enum Frame {
    Open = 1,
    Status = 2,
    Data = 3,
    End = 4,
    Reset = 5,
    GoAway = 6,
    Warm = 7,
}

impl Frame {
    /// A frame of this kind.
    pub fn of(self, payload: &[u8]) -> Vec<u8> {
        Self::raw(self as u8, payload)
    }

    /// A frame of any kind.
    pub fn raw(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind], &length[1..], payload].concat()
    }
}

/// The fields of OPEN.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs, reason = "as in the specification")]
pub struct Open {
    #[prost(bytes = "vec", tag = "1")]
    pub connection_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub span_id: Vec<u8>,
    #[prost(uint32, tag = "4")]
    pub trace_flags: u32,
    #[prost(string, tag = "5")]
    pub destination: String,
}

impl Open {
    /// The frame that opens a connection whose ID is this byte, sixteen times.
    pub fn named(id: u8) -> Vec<u8> {
        Self { connection_id: vec![id; 16], ..Self::default() }.frame()
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        Frame::Open.of(&self.encode_to_vec())
    }
}

/// The fields of STATUS.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs, reason = "as in the specification")]
pub struct Status {
    #[prost(int32, tag = "1")]
    pub outcome: i32,
    #[prost(string, tag = "2")]
    pub reason: String,
    #[prost(string, tag = "3")]
    pub reached_at: String,
    #[prost(bool, tag = "4")]
    pub reusable: bool,
}

/// The outcomes of STATUS.
#[allow(missing_docs, reason = "as in the specification")]
pub mod outcome {
    pub const ACCEPTED: i32 = 1;
    pub const REFUSED: i32 = 2;
    pub const NOT_OPENED: i32 = 3;
}

impl Status {
    /// The frame that says yes, of a server that was reached at `address` and takes more.
    pub fn accepted(address: SocketAddr) -> Vec<u8> {
        Self { outcome: outcome::ACCEPTED, reached_at: address.to_string(), reusable: true, ..Self::default() }.frame()
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        Frame::Status.of(&self.encode_to_vec())
    }
}

#[derive(Clone, PartialEq, Message)]
struct Reset {
    #[prost(string, tag = "1")]
    reason: String,
}

#[derive(Clone, PartialEq, Message)]
struct GoAway {
    #[prost(uint64, tag = "1")]
    opened: u64,
}

/// A frame RESET.
pub fn reset(reason: &str) -> Vec<u8> {
    Frame::Reset.of(&Reset { reason: reason.to_owned() }.encode_to_vec())
}

/// A frame GOAWAY.
pub fn goaway(opened: u64) -> Vec<u8> {
    Frame::GoAway.of(&GoAway { opened }.encode_to_vec())
}

/// What comes from the other end.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A frame: kind and payload.
    Frame(u8, Vec<u8>),
    /// close_notify.
    Closed,
    /// The end of TCP, in order or not, without close_notify.
    Cut,
}

/// One end of a tunnel. Dropping it closes its socket as the kernel does.
pub struct TunnelEnd {
    runtime: Runtime,
    tcp: TcpStream,
    session: Session,
    inbox: Vec<u8>,
}

impl TunnelEnd {
    /// Shakes hands as a client with the sidecar at `to`. The server waits for a frame then.
    pub fn connect(material: &Material, to: SocketAddr) -> Self {
        let tcp = std::net::TcpStream::connect_timeout(&to, DEADLINE).unwrap();
        let choice = TlsContext::new(material).unwrap().client(&[], true);
        let name = ServerName::IpAddress(to.ip().into());
        Self::shake(tcp, async |tcp| sidegate_tls::connect(tcp, &choice, name).await.unwrap())
    }

    /// Shakes hands as a server.
    pub fn accept(material: &Material, tcp: std::net::TcpStream) -> Self {
        let choice = TlsContext::new(material).unwrap().server(&[]);
        Self::shake(tcp, async |tcp| sidegate_tls::accept(tcp, &[], &choice).await.unwrap())
    }

    fn shake(tcp: std::net::TcpStream, shake: impl AsyncFnOnce(&TcpStream) -> Session) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tcp.set_nonblocking(true).unwrap();
        tcp.set_nodelay(true).unwrap();
        let (tcp, session) = runtime.block_on(within(async {
            let tcp = TcpStream::from_std(tcp).unwrap();
            let session = shake(&tcp).await;
            (tcp, session)
        }));
        assert_eq!(session.facts.alpn.as_deref(), Some(TUNNEL), "the other end speaks no tunnel");
        Self { runtime, tcp, session, inbox: Vec::new() }
    }

    /// Sends `bytes` in a TLS record of their own.
    ///
    /// # Errors
    /// How the session failed.
    pub fn try_send(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.session.send(bytes)?;
        let Self { runtime, tcp, session, .. } = self;
        runtime.block_on(within(poll_fn(|cx| session.poll_flush(tcp, cx))))
    }

    /// As [`TunnelEnd::try_send`], where it has to succeed.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// Waits for the next frame, or the end.
    #[track_caller]
    pub fn hear(&mut self) -> Heard {
        loop {
            if let Some([kind, length @ ..]) = self.inbox.first_chunk::<4>().copied() {
                let end = 4 + length.into_iter().fold(0, |sum, byte| sum << 8 | usize::from(byte));
                if self.inbox.len() >= end {
                    let frame: Vec<u8> = self.inbox.drain(..end).collect();
                    return Heard::Frame(kind, frame[4..].to_vec());
                }
            }
            let Self { runtime, tcp, session, .. } = self;
            match runtime.block_on(within(poll_fn(|cx| session.poll_fill(tcp, cx)))) {
                Ok(Filled::End) => return Heard::Closed,
                Ok(Filled::Data) => {}
                Err(_) => return Heard::Cut,
            }
            if let Some((bytes, chunks)) = self.session.plaintext() {
                for chunk in chunks.drain(..) {
                    self.inbox.extend_from_slice(&bytes[chunk.start as usize..chunk.end as usize]);
                }
            }
        }
    }

    /// Waits for a frame of this kind, which has to be the next; its payload.
    #[track_caller]
    pub fn expect(&mut self, kind: Frame) -> Vec<u8> {
        match self.hear() {
            Heard::Frame(found, payload) if found == kind as u8 => payload,
            other => panic!("{other:?} instead of {kind:?}"),
        }
    }

    /// Waits for STATUS.
    #[track_caller]
    pub fn status(&mut self) -> Status {
        Status::decode(&*self.expect(Frame::Status)).unwrap()
    }

    /// Waits for OPEN.
    #[track_caller]
    pub fn open(&mut self) -> Open {
        Open::decode(&*self.expect(Frame::Open)).unwrap()
    }

    /// Waits for GOAWAY; how many connections its sender has taken.
    #[track_caller]
    pub fn goaway(&mut self) -> u64 {
        GoAway::decode(&*self.expect(Frame::GoAway)).unwrap().opened
    }

    /// Waits for RESET; its reason.
    #[track_caller]
    pub fn reset(&mut self) -> String {
        Reset::decode(&*self.expect(Frame::Reset)).unwrap().reason
    }

    /// Waits for `length` bytes of data, in whatever frames, and nothing else.
    #[track_caller]
    pub fn data(&mut self, length: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < length {
            all.extend(self.expect(Frame::Data));
        }
        all
    }

    /// Waits for data until END.
    #[track_caller]
    pub fn data_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.hear() {
                Heard::Frame(kind, payload) if kind == Frame::Data as u8 => all.extend(payload),
                Heard::Frame(kind, _) if kind == Frame::End as u8 => return all,
                other => panic!("{other:?} after {} bytes", all.len()),
            }
        }
    }

    /// Waits until the other end is gone, whatever it says before.
    #[track_caller]
    pub fn wait_gone(&mut self) {
        while let Heard::Frame(..) = self.hear() {}
    }

    /// Closes in order: close_notify and FIN.
    pub fn close(mut self) {
        let Self { runtime, tcp, session, .. } = &mut self;
        let _ = runtime.block_on(within(poll_fn(|cx| session.poll_shutdown(tcp, cx))));
    }

    /// Resets TCP.
    pub fn cut(self) {
        SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// A server whose tunnels the test serves by hand.
pub struct TunnelServer {
    /// Where it listens.
    pub address: SocketAddr,
    listener: TcpListener,
    material: Material,
}

impl TunnelServer {
    /// As workload `name`.
    pub fn start(identities: &Identities, name: &str) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { address, listener, material: material(identities, name) }
    }

    /// Waits for the next client.
    #[track_caller]
    pub fn accept(&self) -> TunnelEnd {
        let (tcp, _) = eventually("a client", || self.listener.accept().ok());
        TunnelEnd::accept(&self.material, tcp)
    }

    /// The next client, if one is there.
    pub fn try_accept(&self) -> Option<TunnelEnd> {
        let Ok((tcp, _)) = self.listener.accept() else {
            std::thread::sleep(Duration::from_millis(1));
            return None;
        };
        Some(TunnelEnd::accept(&self.material, tcp))
    }

    /// Whether a client waits to be accepted.
    pub fn is_called(&self) -> bool {
        self.listener.accept().is_ok()
    }
}

/// What hangs fails.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("the other end does nothing")
}
