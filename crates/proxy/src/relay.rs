//! Moves bytes both ways until both ends have closed.
//!
//! FIN passes as FIN (in TLS: close_notify and FIN), and the other direction goes on. A reset, or an end that TLS does
//! not vouch for, resets both. Back-pressure is natural: nothing is read that could not be written.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use sidegate_config::schema::Timeouts;
use sidegate_core::{Direction, Reason};
use sidegate_tls::WireError;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::attempt::Failure;
use crate::registry::Live;
use crate::socket;
use crate::wire::Wire;

/// After so many chunks in one go, other connections of the worker get their turn.
const BURST: usize = 16;

/// How many times what is left is moved on after a failure: some MiB.
const LAST_ROUNDS: usize = 16;

/// One end: a socket and how it is read.
pub(crate) struct End {
    pub(crate) tcp: TcpStream,
    pub(crate) wire: Wire,
}

/// Which end a failure is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Downstream,
    Upstream,
}

#[derive(PartialEq, Eq)]
enum Stage {
    Copying,
    Closing,
    Closed,
}

/// How a relay ends before both directions have closed.
enum Broken {
    /// One end failed.
    By(Side, WireError),
    /// Nothing came for too long.
    Silent(Reason),
}

/// One direction.
struct Pump {
    from_side: Side,
    stage: Stage,
    bytes: u64,
}

