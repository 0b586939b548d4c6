//! An open loop: requests at a fixed rate, whether or not the last one was answered.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::timerfd::TimerFd;

use super::{DEADLINE, Histogram, dial, late, read, send};
use crate::poller::{self, Events, Poller, READ};
use crate::wire::Kind;

const TIMER: usize = usize::MAX;

struct Connection {
    stream: TcpStream,
    /// When each of its requests should have been sent; the first is under way.
    waiting: VecDeque<Instant>,
    /// Bytes of that one's answer that have not come yet.
    missing: usize,
}

/// Kept-alive connections to the service, which take turns.
pub(crate) struct OpenLoop {
    poller: Poller,
    events: Box<Events>,
    timer: TimerFd,
    connections: Vec<Connection>,
    message: Vec<u8>,
    buffer: Vec<u8>,
    /// From when a request should have been sent to its answer: so a stall counts for all that it holds up.
    pub(crate) latency: Histogram,
}

impl OpenLoop {
    /// Connects.
    pub(crate) fn new(to: SocketAddr, connections: usize, size: usize, room: usize) -> Result<Self> {
        let (poller, timer) = (Poller::new()?, poller::timer()?);
        poller.add(&timer, TIMER, READ)?;
        let connect = |token| {
            let stream = dial(to, Kind::Service, size)?;
            poller.add(&stream, token, READ)?;
            Ok(Connection { stream, waiting: VecDeque::with_capacity(room), missing: size })
        };
        let connections = (0..connections).map(connect).collect::<Result<_>>()?;
        let events = Box::new(poller::events());
        Ok(Self { poller, events, timer, connections, message: vec![7; size], buffer: vec![0; size], latency: Histogram::new() })
    }

    /// Sends `count` requests, one each `interval`, waits for all answers, and forgets what was before.
    pub(crate) fn run(&mut self, count: u32, interval: Duration) -> Result<()> {
        self.latency.clear();
        poller::every(&self.timer, interval)?;
        let start = Instant::now() + interval;
        let end = start + interval * count + DEADLINE;
        let mut sent = 0;
        while self.latency.count() < u64::from(count) {
            ensure!(!late(end), "only {} of {count} requests have an answer", self.latency.count());
            let found = self.poller.wait(&mut self.events, Some(end))?;
            for index in 0..found {
                match usize::try_from(self.events[index].data())? {
                    TIMER => poller::heard(&self.timer)?,
                    token => self.receive(token)?,
                }
            }
            while sent < count && start + interval * sent <= Instant::now() {
                self.request(sent as usize % self.connections.len(), start + interval * sent)?;
                sent += 1;
            }
        }
        Ok(self.timer.unset()?)
    }

    fn request(&mut self, token: usize, intended: Instant) -> Result<()> {
        let connection = &mut self.connections[token];
        connection.waiting.push_back(intended);
        if connection.waiting.len() == 1 {
            send(&connection.stream, &self.message)?;
        }
        Ok(())
    }

    fn receive(&mut self, token: usize) -> Result<()> {
        let connection = &mut self.connections[token];
        connection.missing -= read(&connection.stream, &mut self.buffer[..connection.missing])?;
        if connection.missing > 0 {
            return Ok(());
        }
        connection.missing = self.message.len();
        if let Some(intended) = connection.waiting.pop_front() {
            self.latency.add(intended.elapsed());
        }
        if !connection.waiting.is_empty() {
            send(&connection.stream, &self.message)?;
        }
        Ok(())
    }
}
