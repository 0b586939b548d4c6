//! Frames of the tunnel: a kind, a length of three bytes, and that many bytes (docs/reference/tunnel.md).
//!
//! Any segmentation is accepted; data is never copied but to close a gap that costs more than the copy.

use std::ops::Range;

use prost::Message;

use crate::v1::{GoAway, Open, Reset, Status};

/// Kind and length.
pub(crate) const HEADER: usize = 4;
/// A control frame's payload at most.
pub(crate) const LONGEST_CONTROL: usize = 4096;
/// From here on a receiver skips kinds that it does not know; below, they are an error.
const OPTIONAL: u8 = 0x80;
/// Shorter pieces of data are moved together.
const SHORT: u32 = 2048;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Open = 1,
    Status = 2,
    Data = 3,
    End = 4,
    Reset = 5,
    GoAway = 6,
    Warm = 7,
}

impl Kind {
    fn known(byte: u8) -> Option<Self> {
        [Self::Open, Self::Status, Self::Data, Self::End, Self::Reset, Self::GoAway, Self::Warm].into_iter().find(|k| *k as u8 == byte)
    }
}

/// A control frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Control {
    /// The client wants a connection.
    Open(Open),
    /// The server's answer.
    Status(Status),
    /// Half-closes the sender's direction.
    End,
    /// The connection is over in both directions.
    Reset(Reset),
    /// No more connections on this session.
    GoAway(GoAway),
    /// The session was made in advance.
    Warm,
}

/// A peer that breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The header of a data frame.
#[must_use]
pub fn data(length: usize) -> [u8; HEADER] {
    header(Kind::Data, length)
}

fn header(kind: Kind, length: usize) -> [u8; HEADER] {
    let [_, high, middle, low] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [kind as u8, high, middle, low]
}

impl Control {
    /// The whole frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload) = match self {
            Self::Open(open) => (Kind::Open, open.encode_to_vec()),
            Self::Status(status) => (Kind::Status, status.encode_to_vec()),
            Self::End => (Kind::End, Vec::new()),
            Self::Reset(reset) => (Kind::Reset, reset.encode_to_vec()),
            Self::GoAway(goaway) => (Kind::GoAway, goaway.encode_to_vec()),
            Self::Warm => (Kind::Warm, Vec::new()),
        };
        let mut frame = header(kind, payload.len()).to_vec();
        frame.extend(payload);
        frame
    }

    fn decode(kind: Kind, payload: &[u8]) -> Result<Self, Malformed> {
        let unreadable = |_| Malformed("a control frame can't be read");
        let control = match kind {
            Kind::Open => Self::Open(Open::decode(payload).map_err(unreadable)?),
            Kind::Status => Self::Status(Status::decode(payload).map_err(unreadable)?),
            Kind::Reset => Self::Reset(Reset::decode(payload).map_err(unreadable)?),
            Kind::GoAway => Self::GoAway(GoAway::decode(payload).map_err(unreadable)?),
            Kind::End => Self::End,
            Kind::Warm => Self::Warm,
            Kind::Data => return Err(Malformed("data is no control frame")),
        };
        Ok(control)
    }
}

/// Takes frames apart.
#[derive(Debug, Default)]
pub(crate) struct Deframer {
    header: [u8; HEADER],
    /// How much of the header has come.
    have: usize,
    /// How much of the payload is still to come.
    left: u32,
    control: Vec<u8>,
}

impl Deframer {
    /// Takes apart the `chunks` of `bytes` from `*done` on: what is data becomes chunks of its own, `*done` counts these,
    /// and the rest vanishes. Stops behind the first control frame, which it returns.
    pub(crate) fn deframe(
        &mut self,
        bytes: &mut [u8],
        chunks: &mut Vec<Range<u32>>,
        done: &mut usize,
    ) -> Result<Option<Control>, Malformed> {
        while let Some(chunk) = chunks.get_mut(*done) {
            if self.have < HEADER {
                let part = &bytes[chunk.start as usize..chunk.end as usize];
                let length = part.len().min(HEADER - self.have);
                self.header[self.have..self.have + length].copy_from_slice(&part[..length]);
                self.have += length;
                take(chunks, *done, length as u32);
                if self.have == HEADER
                    && let Some(control) = self.begin()?
                {
                    return Ok(Some(control));
                }
                continue;
            }
            let length = (chunk.end - chunk.start).min(self.left);
            self.left -= length;
            if self.header[0] == Kind::Data as u8 {
                keep(bytes, chunks, done, length);
            } else {
                if self.header[0] < OPTIONAL {
                    self.control.extend_from_slice(&bytes[chunk.start as usize..][..length as usize]);
                }
                take(chunks, *done, length);
            }
            if self.left == 0
                && let Some(control) = self.finish()?
            {
                return Ok(Some(control));
            }
        }
        Ok(None)
    }

