//! Start, wait, drain, end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidegate_tests::{Echo, Pair, echo_bytes, eventually, sidegate};

const HOUR: Duration = Duration::from_secs(3600);

fn held(pair: &Pair) -> TcpStream {
    let mut tcp = TcpStream::connect(pair.entry).unwrap();
    ping(&mut tcp).unwrap();
    tcp
}

fn ping(tcp: &mut TcpStream) -> std::io::Result<()> {
    tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
    tcp.write_all(b"x")?;
    tcp.read_exact(&mut [0])
}

/// SIGTERM: not ready at once, inbound ends, outbound goes on, what is open goes on; the end comes with the deadline.
#[test]
fn sigterm_drains_inbound_and_keeps_outbound() {
    let echo = Echo::start();
    let mut pair = Pair::start(echo.address, HOUR, "drain: { deadline: 6s, settle: 1s, quiet: 2s }\n");
    let mut open = held(&pair);
    pair.web.signal(Signal::SIGTERM);
    let (_, why) = eventually("readiness to revert", || pair.web.ask("/readyz").filter(|(s, _)| *s == 503));
    assert!(why.contains("draining"), "{why}");
    assert_eq!(pair.web.ask("/livez").unwrap().0, 200);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        echo_bytes(pair.entry, 1000, 1).expect("outbound is served while the application drains");
        ping(&mut open).unwrap();
    }
    assert!(pair.web.wait_end().success());
    pair.web.reason("drained");
    assert!(ping(&mut open).is_err());

    // The other side: inbound.
    pair.api.signal(Signal::SIGTERM);
    eventually("inbound to be closed", || TcpStream::connect(pair.port).is_err().then_some(()));
    assert!(pair.api.wait_end().success(), "nothing is open, so it ends before the deadline");
}

#[test]
fn a_second_signal_ends_at_once() {
    let echo = Echo::start();
    let mut pair = Pair::start(echo.address, HOUR, "");
    let mut open = held(&pair);
    pair.web.signal(Signal::SIGTERM);
    eventually("the drain", || pair.web.log().contains("draining").then_some(()));
    pair.web.signal(Signal::SIGTERM);
    let start = Instant::now();
    assert!(pair.web.wait_end().success());
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(ping(&mut open).is_err());
    pair.web.reason("cancelled");
}

#[test]
fn wait_blocks_until_ready() {
    let echo = Echo::start();
    let pair = Pair::start_unready(echo.address, HOUR, "");
    let wait = |admin: String, timeout: &str| {
        let output =
            Command::new(sidegate()).args(["wait", "--admin", &admin, "--timeout", timeout]).stderr(Stdio::piped()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(wait(pair.web.admin.to_string(), "30s"), (true, String::new()));
    assert_eq!(pair.web.ask("/readyz").unwrap(), (200, "ok\n".to_owned()));
    // By its socket and by its configuration it is the same.
    let named = |name: &str, what: &std::path::Path| Command::new(sidegate()).args(["wait", name]).arg(what).status().unwrap().success();
    assert!(named("--socket", &pair.web.socket) && named("--config", &pair.web.socket.with_file_name("web.yaml")));
    let (ok, why) = wait(format!("127.0.0.1:{}", sidegate_tests::free_port()), "300ms");
    assert!(!ok && why.contains("not ready after 300ms: no answer from"), "{why}");
}

/// What can't be had at the start is an error that names it, not a sidecar that half works.
#[test]
fn a_taken_port_is_an_error() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let folder = pair.identities.folder();
    let file = folder.join("taken.yaml");
    std::fs::write(&file, format!("profile: development\nidentity: {{ sources: [{{ workloadApi: {{ socket: 'unix://{}' }} }}] }}\ninbound: {{ listen: null }}\noutbound: {{ listen: null, listen6: null }}\nadmin: {{ listen: '{}' }}\n", pair.identities.socket("web").display(), pair.web.admin)).unwrap();
    let output = Command::new(sidegate()).args(["run", "--config"]).arg(&file).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("for admin.listen") && text.contains("is another sidegate running?"), "{text}");
}

/// With too few descriptors it does not start, and says what to raise; with fewer than configured it warns.
#[test]
fn too_few_descriptors_are_an_error_and_few_a_warning() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let folder = pair.identities.folder();
    let config = |name: &str| {
        let file = folder.join(format!("{name}.yaml"));
        let text = format!(
            "profile: development\nidentity: {{ sources: [{{ workloadApi: {{ socket: 'unix://{}' }} }}] }}\ninbound: {{ listen: null, listeners: [{{ listen: '127.0.0.1:{}', to: '{}' }}] }}\noutbound: {{ listen: null, listen6: null }}\nadmin: {{ listen: null, socket: null }}\n",
            pair.identities.socket("web").display(),
            sidegate_tests::free_port(),
            echo.address
        );
        std::fs::write(&file, text).unwrap();
        file
    };
    let with = |limit: u32, file: &std::path::Path| {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={limit}:{limit}")).arg(sidegate()).args(["run", "--config"]).arg(file);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let output = with(256, &config("few")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("the process may open 256 descriptors (RLIMIT_NOFILE)"), "{said}");
    assert!(said.contains("`ulimit -Hn` in a shell"), "{said}");
    let mut child = with(2000, &config("more")).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap())).map(Result::unwrap);
    let warning = lines.find(|line| line.contains("sidegate.limits.lowered"));
    child.kill().unwrap();
    child.wait().unwrap();
    let warning = warning.expect("a warning");
    assert!(warning.contains("\"level\":\"WARN\"") && warning.contains("limits.connections is 20000, but 2000 descriptors"), "{warning}");
}
