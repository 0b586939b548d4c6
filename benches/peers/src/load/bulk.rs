//! As many bytes as possible, in one direction.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{DEADLINE, dial, late, read};
use crate::poller::{self, Events, Poller, READ, WRITE};
use crate::wire::{END, Kind};

/// What is read or written at once.
const CHUNK: usize = 256 * 1024;

/// Streams to the server.
pub(crate) struct Upload {
    poller: Poller,
    events: Box<Events>,
    streams: Vec<TcpStream>,
    buffer: Vec<u8>,
}

impl Upload {
    /// Connects; the server has said that it is there.
    pub(crate) fn connect(to: SocketAddr, streams: usize) -> Result<Self> {
        let streams = (0..streams).map(|_| dial(to, Kind::Sink, 1)).collect::<Result<_>>()?;
        let mut upload = Self { poller: Poller::new()?, events: Box::new(poller::events()), streams, buffer: vec![7; CHUNK] };
        upload.wait_answers()?;
        Ok(upload)
    }

    /// Sends for this long, then waits until the server has all of it; how many bytes that were.
    pub(crate) fn run(mut self, length: Duration) -> Result<u64> {
        let mut bytes = 0;
        let end = Instant::now() + length;
        self.streams.iter().enumerate().try_for_each(|(token, stream)| self.poller.add(stream, token, WRITE))?;
        while !late(end) {
            let count = self.poller.wait(&mut self.events, Some(end))?;
            for event in &self.events[..count] {
                bytes += write(&self.streams[usize::try_from(event.data())?], &self.buffer)? as u64;
            }
        }
        self.end()?;
        self.wait_answers()?;
        Ok(bytes)
    }

    /// Sends the last byte on each, and watches none of them after that.
    fn end(&mut self) -> Result<()> {
        let (mut waiting, end) = (self.streams.len(), Instant::now() + DEADLINE);
        while waiting > 0 {
            ensure!(!late(end), "{waiting} streams take nothing more");
            let count = self.poller.wait(&mut self.events, Some(end))?;
            for event in &self.events[..count] {
                let stream = &self.streams[usize::try_from(event.data())?];
                if write(stream, &[END])? == 1 {
                    waiting -= 1;
                    self.poller.forget(stream)?;
                }
            }
        }
        Ok(())
    }

    /// Waits for a byte on each, and watches none of them after that.
    fn wait_answers(&mut self) -> Result<()> {
        self.streams.iter().enumerate().try_for_each(|(token, stream)| self.poller.add(stream, token, READ))?;
        let (mut waiting, end) = (self.streams.len(), Instant::now() + DEADLINE);
        while waiting > 0 {
            ensure!(!late(end), "{waiting} streams have no answer of the server");
            let count = self.poller.wait(&mut self.events, Some(end))?;
            for event in &self.events[..count] {
                let token = usize::try_from(event.data())?;
                if read(&self.streams[token], &mut [0])? == 1 {
                    waiting -= 1;
                    self.poller.forget(&self.streams[token])?;
                }
            }
        }
        Ok(())
    }
}

/// Streams from the server.
pub(crate) struct Download {
    poller: Poller,
    events: Box<Events>,
    streams: Vec<TcpStream>,
    buffer: Vec<u8>,
}

impl Download {
    /// Connects; the server starts to send at once.
    pub(crate) fn connect(to: SocketAddr, streams: usize) -> Result<Self> {
        let (poller, streams) = (Poller::new()?, (0..streams).map(|_| dial(to, Kind::Source, 1)).collect::<Result<Vec<_>>>()?);
        streams.iter().enumerate().try_for_each(|(token, stream)| poller.add(stream, token, READ))?;
        Ok(Self { poller, events: Box::new(poller::events()), streams, buffer: vec![0; CHUNK] })
    }

    /// Reads for this long; how many bytes came.
    pub(crate) fn run(&mut self, length: Duration) -> Result<u64> {
        let mut bytes = 0;
        let end = Instant::now() + length;
        while !late(end) {
            let count = self.poller.wait(&mut self.events, Some(end))?;
            for event in &self.events[..count] {
                bytes += read(&self.streams[usize::try_from(event.data())?], &mut self.buffer)? as u64;
            }
        }
        ensure!(bytes > 0, "nothing came within {length:?}");
        Ok(bytes)
    }
}

/// Writes as much as there is room for.
fn write(stream: &TcpStream, bytes: &[u8]) -> Result<usize> {
    let mut stream = stream;
    match stream.write(bytes) {
        Ok(written) => Ok(written),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
