//! Waits until a sidecar says that it is ready.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::{AdminAddresses, ClientError, connect};
use crate::v1;

const STEP: Duration = Duration::from_millis(100);
/// How long the probe's answer may take.
const ANSWER: Duration = Duration::from_secs(2);
/// A longer answer is cut off.
const LONGEST: u64 = 64 * 1024;

/// A sidecar is not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReadyError {
    /// It can't be asked.
    #[error("this sidecar can't be asked: it has neither `admin.socket` nor `admin.listen`")]
    NoAddress,
    /// It lacks something, or did not answer.
    #[error("not ready after {}: {why}", humantime::format_duration(*.after))]
    Late {
        /// How long was waited.
        after: Duration,
        /// What the last answer was.
        why: String,
    },
}

impl AdminAddresses {
    /// Asks by the admin socket, or where there is none `/readyz`, until the answer is yes.
    ///
    /// # Errors
    /// If it is not ready after `patience`, or can't be asked at all.
    pub async fn wait_until_ready(&self, patience: Duration) -> Result<(), NotReadyError> {
        let deadline = Instant::now() + patience;
        loop {
            let missing = match (&self.socket, self.listen) {
                (Some(socket), listen) if listen.is_none() || socket.exists() => status(socket).await.map_err(|error| error.to_string()),
                (_, Some(listen)) => readyz(listen).await,
                _ => return Err(NotReadyError::NoAddress),
            };
            let why = match missing {
                Ok(missing) if missing.is_empty() => return Ok(()),
                Ok(missing) => missing.join("; "),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(NotReadyError::Late { after: patience, why });
            }
            sleep(STEP).await;
        }
    }
}

/// What is missing, by the admin socket.
async fn status(socket: &Path) -> Result<Vec<String>, ClientError> {
    let status = connect(socket).await?.get_status(v1::GetStatusRequest {}).await?.into_inner();
    Ok(if status.ready { Vec::new() } else { status.missing })
}

/// What is missing, by the probe.
async fn readyz(admin: SocketAddr) -> Result<Vec<String>, String> {
    let answer = timeout(ANSWER, get(admin)).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let (status, body) = answer.map_err(|error| format!("no answer from {admin}: {error}"))?;
    Ok(match status {
        200 => Vec::new(),
        _ if body.starts_with("not ready\n") => body.lines().skip(1).map(str::to_owned).collect(),
        _ => vec![format!("{admin} answers with status {status}; is it a sidecar's `admin.listen`?")],
    })
}

async fn get(admin: SocketAddr) -> std::io::Result<(u16, String)> {
    let mut tcp = TcpStream::connect(admin).await?;
    tcp.write_all(format!("GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    tcp.take(LONGEST).read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}
