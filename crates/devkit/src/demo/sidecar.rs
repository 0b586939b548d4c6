//! The demo's sidecars, as processes of their own.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::folder::Folder;
use super::http;
use super::interrupt::Interrupt;
use super::topology::Topology;
use super::workload::Workload;

/// A record that a sidecar wrote.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) workload: Workload,
    pub(super) record: Value,
}

impl Seen {
    /// A field as text, by JSON pointer; empty where it is absent.
    pub(super) fn text(&self, pointer: &str) -> &str {
        self.record.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

/// Everything that the sidecars have written so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Records(Arc<Mutex<Vec<Seen>>>);

impl Records {
    pub(super) fn all(&self) -> Vec<Seen> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_by(|a, b| a.text("/time").cmp(b.text("/time")));
        all
    }

    /// Waits, not for long, until there are at least `count`.
    pub(super) fn settle(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(3);
        while self.0.lock().unwrap_or_else(PoisonError::into_inner).len() < count && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A running sidecar. Dropping it ends it.
pub(super) struct Sidecar {
    pub(super) workload: Workload,
    child: Child,
    log: PathBuf,
}

impl Sidecar {
    /// Starts it with its configuration in `folder`.
    pub(super) fn start(topology: &Topology, workload: Workload, folder: &Folder, records: Records) -> Result<Self> {
        let log = folder.log(workload);
        let mut command = Command::new(folder.program());
        command.args(["run", "--with-parent", "--config"]).arg(folder.config(workload));
        // Ctrl-C is for the demo, which ends them.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut child =
            topology.start(workload, command).with_context(|| format!("the sidecar of {} can't be started", workload.name()))?;
        if let Some(stdout) = child.stdout.take() {
            // Ends with the pipe, and so with the child.
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if let Ok(record) = serde_json::from_str(&line) {
                        records.0.lock().unwrap_or_else(PoisonError::into_inner).push(Seen { workload, record });
                    }
                }
            });
        }
        Ok(Self { workload, child, log })
    }

    pub(super) fn wait_ready(&self, topology: &Topology, deadline: Duration, interrupt: &Interrupt) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            interrupt.check()?;
            let last = match self.ask_admin(topology, "/readyz") {
                Ok((200, _)) => return Ok(()),
                Ok((_, body)) => body,
                Err(error) => error.to_string(),
            };
            if Instant::now() > end {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!("the sidecar of {} did not get ready: {last}\nits log:\n{log}", self.workload.name());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// An answer of its admin port.
    fn ask_admin(&self, topology: &Topology, path: &'static str) -> Result<(u16, String)> {
        let address = topology.admin_address(self.workload);
        let job = move || http::get(TcpStream::connect_timeout(&address, Duration::from_secs(2))?, path);
        let answer: io::Result<(u16, String)> =
            topology.run_at(self.workload, job)?.join().map_err(|_| anyhow!("asking the admin port panicked"))?;
        Ok(answer?)
    }

    /// How often its SVID was rotated, by its own count.
    pub(super) fn rotations(&self, topology: &Topology) -> Result<u64> {
        let (_, metrics) = self.ask_admin(topology, "/metrics")?;
        let line = metrics.lines().find_map(|l| l.strip_prefix("sidegate_identity_rotations_total{sidegate_outcome=\"success\"} "));
        Ok(line.and_then(|n| n.parse().ok()).unwrap_or(0))
    }

    /// Ends it at once: the second signal skips the drain.
    pub(super) fn end(&mut self) {
        let Ok(pid) = i32::try_from(self.child.id()).map(Pid::from_raw) else { return };
        let deadline = Instant::now() + Duration::from_secs(3);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            } else {
                let _ = kill(pid, Signal::SIGTERM);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.end();
    }
}
