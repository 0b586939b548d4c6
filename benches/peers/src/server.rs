//! The server: one thread, all kinds of connections, nothing allocated once a connection is there.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use nix::sys::epoll::EpollFlags;
use nix::sys::timerfd::TimerFd;
use socket2::{Domain, Socket, Type};

use crate::poller::{self, Poller, READ, WRITE};
use crate::wire::{self, END, HELLO, Kind, SERVICE_TIME};

const LISTENER: usize = usize::MAX;
const TIMER: usize = usize::MAX - 1;
/// For how many connections there is room from the start.
const ROOM: usize = 16 * 1024;
/// What is read or written at once: enough to be quick, little enough that nobody waits long for their turn.
const CHUNK: usize = 256 * 1024;

struct Connection {
    stream: TcpStream,
    /// Tells it from others that had its place before.
    number: u64,
    hello: [u8; HELLO],
    /// How much of the hello has come.
    heard: usize,
    /// Once that is all of it.
    kind: Option<Kind>,
    size: usize,
    /// Bytes of the message that is coming.
    received: usize,
    /// Bytes that are to be written.
    owed: u64,
    watched: EpollFlags,
}

/// What becomes of a connection after something was done for it.
#[derive(PartialEq, Eq)]
enum Next {
    Keep,
    Close,
}

/// The server's state.
pub(crate) struct Server {
    listener: TcpListener,
    poller: Poller,
    timer: TimerFd,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Answers of the service, in the order in which they are due: all take equally long.
    due: VecDeque<(Instant, usize, u64)>,
    buffer: Vec<u8>,
    /// What it answers: zeroes.
    answer: Vec<u8>,
    accepted: u64,
    open: Arc<AtomicUsize>,
}

impl Server {
    /// A server on `address` of the calling thread's namespace; `open` always holds how many connections it has.
    pub(crate) fn bind(address: SocketAddr, open: Arc<AtomicUsize>) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        let (listener, poller, timer) = (TcpListener::from(socket), Poller::new()?, poller::timer()?);
        poller.add(&listener, LISTENER, READ)?;
        poller.add(&timer, TIMER, READ)?;
        let connections = std::iter::repeat_with(|| None).take(ROOM).collect();
        Ok(Self {
            listener,
            poller,
            timer,
            connections,
            free: (0..ROOM).rev().collect(),
            due: VecDeque::with_capacity(ROOM),
            buffer: vec![0; CHUNK],
            answer: vec![0; CHUNK],
            accepted: 0,
            open,
        })
    }

    /// Serves until the process ends.
    pub(crate) fn run(&mut self) -> Result<()> {
        let mut events = poller::events();
        loop {
            let count = self.poller.wait(&mut events, None)?;
            for event in &events[..count] {
                match usize::try_from(event.data())? {
                    LISTENER => self.accept()?,
                    TIMER => self.answer_due()?,
                    place => self.serve(place, event.events())?,
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // Gone before it was accepted.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => continue,
                Err(error) => return Err(error.into()),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let place = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.poller.add(&stream, place, READ)?;
            self.accepted += 1;
            self.open.fetch_add(1, Ordering::Relaxed);
            self.connections[place] = Some(Connection {
                stream,
                number: self.accepted,
                hello: [0; HELLO],
                heard: 0,
                kind: None,
                size: 0,
                received: 0,
                owed: 0,
                watched: READ,
            });
        }
    }

    fn answer_due(&mut self) -> Result<()> {
        poller::heard(&self.timer)?;
        while let Some(&(when, place, number)) = self.due.front() {
            let now = Instant::now();
            if when > now {
                return poller::once(&self.timer, when - now);
            }
            self.due.pop_front();
            if let Some(connection) = self.connections[place].as_mut().filter(|c| c.number == number) {
                connection.owed += connection.size as u64;
                self.serve(place, EpollFlags::empty())?;
            }
        }
        Ok(())
    }

    /// Reads once, writes what is owed.
    fn serve(&mut self, place: usize, flags: EpollFlags) -> Result<()> {
        let Some(connection) = self.connections[place].as_mut() else { return Ok(()) };
        let mut next = Next::Keep;
        // Errors and hang-ups show when one reads.
        if flags.intersects(!WRITE) {
            let was_due = !self.due.is_empty();
            next = connection.read(&mut self.buffer, |number, count| {
                for _ in 0..count {
                    self.due.push_back((Instant::now() + SERVICE_TIME, place, number));
                }
            });
            // Otherwise the timer is set already, or has gone off and nobody has looked yet.
            if !was_due && !self.due.is_empty() {
                poller::once(&self.timer, SERVICE_TIME)?;
            }
        }
        if next == Next::Keep {
            next = connection.write(&self.answer);
        }
        if next == Next::Close {
            self.connections[place] = None;
            self.free.push(place);
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Ok(());
        }
        let mut wanted = READ;
        wanted.set(WRITE, connection.owed > 0);
        if wanted != connection.watched {
            connection.watched = wanted;
            self.poller.change(&connection.stream, place, wanted)?;
        }
        Ok(())
    }
}

impl Connection {
    /// Reads once. `later` is told how many requests have come that are to be answered later.
    fn read(&mut self, buffer: &mut [u8], later: impl FnMut(u64, usize)) -> Next {
        match self.stream.read(buffer) {
            Ok(0) => Next::Close,
            Ok(count) => self.take(&buffer[..count], later),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Next::Keep,
            Err(_) => Next::Close,
        }
    }

    fn take(&mut self, mut bytes: &[u8], mut later: impl FnMut(u64, usize)) -> Next {
        if self.kind.is_none() {
            let part = bytes.len().min(HELLO - self.heard);
            self.hello[self.heard..self.heard + part].copy_from_slice(&bytes[..part]);
            self.heard += part;
            bytes = &bytes[part..];
            if self.heard < HELLO {
                return Next::Keep;
            }
            let Some((kind, size)) = wire::parse(self.hello) else { return Next::Close };
            (self.kind, self.size) = (Some(kind), size);
            match kind {
                Kind::Source => self.owed = u64::MAX,
                Kind::Sink => self.owed = 1,
                Kind::Echo | Kind::Service => {}
            }
        }
        self.received += bytes.len();
        let whole = self.received / self.size;
        self.received %= self.size;
        match self.kind {
            Some(Kind::Echo) => self.owed += (whole * self.size) as u64,
            Some(Kind::Service) => later(self.number, whole),
            Some(Kind::Sink) if bytes.last() == Some(&END) => self.owed += 1,
            _ => {}
        }
        Next::Keep
    }

    /// Writes what is owed, but not more than the buffer at once.
    fn write(&mut self, answer: &[u8]) -> Next {
        if self.owed > 0 {
            let part = usize::try_from(self.owed).unwrap_or(usize::MAX).min(answer.len());
            match self.stream.write(&answer[..part]) {
                Ok(count) if self.kind != Some(Kind::Source) => self.owed -= count as u64,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => return Next::Close,
            }
        }
        Next::Keep
    }
}
