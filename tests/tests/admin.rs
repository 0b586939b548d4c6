//! The admin API and the commands that use it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use sidegate_tests::{DEADLINE, Echo, Pair, echo_bytes, eventually, id, sidegate};

const HOUR: Duration = Duration::from_secs(3600);

fn open(pair: &Pair) -> TcpStream {
    let mut tcp = TcpStream::connect(pair.entry).unwrap();
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    tcp.write_all(b"hello").unwrap();
    tcp.read_exact(&mut [0; 5]).unwrap();
    tcp
}

fn listed(pair: &Pair) -> Vec<Value> {
    let (status, out, err) = pair.api.command(&["connections", "--json"]);
    assert!(status.success(), "{err}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn status_is_one_screen_and_json() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let _held = open(&pair);
    echo_bytes(pair.entry, 100, 1).unwrap();
    pair.api.reason("closed");
    let (status, screen, err) = pair.api.command(&["status"]);
    assert!(status.success(), "{err}");
    for part in [
        "profile development",
        "serving, ready",
        &format!("identity    {}", id("api")),
        "expires in ",
        "bundle      test.sidegate: 1 CA, the last expires in ",
        "source      workload API unix://",
        "policy      1 rules; generation ",
        "inbound     1 open, 0 of them shaking hands; 1 ended",
        "traces      not exported",
        "log         info",
    ] {
        assert!(screen.contains(part), "{part} is missing\n{screen}");
    }
    assert!(screen.lines().count() < 25, "{screen}");
    let (_, json, _) = pair.api.command(&["status", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["ready"], &json["identities"]["svid"]["spiffe_id"]), (&Value::Bool(true), &Value::from(id("api"))));
    let (_, config, _) = pair.api.command(&["status", "--config"]);
    assert!(config.contains("defaultMode: \"strict\""), "{config}");
}

#[test]
fn connections_are_listed_watched_and_cut() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let mut watching =
        Command::new(sidegate()).args(["connections", "--watch", "--socket"]).arg(&pair.api.socket).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut held = open(&pair);
    let all = listed(&pair);
    assert_eq!(all.len(), 1, "{all:?}");
    let one = &all[0];
    assert_eq!((one["direction"].as_str(), one["peer"].as_str()), (Some("inbound"), Some(&*id("web"))));
    assert_eq!((one["transport"].as_str(), one["bytes_up"].as_u64(), one["bytes_down"].as_u64()), (Some("mtls"), Some(5), Some(5)));
    assert!(one["rule"].as_str().unwrap().starts_with("web ("), "{one}");
    let connection = one["id"].as_str().unwrap();
    // It may be seen first while it shakes hands.
    let opened = lines.by_ref().map(Result::unwrap).find(|line| line.contains(" open ")).unwrap();
    assert!(opened.contains(connection), "{opened}");

    let (status, _, err) = pair.api.command(&["cut", "00000000000000000000000000000000"]);
    assert!(!status.success() && err.contains("none is open"), "{err}");
    assert_eq!(held.write_all(b"x").and_then(|()| held.read_exact(&mut [0])).map_err(|e| e.to_string()), Ok(()));
    let (status, _, err) = pair.api.command(&["cut", connection]);
    assert!(status.success() && err == "cut 1\n", "{err}");
    assert!(held.read_exact(&mut [0]).is_err());
    let record = pair.api.reason("cut");
    assert_eq!((record["connectionId"].as_str(), record["bytesUp"].as_u64()), (Some(connection), Some(6)));
    let ended = lines.next().unwrap().unwrap();
    assert!(ended.contains(" cut") && ended.contains(&id("web")), "{ended}");
    watching.kill().unwrap();
    watching.wait().unwrap();

    // All of a peer.
    let mut more = [open(&pair), open(&pair)];
    let (status, _, err) = pair.api.command(&["cut", "--peer", &id("web")]);
    assert!(status.success() && err == "cut 2\n", "{err}");
    for tcp in &mut more {
        assert!(tcp.read_exact(&mut [0]).is_err());
    }
    // Who did it is on record.
    let me = nix::unistd::getuid();
    let log = eventually("the events", || Some(pair.api.log()).filter(|log| log.matches("\"sidegate.admin.cut\"").count() == 3));
    assert!(log.contains(&format!("\"uid\":{me}")), "{log}");
    assert_eq!(listed(&pair).len(), 0);
}

