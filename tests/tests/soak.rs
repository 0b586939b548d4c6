//! Invariants 4 and 5 in the long run: many open connections under mixed load cost no more at the end than at the beginning.
//!
//! `SIDEGATE_TEST_SOAK=30` does so for thirty minutes with as many connections as there are descriptors for, ten thousand at
//! most; without it, for a quarter of a minute with five hundred.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sidegate_tests::{DEADLINE, Echo, Pair, echo_bytes, eventually};

const HOUR: Duration = Duration::from_secs(3600);
/// A sidecar has two for each connection, and so has this test.
const DESCRIPTORS: u64 = 2;

fn plan() -> (Duration, u64) {
    // The usual soft limit of 1024 is too low for either.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    match std::env::var("SIDEGATE_TEST_SOAK").ok().and_then(|minutes| minutes.parse::<f64>().ok()) {
        Some(minutes) => (Duration::from_secs_f64(minutes * 60.0), (hard.saturating_sub(2000) / DESCRIPTORS).min(10_000)),
        None => (Duration::from_secs(15), 500),
    }
}

/// One message there and back on a connection that stays open.
fn ping(tcp: &mut TcpStream, number: u64) {
    let message = number.to_be_bytes();
    tcp.write_all(&message).unwrap();
    let mut answer = [0; 8];
    tcp.read_exact(&mut answer).unwrap();
    assert_eq!(answer, message);
}

#[test]
fn many_connections_under_mixed_load_cost_no_more_at_the_end() {
    let (span, count) = plan();
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "accessLog: { format: \"off\" }\n");
    let before = [pair.web.usage().0, pair.api.usage().0];
    let mut open: Vec<TcpStream> = (0..count)
        .map(|number| {
            let mut tcp = TcpStream::connect_timeout(&pair.entry, DEADLINE).unwrap();
            tcp.set_read_timeout(Some(DEADLINE)).unwrap();
            ping(&mut tcp, number);
            tcp
        })
        .collect();
    let (stop, transfers) = (AtomicBool::new(false), AtomicU64::new(0));
    let (early, late) = std::thread::scope(|scope| {
        for worker in 0..4_u64 {
            let (stop, transfers, entry) = (&stop, &transfers, pair.entry);
            scope.spawn(move || {
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let length = [10, 2_000, 60_000, 1_000_000][(round % 4) as usize];
                    echo_bytes(entry, length, worker * 1_000_000 + round).unwrap();
                    transfers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let start = Instant::now();
        let mut early = None;
        let mut number = 0;
        while start.elapsed() < span {
            let next = usize::try_from(number * 7919 % count).unwrap();
            ping(&mut open[next], number);
            number += 1;
            // What is only needed once, such as buffers of the pool, has come by then.
            if early.is_none() && start.elapsed() > span / 3 {
                early = Some([pair.web.usage(), pair.api.usage()]);
            }
        }
        let late = [pair.web.usage(), pair.api.usage()];
        stop.store(true, Ordering::Relaxed);
        (early.unwrap(), late)
    });
    println!("{count} open, {} transfers in {span:?}; descriptors and KiB: {early:?}, then {late:?}", transfers.load(Ordering::Relaxed));
    for (early, late) in early.iter().zip(late) {
        // The transfers' own connections and waiting sessions come and go.
        assert!(late.0 <= early.0 + 100, "descriptors: {early:?}, then {late:?}");
        assert!(late.1 <= early.1 + early.1 / 20 + 2048, "KiB: {early:?}, then {late:?}");
    }
    drop(open);
    for (sidecar, before) in [&pair.web, &pair.api].into_iter().zip(before) {
        // What is left are sessions that wait for the next connection, no more than 64 for each worker.
        eventually("the descriptors to be free again", || (sidecar.usage().0 <= before + 2 * 64 + 16).then_some(()));
    }
}
