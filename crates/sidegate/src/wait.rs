//! `sidegate wait`: blocks until a sidecar says that it is ready.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli;

const STEP: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_secs(2);

/// Asks `/readyz` until it says yes.
pub(crate) fn wait(arguments: &cli::Wait) -> Result<()> {
    let deadline = Instant::now() + arguments.timeout;
    loop {
        let why = match readyz(arguments.admin) {
            Ok((200, _)) => return Ok(()),
            Ok((_, body)) => body.lines().skip(1).collect::<Vec<_>>().join("; "),
            Err(error) => format!("no answer from {}: {error}", arguments.admin),
        };
        if Instant::now() >= deadline {
            bail!("not ready after {:?}: {why}", arguments.timeout);
        }
        std::thread::sleep(STEP);
    }
}

fn readyz(admin: SocketAddr) -> std::io::Result<(u16, String)> {
    let mut tcp = TcpStream::connect_timeout(&admin, ANSWER)?;
    tcp.set_read_timeout(Some(ANSWER))?;
    tcp.write_all(format!("GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    tcp.take(64 * 1024).read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}
