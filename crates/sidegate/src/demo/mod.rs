//! `sidegate demo`: two workloads talk through two sidecars, an intruder is refused, SVIDs rotate meanwhile.
//!
//! Everything is the real thing: this binary as sidecars, the embedded authority over its Unix socket, kernel rules in
//! network namespaces where they are allowed.

mod place;
mod sidecar;
mod table;
mod trace;
mod traffic;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use sidegate_audit::{Given, Trust};
use sidegate_config::value::Span;
use sidegate_core::parse_canonical;
use sidegate_devkit::authority::{Authority, AuthorityConfig, Entry, TrustDomainConfig};
use sidegate_devkit::fake_collector::{FakeCollector, ListenOn};
use tokio::signal::unix::{SignalKind, signal};

use self::place::{Place, WORKLOADS, Workload};
use self::sidecar::{Records, Sidecar};
use self::traffic::{Outcome, Tally};
use crate::cli;

/// The shortest that the authority issues: a rotation every 2.5 s.
const TTL: Duration = Duration::from_secs(5);
const START: Duration = Duration::from_secs(20);
const TRUST_DOMAIN: &str = "demo.sidegate";

/// Shows it all, and fails if anything expected did not happen.
pub(crate) fn demo(arguments: &cli::Demo) -> Result<()> {
    // Before any thread: a user namespace can only be entered by a process that has one.
    let place = Place::choose(arguments.mode)?;
    out!("{}", place.describe());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stop = Arc::new(AtomicBool::new(false));
    let interrupted = stop.clone();
    // Before there is anything that would stay behind.
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    runtime.spawn(async move {
        tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
        interrupted.store(true, Ordering::Relaxed);
    });
    let folder = Folder::new()?;
    let authority = runtime.block_on(start_authority(&place, folder.path()))?;
    let result = show(arguments, &place, folder.path(), &authority, &stop);
    // Namespaces, rules, sidecars: all end with their owners. The sockets are the authority's own to remove.
    runtime.block_on(authority.shutdown());
    if result.is_err() && stop.load(Ordering::Relaxed) {
        // Whatever failed did so because of it.
        bail!("interrupted");
    }
    if result.is_err() {
        folder.keep();
    }
    result
}

/// An error once the demo is to end.
fn go_on(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(anyhow!("interrupted")) } else { Ok(()) }
}

/// The demo's files; a sidecar of another user must be able to read them. Removed at the end, unless something failed.
struct Folder(Option<tempfile::TempDir>);

impl Folder {
    fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::Builder::new().prefix("sidegate-demo.").tempdir().context("no temporary folder can be made")?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(Self(Some(folder)))
    }

    fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new("/"), tempfile::TempDir::path)
    }

    fn keep(mut self) {
        if let Some(folder) = self.0.take() {
            err!("the sidecars' configurations and logs are kept in {}", folder.keep().display());
        }
    }
}

async fn start_authority(place: &Place, folder: &Path) -> Result<Authority> {
    let mut config = AuthorityConfig::default();
    config.trust_domains.push(TrustDomainConfig { ttl: Span(TTL), ..TrustDomainConfig::new(TRUST_DOMAIN) });
    for workload in WORKLOADS {
        let socket = socket(folder, workload);
        // Where every sidecar has a user of its own the caller is attested by it, else by the socket that it was given.
        let uid = place.uid(workload);
        config.entries.push(Entry { uid, socket: Some(socket.clone()), ..Entry::new(workload.spiffe_id()) });
        config.sockets.push(socket);
    }
    Authority::start(config).await.context("the embedded authority can't be started")
}

fn socket(folder: &Path, workload: Workload) -> PathBuf {
    folder.join(format!("{}.sock", workload.name()))
}

fn show(arguments: &cli::Demo, place: &Place, folder: &Path, authority: &Authority, stop: &AtomicBool) -> Result<()> {
    let records = Records::default();
    let started = Instant::now();
    let service = traffic::serve(place)?;
    let (collector, socket_of_collector) = collector(folder)?;
    let bundle = authority.bundle_pem(TRUST_DOMAIN).context("the embedded authority has no trust bundle")?;
    std::fs::write(place::bundle(folder), bundle)?;
    let mut sidecars = Vec::new();
    for workload in WORKLOADS {
        go_on(stop)?;
        let config = place.sidecar_config(workload, &socket(folder, workload), &socket_of_collector, folder)?;
        sidecars.push(Sidecar::start(place, workload, folder, &config, records.clone())?);
    }
    for sidecar in &sidecars {
        sidecar.wait_ready(place, START, stop)?;
    }
    out!("\nThree sidecars are ready after {:.1} s, each with an SVID of {} s.", started.elapsed().as_secs_f64(), TTL.as_secs());
    out!("web calls api; one connection stays open all the time; intruder and a client without a sidecar try too.\n");

    let tally = traffic::drive(place, arguments.time, stop)?;
    go_on(stop)?;
    // The records of connections that have just ended are on their way.
    records.settle(tally.expected_records());
    let all = records.all();
    table::print(&all, arguments.all);
    let traced = trace::print(&collector, &all);
    let rotations = place.rotations(&sidecars)?;
    summary(&tally, &rotations, authority.issued_count(), all.len());
    let audited = audit(folder)?;
    go_on(stop)?;
    let verdict = judge(&tally, &rotations, &all, (traced, audited));
    if verdict.is_ok() {
        where_next(place, folder, &collector, arguments.keep);
        if arguments.keep {
            keep(stop);
        }
    }
    for sidecar in &mut sidecars {
        sidecar.end();
    }
    service.stop();
    verdict
}

