//! The demo's applications: a small HTTP service and those who call it. None of them knows of sidegate.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::http::{connect, get};
use super::interrupt::Interrupt;
use super::topology::Topology;
use super::workload::Workload;

/// How long the service may take to listen.
const START: Duration = Duration::from_secs(5);
/// Between two requests.
const PACE: Duration = Duration::from_millis(40);

/// What became of somebody who should not get through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AttackResult {
    /// The connection broke before a byte came back.
    Refused,
    /// Something came back.
    Answered(String),
}

impl fmt::Display for AttackResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused: its connection was reset, not a byte came back"),
            Self::Answered(what) => write!(f, "ANSWERED: {what}"),
        }
    }
}

/// What happened.
pub(super) struct Tally {
    pub(super) answered: usize,
    pub(super) errors: Vec<String>,
    pub(super) held: Result<(), String>,
    pub(super) exchanges: usize,
    pub(super) time: Duration,
    pub(super) intruder: AttackResult,
    pub(super) plaintext: AttackResult,
}

impl Tally {
    /// Each request leaves a record at both ends; so do the open connection and the intruder; plaintext one.
    pub(super) fn expected_records(&self) -> usize {
        2 * (self.answered + 1 + 1) + 1
    }
}

/// The running service.
pub(super) struct Service {
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Service {
    pub(super) fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// Starts api's service.
pub(super) fn serve(topology: &Topology) -> Result<Service> {
    let address = topology.service_address();
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let (stop, stopped) = oneshot::channel();
    let thread = topology.run_at(Workload::Api, move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error))),
        };
        runtime.block_on(async move {
            let listener = match tokio::net::TcpListener::bind(address).await {
                Ok(listener) => listener,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            tokio::select! { () = accept(listener) => {} _ = stopped => {} }
        });
    })?;
    is_ready.recv_timeout(START).context("the service did not start")?.with_context(|| format!("the service can't listen on {address}"))?;
    Ok(Service { stop, thread })
}

async fn accept(listener: tokio::net::TcpListener) {
    while let Ok((tcp, _)) = listener.accept().await {
        tokio::spawn(async move {
            let hello = service_fn(|request: Request<hyper::body::Incoming>| async move {
                let body = format!("hello from api, you asked for {}\n", request.uri().path());
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body))))
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), hello).await;
        });
    }
}

/// web calls api for `time`; meanwhile the others try.
pub(super) fn drive(topology: &Topology, time: Duration, interrupt: &Interrupt) -> Result<Tally> {
    let end = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let held = {
        let (address, end) = (topology.api_as_seen_by(Workload::Web), end.clone());
        topology.run_at(Workload::Web, move || hold(address, &end))?
    };
    let calls = {
        let (address, end) = (topology.api_as_seen_by(Workload::Web), end.clone());
        topology.run_at(Workload::Web, move || call(address, &end))?
    };
    let intruder = topology.api_as_seen_by(Workload::Intruder);
    let intruder = topology.run_at(Workload::Intruder, move || attack(intruder))?;
    let plaintext = topology.api_from_outside();
    let plaintext = topology.run_outside(move || attack(plaintext))?;
    while start.elapsed() < time && !interrupt.has_come() {
        std::thread::sleep(Duration::from_millis(20));
    }
    end.store(true, Ordering::Relaxed);
    let gone = |_| anyhow!("a client of the demo panicked");
    let (answered, errors) = calls.join().map_err(gone)?;
    let (exchanges, held) = held.join().map_err(gone)?;
    Ok(Tally {
        answered,
        errors,
        held,
        exchanges,
        time: start.elapsed(),
        intruder: intruder.join().map_err(gone)?,
        plaintext: plaintext.join().map_err(gone)?,
    })
}

/// A connection for each request.
fn call(address: SocketAddr, end: &AtomicBool) -> (usize, Vec<String>) {
    let (mut answered, mut errors) = (0, Vec::new());
    while !end.load(Ordering::Relaxed) {
        match connect(address).and_then(|tcp| get(tcp, "/orders")) {
            Ok((200, body)) if body == "hello from api, you asked for /orders\n" => answered += 1,
            Ok((status, body)) => errors.push(format!("status {status}: {body}")),
            Err(error) => errors.push(error.to_string()),
        }
        std::thread::sleep(PACE);
    }
    (answered, errors)
}

/// One connection for all requests.
fn hold(address: SocketAddr, end: &AtomicBool) -> (usize, Result<(), String>) {
    let mut exchanges = 0;
    let mut run = || -> io::Result<()> {
        let mut tcp = connect(address)?;
        let mut buffer = [0; 1024];
        while !end.load(Ordering::Relaxed) {
            tcp.write_all(b"GET /held HTTP/1.1\r\nHost: api\r\n\r\n")?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"/held\n") {
                match tcp.read(&mut buffer)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => answer.extend_from_slice(&buffer[..read]),
                }
            }
            exchanges += 1;
            std::thread::sleep(PACE);
        }
        Ok(())
    };
    let result = run().map_err(|e| e.to_string());
    (exchanges, result)
}

/// Somebody who should not get through.
fn attack(address: SocketAddr) -> AttackResult {
    match connect(address).and_then(|tcp| get(tcp, "/secrets")) {
        Ok((status, body)) => AttackResult::Answered(format!("status {status}: {body}")),
        Err(_) => AttackResult::Refused,
    }
}
