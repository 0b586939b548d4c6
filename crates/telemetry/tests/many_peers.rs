//! A million connections with peers that never come again: what is kept of them stays small, what is counted is exact.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidegate_config::schema::telemetry as schema;
use sidegate_core::{CertificateFacts, ConnectionRecord, Decision, Direction, Peer, Reason, RevocationStatus, Transport};
use sidegate_devkit::fake_collector::{Behaviour, FakeCollector, ListenOn};
use sidegate_telemetry::{ScrapeFormat, Telemetry, TelemetryOptions};

const MANY: u64 = 1_000_000;
const WARM_UP: u64 = 100_000;

fn record(i: u64, certificate: &Arc<CertificateFacts>) -> ConnectionRecord {
    let mut record = ConnectionRecord::new(Direction::Inbound, (Ipv4Addr::LOCALHOST, 1).into());
    record.peer = Peer::Spiffe {
        id: format!("spiffe://many.example/{:016x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into(),
        certificate: certificate.clone(),
        revocation: RevocationStatus::NotChecked,
    };
    record.decision = Some(Decision::new(true, format!("rule {i}").into()));
    record.transport = Some(Transport::Mtls);
    record.reason = if i.is_multiple_of(10) { Reason::ALL[usize::try_from(i / 10).unwrap() % Reason::ALL.len()] } else { Reason::Closed };
    record.stages.total = Duration::from_micros(i % 1_000_000);
    record
}

/// Resident KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The sum and the number of the series of a metric.
fn series(scrape: &str, name: &str) -> (u64, usize) {
    let values =
        scrape.lines().filter(|l| l.starts_with(&format!("{name}{{"))).map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
    values.fold((0, 0), |(sum, count), value| (sum + value, count + 1))
}

#[test]
fn a_million_peers_keep_label_sets_and_memory_bounded() {
    // A collector that takes everything, so that no queue is just full.
    let folder = std::env::temp_dir().join(format!("sidegate-many-peers-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("sink.sock");
    let sink = FakeCollector::start(ListenOn::Unix(path.clone()), 1).unwrap();
    sink.behave(Behaviour::Discard);
    let mut config = schema::Telemetry::default();
    config.otlp.endpoint = Some(sidegate_config::value::Collector::parse(&format!("unix://{}", path.display())).unwrap());
    config.metrics.interval = sidegate_config::value::Span::parse("1s").unwrap();
    config.traces.sampler.per_second = 0;
    let (telemetry, writers) = Telemetry::start(TelemetryOptions::new(&config)).unwrap();
    let certificate = Arc::new(CertificateFacts::new(b"der", "1".to_owned(), 0, 1));
    let feed = |i| {
        telemetry.record(Arc::new(record(i, &certificate)));
        // So that each is looked at: what finds the queue full is counted without its names.
        while telemetry.backlog() > 4096 {
            std::thread::yield_now();
        }
    };
    (0..WARM_UP).for_each(feed);
    let before = memory();
    (WARM_UP..MANY).for_each(feed);
    let grown = memory().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB more than before");

    let end = Instant::now() + Duration::from_secs(60);
    let scrape = loop {
        let scrape = telemetry.scrape(ScrapeFormat::OpenMetrics);
        if series(&scrape, "sidegate_peer_connections_total").0 == MANY {
            break scrape;
        }
        assert!(Instant::now() < end, "{:?}", series(&scrape, "sidegate_peer_connections_total"));
        std::thread::sleep(Duration::from_millis(20));
    };
    for (name, at_most) in [
        ("sidegate_connections_total", Reason::ALL.len()),
        ("sidegate_peer_connections_total", 100 + 6),
        ("sidegate_authorization_decisions_total", 200 + 4),
    ] {
        let (sum, count) = series(&scrape, name);
        assert_eq!(sum, MANY, "{name}");
        assert!(count <= at_most, "{name} has {count} series");
    }
    assert!(scrape.len() < 200 * 1024, "a scrape of {} bytes", scrape.len());
    assert!(
        scrape.contains(
            "sidegate_telemetry_dropped_total{sidegate_telemetry_signal=\"records\",sidegate_telemetry_cause=\"queue_full\"} 0\n"
        ),
        "{scrape}"
    );
    drop(telemetry);
    writers.join();
    std::fs::remove_dir_all(folder).unwrap();
}
