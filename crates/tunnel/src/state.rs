//! What one end of a tunnel knows, and what the frames that come do to it.

use std::ops::Range;

use sidegate_core::{ConnectionRecord, ReachedAt};

use crate::frame::{Control, Deframer, Malformed};
use crate::v1::{self, Outcome, Reset, Status};

/// The trace flag "random": the trace ID is (W3C Trace Context level 2 §3.2.2.5). "Sampled" is not claimed: whether this end's
/// trace is exported is decided when the connection ends.
const RANDOM: u32 = 2;

/// The plaintext of a session that has come and was not taken: the buffer, and the ranges of it, in order. None if there is none.
pub type Plaintext<'a> = Option<(&'a mut [u8], &'a mut Vec<Range<u32>>)>;

/// Why a connection in a tunnel is over before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelError {
    /// The peer's sidecar does not speak the tunnel as it should.
    Malformed(Malformed),
    /// The peer's sidecar refuses the connection, for this reason of its record.
    Refused(String),
    /// The peer's sidecar has ended the connection, for this reason of its record.
    Aborted(String),
    /// Nothing was opened at the peer's side.
    NotOpened,
}

impl From<Malformed> for TunnelError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// What a RESET means for the connection that is open now, the session's `opened`th. One of an earlier connection, which was over
/// here, says that the server has not taken this one: it ends the session.
fn aborted(reset: Reset, opened: u64, opening: bool) -> TunnelError {
    let is_of_earlier = reset.opened > 0 && reset.opened < opened;
    if opening && is_of_earlier { TunnelError::NotOpened } else { TunnelError::Aborted(reset.reason) }
}

/// What one end of a tunnel knows.
#[derive(Debug)]
pub struct Tunnel {
    deframer: Deframer,
    /// How many of the session's pieces of plaintext are application data.
    pub data: usize,
    /// The peer has half-closed the connection.
    pub peer_ended: bool,
    /// We have.
    pub ended: bool,
    /// The peer wants no more connections on this session.
    pub going: bool,
    /// How many connections were opened on it, by either side's count of OPENs.
    pub opened: u64,
    /// On the client's side, as long as the server has not answered.
    pub opening: Option<Opening>,
    /// Whether the session may carry another connection.
    pub reusable: bool,
    /// On the client's side, where a server that takes another connection says that it was reached.
    pub reached_at: Option<ReachedAt>,
    /// Where the client dialled, or where the server was reached.
    pub address: ReachedAt,
    /// Of which count of renewals of identity and policy the session is.
    pub renewal: u64,
}

/// A connection that waits for the server's STATUS.
#[derive(Debug)]
pub struct Opening {
    /// What the application has sent, for another try; on a session that was used before.
    pub kept: Option<Vec<u8>>,
}

impl Opening {
    /// How much is kept, bytes. More is not read before the answer.
    pub const KEPT: usize = 16 * 1024;
}

