//! The tunnel protocol `sidegate/1`: connections between two sidecars, one after the other, on one TLS session.
//!
//! Specified in docs/reference/tunnel.md.

pub(crate) mod frame;
pub(crate) mod pool;
pub(crate) mod server;

#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, reason = "generated")]
pub(crate) mod v1 {
    include!(concat!(env!("OUT_DIR"), "/sidegate.tunnel.v1.rs"));
}

use std::net::SocketAddr;

use sidegate_core::ConnectionRecord;
use sidegate_tls::Session;

use frame::{Control, Deframer, Malformed};

/// The trace flag "random": the trace ID is (W3C Trace Context level 2 §3.2.2.5). "Sampled" is not claimed: whether this end's
/// trace is exported is decided when the connection ends.
const RANDOM: u32 = 2;

/// What one end of a tunnel knows.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) deframer: Deframer,
    /// How many of the session's pieces of plaintext are application data.
    pub(crate) data: usize,
    /// The peer has half-closed the connection.
    pub(crate) peer_ended: bool,
    /// We have.
    pub(crate) ended: bool,
    /// The peer wants no more connections on this session.
    pub(crate) going: bool,
    /// How many connections were opened on it, by either side's count of OPENs.
    pub(crate) opened: u64,
    /// On the client's side, as long as the server has not answered.
    pub(crate) opening: Option<Opening>,
    /// Whether the session may carry another connection.
    pub(crate) reusable: bool,
    /// Where the client dialled, or where the server was reached.
    pub(crate) address: SocketAddr,
    /// Of which count of renewals of identity and policy the session is.
    pub(crate) renewal: u64,
}

/// A connection that waits for the server's STATUS.
#[derive(Debug)]
pub(crate) struct Opening {
    /// What the application has sent, for another try; on a session that was used before.
    pub(crate) kept: Option<Vec<u8>>,
}

impl Opening {
    /// How much is kept, bytes. More is not read before the answer.
    pub(crate) const KEPT: usize = 16 * 1024;
}

impl Tunnel {
    /// Begins a connection as the client, with this OPEN. `kept` says whether what the application sends is kept for
    /// another try.
    pub(crate) fn open(&mut self, record: &ConnectionRecord, kept: bool) -> Control {
        self.begin();
        self.opening = Some(Opening { kept: kept.then(Vec::new) });
        self.reusable = false;
        let open = v1::Open {
            connection_id: record.connection_id.bytes().to_vec(),
            trace_id: Vec::new(),
            span_id: record.span_id.0.to_vec(),
            trace_flags: RANDOM,
            destination: record.original_destination.map(|to| to.to_string()).unwrap_or_default(),
        };
        Control::Open(open)
    }

    /// A tunnel to, or reached at, `address`.
    pub(crate) fn new(address: SocketAddr, renewal: u64) -> Self {
        Self {
            deframer: Deframer::default(),
            data: 0,
            peer_ended: false,
            ended: false,
            going: false,
            opened: 0,
            opening: None,
            reusable: false,
            address,
            renewal,
        }
    }

    /// A tunnel to `address` that is ready for its first connection.
    pub(crate) fn waiting(address: SocketAddr, renewal: u64) -> Self {
        Self { peer_ended: true, ended: true, reusable: true, ..Self::new(address, renewal) }
    }

    /// The next control frame that the session has whole; data before it is counted.
    pub(crate) fn deframe(&mut self, session: &mut Session) -> Result<Option<Control>, Malformed> {
        match session.plaintext() {
            Some((bytes, chunks)) => self.deframer.deframe(bytes, chunks, &mut self.data),
            None => Ok(None),
        }
    }

    /// Throws away the data that has come.
    pub(crate) fn skip_data(&mut self, session: &mut Session) {
        if let Some((_, chunks)) = session.plaintext() {
            chunks.drain(..self.data);
        }
        self.data = 0;
    }

    /// Whether the server was reached at the very address that was dialled: nothing that could lead elsewhere next time
    /// stands between.
    pub(crate) fn is_single_pod(&self, reached_at: &str) -> bool {
        reached_at.parse() == Ok(self.address)
    }

    /// Whether nothing of a connection is under way.
    pub(crate) fn is_between_connections(&self) -> bool {
        self.data == 0 && self.peer_ended && self.ended && self.opening.is_none() && self.deframer.is_between_frames()
    }

    /// A new connection begins.
    pub(crate) fn begin(&mut self) {
        self.peer_ended = false;
        self.ended = false;
        self.opened += 1;
    }
}
