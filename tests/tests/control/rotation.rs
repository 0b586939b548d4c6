//! Invariant 3: rotations and reloads drop no connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sidegate_tests::{Echo, Pair, Sidecar, echo_bytes, eventually, free_port, id};

const ROTATIONS: u64 = 200;
const HOUR: Duration = Duration::from_secs(3600);

fn rotations(sidecar: &Sidecar) -> u64 {
    sidecar.metric("sidegate_identity_rotations_total{sidegate_outcome=\"success\"}") as u64
}

/// New connections and long transfers, all checked byte by byte, through 200 rotations of both ends.
#[test]
fn two_hundred_rotations_harm_no_transfer() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let entry = pair.entry;
    let workers: Vec<_> = [(2_000, 6), (3_000_000, 2)]
        .into_iter()
        .flat_map(|(length, count)| (0..count).map(move |n| (length, n)))
        .map(|(length, seed)| {
            let (stop, done) = (stop.clone(), done.clone());
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = echo_bytes(entry, length, seed) {
                        failures.push(error);
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                failures
            })
        })
        .collect();
    for round in 0..ROTATIONS {
        let before = done.load(Ordering::Relaxed);
        pair.identities.authority.rotate_now();
        eventually("both to have the next SVID", || (rotations(&pair.web) > round && rotations(&pair.api) > round).then_some(()));
        eventually("a transfer after the rotation", || (done.load(Ordering::Relaxed) > before).then_some(()));
    }
    stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> = workers.into_iter().flat_map(|w| w.join().unwrap()).collect();
    assert_eq!(failures, Vec::<String>::new());
    let transfers = done.load(Ordering::Relaxed);
    assert!(transfers > 200, "only {transfers} transfers, that proves nothing");
    eventually("all records", || (pair.api.records().len() == transfers).then_some(()));
    assert!(pair.api.records().iter().chain(&pair.web.records()).all(|r| r["reason"] == "closed"));
}

/// A connection that is older than the SVID it was made with, and older than the CA that signed that.
#[test]
fn a_connection_outlives_svid_and_ca() {
    use std::io::{Read, Write};
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let mut tcp = std::net::TcpStream::connect(pair.entry).unwrap();
    let ping = |tcp: &mut std::net::TcpStream| {
        tcp.write_all(b"ping").unwrap();
        let mut answer = [0; 4];
        tcp.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
    };
    ping(&mut tcp);
    pair.identities.authority.rotate_ca("test.sidegate").unwrap();
    eventually("rotation at both ends", || (rotations(&pair.web) >= 2 && rotations(&pair.api) >= 2).then_some(()));
    ping(&mut tcp);
    // And who comes anew is judged by the new bundles.
    echo_bytes(pair.entry, 10_000, 1).unwrap();
}

/// Files are a source too: replaced by renaming, taken up without a restart; half a replacement is waited out.
#[test]
fn files_are_watched_and_a_broken_one_is_not_used() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let folder = pair.identities.folder();
    let (cert, key, bundle) = pair.identities.files("web");
    let port = free_port();
    let config = format!(
        "profile: development\nidentity: {{ sources: [{{ files: {{ certificate: {}, key: {}, bundle: {} }} }}] }}\ninbound: {{ listen: null }}\noutbound: {{ listen: null, listen6: null, listeners: [{{ name: api, listen: \"127.0.0.1:{port}\", to: \"{}\", spiffeIds: [\"{}\"] }}] }}\n",
        cert.display(),
        key.display(),
        bundle.display(),
        pair.port,
        id("api")
    );
    let files = Sidecar::start(folder, "files", &config);
    files.wait_ready();
    let entry = ([127, 0, 0, 1], port).into();
    echo_bytes(entry, 10_000, 1).unwrap();

    pair.identities.files("web");
    eventually("the new files", || (rotations(&files) >= 1).then_some(()));
    echo_bytes(entry, 10_000, 2).unwrap();

    // A certificate without its key: reported, and what was good stays.
    let before = rotations(&files);
    let good = std::fs::read(&cert).unwrap();
    let (other, _, _) = pair.identities.files("other");
    std::fs::rename(other, &cert).unwrap();
    eventually("the report", || files.log().contains("does not belong to the certificate").then_some(()));
    assert_eq!(rotations(&files), before);
    echo_bytes(entry, 10_000, 3).unwrap();
    std::fs::write(cert.with_extension("new"), good).unwrap();
    std::fs::rename(cert.with_extension("new"), &cert).unwrap();
    eventually("the source to be good again", || files.log().contains("it answers again").then_some(()));
    echo_bytes(entry, 10_000, 4).unwrap();
}

/// A reload of the policy counts for the next connection; a bad file never replaces a good one.
#[test]
fn policy_is_reloaded_and_a_bad_file_is_not_used() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    echo_bytes(pair.entry, 100, 1).unwrap();
    pair.set_policy("rules:\n  - name: web\n    action: alow\n");
    eventually("the report", || pair.api.log().contains("`alow` is not known; use allow, deny").then_some(()));
    assert_eq!(pair.api.metric("sidegate_policy_reloads_total{sidegate_outcome=\"failure\"}"), 1.0);
    echo_bytes(pair.entry, 100, 2).unwrap();
    pair.set_policy("rules:\n  - name: nobody\n    action: deny\n");
    let denied = pair.api.reason_of("denied_by_rule", || drop(echo_bytes(pair.entry, 100, 3)));
    assert!(denied["decision"]["rule"].as_str().unwrap().starts_with("nobody ("), "{denied}");
    // By a tunnel the client's side is told why; a plain peer is only reset.
    pair.web.record("the refusal", |told| {
        let detail = if told["tunnel"].is_null() { "its policy may deny us" } else { "denied_by_rule" };
        (told["reason"] == "peer_refused" || told["reason"] == "upstream_reset")
            && told["detail"].as_str().is_some_and(|said| said.contains(detail))
    });
}
