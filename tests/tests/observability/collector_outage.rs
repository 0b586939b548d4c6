//! A collector that is dead, hangs, is slow or refuses: the data plane does not feel it, and what is lost is counted exactly.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidegate_devkit::fake_collector::{Asked, Behaviour, REFUSAL};
use sidegate_tests::{Collector, Echo, Pair, Sidecar, client_config, echo_bytes, eventually, free_port};

const HOUR: Duration = Duration::from_secs(3600);
const SIGNALS: [(&str, usize); 2] = [("traces", 0), ("logs", 2)];
/// With their places in the collector's counts.
const ALL: [(&str, usize); 3] = [("traces", 0), ("metrics", 1), ("logs", 2)];

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn metric(sidecar: &Sidecar, name: &str) -> u64 {
    sidecar.metric(name) as u64
}

/// What was lost of a signal, for one cause or for all.
fn dropped(sidecar: &Sidecar, signal: &str, cause: Option<&str>) -> u64 {
    let causes = ["queue_full", "rate_limited", "export_failed", "rejected", "shutdown"];
    let causes = causes.into_iter().filter(|c| cause.is_none_or(|wanted| wanted == *c));
    causes
        .map(|cause| {
            metric(
                sidecar,
                &format!("sidegate_telemetry_dropped_total{{sidegate_telemetry_signal=\"{signal}\",sidegate_telemetry_cause=\"{cause}\"}}"),
            )
        })
        .sum()
}

fn exported(sidecar: &Sidecar, signal: &str) -> u64 {
    metric(sidecar, &format!("sidegate_telemetry_exported_total{{sidegate_telemetry_signal=\"{signal}\"}}"))
}

fn connections(sidecar: &Sidecar) -> u64 {
    metric(sidecar, "sidegate_connections_total{sidegate_direction=\"inbound\",sidegate_reason=\"closed\"}")
}

/// api exports connections only, so that every span and log record belongs to one: five spans and one record each.
fn start(collector: &Collector, echo: &Echo, batch: &str, timeout: &str) -> Pair {
    start_by("grpc", collector, echo, batch, timeout)
}

fn start_by(protocol: &str, collector: &Collector, echo: &Echo, batch: &str, timeout: &str) -> Pair {
    let export = format!(
        "telemetry: {{ otlp: {{ endpoint: \"http://{}\", protocol: {protocol}, timeout: {timeout} }}, metrics: {{ enabled: false }}, traces: {{ sampler: {{ perSecond: 0 }}, batch: {batch} }}, logs: {{ events: false, batch: {batch} }} }}\ndrain: {{ settle: 0s, quiet: 0s }}\n",
        collector.address
    );
    Pair::start_with(echo.address, HOUR, &export, "tunnel: once", "")
}

fn items(signal: &str) -> u64 {
    // The whole, handshake, verify, authorize, dial.
    if signal == "traces" { 5 } else { 1 }
}

fn call(pair: &Pair, times: u64) {
    for seed in 0..times {
        echo_bytes(pair.entry, 2000, seed).unwrap();
    }
}

/// Every span and record of api's connections was taken or counted as lost. web exports to the same collector, so api's own
/// count of what was taken is what is compared.
fn settled(pair: &Pair, total: u64) {
    eventually("every connection to be counted", || (connections(&pair.api) == total).then_some(()));
    for (signal, _) in SIGNALS {
        eventually(&format!("all {signal} to be taken or lost"), || {
            (exported(&pair.api, signal) + dropped(&pair.api, signal, None) == total * items(signal)).then_some(())
        });
    }
}

