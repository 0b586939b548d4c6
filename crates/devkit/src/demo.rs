//! `sidegate demo`: two workloads talk through two sidecars, an intruder is refused, SVIDs rotate meanwhile.
//!
//! ```text
//! web -- sidecar ====== mutual TLS ====== sidecar -- api        authority: an SVID for each sidecar, rotated
//! intruder -- sidecar ==== denied by policy --^                 collector: a trace of each connection
//! nobody ---- plaintext ---- refused ---------^                 audit log of api: verified at the end
//! ```
//!
//! Everything is the real thing: sidegate as a program of its own for each sidecar, for the kernel rules and for the audit, the
//! embedded authority over its Unix socket, network namespaces where they are allowed.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use sidegate_devkit::demo::{self, Mode, Options, Output};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let output = Output { shown: |text| println!("{text}"), complaint: |text| eprintln!("{text}") };
//! let options = Options { mode: Mode::Auto, time: Duration::from_secs(10), all: false, keep: false, program: "sidegate".into(), output };
//! demo::run(&options)?;
//! # Ok(())
//! # }
//! ```
//!
//! What it guarantees: it fails if anything that it promises to show did not happen; nothing stays behind but, after a failure, the folder with
//! configurations and logs, which it names.

mod configuration;
mod folder;
mod http;
mod interrupt;
mod output;
mod program;
mod sidecar;
mod table;
mod topology;
mod trace;
mod traffic;
mod workload;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sidegate_config::value::Span;

pub use self::output::Output;
pub use self::topology::Mode;

use self::folder::Folder;
use self::interrupt::Interrupt;
use self::program::Program;
use self::sidecar::{Records, Seen, Sidecar};
use self::topology::Topology;
use self::traffic::{AttackResult, Tally};
use self::workload::{TRUST_DOMAIN, WORKLOADS, Workload};
use crate::authority::{Authority, AuthorityConfig, Entry, TrustDomainConfig};
use crate::fake_collector::{FakeCollector, ListenOn};

/// The shortest that the authority issues: a rotation every 2.5 s.
const TTL: Duration = Duration::from_secs(5);
/// How long a sidecar may take until it is ready.
const START: Duration = Duration::from_secs(20);

/// What is shown, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// How pods are made.
    pub mode: Mode,
    /// How long the traffic goes on.
    pub time: Duration,
    /// Whether every handshake is shown, not a choice of them.
    pub all: bool,
    /// Whether it keeps running until it is interrupted.
    pub keep: bool,
    /// The sidegate that is shown.
    pub program: PathBuf,
    /// Where the demo writes.
    pub output: Output,
}

/// Shows it all. To be called by a process with one thread, since only that can enter a user namespace.
///
/// # Errors
/// If anything expected did not happen, or the demo was interrupted before the end.
pub fn run(options: &Options) -> Result<()> {
    // Before any thread.
    let topology = Topology::choose(options.mode)?;
    options.output.show(topology.describe());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // Before there is anything that would stay behind.
    let interrupt = Interrupt::catch(&runtime)?;
    let folder = Folder::new()?;
    let authority = runtime.block_on(start_authority(&topology, &folder))?;
    let demo = Demo { options, topology, folder, interrupt };
    let result = demo.show(&authority);
    // Namespaces, rules, sidecars: all end with their owners. The sockets are the authority's own to remove.
    runtime.block_on(authority.shutdown());
    if result.is_err() {
        // What failed did so because of it.
        demo.interrupt.check()?;
        let kept = demo.folder.keep();
        options.output.complain(format!("the sidecars' configurations and logs are kept in {}", kept.display()));
    }
    result
}

async fn start_authority(topology: &Topology, folder: &Folder) -> Result<Authority> {
    let mut config = AuthorityConfig::default();
    config.trust_domains.push(TrustDomainConfig { ttl: Span(TTL), ..TrustDomainConfig::new(TRUST_DOMAIN) });
    for workload in WORKLOADS {
        let socket = folder.workload_api(workload);
        // Where every sidecar has a user of its own the caller is attested by it, else by the socket that it was given.
        let uid = topology.uid(workload);
        config.entries.push(Entry { uid, socket: Some(socket.clone()), ..Entry::new(workload.spiffe_id()) });
        config.sockets.push(socket);
    }
    Authority::start(config).await.context("the embedded authority can't be started")
}

