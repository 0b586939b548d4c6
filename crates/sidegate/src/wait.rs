//! `sidegate wait`: blocks until a sidecar says that it is ready.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use sidegate_admin::v1;

use crate::cli;
use crate::target::{AdminAddresses, refused};

const STEP: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_secs(2);

/// Asks by the admin socket, or where there is none `/readyz`, until the answer is yes.
pub(crate) fn wait(arguments: &cli::WaitArgs) -> Result<()> {
    let deadline = Instant::now() + arguments.timeout;
    let addresses = match arguments.admin {
        Some(address) => AdminAddresses { socket: None, listen: Some(address) },
        None => arguments.asked.addresses()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    loop {
        let missing = match (&addresses.socket, addresses.listen) {
            (Some(socket), listen) if listen.is_none() || socket.exists() => runtime.block_on(status(socket)),
            (_, Some(listen)) => readyz(listen),
            _ => bail!("this sidecar can't be asked: it has neither `admin.socket` nor `admin.listen`"),
        };
        let why = match missing {
            Ok(missing) if missing.is_empty() => return Ok(()),
            Ok(missing) => missing.join("; "),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= deadline {
            bail!("not ready after {}: {why}", humantime::format_duration(arguments.timeout));
        }
        std::thread::sleep(STEP);
    }
}

/// What is missing, by the admin socket.
async fn status(socket: &Path) -> Result<Vec<String>> {
    let mut client = sidegate_admin::connect(socket).await?;
    let status = client.get_status(v1::GetStatusRequest {}).await.map_err(refused)?.into_inner();
    Ok(if status.ready { Vec::new() } else { status.missing })
}

/// What is missing, by the probe.
fn readyz(admin: SocketAddr) -> Result<Vec<String>> {
    let (status, body) = get(admin).map_err(|error| anyhow!("no answer from {admin}: {error}"))?;
    Ok(match status {
        200 => Vec::new(),
        _ if body.starts_with("not ready\n") => body.lines().skip(1).map(str::to_owned).collect(),
        _ => vec![format!("{admin} answers with status {status}; is it a sidecar's `admin.listen`?")],
    })
}

fn get(admin: SocketAddr) -> std::io::Result<(u16, String)> {
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
