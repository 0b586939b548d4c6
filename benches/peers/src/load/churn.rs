//! Connections that come and go, or come and stay.

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use super::{Histogram, late, read, send};
use crate::poller::{self, Events, Poller, READ, WRITE};
use crate::wire::{self, HELLO, Kind};

/// What each connection echoes once.
const MESSAGE: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    /// So many bytes of the answer have not come yet.
    Asking(usize),
    /// All is said, and the end of the other side has not come yet.
    Closing,
}

struct Slot {
    stream: TcpStream,
    started: Instant,
    state: State,
}

/// So many connections at a time, each with one echo.
pub(crate) struct Churn {
    to: SocketAddr,
    poller: Poller,
    events: Box<Events>,
    slots: Vec<Slot>,
    /// Hello and message.
    opening: [u8; HELLO + MESSAGE],
    /// Those that stay; none if all go.
    kept: Option<Vec<TcpStream>>,
    /// From connect to answer.
    pub(crate) latency: Histogram,
    /// Connections that have come to their orderly end.
    pub(crate) ended: u64,
}

impl Churn {
    /// `at_once` connections at a time, each of which is closed after its echo, and another one follows.
    pub(crate) fn going(to: SocketAddr, at_once: usize) -> Result<Self> {
        Self::new(to, at_once, None)
    }

    /// The same, but they stay open.
    pub(crate) fn staying(to: SocketAddr, at_once: usize, room: usize) -> Result<Self> {
        Self::new(to, at_once, Some(Vec::with_capacity(room)))
    }

    fn new(to: SocketAddr, at_once: usize, kept: Option<Vec<TcpStream>>) -> Result<Self> {
        let mut opening = [7; HELLO + MESSAGE];
        opening[..HELLO].copy_from_slice(&wire::hello(Kind::Echo, MESSAGE)?);
        let slots = Vec::with_capacity(at_once);
        let (poller, events, latency) = (Poller::new()?, Box::new(poller::events()), Histogram::new());
        let mut churn = Self { to, poller, events, slots, opening, kept, latency, ended: 0 };
        for token in 0..at_once {
            let slot = churn.start(token)?;
            churn.slots.push(slot);
        }
        Ok(churn)
    }

    /// Goes on for this long and forgets what was before.
    pub(crate) fn run(&mut self, length: Duration) -> Result<()> {
        self.latency.clear();
        self.ended = 0;
        let end = Instant::now() + length;
        while !late(end) {
            self.step(end)?;
        }
        ensure!(self.ended > 0, "no connection came to its end within {length:?}");
        Ok(())
    }

    /// Goes on until `count` are open and have had their answer.
    pub(crate) fn fill(&mut self, count: usize, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        while self.open() < count {
            ensure!(!late(end), "only {} of {count} connections are open after {patience:?}", self.open());
            self.step(end).with_context(|| format!("with {} connections open", self.open()))?;
        }
        Ok(())
    }

    /// How many are open and had their answer.
    pub(crate) fn open(&self) -> usize {
        self.kept.as_ref().map_or(0, Vec::len)
    }

    fn step(&mut self, end: Instant) -> Result<()> {
        let count = self.poller.wait(&mut self.events, Some(end))?;
        for index in 0..count {
            let token = usize::try_from(self.events[index].data())?;
            self.advance(token)?;
        }
        Ok(())
    }

    fn start(&self, token: usize) -> Result<Slot> {
        let started = Instant::now();
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM.nonblocking().cloexec(), None)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&self.to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot connect to {}", self.to)),
        }
        self.poller.add(&socket, token, WRITE)?;
        Ok(Slot { stream: socket.into(), started, state: State::Connecting })
    }

    fn advance(&mut self, token: usize) -> Result<()> {
        let slot = &mut self.slots[token];
        match slot.state {
            State::Connecting => {
                if let Some(error) = slot.stream.take_error()? {
                    return Err(error).with_context(|| format!("cannot connect to {}", self.to));
                }
                send(&slot.stream, &self.opening)?;
                slot.state = State::Asking(MESSAGE);
                self.poller.change(&slot.stream, token, READ)?;
            }
            State::Asking(missing) => {
                let missing = missing - read(&slot.stream, &mut [0; MESSAGE][..missing])?;
                slot.state = State::Asking(missing);
                if missing > 0 {
                    return Ok(());
                }
                self.latency.add(slot.started.elapsed());
                if self.kept.is_some() {
                    let next = self.start(token)?;
                    let there = std::mem::replace(&mut self.slots[token], next).stream;
                    // Its token is another's now.
                    self.poller.forget(&there)?;
                    self.kept.get_or_insert_default().push(there);
                } else {
                    slot.stream.shutdown(Shutdown::Write)?;
                    slot.state = State::Closing;
                }
            }
            State::Closing => match slot.stream.read(&mut [0]) {
                Ok(0) => {
                    self.ended += 1;
                    self.slots[token] = self.start(token)?;
                }
                Ok(_) => bail!("more came than was asked for"),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("at the end of a connection"),
            },
        }
        Ok(())
    }
}