/// A collector in this process, on a socket that every sidecar may use.
fn start_collector(folder: &Folder) -> Result<FakeCollector> {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.collector();
    let collector = FakeCollector::start(ListenOn::Unix(path.clone()), 1000).context("the collector can't be started")?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    Ok(collector)
}

/// What the parts of the demo share.
struct Demo<'a> {
    options: &'a Options,
    topology: Topology,
    folder: Folder,
    interrupt: Interrupt,
}

/// What is expected, and what happened.
struct Findings<'a> {
    tally: &'a Tally,
    rotations: &'a [(Workload, u64)],
    records: &'a [Seen],
    /// Whether the traces have reached the collector.
    is_traced: bool,
    /// Whether api's audit log is intact, and signed by api.
    is_audited: bool,
}

impl Demo<'_> {
    fn show(&self, authority: &Authority) -> Result<()> {
        let output = self.options.output;
        let records = Records::default();
        let started = Instant::now();
        let service = traffic::serve(&self.topology)?;
        let collector = start_collector(&self.folder)?;
        let bundle = authority.bundle_pem(TRUST_DOMAIN).context("the embedded authority has no trust bundle")?;
        std::fs::write(self.folder.bundle(), bundle)?;
        let program = Program::copy(&self.options.program, &self.folder)?;
        let mut sidecars = self.start_sidecars(&program, &records)?;
        output.show(format!(
            "\nThree sidecars are ready after {:.1} s, each with an SVID of {} s.",
            started.elapsed().as_secs_f64(),
            TTL.as_secs()
        ));
        output.show("web calls api; one connection stays open all the time; intruder and a client without a sidecar try too.\n");

        let tally = traffic::drive(&self.topology, self.options.time, &self.interrupt)?;
        self.interrupt.check()?;
        // The records of connections that have just ended are on their way.
        records.settle(tally.expected_records());
        let records = records.all();
        table::print(output, &records, self.options.all);
        let is_traced = trace::print(output, &collector, &records);
        let rotations = sidecars.iter().map(|s| Ok((s.workload, s.rotations(&self.topology)?))).collect::<Result<Vec<_>>>()?;
        self.summary(&tally, &rotations, authority.issued_count(), records.len());
        let is_audited = self.audit(&program)?;
        self.interrupt.check()?;
        let verdict = Findings { tally: &tally, rotations: &rotations, records: &records, is_traced, is_audited }.verdict();
        if verdict.is_ok() {
            self.where_next(&collector);
            if self.options.keep {
                while !self.interrupt.has_come() {
                    std::thread::sleep(Duration::from_millis(100));
                }
                output.show("\nending");
            }
        }
        for sidecar in &mut sidecars {
            sidecar.end();
        }
        service.stop();
        verdict
    }

    /// Starts all, each after its kernel rules, and waits until they are ready.
    fn start_sidecars(&self, program: &Program, records: &Records) -> Result<Vec<Sidecar>> {
        let mut sidecars = Vec::new();
        for workload in WORKLOADS {
            self.interrupt.check()?;
            let config = configuration::write(&self.topology, workload, &self.folder)?;
            if let Some(pod) = self.topology.pod(workload) {
                program.redirect(pod, &config)?;
            }
            sidecars.push(Sidecar::start(&self.topology, workload, &self.folder, records.clone())?);
        }
        for sidecar in &sidecars {
            sidecar.wait_ready(&self.topology, START, &self.interrupt)?;
        }
        Ok(sidecars)
    }

    fn summary(&self, tally: &Tally, rotations: &[(Workload, u64)], issued: u64, records: usize) {
        let output = self.options.output;
        output.show("\nTotals");
        output.show(format!("  requests from web      {} answered, {} errors", tally.answered, tally.errors.len()));
        output.show(format!(
            "  one open connection    {} in {} exchanges over {:.1} s, across every rotation",
            if tally.held.is_ok() { "unbroken" } else { "BROKEN" },
            tally.exchanges,
            tally.time.as_secs_f64()
        ));
        let each: Vec<String> = rotations.iter().map(|(w, n)| format!("{} {n}", w.name())).collect();
        output.show(format!("  SVID rotations         {} ({issued} SVIDs issued)", each.join(", ")));
        output.show(format!("  intruder               {}", tally.intruder));
        output.show(format!("  plaintext client       {}", tally.plaintext));
        output.show(format!("  connection records     {records}"));
        for error in tally.errors.iter().take(5) {
            output.show(format!("  error: {error}"));
        }
    }

    /// Verifies api's audit log as an auditor would, while it is written. Whether it is intact and signed by api.
    fn audit(&self, program: &Program) -> Result<bool> {
        let output = self.options.output;
        let log = self.folder.audit_log(Workload::Api);
        let (is_intact, report) = program.verify_audit(&log, &self.folder.bundle(), &Workload::Api.spiffe_id())?;
        output.show("\nThe audit log of api, by the trust bundle and its SPIFFE ID");
        // The verdict and the first reason; a line that goes on is indented further.
        let mut begun = 0;
        for line in report.lines() {
            begun += usize::from(line.len() - line.trim_start().len() <= 2);
            if begun > 2 {
                break;
            }
            output.show(format!("  {}", line.trim_start()));
        }
        Ok(is_intact)
    }

    fn where_next(&self, collector: &FakeCollector) {
        let output = self.options.output;
        let [spans, points, logs] = collector.items();
        output.show("\nWhere to look next");
        output.show(format!(
            "  the metrics                  the collector has {points} data points, {spans} spans and {logs} log records of this;"
        ));
        output.show(
            "                               each sidecar shows the same metrics on its /metrics; docs/reference/telemetry.md lists them",
        );
        output.show("  sidegate check --help        check a configuration of your own");
        output.show("  sidegate redirect show       read the kernel rules before you apply them");
        output.show("  docs/how-to/                 configure a sidecar, send telemetry to your collector, keep an audit log");
        output.show("  docs/reference/              every key, command, reason, metric and span");
        if self.options.keep {
            output.show("\nIt keeps running. In another terminal:");
            for line in self.topology.what_to_type(&self.folder) {
                output.show(format!("  {line}"));
            }
            output.show("Ctrl-C ends it and removes every namespace and rule.");
        } else {
            output.show("  sidegate demo --keep         the same, to play with");
        }
    }
}