#[test]
fn the_log_filter_changes_at_run_time() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    assert!(!pair.api.log().contains("\"level\":\"DEBUG\""));
    let (status, _, err) = pair.api.command(&["log-filter", "hyper=shout"]);
    assert!(!status.success() && err.contains("`hyper=shout` is no log filter"), "{err}");
    let (status, _, err) = pair.api.command(&["log-filter", "warn,h2=debug"]);
    assert!(status.success() && err == "warn,h2=debug (it was info)\n", "{err}");
    pair.api.command(&["status"]);
    eventually("lines of the new level", || pair.api.log().contains("\"level\":\"DEBUG\"").then_some(()));
    let (_, screen, _) = pair.api.command(&["status"]);
    assert!(screen.contains("log         warn,h2=debug"), "{screen}");
    assert!(pair.api.log().contains("\"previous\":\"info\""), "{}", pair.api.log());
}

/// Whoever silences the log, or cuts so often that other warnings would be folded, is told of all the same.
#[test]
fn what_operators_do_is_always_told() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let (status, _, err) = pair.api.command(&["log-filter", "off,sidegate_admin::api[{uid}]=off"]);
    assert!(!status.success() && err.contains("fields are not understood"), "{err}");
    let (status, _, err) = pair.api.command(&["log-filter", "off,sidegate_admin::api=off"]);
    assert!(status.success(), "{err}");
    for _ in 0..12 {
        pair.api.command(&["cut", "--peer", &id("nobody")]);
    }
    let told = |event: &str| pair.api.log().matches(&format!("\"event\":\"sidegate.admin.{event}\"")).count();
    eventually("every call to be told", || (told("log_filter") == 1 && told("cut") == 12).then_some(()));
}

#[test]
fn a_drain_is_what_sigterm_is() {
    let echo = Echo::start();
    let mut pair = Pair::start(echo.address, HOUR, "drain: { settle: 0s, quiet: 0s }\n");
    let (status, _, err) = pair.api.command(&["drain"]);
    assert!(status.success(), "{err}");
    assert!(pair.api.wait_end().success());
    assert!(pair.api.log().contains("sidegate.admin.drain") && pair.api.log().contains("sidegate.lifecycle.drained"));
    assert!(!pair.api.socket.exists());
    let (status, _, err) = pair.api.command(&["status"]);
    assert!(!status.success() && err.contains("no sidecar answers on"), "{err}");
}

/// The file's permissions are the guard: another user is refused by the system.
#[test]
fn others_may_not_ask() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    assert_eq!(std::fs::metadata(&pair.api.socket).unwrap().permissions().mode() & 0o777, 0o600);
    if !nix::unistd::geteuid().is_root() {
        return sidegate_tests::skipped("only root can be somebody else");
    }
    let mut command = Command::new(sidegate());
    let output = command.args(["status", "--socket"]).arg(&pair.api.socket).uid(65_533).gid(65_533).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && err.contains("Permission denied"), "{err}");
}

/// More than there are places for, who say nothing, or half of what they should, or nonsense: they keep nobody out for
/// long, and connections go on.
#[test]
fn nonsense_on_the_socket_keeps_nobody_out() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let mut all: Vec<UnixStream> = (0..24).map(|_| UnixStream::connect(&pair.api.socket).unwrap()).collect();
    for (i, stream) in all.iter_mut().enumerate() {
        let _ = match i % 3 {
            0 => Ok(()),
            1 => stream.write_all(b"PRI * HTT"),
            _ => stream.write_all(&[u8::try_from(i).unwrap(); 64]),
        };
    }
    echo_bytes(pair.entry, 1000, 1).unwrap();
    eventually("an answer while they are all there", || pair.api.command(&["status"]).0.success().then_some(()));
    drop(all);
    echo_bytes(pair.entry, 1000, 2).unwrap();
}

/// Two sidecars can't share a socket; the second says so and does not start.
#[test]
fn a_socket_that_is_taken_is_an_error() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let file = pair.identities.folder().join("api.yaml");
    let again = std::fs::read_to_string(&file).unwrap();
    let port = sidegate_tests::free_port();
    let again = again.replace(&format!("127.0.0.1:{}", pair.api.admin.port()), &format!("127.0.0.1:{port}"));
    std::fs::write(&file, again).unwrap();
    let mut second = Command::new(sidegate()).args(["run", "--config"]).arg(&file).stderr(Stdio::piped()).spawn().unwrap();
    let status = eventually("its end", || second.try_wait().unwrap());
    let mut err = String::new();
    second.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(!status.success() && err.contains("is served by another process"), "{err}");
    assert!(pair.api.command(&["status"]).0.success());
}

/// A request is no longer than any that makes sense.
#[test]
fn a_request_on_the_socket_is_bounded() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let (status, _, err) = pair.api.command(&["log-filter", &format!("info{}", ",a=info".repeat(3000))]);
    assert!(!status.success() && err.contains("too large"), "{err}");
    assert!(pair.api.command(&["status"]).0.success());
}