#[test]
fn what_finds_a_full_queue_is_counted_exactly() {
    let (collector, echo) = (Collector::start(), Echo::start());
    collector.fake.behave(Behaviour::Hang);
    let pair = start(&collector, &echo, "{ queue: 4, size: 2, delay: 1ms }", "60s");
    call(&pair, 40);
    eventually("drops", || SIGNALS.iter().all(|(s, _)| dropped(&pair.api, s, Some("queue_full")) > 0).then_some(()));
    // What hangs is answered by a reset; the rest is tried again, on a new connection.
    let address = collector.address;
    drop(collector);
    let collector = Collector::at(address, None);
    settled(&pair, 40);
    for (signal, item) in SIGNALS {
        // web's are still on their way: what was taken and what is counted as taken meet in the end.
        eventually(&format!("the collector's count of {signal}"), || {
            let taken = exported(&pair.api, signal) + exported(&pair.web, signal);
            (taken == collector.fake.items()[item]).then_some(())
        });
        assert_eq!(dropped(&pair.api, signal, None), dropped(&pair.api, signal, Some("queue_full")), "{signal}");
    }
    eventually("the news of its failing", || pair.api.log().contains("sidegate.telemetry.export_failing").then_some(()));
    eventually("the news of its recovery", || pair.api.log().contains("sidegate.telemetry.export_recovered").then_some(()));
}

/// A collector that was restarted while nothing was exported, or that closed an idle connection, has not failed.
#[test]
fn a_connection_that_was_closed_is_made_anew() {
    for protocol in ["grpc", "http/protobuf"] {
        a_connection_that_was_closed(protocol);
    }
}

fn a_connection_that_was_closed(protocol: &str) {
    let (collector, echo) = (Collector::start(), Echo::start());
    let pair = start_by(protocol, &collector, &echo, "{ delay: 1ms }", "5s");
    call(&pair, 1);
    settled(&pair, 1);
    let address = collector.address;
    drop(collector);
    let collector = Collector::at(address, None);
    call(&pair, 1);
    settled(&pair, 2);
    for (signal, item) in SIGNALS {
        assert_eq!(exported(&pair.api, signal), 2 * items(signal), "{signal}");
        assert_eq!(
            metric(
                &pair.api,
                &format!("sidegate_telemetry_exports_total{{sidegate_telemetry_signal=\"{signal}\",sidegate_outcome=\"failure\"}}")
            ),
            0
        );
        assert!(collector.fake.items()[item] > 0);
    }
}

/// An outage that is shorter than the patience of a retry loses nothing.
#[test]
fn what_is_unavailable_is_asked_again() {
    let (collector, echo) = (Collector::start(), Echo::start());
    collector.fake.behave(Behaviour::Unavailable);
    let pair = start(&collector, &echo, "{ delay: 1ms }", "5s");
    call(&pair, 10);
    let failed = |signal: &str| {
        metric(
            &pair.api,
            &format!("sidegate_telemetry_exports_total{{sidegate_telemetry_signal=\"{signal}\",sidegate_outcome=\"failure\"}}"),
        )
    };
    eventually("a failure of each", || SIGNALS.iter().all(|(signal, _)| failed(signal) > 0).then_some(()));
    collector.fake.behave(Behaviour::Take);
    settled(&pair, 10);
    for (signal, _) in SIGNALS {
        assert_eq!((exported(&pair.api, signal), dropped(&pair.api, signal, None)), (10 * items(signal), 0), "{signal}");
    }
}

/// Two sidecars, and a third that calls `api` from `entry`: it alone exports, so that what the collector has is its own.
struct Alone {
    sidecar: Sidecar,
    entry: SocketAddr,
    _pair: Pair,
}

impl Alone {
    fn start(protocol: &str, collector: &Collector, echo: &Echo) -> Self {
        let pair = Pair::start(echo.address, HOUR, "");
        let entry = (Ipv4Addr::LOCALHOST, free_port()).into();
        let config = client_config(&pair.identities, entry, pair.port);
        let more = format!(", protocol: {protocol}");
        let export = collector.config("http", &more).replace("logs: {", "logs: { events: false,");
        let sidecar = Sidecar::start(pair.identities.folder(), "alone", &format!("{config}{export}"));
        sidecar.wait_ready();
        Self { sidecar, entry, _pair: pair }
    }

    fn call(&self, times: u64) {
        for seed in 0..times {
            echo_bytes(self.entry, 2000, seed).unwrap();
        }
    }
}