    /// Whether a frame is under way.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.have == 0
    }

    fn begin(&mut self) -> Result<Option<Control>, Malformed> {
        let [kind, high, middle, low] = self.header;
        self.left = u32::from_be_bytes([0, high, middle, low]);
        match Kind::known(kind) {
            None if kind < OPTIONAL => return Err(Malformed("a frame of a kind that must be known")),
            Some(Kind::Data) => {}
            _ if self.left as usize > LONGEST_CONTROL => return Err(Malformed("a control frame is too long")),
            _ => {}
        }
        if self.left == 0 { self.finish() } else { Ok(None) }
    }

    fn finish(&mut self) -> Result<Option<Control>, Malformed> {
        self.have = 0;
        let payload = std::mem::take(&mut self.control);
        match Kind::known(self.header[0]) {
            None | Some(Kind::Data) => Ok(None),
            Some(kind) => Control::decode(kind, &payload).map(Some),
        }
    }
}

/// Takes `length` bytes off the chunk at `index`.
fn take(chunks: &mut Vec<Range<u32>>, index: usize, length: u32) {
    chunks[index].start += length;
    if chunks[index].is_empty() {
        chunks.remove(index);
    }
}

/// The first `length` bytes of the chunk at `*done` are data.
fn keep(bytes: &mut [u8], chunks: &mut Vec<Range<u32>>, done: &mut usize, length: u32) {
    let start = chunks[*done].start;
    let data = start..start + length;
    if length <= SHORT && *done > 0 {
        let end = chunks[*done - 1].end;
        bytes.copy_within(data.start as usize..data.end as usize, end as usize);
        chunks[*done - 1].end += length;
        take(chunks, *done, length);
    } else if data.end == chunks[*done].end {
        *done += 1;
    } else {
        chunks[*done].start = data.end;
        chunks.insert(*done, data);
        *done += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Control {
        Control::Open(Open { connection_id: vec![7; 16], destination: "10.0.0.1:80".to_owned(), ..Open::default() })
    }

    /// Everything that `parts`, each a buffer of its own, hold: data in pieces put together, and control frames.
    fn all(parts: &[&[u8]]) -> Result<(Vec<u8>, Vec<Control>), Malformed> {
        let (mut deframer, mut data, mut controls) = (Deframer::default(), Vec::new(), Vec::new());
        for part in parts {
            let mut bytes = part.to_vec();
            let mut chunks: Vec<_> = std::iter::once(0..part.len() as u32).filter(|chunk| !chunk.is_empty()).collect();
            let mut done = 0;
            while let Some(control) = deframer.deframe(&mut bytes, &mut chunks, &mut done)? {
                controls.push(control);
            }
            assert_eq!(done, chunks.len());
            for chunk in chunks {
                data.extend(&bytes[chunk.start as usize..chunk.end as usize]);
            }
        }
        Ok((data, controls))
    }

    fn stream() -> Vec<u8> {
        let mut stream = open().encode();
        for piece in [&b"hello"[..], b"", &[9; 3000]] {
            stream.extend(data(piece.len()));
            stream.extend(piece);
        }
        stream.extend([0x81, 0, 0, 2, 1, 2]);
        stream.extend(Control::End.encode());
        stream
    }

    #[test]
    fn any_segmentation_is_the_same_stream() {
        let stream = stream();
        let expected = ([&b"hello"[..], &[9; 3000]].concat(), vec![open(), Control::End]);
        for cut in 0..stream.len() {
            let (one, other) = stream.split_at(cut);
            assert_eq!(all(&[one, other]), Ok(expected.clone()), "{cut}");
        }
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(all(&single), Ok(expected));
    }

    #[test]
    fn a_control_frame_stops_so_that_what_follows_is_the_next_ones() {
        let mut bytes = [&Control::End.encode()[..], &open().encode(), &data(2), b"xy"].concat();
        let mut chunks: Vec<_> = std::iter::once(0..bytes.len() as u32).collect();
        let (mut deframer, mut done) = (Deframer::default(), 0);
        assert_eq!(deframer.deframe(&mut bytes, &mut chunks, &mut done), Ok(Some(Control::End)));
        assert_eq!((done, chunks.len()), (0, 1));
        assert_eq!(deframer.deframe(&mut bytes, &mut chunks, &mut done), Ok(Some(open())));
        assert_eq!(deframer.deframe(&mut bytes, &mut chunks, &mut done), Ok(None));
        assert_eq!(&bytes[chunks[0].start as usize..chunks[0].end as usize], b"xy");
    }

    #[test]
    fn what_the_protocol_forbids_is_refused() {
        assert!(all(&[&[0, 0, 0, 0]]).is_err());
        assert!(all(&[&[8, 0, 0, 0]]).is_err());
        assert!(all(&[&[1, 0, 0x10, 1]]).is_err());
        assert!(all(&[&[0x80, 0, 0x10, 1]]).is_err());
        assert!(all(&[&[1, 0, 0, 1, 0xff]]).is_err());
    }

    proptest::proptest! {
        /// Whatever comes is data, control or refused, in pieces as in whole; nothing is invented.
        #[test]
        fn any_bytes_in_any_pieces(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), cut in 0..200usize) {
            let whole = all(&[&bytes]);
            let (one, other) = bytes.split_at(cut.min(bytes.len()));
            proptest::prop_assert_eq!(&whole, &all(&[one, other]));
            if let Ok((data, _)) = whole {
                proptest::prop_assert!(data.len() <= bytes.len());
            }
        }
    }
}