/// Relays between `downstream` and `upstream`; `live` shows the bytes.
pub(crate) async fn relay(mut downstream: End, mut upstream: End, timeouts: &Timeouts, live: &Live) -> Result<(), Failure> {
    let mut up = Pump { from_side: Side::Downstream, stage: Stage::Copying, bytes: 0 };
    let mut down = Pump { from_side: Side::Upstream, stage: Stage::Copying, bytes: 0 };
    let mut last = Instant::now();
    let result = {
        // A reset must be noticed also while the other side takes nothing and so nobody reads here.
        let downstream_reset = watch_error(&downstream.tcp);
        let upstream_reset = watch_error(&upstream.tcp);
        tokio::pin!(downstream_reset, upstream_reset);
        let mut timer = std::pin::pin!(sleep_until(last + period(timeouts, false)));
        poll_fn(|cx| {
            let before = (up.bytes, down.bytes);
            let mut polled_up = up.poll(cx, (&downstream.tcp, &mut downstream.wire), (&upstream.tcp, &mut upstream.wire));
            let mut polled_down = down.poll(cx, (&upstream.tcp, &mut upstream.wire), (&downstream.tcp, &mut downstream.wire));
            // One direction has failed: what had arrived for the other before still goes through, such as a server's refusal
            // of an upload that it then resets.
            for _ in 0..LAST_ROUNDS {
                let moved = (up.bytes, down.bytes);
                if is_error(&polled_up) && polled_down.is_pending() {
                    polled_down = down.poll(cx, (&upstream.tcp, &mut upstream.wire), (&downstream.tcp, &mut downstream.wire));
                } else if is_error(&polled_down) && polled_up.is_pending() {
                    polled_up = up.poll(cx, (&downstream.tcp, &mut downstream.wire), (&upstream.tcp, &mut upstream.wire));
                }
                if moved == (up.bytes, down.bytes) {
                    break;
                }
            }
            live.bytes_up.store(up.bytes, Ordering::Relaxed);
            live.bytes_down.store(down.bytes, Ordering::Relaxed);
            match (polled_up, polled_down) {
                (Poll::Ready(Err(one)), Poll::Ready(Err(other))) => {
                    let (side, error) = if telling(&other.1) > telling(&one.1) { other } else { one };
                    return Poll::Ready(Err(Broken::By(side, error)));
                }
                (Poll::Ready(Err((side, error))), _) | (_, Poll::Ready(Err((side, error)))) => {
                    return Poll::Ready(Err(Broken::By(side, error)));
                }
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
                _ => {}
            }
            if let Poll::Ready(error) = downstream_reset.as_mut().poll(cx) {
                return Poll::Ready(Err(Broken::By(Side::Downstream, error.into())));
            }
            if let Poll::Ready(error) = upstream_reset.as_mut().poll(cx) {
                return Poll::Ready(Err(Broken::By(Side::Upstream, error.into())));
            }
            let half_open = up.stage == Stage::Closed || down.stage == Stage::Closed;
            if before != (up.bytes, down.bytes) {
                last = Instant::now();
            }
            let deadline = last + period(timeouts, half_open);
            // The timer runs to the deadline that stood when it was set; only then the next is looked at. A half-open
            // connection's may be sooner.
            while timer.deadline() > deadline || timer.as_mut().poll(cx).is_ready() {
                if timer.is_elapsed() && deadline <= Instant::now() {
                    return Poll::Ready(Err(Broken::Silent(if half_open { Reason::HalfOpenTimeout } else { Reason::IdleTimeout })));
                }
                timer.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await
    };
    match result {
        Ok(()) => {
            socket::end_in_order(&downstream.tcp);
            socket::end_in_order(&upstream.tcp);
            Ok(())
        }
        Err(Broken::Silent(reason)) => Err(Failure::new(reason)),
        Err(Broken::By(side, error)) => {
            let end = if side == Side::Downstream { &mut downstream } else { &mut upstream };
            let error = match (&error, &mut end.wire) {
                (WireError::Reset, Wire::Tls(session)) => session.last_words(&end.tcp).unwrap_or(error),
                _ => error,
            };
            Err(failure(live.direction, side, error, down.bytes))
        }
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
fn telling(error: &WireError) -> u8 {
    match error {
        WireError::Tls(..) => 3,
        WireError::Io(_) => 2,
        WireError::Reset => 1,
        WireError::Truncated => 0,
    }
}

fn is_error(polled: &Poll<Result<(), (Side, WireError)>>) -> bool {
    matches!(polled, Poll::Ready(Err(_)))
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

impl Pump {
    #[allow(clippy::needless_pass_by_value, reason = "pairs of references")]
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: (&TcpStream, &mut Wire),
        to: (&TcpStream, &mut Wire),
    ) -> Poll<Result<(), (Side, WireError)>> {
        let to_side = if self.from_side == Side::Downstream { Side::Upstream } else { Side::Downstream };
        let mut chunks = 0;
        while self.stage == Stage::Copying {
            match from.1.poll_fill(from.0, cx) {
                Poll::Pending => {
                    // Nothing more to come for now: what is encrypted goes out.
                    if let Poll::Ready(Err(error)) = to.1.poll_flush(to.0, cx) {
                        return Poll::Ready(Err((to_side, error)));
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err((self.from_side, error))),
                Poll::Ready(Ok(0)) => self.stage = Stage::Closing,
                Poll::Ready(Ok(_)) => match to.1.poll_write(to.0, cx, from.1.chunk()) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err((to_side, error))),
                    Poll::Ready(Ok(written)) => {
                        from.1.consume(written);
                        self.bytes += written as u64;
                        chunks += 1;
                        if chunks == BURST {
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                    }
                },
            }
        }
        if self.stage == Stage::Closing {
            match to.1.poll_shutdown(to.0, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err((to_side, error))),
                Poll::Ready(Ok(())) => self.stage = Stage::Closed,
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn failure(direction: Direction, side: Side, error: WireError, bytes_down: u64) -> Failure {
    let who = if side == Side::Downstream { "downstream" } else { "upstream" };
    match error {
        WireError::Reset if side == Side::Downstream => Failure::new(Reason::DownstreamReset),
        WireError::Reset if direction == Direction::Outbound && bytes_down == 0 => {
            Failure::with(Reason::UpstreamReset, "the server reset before it sent anything; its policy may deny us, its log says so")
        }
        WireError::Reset => Failure::new(Reason::UpstreamReset),
        WireError::Truncated => Failure::with(Reason::Truncated, format!("{who} ended TCP without close_notify")),
        WireError::Tls(reason, detail) => Failure::with(reason, format!("{who}: {detail}")),
        WireError::Io(error) if error.kind() == io::ErrorKind::TimedOut => Failure::with(Reason::PeerTimeout, format!("{who}: {error}")),
        WireError::Io(error) => Failure::with(Reason::RelayFailed, format!("{who}: {error}")),
    }
}
