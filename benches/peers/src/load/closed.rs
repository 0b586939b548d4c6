//! A closed loop: each connection sends its next request when it has the answer to the last.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Histogram, dial, late, read, send};
use crate::poller::{self, Events, Poller, READ};
use crate::wire::Kind;

struct Connection {
    stream: TcpStream,
    sent: Instant,
    /// Bytes of the answer that have not come yet.
    missing: usize,
}

/// Connections with a request under way on each.
pub(crate) struct ClosedLoop {
    poller: Poller,
    events: Box<Events>,
    connections: Vec<Connection>,
    message: Vec<u8>,
    buffer: Vec<u8>,
    /// From request to answer.
    pub(crate) latency: Histogram,
}

impl ClosedLoop {
    /// Connects, and sends the first request on each.
    pub(crate) fn new(to: SocketAddr, connections: usize, size: usize) -> Result<Self> {
        let (poller, message) = (Poller::new()?, vec![7; size]);
        let connect = |token| {
            let stream = dial(to, Kind::Echo, size)?;
            poller.add(&stream, token, READ)?;
            send(&stream, &message)?;
            Ok(Connection { stream, sent: Instant::now(), missing: size })
        };
        let connections = (0..connections).map(connect).collect::<Result<_>>()?;
        Ok(Self { poller, events: Box::new(poller::events()), connections, message, buffer: vec![0; size], latency: Histogram::new() })
    }

    /// Goes on for this long and forgets what was before.
    pub(crate) fn run(&mut self, length: Duration) -> Result<()> {
        self.latency.clear();
        let end = Instant::now() + length;
        while !late(end) {
            let count = self.poller.wait(&mut self.events, Some(end))?;
            for event in &self.events[..count] {
                let connection = &mut self.connections[usize::try_from(event.data())?];
                connection.missing -= read(&connection.stream, &mut self.buffer[..connection.missing])?;
                if connection.missing == 0 {
                    let now = Instant::now();
                    self.latency.add(now - connection.sent);
                    connection.sent = now;
                    connection.missing = self.message.len();
                    send(&connection.stream, &self.message)?;
                }
            }
        }
        ensure!(self.latency.count() > 0, "no answer within {length:?}");
        Ok(())
    }
}
