//! What the audit log costs the data plane's side of a connection: the offer as it is admitted, and as it ends.
//!
//! The writer takes longer for a record than the offer does, as it should. So the offers are timed in groups that fit into the
//! queue, and between groups the writer is waited for: no offer that was timed has found the queue full. The writer's own
//! time is a number of its own: what its thread has had of a processor, which neither its waits nor other threads change.
//!
//!     cargo bench --package sidegate-benches --bench audit

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use sidegate_audit::{Audit, AuditOptions, IdentityCell};
use sidegate_config::value::Span;
use sidegate_core::{CertificateFacts, ConnectionRecord, Decision, Direction, HandshakeFacts, Peer, Reason, RevocationStatus, Transport};
use sidegate_telemetry::Metrics;

/// Offers that are timed together.
const GROUP: u64 = 1000;

/// A connection as they usually are.
fn connection() -> ConnectionRecord {
    let mut record = ConnectionRecord::new(Direction::Inbound, ([10, 0, 0, 7], 40_000).into());
    record.original_destination = Some(([10, 0, 0, 8], 8080).into());
    record.transport = Some(Transport::Mtls);
    record.local_id = Some("spiffe://prod.example/ns/shop/sa/api".into());
    record.peer = Peer::Spiffe {
        id: "spiffe://prod.example/ns/shop/sa/web".into(),
        certificate: Arc::new(CertificateFacts::new(b"der", "0a".repeat(16), 0, i64::MAX)),
        revocation: RevocationStatus::NotChecked,
    };
    record.tls = Some(
        HandshakeFacts {
            version: "1.3",
            cipher: "TLS13_AES_128_GCM_SHA256",
            group: Some("X25519MLKEM768"),
            alpn: Some("sidegate/1".to_owned()),
            sni: None,
            resumed: false,
        }
        .into(),
    );
    record.decision = Some(Decision::new(true, "web (policy.yaml:3)".into()));
    record.reason = Reason::Closed;
    record
}

/// Where the kernel tells of the audit log's thread.
fn writer_thread() -> PathBuf {
    let threads = std::fs::read_dir("/proc/self/task").unwrap_or_else(|e| unreachable!("{e}"));
    let mut folders = threads.flatten().map(|thread| thread.path());
    let is_writer = |folder: &PathBuf| std::fs::read_to_string(folder.join("comm")).is_ok_and(|name| name == "audit\n");
    folders.find(is_writer).unwrap_or_else(|| unreachable!("the log has a thread"))
}

/// What a thread has had of a processor, up to when it last slept.
fn processor_time(thread: &Path) -> Duration {
    let text = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_else(|e| unreachable!("{e}"));
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_else(|| unreachable!("{text}")))
}

fn audit(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap_or_else(|e| unreachable!("{e}"));
    let text = format!(
        "audit: {{ file: {{ folder: \"{}\", rotate: {{ bytes: 10000000 }}, retain: {{ files: 2 }} }} }}\n",
        folder.path().display()
    );
    let mut config = sidegate_config::parse("bench.yaml", &text).unwrap_or_else(|e| unreachable!("{e}"));
    config.audit.checkpoint.interval = Span(Duration::from_secs(60));
    let metrics = Arc::new(Metrics::new(&config.telemetry.metrics));
    let options =
        AuditOptions { config: &config.audit, metrics: metrics.clone(), mark: None, identity: IdentityCell::default(), otlp: None };
    let (audit, thread) = Audit::start(&options).unwrap_or_else(|e| unreachable!("{e}"));
    let written = || metrics.audit_records().get();
    // Group by group.
    let run = |iterations: u64, offer: &dyn Fn()| {
        let mut total = Duration::ZERO;
        let mut left = iterations;
        while left > 0 {
            let group = left.min(GROUP);
            let before = written();
            let start = Instant::now();
            (0..group).for_each(|_| offer());
            total += start.elapsed();
            while written() < before + group {
                std::thread::sleep(Duration::from_micros(100));
            }
            left -= group;
        }
        total
    };
    let record = connection();
    let ended = Arc::new(connection());
    let admit = || audit.admit(&record).unwrap_or_else(|_| unreachable!("the queue has room"));
    c.bench_function("a connection admitted, offered to the audit log", |b| b.iter_custom(|n| run(n, &admit)));
    c.bench_function("a connection that ended, offered to the audit log", |b| b.iter_custom(|n| run(n, &|| audit.end(&ended, true))));
    // A thread has its name once it has done something.
    run(1, &admit);
    let writer = writer_thread();
    c.bench_function("a thousand records, the writer's time", |b| {
        b.iter_custom(|n| {
            let before = processor_time(&writer);
            run(n * GROUP, &|| audit.end(&ended, true));
            processor_time(&writer) - before
        });
    });
    drop(audit);
    thread.join(std::time::Instant::now() + std::time::Duration::from_secs(10));
}

criterion_group!(benches, audit);
criterion_main!(benches);
