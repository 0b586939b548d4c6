//! A collector that is dead, hangs, is slow or refuses: the data plane does not feel it, and what is lost is counted exactly.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidegate_telemetry::sink::Behaviour;
use sidegate_tests::{Collector, Echo, Pair, Sidecar, echo_bytes, eventually};

const HOUR: Duration = Duration::from_secs(3600);
const SIGNALS: [(&str, usize); 2] = [("traces", 0), ("logs", 2)];

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

/// Every span and record of api's connections was taken or counted as lost. web exports to the same sink, so api's own
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
    collector.sink.behave(Behaviour::Hang);
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
        eventually(&format!("the sink's count of {signal}"), || {
            let taken = exported(&pair.api, signal) + exported(&pair.web, signal);
            (taken == collector.sink.items()[item]).then_some(())
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
        assert!(collector.sink.items()[item] > 0);
    }
}

/// An outage that is shorter than the patience of a retry loses nothing.
#[test]
fn what_is_unavailable_is_asked_again() {
    let (collector, echo) = (Collector::start(), Echo::start());
    collector.sink.behave(Behaviour::Unavailable);
    let pair = start(&collector, &echo, "{ delay: 1ms }", "5s");
    call(&pair, 10);
    let failed = |signal: &str| {
        metric(
            &pair.api,
            &format!("sidegate_telemetry_exports_total{{sidegate_telemetry_signal=\"{signal}\",sidegate_outcome=\"failure\"}}"),
        )
    };
    eventually("a failure of each", || SIGNALS.iter().all(|(signal, _)| failed(signal) > 0).then_some(()));
    collector.sink.behave(Behaviour::Take);
    settled(&pair, 10);
    for (signal, _) in SIGNALS {
        assert_eq!((exported(&pair.api, signal), dropped(&pair.api, signal, None)), (10 * items(signal), 0), "{signal}");
    }
}

/// What the collector refuses, wholly or in part, is not sent again.
#[test]
fn what_is_refused_is_counted_exactly() {
    let (collector, echo) = (Collector::start(), Echo::start());
    let pair = start(&collector, &echo, "{ delay: 1ms }", "5s");
    collector.sink.behave(Behaviour::Invalid);
    call(&pair, 5);
    settled(&pair, 5);
    for (signal, _) in SIGNALS {
        assert_eq!(dropped(&pair.api, signal, Some("rejected")), 5 * items(signal), "{signal}");
    }
    collector.sink.behave(Behaviour::Reject(1));
    call(&pair, 5);
    settled(&pair, 10);
    for (signal, _) in SIGNALS {
        let requests = metric(
            &pair.api,
            &format!("sidegate_telemetry_exports_total{{sidegate_telemetry_signal=\"{signal}\",sidegate_outcome=\"success\"}}"),
        );
        assert_eq!(dropped(&pair.api, signal, Some("rejected")), 5 * items(signal) + requests, "{signal}: one of each request");
    }
    eventually("the collector's own words", || pair.api.log().contains(": the sink was told to").then_some(()));
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
            Some(behaviour) => collector.as_ref().unwrap().sink.behave(behaviour),
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
    hanging.sink.behave(Behaviour::Hang);
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
