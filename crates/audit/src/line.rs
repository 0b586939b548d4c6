//! A line of the log: a JSON object whose last fields chain it to the line before.
//!
//! `{"v":1,"seq":7,"time":"…","event":"…",…,"prev":"…","mac":"…"}`, and a checkpoint's ends in `,"signature":"…"}`.
//! `prev` is SHA-256 of the whole line before, without its newline. `mac` is HMAC-SHA256 under the epoch's key of the SHA-256
//! of all bytes before `,"mac":`. The signature is over all bytes before `,"signature":`. So each is checked on the bytes as
//! they stand, and no rule for writing JSON in one way only is needed.

use std::io::{self, BufRead, Read, Write};
use std::time::SystemTime;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::event::VERSION;
use crate::hex::{self, digits, sha256};
use crate::key::{EpochKey, Hash};

/// No log reaches this number. It bounds the numbers that are read from a file, so that counting on never overflows.
const LAST: u64 = u64::MAX / 2;

/// Every signed message begins with this, so that the signature is valid for no other purpose.
const SIGNED: &[u8] = b"sidegate audit checkpoint v1\n";

const SIGNATURE: &[u8] = br#","signature":""#;
const MAC: &[u8] = br#","mac":""#;
const PREV: &[u8] = br#","prev":""#;
const DIGEST: usize = 64;

/// The longest line in bytes, without the newline. It bounds the memory that a reader of any file needs. Ours are far shorter:
/// the longest are the encrypted ones, which hold a batch of 64 KiB and the record that filled it, and base64 makes them a third
/// larger.
pub const LONGEST: usize = 16 * 1024 * 1024;
/// What follows the event's own fields fits into this: a link, a MAC, and the signature of the longest key.
const REST: usize = 64 * 1024;

/// What comes next in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A line, without its newline.
    Whole,
    /// The end of the file, with what is no whole line before it.
    Part,
    /// The beginning of a line that is longer than [`LONGEST`].
    TooLong,
    /// Nothing.
    End,
}

/// Reads the next line into `text`.
pub fn next(file: &mut impl BufRead, text: &mut Vec<u8>) -> io::Result<Next> {
    text.clear();
    let read = file.by_ref().take(LONGEST as u64 + 1).read_until(b'\n', text)?;
    Ok(if text.pop_if(|last| *last == b'\n').is_some() {
        Next::Whole
    } else if read > LONGEST {
        Next::TooLong
    } else if read > 0 {
        Next::Part
    } else {
        Next::End
    })
}

/// Begins a line: all of it up to the event's own fields.
pub fn begin(out: &mut Vec<u8>, seq: u64, time: SystemTime, event: &impl serde::Serialize) -> Result<(), serde_json::Error> {
    let time = humantime::format_rfc3339_micros(time);
    write!(out, r#"{{"v":{VERSION},"seq":{seq},"time":"{time}""#).map_err(serde_json::Error::io)?;
    let start = out.len();
    serde_json::to_writer(Json(out), event)?;
    if out.len() - start > LONGEST - REST {
        return Err(serde_json::Error::io(io::Error::other("it is longer than a line may be")));
    }
    // The event's own braces are the line's: its first field follows ours.
    out[start] = b',';
    out.pop();
    Ok(())
}

/// Where JSON is written. Half of its pieces are a single mark, for which adding one byte is quicker than adding a slice.
struct Json<'a>(&'a mut Vec<u8>);

impl Write for Json<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    #[inline(always)]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match bytes {
            [mark] => self.0.push(*mark),
            _ => self.0.extend_from_slice(bytes),
        }
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Links the line that begins at `start` of `out` to the one before, and authenticates it.
pub fn link(out: &mut Vec<u8>, start: usize, prev: &Hash, key: &EpochKey) -> LineHash {
    field(out, PREV, &digits(prev));
    let hash = LineHash::new(&out[start..]);
    field(out, MAC, &digits(&key.mac(&hash.authenticated)));
    hash
}

/// The hash of a line that is not whole yet, so that nothing is hashed twice.
pub struct LineHash {
    context: digest::Context,
    /// How many bytes the MAC is over, and their SHA-256.
    len: usize,
    authenticated: Hash,
}

impl LineHash {
    fn new(authenticated: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(authenticated);
        let mut hash = [0; 32];
        hash.copy_from_slice(context.clone().finish().as_ref());
        Self { context, len: authenticated.len(), authenticated: hash }
    }

