//! The measurements, each on a pair that runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cli::{Measure, Options};
use crate::figures::{Figures, OTHERS, idle_key};
use crate::load::{Churn, ClosedLoop, Download, OpenLoop, Upload};
use crate::others::Others;
use crate::process::Processes;
use crate::wait;

/// Before each measurement, so that all connections are there and all is warm.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long ten thousand connections may take.
const FILLING: Duration = Duration::from_secs(60);
/// How long memory may take until it changes no more.
const CALM: Duration = Duration::from_secs(8);
/// Connections that are open before the memory of one is measured.
const FIRST: usize = 32;
/// So many looks, 10 ms apart, at an unchanged memory mean that a pair has come to rest.
const STEADY: u32 = 200;
/// How long connections may take to end, and proxies to notice.
const SETTLING: Duration = Duration::from_secs(10);
/// Who uses less than a tenth of this time in this time does nothing.
const LULL: Duration = Duration::from_millis(100);
const MIB: f64 = 1024.0;

/// What is measured.
#[derive(Clone)]
pub(crate) struct Subject {
    /// Where the load generator connects.
    pub(crate) entry: SocketAddr,
    /// The proxies.
    pub(crate) processes: Processes,
    /// How many connections the server has.
    pub(crate) open: Arc<AtomicUsize>,
}

impl Subject {
    /// Waits until the server has no connection any more and the proxies do nothing, so that no measurement burdens the next.
    pub(crate) fn settle(&self) -> Result<()> {
        let gone = || Ok((self.open.load(Ordering::Relaxed) == 0).then_some(()));
        wait::until("the end of all connections", SETTLING, gone)?;
        let (mut since, mut before) = (Instant::now(), self.processes.cpu()?);
        wait::until("proxies that do nothing", SETTLING, || {
            if since.elapsed() < LULL {
                return Ok(None);
            }
            let now = self.processes.cpu()?;
            let idle = now - before < LULL / 10;
            (since, before) = (Instant::now(), now);
            Ok(idle.then_some(()))
        })
    }
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Outcome {
    /// What was measured.
    pub(crate) figures: Figures,
    /// What could not be measured, and why.
    pub(crate) failures: Vec<String>,
}

impl Outcome {
    fn put(&mut self, key: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.figures.insert(key.to_owned(), value);
        }
    }
}

/// Measures everything that `options` ask for. To be called in the load generator's pod.
pub(crate) fn measure(subject: &Subject, options: &Options) -> Outcome {
    type Step = fn(&Subject, &Options, &mut Outcome) -> Result<()>;
    // Memory first, for what was in use once may not be given back.
    let steps: [(Measure, &str, Step); 7] = [
        (Measure::Memory, "memory", memory),
        (Measure::Rtt, "round trips", rtt),
        (Measure::Requests, "requests", requests),
        (Measure::Bulk, "bulk", bulk),
        (Measure::Connections, "connections", connections),
        (Measure::Mixed, "small requests beside bulk", mixed),
        (Measure::Service, "service", service),
    ];
    let mut outcome = Outcome::default();
    let others = Others::watch(&subject.processes);
    for (what, name, step) in steps {
        if options.measures(what) {
            let done = step(subject, options, &mut outcome).and_then(|()| subject.settle());
            outcome.failures.extend(done.err().map(|error| format!("{name}: {error:#}")));
        }
    }
    match others.and_then(|others| others.percent(&subject.processes)) {
        Ok(percent) => outcome.put(OTHERS, Some(percent)),
        Err(error) => outcome.failures.push(format!("others: {error:#}")),
    }
    outcome
}

/// Time and CPU time from here on.
struct Meter<'a> {
    processes: &'a Processes,
    start: Instant,
    cpu: Duration,
}

impl<'a> Meter<'a> {
    fn start(subject: &'a Subject) -> Result<Self> {
        Ok(Self { processes: &subject.processes, cpu: subject.processes.cpu()?, start: Instant::now() })
    }

    /// How many of something there were in a second, and the CPU seconds of each; no CPU time where nobody has any.
    fn stop(&self, count: f64) -> Result<(Option<f64>, Option<f64>)> {
        let time = self.start.elapsed().as_secs_f64();
        let cpu = (self.processes.cpu()? - self.cpu).as_secs_f64();
        Ok((Some(count / time), (!self.processes.is_empty()).then_some(cpu / count)))
    }
}

fn micros(seconds: Option<f64>) -> Option<f64> {
    seconds.map(|seconds| seconds * 1e6)
}

#[allow(clippy::cast_precision_loss, reason = "a count, for a ratio")]
fn real(count: u64) -> f64 {
    count as f64
}

/// The memory once it has stopped to change.
fn calm(processes: &Processes) -> Result<f64> {
    let mut last = processes.memory()?;
    let mut same = 0;
    // What never gets calm is taken as it is at the end.
    let _ = wait::until("calm memory", CALM, || {
        let now = processes.memory()?;
        same = if (now - last).abs() <= 64.0 { same + 1 } else { 0 };
        last = now;
        Ok((same >= STEADY).then_some(()))
    });
    Ok(last)
}

