//! The admin port, which anyone in the pod's network can reach: its probes decide whether the pod lives, so strangers must not
//! keep them from their answers.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sidegate_tests::{DEADLINE, Echo, Pair, echo_bytes, eventually, read_all};

const HOUR: Duration = Duration::from_secs(3600);
/// How long a kubelet waits for a probe's answer by default.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long each of `count` probes took, in order.
fn probes(admin: SocketAddr, count: usize) -> Vec<Duration> {
    let mut all: Vec<Duration> = (0..count)
        .map(|_| {
            let start = Instant::now();
            let answer = sidegate_tests::get(admin, "/livez").map(|(status, _)| status);
            assert_eq!(answer, Some(200), "a probe has no answer");
            start.elapsed()
        })
        .collect();
    all.sort_unstable();
    all
}

/// Says that it is over when dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A stranger holds silent connections, as many as descriptors allow, then opens others without a pause in place of the oldest.
#[test]
fn silent_connections_keep_no_probe_from_its_answer() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let most = usize::try_from(hard).unwrap_or(usize::MAX).saturating_sub(500).clamp(100, 10_000);
    let admin = pair.api.admin;
    let (full, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let took = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut silent = VecDeque::new();
            while !over.load(Ordering::Relaxed) {
                if silent.len() == most {
                    full.store(true, Ordering::Relaxed);
                    silent.pop_front();
                }
                silent.extend(TcpStream::connect_timeout(&admin, PATIENCE));
            }
        });
        // Also after a failure, so that it is seen.
        let _over = Over(&over);
        eventually("as many silent connections as can be", || full.load(Ordering::Relaxed).then_some(()));
        let took = probes(admin, 100);
        // The data plane has its descriptors.
        echo_bytes(pair.entry, 1000, 1).unwrap();
        took
    });
    // The machine has few cores, and the stranger takes all that it gets.
    assert!(took[50] < Duration::from_millis(100) && took[99] < PATIENCE, "{:?} {:?}", took[50], took[99]);
    assert!(pair.api.metric("sidegate_admin_evicted_total") > 100.0);
    let (descriptors, _) = pair.api.usage();
    assert!(descriptors < 200, "{descriptors}");
}

/// Places are few: nobody keeps one that does not ask for that, and nobody for long.
#[test]
fn a_kept_connection_is_asked_for_and_a_head_comes_within_seconds() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let ask = |connection: &str| {
        let mut tcp = TcpStream::connect(pair.api.admin).unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        tcp.write_all(format!("GET /livez HTTP/1.1\r\nHost: x\r\n{connection}\r\n").as_bytes()).unwrap();
        tcp
    };
    // Closed by the server as soon as it has answered.
    let start = Instant::now();
    assert!(String::from_utf8(read_all(&mut ask("")).unwrap()).unwrap().ends_with("ok\n"));
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    // Kept for the next question, and for a few seconds only.
    let mut kept = ask("Connection: keep-alive\r\n");
    let mut answer = [0; 16];
    kept.read_exact(&mut answer).unwrap();
    kept.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n").unwrap();
    let start = Instant::now();
    let text = String::from_utf8(read_all(&mut kept).unwrap()).unwrap();
    assert_eq!(text.matches("ok\n").count(), 2, "{text}");
    assert!((4..10).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    // A head that comes byte by byte, or never.
    let mut slow = TcpStream::connect(pair.api.admin).unwrap();
    slow.write_all(b"GET /liv").unwrap();
    let start = Instant::now();
    let _ = read_all(&mut slow);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    // One that is too long is refused.
    let mut long = ask(&format!("X: {}\r\n", "a".repeat(64 * 1024)));
    let text = String::from_utf8(read_all(&mut long).unwrap_or_default()).unwrap();
    assert!(!text.contains("200"), "{text}");
}