fn summary(tally: &Tally, rotations: &[(Workload, u64)], issued: u64, records: usize) {
    out!("\nTotals");
    out!("  requests from web      {} answered, {} errors", tally.answered, tally.errors.len());
    out!(
        "  one open connection    {} in {} exchanges over {:.1} s, across every rotation",
        if tally.held.is_ok() { "unbroken" } else { "BROKEN" },
        tally.exchanges,
        tally.time.as_secs_f64()
    );
    let each: Vec<String> = rotations.iter().map(|(w, n)| format!("{} {n}", w.name())).collect();
    out!("  SVID rotations         {} ({issued} SVIDs issued)", each.join(", "));
    out!("  intruder               {}", tally.intruder);
    out!("  plaintext client       {}", tally.plaintext);
    out!("  connection records     {records}");
    for error in tally.errors.iter().take(5) {
        out!("  error: {error}");
    }
}

/// Verifies api's audit log as an auditor would, while it is written. Whether it is intact and signed by api.
fn audit(folder: &Path) -> Result<bool> {
    let signer = Workload::Api.spiffe_id();
    let id = parse_canonical(&signer).map_err(|why| anyhow!("{why}"))?;
    let bundles = Some(crate::audit::bundle(&place::bundle(folder), id.trust_domain())?);
    let trust = Trust { bundles, spiffe_id: Some(signer), ..Trust::default() };
    let report = sidegate_evidence::verify(&place::audit_log(Workload::Api, folder), &Given { trust, ..Given::default() })?;
    out!("\nThe audit log of api, by the trust bundle and its SPIFFE ID");
    let intact = report.is_intact();
    sidegate_evidence::Verified::new(report, Duration::from_secs(3600))
        .lines()
        .iter()
        .take(2)
        .for_each(|line| out!("  {}", line.trim_start()));
    Ok(intact)
}

/// A collector in this process, on a socket that every sidecar may use.
fn collector(folder: &Path) -> Result<(FakeCollector, PathBuf)> {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join("collector.sock");
    let sink = FakeCollector::start(ListenOn::Unix(path.clone()), 1000).context("the collector can't be started")?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    Ok((sink, path))
}

/// What has to have happened.
fn judge(tally: &Tally, rotations: &[(Workload, u64)], records: &[sidecar::Seen], (traced, audited): (bool, bool)) -> Result<()> {
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
    for (workload, count) in rotations {
        expect(*count >= 1, format!("the SVID of {} did not rotate", workload.name()));
    }
    expect(tally.intruder == Outcome::Refused, format!("the intruder was not refused: {}", tally.intruder));
    expect(tally.plaintext == Outcome::Refused, format!("plaintext to the strict port was not refused: {}", tally.plaintext));
    let seen = |workload: Workload, reason: &str| records.iter().any(|r| r.workload == workload && r.text("/reason") == reason);
    expect(seen(Workload::Api, "denied_by_default"), "api has no record that it denied the intruder".to_owned());
    expect(seen(Workload::Api, "plaintext_refused"), "api has no record that it refused plaintext".to_owned());
    expect(
        seen(Workload::Web, "closed") && seen(Workload::Api, "closed"),
        "a record of a finished connection is missing at one end".to_owned(),
    );
    expect(traced, "no trace of a request reached the collector".to_owned());
    expect(audited, "the audit log of api is not what api has written".to_owned());
    if wrong.is_empty() { Ok(()) } else { Err(anyhow!("the demo did not go as it should:\n  {}", wrong.join("\n  "))) }
}

fn where_next(place: &Place, folder: &Path, collector: &FakeCollector, kept: bool) {
    let [spans, points, logs] = collector.items();
    out!("\nWhere to look next");
    out!("  the metrics                  the collector has {points} data points, {spans} spans and {logs} log records of this;");
    out!("                               each sidecar shows the same metrics on its /metrics; docs/telemetry.md lists them");
    out!("  sidegate check --help        check a configuration of your own");
    out!("  sidegate redirect show       read the kernel rules before you apply them");
    out!("  docs/observability.md        send it to a collector of your own; dashboard and alerts are in deploy/");
    out!("  docs/reference.md            every key; docs/telemetry.md every reason, metric and span");
    if kept {
        out!("\nIt keeps running. In another terminal:");
        for line in place.what_to_type(folder) {
            out!("  {line}");
        }
        out!("Ctrl-C ends it and removes every namespace and rule.");
    } else {
        out!("  sidegate demo --keep         the same, to play with");
    }
}

fn keep(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
    }
    out!("\nending");
}
