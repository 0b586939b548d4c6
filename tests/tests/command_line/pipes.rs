//! What becomes of standard output: a reader that has read enough ends a command quietly, and a full disk is an error.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use sidegate_tests::{AuditLog, Echo, Pair, echo_bytes, sidegate};

const HOUR: Duration = Duration::from_secs(3600);

/// Runs a command whose output goes to `output`: its exit status, and its standard error.
fn run(arguments: &[&str], output: Stdio) -> (i32, String) {
    let mut command = Command::new(sidegate());
    let output = command.args(arguments).env("COLUMNS", "80").stdout(output).output().unwrap();
    (output.status.code().unwrap_or_else(|| panic!("{arguments:?}: {}", output.status)), String::from_utf8(output.stderr).unwrap())
}

/// A pipe of which nobody reads.
fn closed() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

/// A disk on which there is no room.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// All that has something to say on standard output.
fn judge(arguments: &[&str]) {
    let (status, errors) = run(arguments, closed());
    assert!([0, 141].contains(&status) && !errors.contains("pipe") && !errors.contains("any more"), "{arguments:?}: {status} {errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    let (status, errors) = run(arguments, full());
    let told = errors.matches("standard output can't be written: No space left on device").count();
    assert!([1, 2].contains(&status) && told == 1, "{arguments:?}: {status} {errors}");
}

#[test]
fn what_needs_no_sidecar_ends_quietly_when_nobody_reads() {
    for command in [&[][..], &["audit"], &["policy"], &["run"], &["audit", "verify"], &["policy", "explain"], &["redirect"]] {
        judge(&[command, &["--help"]].concat());
    }
    judge(&["--version"]);
    for of in ["config", "policy", "deny-list", "policy-test", "audit", "authority"] {
        judge(&["schema", of]);
    }
    judge(&["reference", "config"]);
    judge(&["reference", "telemetry"]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let policy = file("policy.yaml", "rules:\n  - { name: a, action: allow }\n  - { name: b, action: allow }\n");
    let suite = file("suite.yaml", "expectations:\n  - { name: x, from: 'spiffe://a.b/x', to: ':80', expect: deny }\n");
    let config = file("config.yaml", &format!("profile: development\npolicy: {{ files: ['{policy}'] }}\n"));
    judge(&["check", "--print-config", "--config", &config]);
    judge(&["run", "--print-config", "--config", &config]);
    judge(&["redirect", "show", "--config", &config]);
    judge(&["policy", "check", "--policy", &policy]);
    judge(&["policy", "explain", "--policy", &policy, "--from", "spiffe://a.b/x", "--to", "10.0.0.1:80"]);
    judge(&["policy", "test", &suite, "--policy", &policy]);
}

#[test]
fn what_asks_a_sidecar_or_reads_its_log_ends_quietly_when_nobody_reads() {
    let echo = Echo::start();
    let more = format!("{}drain: {{ settle: 0s, quiet: 50ms }}\n", AuditLog::config("", ""));
    let mut pair = Pair::start(echo.address, HOUR, &more);
    echo_bytes(pair.entry, 1000, 1).unwrap();
    let held = std::net::TcpStream::connect(pair.entry).unwrap();
    std::io::Write::write_all(&mut &held, b"x").unwrap();
    std::io::Read::read_exact(&mut &held, &mut [0]).unwrap();
    let socket = pair.api.socket.display().to_string();
    for arguments in [&["status"][..], &["status", "--json"], &["status", "--print-config"], &["connections"], &["connections", "--json"]] {
        judge(&[arguments, &["--socket", &socket]].concat());
    }
    drop(held);
    for sidecar in [&mut pair.web, &mut pair.api] {
        sidecar.signal(Signal::SIGTERM);
        assert!(sidecar.wait_end().success());
    }
    let [web, api] = ["web", "api"].map(|name| AuditLog::of(&pair.identities, name).folder.display().to_string());
    for command in [&["show"][..], &["show", "--json"], &["verify"], &["verify", "--json"], &["report"], &["report", "--format", "html"]] {
        judge(&[&["audit"], command, &[&web]].concat());
    }
    judge(&["audit", "join", &web, &api]);
    let nobody = pair.identities.folder().join("nobody.yaml");
    std::fs::write(&nobody, "rules: []\n").unwrap();
    judge(&["policy", "replay", "--audit", &api, "--policy", nobody.to_str().unwrap()]);
    judge(&["policy", "suggest", "--audit", &api]);
}