impl Findings<'_> {
    /// An error that names all that did not happen as it should.
    fn verdict(&self) -> Result<()> {
        let tally = self.tally;
        let mut wrong = Vec::new();
        let mut expect = |right: bool, what: String| {
            if !right {
                wrong.push(what);
            }
        };
        expect(tally.answered > 0, "no request of web was answered".to_owned());
        expect(tally.errors.is_empty(), format!("{} requests of web failed", tally.errors.len()));
        if let Err(error) = &tally.held {
            expect(false, format!("the open connection broke: {error}"));
        }
        for (workload, count) in self.rotations {
            expect(*count >= 1, format!("the SVID of {} did not rotate", workload.name()));
        }
        expect(tally.intruder == AttackResult::Refused, format!("the intruder was not refused: {}", tally.intruder));
        expect(tally.plaintext == AttackResult::Refused, format!("plaintext to the strict port was not refused: {}", tally.plaintext));
        let seen = |workload: Workload, reason: &str| self.records.iter().any(|r| r.workload == workload && r.text("/reason") == reason);
        expect(seen(Workload::Api, "denied_by_default"), "api has no record that it denied the intruder".to_owned());
        expect(seen(Workload::Api, "plaintext_refused"), "api has no record that it refused plaintext".to_owned());
        expect(
            seen(Workload::Web, "closed") && seen(Workload::Api, "closed"),
            "a record of a finished connection is missing at one end".to_owned(),
        );
        expect(self.is_traced, "no trace of a request reached the collector".to_owned());
        expect(self.is_audited, "the audit log of api is not what api has written".to_owned());
        if !wrong.is_empty() {
            bail!("the demo did not go as it should:\n  {}", wrong.join("\n  "));
        }
        Ok(())
    }
}
