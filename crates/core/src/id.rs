//! The names of connections and of their spans.

use std::fmt;

use serde::{Serialize, Serializer};

/// 16 random bytes that name a connection; also its trace ID where no parent context came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId([u8; 16]);

impl ConnectionId {
    /// A new random ID. Never all zero, which is no valid trace ID.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }

    /// The ID that a peer has chosen; none if it is not 16 bytes, or all zero.
    #[must_use]
    pub fn from_peer(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().filter(|bytes| *bytes != [0; 16]).map(Self)
    }

    /// The bytes: a trace ID as W3C Trace Context has it.
    #[must_use]
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }
}

/// The span ID of a connection's root span. Each end of a connection has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

impl SpanId {
    /// A new random ID. Never all zero, which is no valid span ID.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }

    /// The ID that a peer has chosen; none if it is not 8 bytes, or all zero.
    #[must_use]
    pub fn from_peer(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().filter(|bytes| *bytes != [0; 8]).map(Self)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(text(&hex_digits::<16>(&self.0, LOWER)))
    }
}

/// A connection's name and its span's, by one call of the generator.
pub(crate) fn ids() -> (ConnectionId, SpanId) {
    let mut bytes: [u8; 24] = random();
    let (connection, span) = bytes.split_at_mut(16);
    connection[15] |= u8::from(connection.iter().all(|b| *b == 0));
    span[7] |= u8::from(span.iter().all(|b| *b == 0));
    let (mut connection_id, mut span_id) = ([0; 16], [0; 8]);
    connection_id.copy_from_slice(connection);
    span_id.copy_from_slice(span);
    (ConnectionId(connection_id), SpanId(span_id))
}

/// Random bytes, never all zero.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // aws-lc's generator lives in user space and can only fail where the system has no entropy;
    // an ID is no secret, so a fixed one is better than no service.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() || bytes == [0; N] {
        bytes[N - 1] = 1;
    }
    bytes
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(text(&hex_digits::<32>(&self.0, LOWER)))
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ConnectionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

pub(crate) const LOWER: &[u8; 16] = b"0123456789abcdef";
pub(crate) const UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// Two of `digits` for each byte. Several of these stand in every record, so they are written without the formatter.
pub(crate) fn hex_digits<const N: usize>(bytes: &[u8], digits: &[u8; 16]) -> [u8; N] {
    let mut hex = [b'0'; N];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(bytes) {
        pair[0] = digits[usize::from(byte >> 4)];
        pair[1] = digits[usize::from(byte & 15)];
    }
    hex
}

/// Digits are always text.
pub(crate) fn text(digits: &[u8]) -> &str {
    std::str::from_utf8(digits).unwrap_or_default()
}
