//! A line of the log: a JSON object whose last fields chain it to the line before.
//!
//! `{"v":1,"seq":7,"time":"…","event":"…",…,"prev":"…","mac":"…"}`, and a checkpoint's ends in `,"signature":"…"}`.
//! `prev` is SHA-256 of the whole line before, without its newline. `mac` is HMAC-SHA256 under the epoch's key of all bytes
//! before `,"mac":`. The signature is over all bytes before `,"signature":`. So each is checked on the bytes as they stand,
//! and no rule for writing JSON in one way only is needed.

use std::io::Write;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::event::VERSION;
use crate::hex::{self, hex, sha256};
use crate::key::{EpochKey, Hash};

/// What is signed begins with this, so that the signature is never taken for one of another purpose.
const SIGNED: &[u8] = b"sidegate audit checkpoint v1\n";

const SIGNATURE: &[u8] = br#","signature":""#;
const MAC: &[u8] = br#","mac":""#;
const PREV: &[u8] = br#","prev":""#;
const DIGEST: usize = 64;

/// Begins a line: all of it up to the event's own fields.
pub(crate) fn begin(out: &mut Vec<u8>, seq: u64, time: SystemTime, event: &impl serde::Serialize) -> Result<(), serde_json::Error> {
    let time = humantime::format_rfc3339_micros(time);
    write!(out, r#"{{"v":{VERSION},"seq":{seq},"time":"{time}""#).map_err(serde_json::Error::io)?;
    let start = out.len();
    serde_json::to_writer(&mut *out, event)?;
    // The event's own braces are the line's: its first field follows ours.
    out[start] = b',';
    out.pop();
    Ok(())
}

/// Links the line that begins at `start` of `out` to the one before.
pub(crate) fn link(out: &mut Vec<u8>, start: usize, prev: &Hash, key: &EpochKey) {
    field(out, PREV, hex(prev).as_bytes());
    let mac = key.mac(&out[start..]);
    field(out, MAC, hex(&mac).as_bytes());
}

/// What a signature of the line so far is over.
pub(crate) fn to_sign(line: &[u8]) -> Vec<u8> {
    [SIGNED, line].concat()
}

pub(crate) fn sign(out: &mut Vec<u8>, signature: &[u8]) {
    field(out, SIGNATURE, STANDARD.encode(signature).as_bytes());
}

/// Ends a line that is linked.
pub(crate) fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"}\n");
}

fn field(out: &mut Vec<u8>, opening: &[u8], value: &[u8]) {
    out.extend_from_slice(opening);
    out.extend_from_slice(value);
    out.push(b'"');
}

/// A line that was read, in its parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    /// All of it, without its newline.
    pub(crate) text: &'a [u8],
    /// The bytes that the MAC is over.
    pub(crate) authenticated: &'a [u8],
    pub(crate) mac: Hash,
    pub(crate) prev: Hash,
    /// The bytes that the signature is over, and the signature in base64.
    pub(crate) signature: Option<(&'a [u8], &'a [u8])>,
}

/// The first fields of a line.
#[derive(Debug, Deserialize)]
pub(crate) struct Head {
    v: u32,
    pub(crate) seq: u64,
    pub(crate) event: String,
    /// How many records it holds.
    #[serde(default = "one")]
    pub(crate) records: u64,
}

fn one() -> u64 {
    1
}

impl<'a> Line<'a> {
    /// Takes a line apart.
    ///
    /// # Errors
    /// What is not as it is written.
    pub(crate) fn parse(text: &'a [u8]) -> Result<(Self, Head), String> {
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
        let head: Head = serde_json::from_slice(text).map_err(|e| format!("it is no JSON object of a record: {e}"))?;
        if head.v != VERSION {
            return Err(format!("it is of version {}; this sidegate reads version {VERSION}", head.v));
        }
        if head.records == 0 {
            return Err("it holds no record".to_owned());
        }
        Ok((Self { text, authenticated, mac, prev, signature }, head))
    }

    pub(crate) fn hash(&self) -> Hash {
        sha256(self.text)
    }

    /// The signature, and what it is over.
    pub(crate) fn signature(&self) -> Option<(Vec<u8>, Vec<u8>)> {
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