fn memory(subject: &Subject, options: &Options, outcome: &mut Outcome) -> Result<()> {
    if subject.processes.is_empty() {
        return Ok(());
    }
    let idle = calm(&subject.processes)?;
    outcome.put("idle_pss", Some(idle / MIB));
    let mut churn = Churn::staying(subject.entry, 16, options.idle.last().map_or(0, |count| *count as usize + 16))?;
    // What the first connections bring into memory, such as code, those after them share.
    churn.fill(FIRST, FILLING)?;
    let (begun, first) = (calm(&subject.processes)?, churn.open());
    for count in &options.idle {
        churn.fill(*count as usize, FILLING)?;
        let grown = calm(&subject.processes)? - begun;
        outcome.put(&idle_key(*count), Some(grown / real((churn.open() - first) as u64)));
    }
    Ok(())
}

fn rtt(subject: &Subject, options: &Options, outcome: &mut Outcome) -> Result<()> {
    let mut closed = ClosedLoop::new(subject.entry, 1, 64)?;
    closed.run(WARM_UP)?;
    closed.run(options.length(2_000))?;
    outcome.put("rtt_p50", closed.latency.quantile(0.5));
    outcome.put("rtt_p99", closed.latency.quantile(0.99));
    Ok(())
}

fn requests(subject: &Subject, options: &Options, outcome: &mut Outcome) -> Result<()> {
    let mut closed = ClosedLoop::new(subject.entry, 64, 1024)?;
    closed.run(WARM_UP)?;
    let meter = Meter::start(subject)?;
    closed.run(options.length(3_000))?;
    let (rate, cpu) = meter.stop(real(closed.latency.count()))?;
    outcome.put("requests", rate);
    outcome.put("requests_cpu", micros(cpu));
    outcome.put("requests_p50", closed.latency.quantile(0.5));
    outcome.put("requests_p99", closed.latency.quantile(0.99));
    Ok(())
}

fn bulk(subject: &Subject, options: &Options, outcome: &mut Outcome) -> Result<()> {
    let length = options.length(1_500);
    for streams in [1, 8] {
        let upload = Upload::connect(subject.entry, streams)?;
        let meter = Meter::start(subject)?;
        let (rate, cpu) = meter.stop(real(upload.run(length)?) / 1e9)?;
        outcome.put(&format!("upload_{streams}"), rate);
        outcome.put(&format!("upload_{streams}_cpu"), cpu);
        subject.settle()?;
    }
    for streams in [1, 8] {
        let mut download = Download::connect(subject.entry, streams)?;
        download.run(WARM_UP)?;
        let meter = Meter::start(subject)?;
        let (rate, cpu) = meter.stop(real(download.run(length)?) / 1e9)?;
        outcome.put(&format!("download_{streams}"), rate);
        outcome.put(&format!("download_{streams}_cpu"), cpu);
        drop(download);
        subject.settle()?;
    }
    Ok(())
}

fn connections(subject: &Subject, options: &Options, outcome: &mut Outcome) -> Result<()> {
    let mut churn = Churn::going(subject.entry, 16)?;
    churn.run(WARM_UP)?;
    let meter = Meter::start(subject)?;
    churn.run(options.length(3_000))?;
    let (rate, cpu) = meter.stop(real(churn.ended))?;
    outcome.put("connections", rate);
    outcome.put("connections_cpu", micros(cpu));
    drop(churn);
    subject.settle()?;
    let mut churn = Churn::going(subject.entry, 1)?;
    churn.run(WARM_UP)?;
    churn.run(options.length(1_500))?;
    outcome.put("connect_p50", churn.latency.quantile(0.5));
    outcome.put("connect_p99", churn.latency.quantile(0.99));
    Ok(())
}

fn mixed(subject: &Subject, options: &Options, outcome: &mut Outcome) -> Result<()> {
    let length = options.length(2_000);
    let mut closed = ClosedLoop::new(subject.entry, 4, 64)?;
    let upload = Upload::connect(subject.entry, 4)?;
    // On a thread of its own, in the same pod: what the generator sends does not hold up what it measures.
    let bytes = std::thread::scope(|scope| {
        let start = Instant::now();
        let sending = scope.spawn(move || upload.run(WARM_UP + length).map(|bytes| (bytes, start.elapsed())));
        let run = closed.run(WARM_UP).and_then(|()| closed.run(length));
        let sent = sending.join().ok().context("the uploading thread panicked")?;
        run.and(sent)
    })?;
    outcome.put("mixed_p50", closed.latency.quantile(0.5));
    outcome.put("mixed_p99", closed.latency.quantile(0.99));
    outcome.put("mixed_upload", Some(real(bytes.0) / 1e9 / bytes.1.as_secs_f64()));
    Ok(())
}

fn service(subject: &Subject, options: &Options, outcome: &mut Outcome) -> Result<()> {
    const INTERVAL: Duration = Duration::from_millis(1);
    let mut open = OpenLoop::new(subject.entry, 32, 512, 1024)?;
    open.run(300, INTERVAL)?;
    let meter = Meter::start(subject)?;
    let count = u32::try_from(options.length(3_000).as_millis())?;
    open.run(count, INTERVAL)?;
    let (_, cpu) = meter.stop(f64::from(count))?;
    outcome.put("service_p50", open.latency.quantile(0.5));
    outcome.put("service_p99", open.latency.quantile(0.99));
    outcome.put("service_cpu", micros(cpu));
    Ok(())
}
