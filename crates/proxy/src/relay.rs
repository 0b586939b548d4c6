//! Moves bytes both ways until both ends have closed.
//!
//! FIN passes as FIN (in TLS: close_notify and FIN; in a tunnel: END), and the other direction goes on. A reset, or an end
//! that TLS does not vouch for, resets both. Back-pressure is natural: nothing is read that could not be written.
//!
//! The kernel reports a reset once, to the call that comes first. If that is a write, the socket reads like one whose peer has
//! sent FIN from then on: so an end of stream counts for nothing on a socket to which a write has failed.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sidegate_config::schema::Timeouts;
use sidegate_core::{Direction, Reason};
use sidegate_net::fairness::give_way;
use sidegate_net::transfer;
use sidegate_tls::{Filled, SealError, WireError};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::copy::Copier;
use crate::failure::Failure;
use crate::peer_channel::{ChannelError, PeerChannel};
use crate::registry::{ConnectionHandle, Cut};
use crate::spin;
use sidegate_net::socket;

/// After so many bytes in one go, other connections of the worker get their turn: about a tenth of a millisecond.
const BURST: u64 = 96 * 1024;

/// How many times what is left is moved on after a failure: some MiB.
const LAST_ROUNDS: usize = 16;

/// How long a server's acceptance (without a tunnel: its ticket) waits for the application's first words, to go in one packet
/// with them; the timer makes up to 2 ms of it. A client that sends more than a small request may be waiting for it.
const COALESCE_WINDOW: Duration = Duration::from_millis(1);
const SMALL_REQUEST: u64 = 4096;

/// Which end a failure is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Downstream,
    Upstream,
}

/// How the bytes travel between the ends.
pub(crate) enum Wire<'a> {
    /// As they are: up and down.
    Plain(Box<[Copier; 2]>),
    /// Through TLS at this side.
    PeerChannel(Side, &'a mut PeerChannel),
}

#[derive(PartialEq, Eq)]
enum Stage {
    Copying,
    Closing,
    Closed,
}

/// How a relay ends before both directions have closed.
#[derive(Debug)]
pub(crate) enum Broken {
    /// One end failed.
    By(Side, ChannelError),
    /// Nothing came for too long.
    IdleTimeout(Reason),
    /// It is cut.
    Cut(Cut),
}

/// One direction.
struct Pump {
    stage: Stage,
    bytes: u64,
    /// Whether it reads, now or at its next turn, and so notices a reset of the end that it reads from.
    reads: bool,
    /// Whether the end that it writes to has been reset.
    write_reset: bool,
}

type Polled = Poll<Result<(), (Side, ChannelError)>>;

/// Both ends, and what lies between.
struct Relay<'a> {
    downstream: &'a TcpStream,
    upstream: &'a TcpStream,
    wire: Wire<'a>,
    /// What was read from downstream before.
    first: &'a [u8],
    up: Pump,
    down: Pump,
    /// Whether what is sealed already may wait for company.
    patient: bool,
}

