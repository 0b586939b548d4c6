//! A sidecar as a systemd unit: what it tells the service manager, and the units in deploy/systemd.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use sidegate_tests::{DEADLINE, Echo, Identities, Sidecar, free_port, program, server_config, sidegate, skipped};

const HOUR: Duration = Duration::from_secs(3600);

/// The next message, which has to come.
fn next(manager: &UnixDatagram) -> String {
    let mut message = [0; 4096];
    let length = manager.recv(&mut message).expect("a message to the service manager");
    String::from_utf8(message[..length].to_vec()).unwrap()
}

/// Messages until one that begins with `start`.
fn until(manager: &UnixDatagram, start: &str) -> Vec<String> {
    let mut all = Vec::new();
    while !all.last().is_some_and(|message: &String| message.starts_with(start)) {
        all.push(next(manager));
    }
    all
}

/// Ready is told once, after what was missing; then signs of life, also during the drain.
#[test]
fn the_service_manager_is_told_of_the_whole_life() {
    let (echo, identities) = (Echo::start(), Identities::start(&["api"], HOUR));
    let path = identities.folder().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let config = server_config(&identities, ([127, 0, 0, 1], free_port()).into(), echo.address);
    // The agent's socket is not there yet.
    let socket = identities.socket("api");
    let aside = socket.with_extension("aside");
    std::fs::rename(&socket, &aside).unwrap();
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let config = format!("{config}drain: {{ settle: 1s, quiet: 100ms }}\n");
    let mut sidecar = Sidecar::start_with(identities.folder(), "api", &config, &variables);
    let first = until(&manager, "STATUS=waiting: ");
    assert!(!first.iter().any(|message| message.contains("READY")), "{first:?}");
    std::fs::rename(&aside, &socket).unwrap();
    let told = until(&manager, "READY=1\n");
    assert!(told.iter().rev().skip(1).all(|message| message.starts_with("STATUS=waiting: ")), "{told:?}");
    assert_eq!(sidecar.ask("/readyz").unwrap().0, 200);
    assert_eq!([next(&manager), next(&manager), next(&manager)], ["WATCHDOG=1"; 3]);
    sidecar.signal(Signal::SIGTERM);
    let told = until(&manager, "STOPPING=1\n");
    assert!(told.iter().rev().skip(1).all(|message| message == "WATCHDOG=1"), "{told:?}");
    assert_eq!(next(&manager), "WATCHDOG=1", "a drain is no hang");
    assert!(sidecar.wait_end().success());
}

/// A name in the abstract namespace, as containers get; a watchdog for another process; a socket that nobody reads.
#[test]
fn other_sockets_and_watchdogs_of_others_do_no_harm() {
    let (echo, identities) = (Echo::start(), Identities::start(&["api"], HOUR));
    let name = format!("sidegate-test-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let config = || server_config(&identities, ([127, 0, 0, 1], free_port()).into(), echo.address);
    let variables = [("NOTIFY_SOCKET", &*format!("@{name}")), ("WATCHDOG_USEC", "100000"), ("WATCHDOG_PID", "1")];
    let mut sidecar = Sidecar::start_with(identities.folder(), "api", &config(), &variables);
    until(&manager, "READY=1\n");
    sidecar.signal(Signal::SIGTERM);
    assert!(next(&manager).starts_with("STOPPING=1"), "the watchdog is for process 1");
    assert!(sidecar.wait_end().success());

    let gone = identities.folder().join("gone");
    let sidecar = Sidecar::start_with(identities.folder(), "api", &config(), &[("NOTIFY_SOCKET", gone.to_str().unwrap())]);
    sidecar.wait_ready();
    assert!(sidecar.log().contains("sidegate.lifecycle.service_manager_unreachable"));
}

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd")
}

/// systemd itself finds nothing wrong with the units, and the sidecar's is well locked in.
#[test]
fn systemd_accepts_the_units() {
    let Some(analyze) = program("systemd-analyze") else { return skipped("systemd-analyze is not installed") };
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for name in ["sidegate-redirect.service", "sidegate.service"] {
        let unit = std::fs::read_to_string(units().join(name)).unwrap();
        // It looks whether the program is there.
        assert!(unit.contains("=/usr/local/bin/sidegate "), "{unit}");
        let file = folder.path().join(name);
        std::fs::write(&file, unit.replace("/usr/local/bin/sidegate", sidegate().to_str().unwrap())).unwrap();
        files.push(file);
    }
    let output = Command::new(&analyze).args(["verify", "--man=no", "--recursive-errors=no"]).args(&files).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !said.contains("sidegate"), "{said}");
    // 0 is best, 10 is a service without any restriction.
    let output = Command::new(&analyze).args(["security", "--offline=true", "--threshold=20"]).arg(&files[1]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