/// The collector's requests of one signal.
fn asked(collector: &Collector, signal: &str) -> Vec<Asked> {
    // HTTP's path is the signal's; that of gRPC has the name of its service.
    let service = match signal {
        "traces" => "TraceService",
        "metrics" => "MetricsService",
        _ => "LogsService",
    };
    let of_it = |asked: &Asked| asked.path.contains(service) || asked.path.ends_with(signal);
    collector.fake.asked().into_iter().filter(of_it).collect()
}

/// Who is asked to wait waits, and what waits is not lost.
fn what_is_throttled_comes_again(protocol: &str, rounding: Duration) {
    // Longer than the first pauses of a retry that nobody asked to wait.
    const WAIT: Duration = Duration::from_secs(3);
    let (collector, echo) = (Collector::start(), Echo::start());
    collector.fake.behave(Behaviour::Throttle(WAIT));
    let alone = Alone::start(protocol, &collector, &echo);
    alone.call(3);
    for (signal, _) in ALL {
        eventually(&format!("{signal} to be throttled twice"), || (asked(&collector, signal).len() >= 2).then_some(()));
    }
    collector.fake.behave(Behaviour::Take);
    eventually("three traces and three log records", || {
        let roots = collector.fake.spans().iter().filter(|span| span.parent_span_id.is_empty()).count();
        (roots == 3 && collector.fake.logs().len() == 3).then_some(())
    });
    for (signal, item) in ALL {
        eventually(&format!("the count of {signal}"), || {
            let taken = collector.fake.items()[item];
            (taken > 0 && exported(&alone.sidecar, signal) == taken).then_some(())
        });
        assert_eq!(dropped(&alone.sidecar, signal, None), 0, "{signal}");
        let asked = asked(&collector, signal);
        for pair in asked.windows(2).filter(|pair| pair[0].behaviour == Behaviour::Throttle(WAIT)) {
            let waited = pair[1].at - pair[0].at;
            assert!(waited >= WAIT - rounding, "{signal}: {waited:?}");
        }
    }
}

#[test]
fn what_grpc_throttles_comes_again_after_the_time_that_was_asked_for() {
    what_is_throttled_comes_again("grpc", Duration::ZERO);
}

/// Who asks to be asked again at once is not asked without end.
#[test]
fn a_collector_that_wants_no_pause_gets_one() {
    let (collector, echo) = (Collector::start(), Echo::start());
    collector.fake.behave(Behaviour::Throttle(Duration::ZERO));
    let alone = Alone::start("grpc", &collector, &echo);
    alone.call(1);
    eventually("three requests", || (asked(&collector, "logs").len() >= 3).then_some(()));
    for pair in asked(&collector, "logs").windows(2) {
        assert!(pair[1].at - pair[0].at >= Duration::from_millis(450));
    }
}

/// The date of `Retry-After` has whole seconds.
#[test]
fn what_http_throttles_comes_again_after_the_time_that_was_asked_for() {
    what_is_throttled_comes_again("http/protobuf", Duration::from_secs(1));
}

/// What the collector refuses is not sent again, and its own words are told.
#[test]
fn what_is_refused_is_counted_exactly() {
    for (protocol, invalid, too_large) in [
        ("grpc", "InvalidArgument", "ResourceExhausted"),
        ("http/protobuf", "it answered 400 Bad Request", "it answered 413 Payload Too Large"),
    ] {
        let (collector, echo) = (Collector::start(), Echo::start());
        let pair = start_by(protocol, &collector, &echo, "{ delay: 1ms }", "5s");
        let mut total = 0;
        for (behaviour, says) in [(Behaviour::Invalid, invalid), (Behaviour::TooLarge, too_large)] {
            collector.fake.behave(behaviour);
            call(&pair, 5);
            total += 5;
            settled(&pair, total);
            for (signal, _) in SIGNALS {
                assert_eq!(dropped(&pair.api, signal, Some("rejected")), total * items(signal), "{signal}");
                let words = format!("{signal} don't reach http://{}: {says}: {REFUSAL}", collector.address);
                eventually(&words, || pair.api.log().contains(&words).then_some(()));
            }
        }
    }
}

