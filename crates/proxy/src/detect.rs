//! Tells mutual TLS from plaintext on a permissive port by the client's first bytes, whenever they come.
//!
//! Biased towards TLS: only what can't be a ClientHello is plaintext. A server that speaks first is not heard before
//! the client had a short time to say what it is, for a TLS client must not be answered in plaintext; a plaintext
//! client of such a server pays that time once.

use std::io;

use sidegate_config::schema::Timeouts;
use sidegate_core::Reason;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::failure::Failure;

/// What the client speaks, with the bytes that were read to find out.
#[derive(Debug)]
pub(crate) enum Detected {
    Tls(Vec<u8>),
    Plaintext(Vec<u8>),
}

/// A TLS record header and the type of the handshake message in it (RFC 8446 §5.1, §4).
const ENOUGH: usize = 6;

/// Waits for the first bytes of `client`. `server` has been dialled already.
pub(crate) async fn detect(client: &TcpStream, server: &TcpStream, server_first: bool, timeouts: &Timeouts) -> Result<Detected, Failure> {
    let start = Instant::now();
    let silent = start + timeouts.silent.duration();
    let hold = timeouts.detect.duration();
    let mut until = if server_first { (start + hold).min(silent) } else { silent };
    let mut server_spoke = server_first;
    let mut first = Vec::with_capacity(256);
    loop {
        tokio::select! {
            biased;
            ready = client.readable() => {
                ready.map_err(failed)?;
                match client.try_read_buf(&mut first) {
                    // The client half-closed before it said anything that could be TLS.
                    Ok(0) => return Ok(Detected::Plaintext(first)),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(failed(error)),
                }
                match is_client_hello(&first) {
                    Some(true) => return Ok(Detected::Tls(first)),
                    Some(false) => return Ok(Detected::Plaintext(first)),
                    // A part of what may be a ClientHello: the server's voice no longer decides.
                    None => { server_spoke = true; until = silent; }
                }
            }
            ready = server.readable(), if !server_spoke => {
                ready.map_err(failed)?;
                server_spoke = true;
                until = (Instant::now() + hold).min(silent);
            }
            () = sleep_until(until) => {
                if first.is_empty() && server_spoke && until < silent {
                    return Ok(Detected::Plaintext(first));
                }
                return Err(Failure::with(Reason::DetectTimeout, format!("neither end decided within {:?}", timeouts.silent.duration())));
            }
        }
    }
}

/// Whether `bytes` begin a ClientHello; none if there are too few to tell.
fn is_client_hello(bytes: &[u8]) -> Option<bool> {
    const PATTERN: [Option<u8>; ENOUGH] = [Some(0x16), Some(0x03), None, None, None, Some(0x01)];
    let fits = bytes.iter().zip(PATTERN).all(|(byte, want)| want.is_none_or(|w| w == *byte));
    if !fits { Some(false) } else { (bytes.len() >= ENOUGH).then_some(true) }
}

#[allow(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn failed(error: io::Error) -> Failure {
    let reason = if error.kind() == io::ErrorKind::ConnectionReset { Reason::DownstreamReset } else { Reason::RelayFailed };
    Failure::with(reason, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::is_client_hello;

    #[test]
    fn every_prefix_of_a_client_hello_waits_or_is_tls() {
        let hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
        for end in 0..=hello.len() {
            assert_eq!(is_client_hello(&hello[..end]), (end >= 6).then_some(true), "{end}");
        }
    }

    #[test]
    fn whatever_else_is_plaintext_at_the_first_byte_that_differs() {
        for text in [&b"GET / HTTP/1.1"[..], b"S", b"\x16\x02", b"\x16\x03\x01\x00\x10\x02", b"\x00"] {
            assert_eq!(is_client_hello(text), Some(false), "{text:?}");
        }
    }
}
