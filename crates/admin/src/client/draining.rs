//! Begins the drain of a sidecar, and waits for its end.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sidegate_core::counted;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::{ClientError, connect};
use crate::v1;
use crate::v1::admin_client::AdminClient;

const STEP: Duration = Duration::from_millis(200);
/// Beyond the time at which the sidecar itself would have ended.
const MARGIN: Duration = Duration::from_secs(5);

/// A sidecar has not ended.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The time that it has named is none.
    #[error(transparent)]
    Time(#[from] humantime::TimestampError),
    /// Its own deadline has passed.
    #[error(
        "it has not ended by its own deadline, with {} open; read its log, and end it by SIGKILL if it hangs",
        counted(*.open, "connection")
    )]
    Late {
        /// How many connections were open when it was last asked.
        open: u64,
    },
}

/// A sidecar that drains.
#[derive(Debug)]
pub struct Draining {
    client: AdminClient<Channel>,
    socket: PathBuf,
    /// None if it can't be seen from here, such as out of another container.
    process: Option<OwnedFd>,
    /// By when it ends at the latest, RFC 3339.
    pub ends: String,
}

impl Draining {
    /// Begins the drain of the sidecar that answers at `socket`.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn begin(socket: &Path) -> Result<Self, ClientError> {
        let mut client = connect(socket).await?;
        let process = process(socket).await;
        let ends = client.drain(v1::DrainRequest {}).await?.into_inner().ends;
        Ok(Self { client, socket: socket.to_owned(), process, ends })
    }

    /// Waits until it has ended. Meanwhile `tell` gets the number of open connections, whenever it changes.
    ///
    /// # Errors
    /// If it has not ended by its own deadline.
    pub async fn wait(mut self, tell: impl Fn(u64)) -> Result<(), DrainError> {
        let left = humantime::parse_rfc3339(&self.ends)?.duration_since(SystemTime::now()).unwrap_or_default() + MARGIN;
        let mut open = 0;
        let ended = async {
            tokio::select! {
                () = end(self.process.as_ref(), &self.socket) => {}
                () = follow(&mut self.client, &mut open, tell) => {}
            }
        };
        timeout(left, ended).await.map_err(|_| DrainError::Late { open })
    }
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

/// Asks how many connections are open, without end.
async fn follow(client: &mut AdminClient<Channel>, open: &mut u64, tell: impl Fn(u64)) {
    let mut told = None;
    loop {
        if let Ok(status) = client.get_status(v1::GetStatusRequest {}).await {
            *open = status.into_inner().traffic.iter().map(|traffic| traffic.open).sum();
            if told != Some(*open) {
                tell(*open);
                told = Some(*open);
            }
        }
        sleep(STEP).await;
    }
}