/// Relays between `downstream`, of which `first` was read already, and `upstream`; `live` shows the bytes. Both sockets are
/// left open.
pub(crate) async fn relay(
    downstream: &TcpStream,
    upstream: &TcpStream,
    wire: Wire<'_>,
    first: &[u8],
    timeouts: &Timeouts,
    handle: &ConnectionHandle,
) -> Result<(), Broken> {
    let pump = || Pump { stage: Stage::Copying, bytes: 0, reads: false, write_reset: false };
    let patient = matches!(&wire, Wire::PeerChannel(Side::Downstream, channel) if channel.session.has_unsent());
    let mut relay = Relay { downstream, upstream, wire, first, up: pump(), down: pump(), patient };
    let mut last = Instant::now();
    let (mut downstream_reset, mut upstream_reset) = (None, None);
    let answered_by = last + timeouts.dial.duration() + timeouts.handshake.duration();
    let mut timer = std::pin::pin!(sleep_until(last + if patient { COALESCE_WINDOW } else { period(timeouts, false) }));
    poll_fn(|cx| {
        // The attempt waits for a cut, and asks here before it ends.
        if let Some(cut) = handle.is_cut() {
            return Poll::Ready(Err(Broken::Cut(cut.clone())));
        }
        let before = relay.moved();
        if relay.patient && timer.as_mut().poll(cx).is_ready() {
            relay.patient = false;
        }
        let result = relay.poll(cx);
        handle.bytes_up.store(relay.up.bytes, Ordering::Relaxed);
        handle.bytes_down.store(relay.down.bytes, Ordering::Relaxed);
        if let Poll::Ready(result) = result {
            return Poll::Ready(result.map_err(|(side, error)| Broken::By(side, error)));
        }
        if let Poll::Ready(error) = poll_reset(cx, downstream, relay.up.reads, &mut downstream_reset) {
            return Poll::Ready(Err(Broken::By(Side::Downstream, error.into())));
        }
        if let Poll::Ready(error) = poll_reset(cx, upstream, relay.down.reads, &mut upstream_reset) {
            return Poll::Ready(Err(Broken::By(Side::Upstream, error.into())));
        }
        let half_open = relay.up.stage == Stage::Closed || relay.down.stage == Stage::Closed;
        if before != relay.moved() {
            last = Instant::now();
            spin::event(last.into_std());
            handle.touch(last.into_std());
        }
        let opening = relay.is_opening();
        let deadline = if opening { answered_by } else { last + period(timeouts, half_open) };
        // The timer runs to the deadline that stood when it was set; only then the next is looked at. A half-open
        // connection's may be sooner.
        while timer.deadline() > deadline || timer.as_mut().poll(cx).is_ready() {
            if timer.is_elapsed() && deadline <= Instant::now() {
                return Poll::Ready(Err(Broken::IdleTimeout(match (opening, half_open) {
                    (true, _) => Reason::OpenTimeout,
                    (_, true) => Reason::HalfOpenTimeout,
                    _ => Reason::IdleTimeout,
                })));
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    })
    .await
}

impl Relay<'_> {
    fn moved(&self) -> (u64, u64) {
        (self.up.bytes, self.down.bytes)
    }

    fn is_opening(&self) -> bool {
        matches!(&self.wire, Wire::PeerChannel(_, channel) if channel.is_opening())
    }

    fn is_held(&self) -> bool {
        matches!(&self.wire, Wire::PeerChannel(_, channel) if channel.is_held())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Polled {
        let mut up = self.poll_up(cx);
        let held = self.is_held();
        let mut down = self.poll_down(cx);
        if held && !self.is_held() && up.is_pending() {
            // The answer has come: what was held back can be read.
            up = self.poll_up(cx);
        }
        // One direction has failed: what had arrived for the other before still goes through, such as a server's refusal
        // of an upload that it then resets.
        for _ in 0..LAST_ROUNDS {
            let moved = self.moved();
            if is_error(&up) && down.is_pending() {
                down = self.poll_down(cx);
            } else if is_error(&down) && up.is_pending() {
                up = self.poll_up(cx);
            }
            if moved == self.moved() {
                break;
            }
        }
        match (up, down) {
            (Poll::Ready(Err(one)), Poll::Ready(Err(other))) => {
                Poll::Ready(Err(if telling(&other.1) > telling(&one.1) { other } else { one }))
            }
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Polled {
        let (from, to) =
            (Source { side: Side::Downstream, tcp: self.downstream, reset: self.down.write_reset }, (Side::Upstream, self.upstream));
        self.up.reads = false;
        match &mut self.wire {
            Wire::Plain(copiers) => self.up.copy(cx, &from, to, &mut copiers[0]),
            Wire::PeerChannel(Side::Upstream, channel) => self.up.seal(cx, &from, to, channel, &mut self.first, false),
            Wire::PeerChannel(Side::Downstream, channel) => self.up.open(cx, &from, to, channel),
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Polled {
        let (from, to) =
            (Source { side: Side::Upstream, tcp: self.upstream, reset: self.up.write_reset }, (Side::Downstream, self.downstream));
        self.down.reads = false;
        match &mut self.wire {
            Wire::Plain(copiers) => self.down.copy(cx, &from, to, &mut copiers[1]),
            Wire::PeerChannel(Side::Upstream, channel) => self.down.open(cx, &from, to, channel),
            Wire::PeerChannel(Side::Downstream, channel) => {
                let patient = self.patient && self.up.bytes < SMALL_REQUEST;
                self.down.seal(cx, &from, to, channel, &mut &[][..], patient)
            }
        }
    }
}

type End<'a> = (Side, &'a TcpStream);

/// The end that a direction reads from.
struct Source<'a> {
    side: Side,
    tcp: &'a TcpStream,
    /// Whether it was reset, as a write of the other direction was told.
    reset: bool,
}

impl Source<'_> {
    /// The end of its stream, unless it only looks like one.
    fn end(&self) -> Result<(), (Side, ChannelError)> {
        if self.reset { Err((self.side, WireError::Reset.into())) } else { Ok(()) }
    }
}

impl Pump {
    /// The error of a write to the application. `BrokenPipe` follows a FIN that the application did send.
    fn write_failed(&mut self, side: Side, error: io::Error) -> (Side, ChannelError) {
        self.write_reset = error.kind() != io::ErrorKind::BrokenPipe;
        (side, error.into())
    }

    /// From the application into TLS.
    fn seal(
        &mut self,
        cx: &mut Context<'_>,
        from: &Source<'_>,
        to: End<'_>,
        channel: &mut PeerChannel,
        first: &mut &[u8],
        patient: bool,
    ) -> Polled {
        let session = |error: ChannelError| (to.0, error);
        let turn = self.bytes + BURST;
        while self.bytes < turn {
            if channel.session.is_full() {
                ready!(channel.session.poll_flush(to.1, cx)).map_err(|e| session(e.into()))?;
            }
            if self.stage != Stage::Copying {
                break;
            }
            let waits =
                channel.is_held() || (first.is_empty() && from.tcp.poll_read_ready(cx).map_err(|e| (from.side, e.into()))?.is_pending());
            if waits {
                self.reads = !channel.is_held();
                // What else is to be told goes out alone, unless it may wait for company.
                return if patient { Poll::Pending } else { flush_and_wait(cx, channel, to) };
            }
            let sealed = if first.is_empty() {
                channel.seal_from(|rooms| transfer::read(from.tcp, rooms))
            } else {
                channel.seal_from(|rooms| Ok(transfer::fill(rooms, first)))
            };
            match sealed {
                Ok(None) => {}
                Ok(Some(0)) => {
                    from.end()?;
                    self.stage = Stage::Closing;
                }
                Ok(Some(read)) => self.bytes += read as u64,
                Err(SealError::Read(error)) => return Poll::Ready(Err((from.side, error.into()))),
                Err(SealError::Session(error)) => return Poll::Ready(Err(session(error.into()))),
            }
        }
        if self.stage == Stage::Copying {
            self.reads = true;
            give_way(cx);
            return flush_and_wait(cx, channel, to);
        }
        if self.stage == Stage::Closing {
            ready!(channel.poll_finish(to.1, cx)).map_err(session)?;
            self.stage = Stage::Closed;
        }
        Poll::Ready(Ok(()))
    }

    /// From TLS to the application.
    fn open(&mut self, cx: &mut Context<'_>, from: &Source<'_>, to: End<'_>, channel: &mut PeerChannel) -> Polled {
        let turn = self.bytes + BURST;
        while self.bytes < turn {
            if self.stage != Stage::Copying {
                break;
            }
            let filled = channel.poll_fill(from.tcp, cx).map_err(|e| (from.side, e))?;
            self.reads = filled.is_pending();
            match ready!(filled) {
                Filled::End => self.stage = Stage::Closing,
                Filled::Data => {
                    ready!(to.1.poll_write_ready(cx)).map_err(|e| (to.0, e.into()))?;
                    let written = channel.write_plaintext(to.1).map_err(|e| self.write_failed(to.0, e))?;
                    self.bytes += written.unwrap_or(0) as u64;
                }
            }
        }
        self.shut(cx, to)
    }

    /// From one application to the other, as it is.
    fn copy(&mut self, cx: &mut Context<'_>, from: &Source<'_>, to: End<'_>, copy: &mut Copier) -> Polled {
        let turn = self.bytes + BURST;
        while self.bytes < turn {
            if self.stage != Stage::Copying {
                break;
            }
            let filled = copy.poll_fill(from.tcp, cx).map_err(|e| (from.side, e.into()))?;
            self.reads = filled.is_pending();
            if !ready!(filled) {
                from.end()?;
                self.stage = Stage::Closing;
                break;
            }
            ready!(to.1.poll_write_ready(cx)).map_err(|e| (to.0, e.into()))?;
            let written = transfer::write(to.1, &[IoSlice::new(copy.rest())]).map_err(|e| self.write_failed(to.0, e))?;
            copy.take(written.unwrap_or(0));
            self.bytes += written.unwrap_or(0) as u64;
        }
        self.shut(cx, to)
    }

    /// Passes the end on, if it has come.
    fn shut(&mut self, cx: &mut Context<'_>, to: End<'_>) -> Polled {
        match self.stage {
            Stage::Copying => {
                self.reads = true;
                give_way(cx);
                return Poll::Pending;
            }
            Stage::Closing => socket::shutdown_write(to.1).map_err(|e| (to.0, e.into()))?,
            Stage::Closed => {}
        }
        self.stage = Stage::Closed;
        Poll::Ready(Ok(()))
    }
}

/// Sends what is sealed; there is more to come in any case.
fn flush_and_wait(cx: &mut Context<'_>, channel: &mut PeerChannel, to: End<'_>) -> Polled {
    match channel.session.poll_flush(to.1, cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err((to.0, error.into()))),
        _ => Poll::Pending,
    }
}

fn period(timeouts: &Timeouts, half_open: bool) -> Duration {
    let idle = timeouts.idle.duration();
    // An idle timeout of 0 is none; a day's round of the timer costs nothing.
    let idle = if idle.is_zero() { Duration::from_secs(10 * 365 * 86_400) } else { idle };
    if half_open { timeouts.half_open.duration().min(idle) } else { idle }
}

/// How much an error tells, where both directions have one. After a reset was noticed by one of them the other finds a
/// bare end, which looks truncated; an alert says more than the reset that follows it.
fn telling(error: &ChannelError) -> u8 {
    match error {
        ChannelError::Refused(_) | ChannelError::Aborted(_) | ChannelError::NotOpened | ChannelError::Malformed(_) => 4,
        ChannelError::Wire(WireError::Tls(..)) => 3,
        ChannelError::Wire(WireError::Io(_)) => 2,
        ChannelError::Wire(WireError::Reset) => 1,
        ChannelError::Wire(WireError::Truncated) => 0,
    }
}

fn is_error(polled: &Polled) -> bool {
    matches!(polled, Poll::Ready(Err(_)))
}

type WatchError<'a> = Pin<Box<dyn Future<Output = io::Error> + Send + 'a>>;

/// Notices a reset also while the other side takes nothing and so nobody reads here; who reads notices it anyway, and most
/// connections are spared the room for `watch`.
fn poll_reset<'a>(cx: &mut Context<'_>, tcp: &'a TcpStream, reads: bool, watch: &mut Option<WatchError<'a>>) -> Poll<io::Error> {
    if reads {
        *watch = None;
        return Poll::Pending;
    }
    watch.get_or_insert_with(|| Box::pin(watch_error(tcp))).as_mut().poll(cx)
}

/// Waits until the socket has an error, and takes it.
async fn watch_error(tcp: &TcpStream) -> io::Error {
    let _ = tcp.ready(Interest::ERROR).await;
    match tcp.take_error() {
        Ok(Some(error)) | Err(error) => error,
        // Somebody who read or wrote has taken it, and reports it; else the flag says what happened.
        Ok(None) => io::ErrorKind::ConnectionReset.into(),
    }
}

impl Broken {
    /// The same, or what the peer at the `secure` end said before its socket failed.
    pub(crate) fn with_last_words(self, at: Side, channel: &mut PeerChannel, tcp: &TcpStream) -> Self {
        match self {
            Self::By(side, error @ ChannelError::Wire(WireError::Reset | WireError::Truncated)) if side == at => {
                Self::By(side, channel.last_words(tcp).unwrap_or(error))
            }
            other => other,
        }
    }

    /// Whether the session at this end has failed by what its peer sent, and has an alert for it.
    pub(crate) fn is_told(&self, at: Side) -> bool {
        matches!(self, Self::By(side, ChannelError::Wire(WireError::Tls(reason, _))) if *side == at && *reason != Reason::PeerAlert)
    }

    /// What it means for the record. A `secure` end whose socket has failed is asked for its last words, and one that works
    /// is told.
    pub(crate) fn failure(self, direction: Direction, channel: Option<(Side, &mut PeerChannel, &TcpStream)>, bytes_down: u64) -> Failure {
        let mut channel = channel;
        let broken = match &mut channel {
            Some((at, channel, tcp)) => self.with_last_words(*at, channel, tcp),
            None => self,
        };
        let (side, error) = match broken {
            Self::IdleTimeout(reason) => {
                if let Some((_, channel, tcp)) = channel {
                    channel.abort(tcp, reason);
                }
                return Failure::new(reason);
            }
            Self::Cut(cut) => {
                if let Some((_, channel, tcp)) = channel {
                    channel.abort(tcp, cut.reason);
                }
                return cut.into();
            }
            Self::By(side, error) => (side, error),
        };
        match channel {
            Some((at, channel, tcp)) if at != side => {
                let failure = failure(direction, side, error, bytes_down);
                channel.abort(tcp, failure.reason);
                failure
            }
            _ => failure(direction, side, error, bytes_down),
        }
    }
}

fn failure(direction: Direction, side: Side, error: ChannelError, bytes_down: u64) -> Failure {
    let who = if side == Side::Downstream { "downstream" } else { "upstream" };
    match error {
        ChannelError::Wire(WireError::Reset) if side == Side::Downstream => Failure::new(Reason::DownstreamReset),
        ChannelError::Wire(WireError::Reset) if direction == Direction::Outbound && bytes_down == 0 => {
            Failure::with(Reason::UpstreamReset, "the server reset before it sent anything; its policy may deny us, its log says so")
        }
        ChannelError::Wire(WireError::Reset) => Failure::new(Reason::UpstreamReset),
        ChannelError::Wire(WireError::Truncated) => Failure::with(Reason::Truncated, format!("{who} ended TCP without close_notify")),
        ChannelError::Wire(WireError::Tls(reason, detail)) => Failure::with(reason, format!("{who}: {detail}")),
        ChannelError::Wire(WireError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
            Failure::with(Reason::PeerTimeout, format!("{who}: {error}"))
        }
        ChannelError::Wire(WireError::Io(error)) => Failure::with(Reason::RelayFailed, format!("{who}: {error}")),
        ChannelError::Malformed(malformed) => Failure::with(Reason::TunnelProtocolError, format!("{who}: {}", malformed.0)),
        ChannelError::Refused(reason) => Failure::with(Reason::PeerRefused, told(&reason)),
        ChannelError::NotOpened => Failure::with(Reason::NotOpened, "the peer's sidecar takes no more connections on this session"),
        // The application at the other end did as one does on TCP.
        ChannelError::Aborted(reason) if [Reason::DownstreamReset.label(), Reason::UpstreamReset.label()].contains(&reason.as_str()) => {
            Failure::with(if side == Side::Downstream { Reason::DownstreamReset } else { Reason::UpstreamReset }, told(&reason))
        }
        ChannelError::Aborted(reason) => Failure::with(Reason::PeerAborted, told(&reason)),
    }
}

/// What the peer's sidecar says, of which nothing may be believed but that it says so.
fn told(reason: &str) -> String {
    let known = Reason::ALL.iter().find(|r| r.label() == reason);
    format!("the peer's sidecar says: {}", known.map_or("a reason that is not known here", |r| r.label()))
}