impl Tunnel {
    /// Begins a connection as the client, with this OPEN. `kept` says whether what the application sends is kept for
    /// another try.
    pub fn open(&mut self, record: &ConnectionRecord, kept: bool) -> Control {
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
    #[must_use]
    pub fn new(address: ReachedAt, renewal: u64) -> Self {
        Self {
            deframer: Deframer::default(),
            data: 0,
            peer_ended: false,
            ended: false,
            going: false,
            opened: 0,
            opening: None,
            reusable: false,
            reached_at: None,
            address,
            renewal,
        }
    }

    /// A tunnel to `address` that is ready for its first connection.
    #[must_use]
    pub fn waiting(address: ReachedAt, renewal: u64) -> Self {
        Self { peer_ended: true, ended: true, reusable: true, reached_at: Some(address), ..Self::new(address, renewal) }
    }

    /// The next control frame that has come whole; data before it is counted.
    ///
    /// # Errors
    /// If the peer breaks the protocol.
    pub fn next_control(&mut self, plaintext: Plaintext<'_>) -> Result<Option<Control>, Malformed> {
        match plaintext {
            Some((bytes, chunks)) => self.deframer.deframe(bytes, chunks, &mut self.data),
            None => Ok(None),
        }
    }

    /// Throws away the data that has come.
    pub fn skip_data(&mut self, plaintext: Plaintext<'_>) {
        if let Some((_, chunks)) = plaintext {
            chunks.drain(..self.data);
        }
        self.data = 0;
    }

    /// Takes apart what has come in the middle of a connection, up to the next control frame.
    ///
    /// # Errors
    /// Why the connection is over.
    pub fn receive(&mut self, mut plaintext: Plaintext<'_>) -> Result<(), TunnelError> {
        let control = self.next_control(plaintext.as_mut().map(|(bytes, chunks)| (&mut **bytes, &mut **chunks)));
        if self.data > 0 && self.opening.is_some() {
            self.skip_data(plaintext);
            return Err(Malformed("data before the STATUS").into());
        }
        control?.map_or(Ok(()), |control| self.apply(control))
    }

    /// A control frame in the middle of a connection.
    fn apply(&mut self, control: Control) -> Result<(), TunnelError> {
        match control {
            Control::End if self.opening.is_some() => return Err(Malformed("an END before the STATUS").into()),
            Control::End => self.peer_ended = true,
            Control::Reset(reset) => return Err(aborted(reset, self.opened, self.opening.is_some())),
            Control::GoAway(goaway) => {
                self.going = true;
                if self.opening.is_some() && goaway.opened < self.opened {
                    return Err(TunnelError::NotOpened);
                }
            }
            Control::Status(status) if self.opening.is_some() => {
                let Status { outcome, reason, reached_at, reusable } = status;
                match Outcome::try_from(outcome) {
                    Ok(Outcome::Accepted) => {
                        self.opening = None;
                        self.reached_at = reached_at.parse().ok().filter(|_| reusable).map(ReachedAt);
                        // Nothing that could lead elsewhere next time stands between.
                        self.reusable = self.reached_at == Some(self.address);
                    }
                    Ok(Outcome::NotOpened) => return Err(TunnelError::NotOpened),
                    Ok(Outcome::Refused) => return Err(TunnelError::Refused(reason)),
                    _ => return Err(Malformed("a STATUS without an outcome").into()),
                }
            }
            Control::Status(_) => return Err(Malformed("a STATUS that nobody waits for").into()),
            Control::Open(_) | Control::Warm => return Err(Malformed("an OPEN in the middle of a connection").into()),
        }
        Ok(())
    }

    /// Looks in what is left of the session's plaintext, piece by piece, for what the peer said last. Data is skipped.
    pub fn last_words(&mut self) -> impl FnMut(&mut [u8], &mut Vec<Range<u32>>) -> Option<TunnelError> {
        let (deframer, mut data) = (&mut self.deframer, self.data);
        let (opened, opening) = (self.opened, self.opening.is_some());
        move |bytes, chunks| {
            loop {
                match deframer.deframe(bytes, chunks, &mut data) {
                    Ok(Some(Control::Reset(reset))) => return Some(aborted(reset, opened, opening)),
                    Ok(Some(Control::Status(status))) if status.outcome() == Outcome::Refused => {
                        return Some(TunnelError::Refused(status.reason));
                    }
                    Ok(Some(Control::Status(status))) if status.outcome() == Outcome::NotOpened => return Some(TunnelError::NotOpened),
                    Ok(Some(Control::GoAway(goaway))) if opening && goaway.opened < opened => return Some(TunnelError::NotOpened),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => {
                        data = 0;
                        return None;
                    }
                }
            }
        }
    }

    /// Whether nothing of a connection is under way.
    #[must_use]
    pub fn is_between_connections(&self) -> bool {
        self.data == 0 && self.peer_ended && self.ended && self.opening.is_none() && self.deframer.is_between_frames()
    }

    /// A new connection begins.
    pub fn begin(&mut self) {
        self.peer_ended = false;
        self.ended = false;
        self.opened += 1;
    }
}