/// What the collector refuses of a request is counted for its signal, and not sent again.
#[test]
fn what_is_refused_in_part_is_counted_for_each_signal() {
    for protocol in ["grpc", "http/protobuf"] {
        let (collector, echo) = (Collector::start(), Echo::start());
        collector.fake.behave(Behaviour::Reject(1));
        let alone = Alone::start(protocol, &collector, &echo);
        alone.call(5);
        // Each of a connection's spans and records is sent once.
        let came = || {
            let roots = collector.fake.spans().iter().filter(|span| span.parent_span_id.is_empty()).count();
            (roots, collector.fake.logs().len())
        };
        eventually("five traces and five log records", || (came() == (5, 5)).then_some(()));
        for (signal, item) in ALL {
            eventually(&format!("one of each request of {signal}"), || {
                let (taken, requests) = (collector.fake.items()[item], asked(&collector, signal).len() as u64);
                let counted = (exported(&alone.sidecar, signal), dropped(&alone.sidecar, signal, Some("rejected")));
                (taken > 0 && counted == (taken, requests)).then_some(())
            });
            let words = format!("refused 1 items of {signal}: the collector was told to");
            eventually(&words, || alone.sidecar.log().contains(&words).then_some(()));
        }
        assert_eq!(came(), (5, 5));
        for (signal, _) in SIGNALS {
            assert_eq!(dropped(&alone.sidecar, signal, None), dropped(&alone.sidecar, signal, Some("rejected")), "{signal}");
        }
    }
}

/// Whatever becomes of the collector under load: every connection succeeds, and the end comes in time. Whether it is as
/// fast, `benches/benches/telemetry.rs` measures.
#[test]
fn no_outage_costs_a_connection() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let address = collector.address;
    let mut pair = start(&collector, &echo, "{ queue: 16, size: 8, delay: 1ms }", "2s");
    let mut collector = Some(collector);
    let mut calls = 0;
    for behaviour in [Some(Behaviour::Take), Some(Behaviour::Slow(Duration::from_millis(300))), Some(Behaviour::Hang), None] {
        match behaviour {
            Some(behaviour) => collector.as_ref().unwrap().fake.behave(behaviour),
            None => drop(collector.take()),
        }
        for seed in 0..60 {
            echo_bytes(pair.entry, 20_000, seed).unwrap();
            calls += 1;
        }
    }
    assert!(std::net::TcpStream::connect(address).is_err(), "the collector is gone");
    eventually("every connection to be counted", || (connections(&pair.api) == calls).then_some(()));
    // With nobody to flush to, the end waits for the flush's deadline at most.
    let hanging = Collector::at(address, None);
    hanging.fake.behave(Behaviour::Hang);
    call(&pair, 1);
    let start = Instant::now();
    pair.api.signal(Signal::SIGTERM);
    assert!(pair.api.wait_end().success());
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

/// A collector whose answer does not end: it is given up after some KiB, and that is told.
#[test]
fn an_answer_without_end_is_given_up() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut tcp in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = tcp.read(&mut [0; 4096]);
                let mut sent = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n\r\n");
                while sent.is_ok() {
                    sent = tcp.write_all(&[0; 4096]);
                }
            });
        }
    });
    let echo = Echo::start();
    let export = format!(
        "telemetry: {{ otlp: {{ endpoint: \"http://{address}\", protocol: http/protobuf }}, metrics: {{ enabled: false }}, logs: {{ enabled: false }}, traces: {{ batch: {{ delay: 10ms }} }} }}\n"
    );
    let pair = Pair::start(echo.address, HOUR, &export);
    call(&pair, 1);
    eventually("a word about it", || pair.api.log().contains("sidegate.telemetry.export_failing").then_some(()));
    let (_, resident) = pair.api.usage();
    assert!(resident < 64 * 1024, "{resident} KiB");
    call(&pair, 5);
}
