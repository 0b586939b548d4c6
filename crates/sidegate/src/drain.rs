//! `sidegate drain`.

use std::io::{ErrorKind, IsTerminal, stderr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sidegate_admin::v1;
use sidegate_admin::v1::admin_client::AdminClient;
use sidegate_core::counted;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use crate::cli;
use crate::target::refused;

const STEP: Duration = Duration::from_millis(200);
/// Beyond the time at which the sidecar itself would have ended.
const MARGIN: Duration = Duration::from_secs(5);

/// Begins the drain; with `--wait` comes back when the sidecar has ended.
pub(crate) fn drain(arguments: &cli::DrainArgs) -> Result<()> {
    let socket = arguments.asked.addresses()?.socket.context("this sidecar has no admin socket")?;
    arguments.asked.ask(async |mut client| {
        let process = process(&socket).await;
        let ends = client.drain(v1::DrainRequest {}).await.map_err(refused)?.into_inner().ends;
        if !arguments.wait {
            err!("draining; it ends by {ends} at the latest");
            return Ok(());
        }
        err!("draining; waiting for its end, by {ends} at the latest");
        let left = humantime::parse_rfc3339(&ends)?.duration_since(SystemTime::now()).unwrap_or_default() + MARGIN;
        let mut open = 0;
        let ended = async {
            tokio::select! {
                () = end(process.as_ref(), &socket) => {}
                () = tell(&mut client, &mut open) => {}
            }
        };
        if timeout(left, ended).await.is_err() {
            bail!(
                "it has not ended by its own deadline, with {} open; read its log, and end it by SIGKILL if it hangs",
                counted(open, "connection")
            );
        }
        err!("it has ended");
        Ok(())
    })
}

/// The process that answers at `socket`; none if it can't be seen from here, such as out of another container.
async fn process(socket: &Path) -> Option<OwnedFd> {
    let stream = timeout(STEP, UnixStream::connect(socket)).await.ok()?.ok()?;
    let pid = Pid::from_raw(stream.peer_cred().ok()?.pid()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Until the process has ended; where it can't be seen, until nobody listens at its socket.
async fn end(process: Option<&OwnedFd>, socket: &Path) {
    let has_ended = async || match process {
        // A descriptor of a process is readable once it has ended.
        Some(process) => poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&Timespec::default())).is_ok_and(|ready| ready > 0),
        // One that does not answer in time is busy, and has not ended.
        None => {
            let answer = timeout(STEP, UnixStream::connect(socket)).await;
            answer.is_ok_and(|answer| answer.is_err_and(|e| matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound)))
        }
    };
    while !has_ended().await {
        sleep(STEP).await;
    }
}

/// Tells a terminal how many connections are open, without end.
async fn tell(client: &mut AdminClient<Channel>, open: &mut u64) {
    let mut told = None;
    loop {
        if let Ok(status) = client.get_status(v1::GetStatusRequest {}).await {
            *open = status.into_inner().traffic.iter().map(|traffic| traffic.open).sum();
            if told != Some(*open) && stderr().is_terminal() {
                err!("{} open", counted(*open, "connection"));
                told = Some(*open);
            }
        }
        sleep(STEP).await;
    }
}
