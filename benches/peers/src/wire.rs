//! What generator and server say to each other: eight bytes, then whatever their kind means.

use anyhow::{Context, Result};

/// The length of a hello.
pub(crate) const HELLO: usize = 8;

/// What the server does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answers each message with as many bytes, at once.
    Echo,
    /// The same, after [`SERVICE_TIME`].
    Service,
    /// Sends as fast as it can.
    Source,
    /// Answers one byte when it is there, takes all that comes, and answers one more after [`END`].
    Sink,
}

/// The last byte of an upload, and no other. Not every proxy can pass on that only one direction has ended.
pub(crate) const END: u8 = 255;

/// How long the service takes for a request.
pub(crate) const SERVICE_TIME: std::time::Duration = std::time::Duration::from_millis(5);

/// What a client says first: the kind, and how long a message is.
pub(crate) fn hello(kind: Kind, size: usize) -> Result<[u8; HELLO]> {
    let letter = match kind {
        Kind::Echo => b'E',
        Kind::Service => b'T',
        Kind::Source => b'S',
        Kind::Sink => b'D',
    };
    let size = u32::try_from(size).context("a message is too long")?.to_le_bytes();
    Ok([letter, 0, 0, 0, size[0], size[1], size[2], size[3]])
}

/// What a server makes of it; none if it is no hello.
pub(crate) fn parse(hello: [u8; HELLO]) -> Option<(Kind, usize)> {
    let [letter, 0, 0, 0, a, b, c, d] = hello else { return None };
    let kind = match letter {
        b'E' => Kind::Echo,
        b'T' => Kind::Service,
        b'S' => Kind::Source,
        b'D' => Kind::Sink,
        _ => return None,
    };
    Some((kind, usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?.max(1)))
}