    /// The hash of the whole line, without its newline.
    pub fn finish(mut self, line: &[u8]) -> Hash {
        self.context.update(line.get(self.len..).unwrap_or_default());
        let mut hash = [0; 32];
        hash.copy_from_slice(self.context.finish().as_ref());
        hash
    }
}

/// What a signature of the line so far is over.
pub fn to_sign(line: &[u8]) -> Vec<u8> {
    [SIGNED, line].concat()
}

/// Adds the signature of a checkpoint.
pub fn sign(out: &mut Vec<u8>, signature: &[u8]) {
    field(out, SIGNATURE, STANDARD.encode(signature).as_bytes());
}

/// Ends a line that is linked.
pub fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"}\n");
}

fn field(out: &mut Vec<u8>, opening: &[u8], value: &[u8]) {
    out.extend_from_slice(opening);
    out.extend_from_slice(value);
    out.push(b'"');
}

/// A line that was read, in its parts.
#[derive(Debug, Clone, Copy)]
pub struct LogLine<'a> {
    /// All of it, without its newline.
    pub text: &'a [u8],
    /// The bytes that the MAC is over.
    pub authenticated: &'a [u8],
    /// The MAC that it carries.
    pub mac: Hash,
    /// The hash of the line before that it carries.
    pub prev: Hash,
    /// The bytes that the signature is over, and the signature in base64.
    pub signature: Option<(&'a [u8], &'a [u8])>,
}

/// The first fields of a line.
#[derive(Debug, Deserialize)]
pub struct LineHead {
    v: u32,
    /// Its number, or that of its first record.
    pub seq: u64,
    #[serde(default)]
    /// When, RFC 3339.
    pub time: String,
    /// The name of the event.
    pub event: String,
    /// How many records it holds.
    #[serde(default = "one")]
    pub records: u64,
}

fn one() -> u64 {
    1
}

impl<'a> LogLine<'a> {
    /// Takes a line apart.
    ///
    /// # Errors
    /// What is not as it is written.
    pub fn parse(text: &'a [u8]) -> Result<(Self, LineHead), String> {
        let Some(open) = text.strip_suffix(b"\"}") else { return Err("it has no end".to_owned()) };
        let (rest, signature) = match split_digest(open, MAC) {
            Some((authenticated, mac)) => ((authenticated, mac), None),
            None => {
                let at = find_last(open, SIGNATURE).ok_or("it has neither MAC nor signature")?;
                let signed = &open[..at];
                let inner = signed.strip_suffix(b"\"").ok_or("its MAC has no end")?;
                let parts = split_digest(inner, MAC).ok_or("it has no MAC")?;
                (parts, Some((signed, &open[at + SIGNATURE.len()..])))
            }
        };
        let (authenticated, mac) = rest;
        let linked = authenticated.strip_suffix(b"\"").ok_or("its link has no end")?;
        let (_, prev) = split_digest(linked, PREV).ok_or("it has no link")?;
        let head: LineHead = serde_json::from_slice(text).map_err(|e| format!("it is no JSON object of a record: {e}"))?;
        if head.v != VERSION {
            return Err(format!("it is of version {}; this sidegate reads version {VERSION}", head.v));
        }
        if head.records == 0 {
            return Err("it holds no record".to_owned());
        }
        if head.seq == 0 || head.seq.checked_add(head.records).is_none_or(|next| next > LAST) {
            return Err(format!("no record has the number {}", head.seq));
        }
        Ok((Self { text, authenticated, mac, prev, signature }, head))
    }

    /// Its SHA-256, which the next line carries.
    #[must_use]
    pub fn hash(&self) -> Hash {
        sha256(self.text)
    }

    /// The signature, and what it is over.
    pub fn signature(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let (signed, signature) = self.signature?;
        Some((to_sign(signed), STANDARD.decode(signature).ok()?))
    }
}

/// What stands before the field `name`, and its digest.
fn split_digest<'a>(text: &'a [u8], name: &[u8]) -> Option<(&'a [u8], Hash)> {
    let at = text.len().checked_sub(DIGEST)?;
    let before = text[..at].strip_suffix(name)?;
    Some((before, hex::parse(&text[at..])?))
}

fn find_last(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).rposition(|window| window == what)
}

#[cfg(test)]
pub(crate) mod tests;
