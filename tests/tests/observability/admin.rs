//! The admin API and the commands that use it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use sidegate_devkit::authority::Fault;
use sidegate_tests::{
    DEADLINE, Echo, Identities, Pair, Process, Sidecar, echo_bytes, eventually, free_port, id, on_a_terminal, problems_by, server_config,
    sidegate,
};

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
        "policy      1 rule, 1 file, in force for ",
        "snapshot    generation ",
        "inbound     1 open, 0 in handshake; 1 ended",
        "traces      not exported",
        "log         info",
    ] {
        assert!(screen.contains(part), "{part} is missing\n{screen}");
    }
    assert!(screen.lines().count() < 25, "{screen}");
    let (_, json, _) = pair.api.command(&["status", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["ready"], &json["identities"]["svid"]["spiffeId"]), (&Value::Bool(true), &Value::from(id("api"))));
    let (_, config, _) = pair.api.command(&["status", "--print-config"]);
    assert!(config.contains("defaultMode: \"strict\""), "{config}");
}

/// What can't be used is no news of the past: it is shown for as long as it lies there, everywhere.
#[test]
fn what_was_refused_is_shown_until_it_is_of_use() {
    let echo = Echo::start();
    let list = "revocation: { denyLists: ['{folder}/deny.yaml'] }\naudit: { file: { folder: '{folder}/{name}.audit' } }\n";
    let identities = Identities::start(&["web", "api"], HOUR);
    let folder = identities.folder().to_owned();
    let deny = |text: &str| {
        std::fs::write(folder.join("deny.new"), text).unwrap();
        std::fs::rename(folder.join("deny.new"), folder.join("deny.yaml")).unwrap();
    };
    deny("denied: []\n");
    let port = (std::net::Ipv4Addr::LOCALHOST, free_port()).into();
    let api = Sidecar::start(&folder, "api", &format!("{}{list}", server_config(&identities, port, echo.address)));
    api.wait_ready();
    let policy = folder.join("api.policy.yaml");
    let good = std::fs::read_to_string(&policy).unwrap();
    let load = |subject: &str| {
        let json: Value = serde_json::from_str(&api.command(&["status", "--json"]).1).unwrap();
        json["loads"].as_array().unwrap().iter().find(|load| load["subject"] == subject).unwrap().clone()
    };
    let refused = |subject: &str| load(subject)["refused"].as_array().unwrap().len();
    let before = load("policy");
    assert!(before["since"].as_str().unwrap().starts_with("20") && before["files"][0]["sha256"].as_str().unwrap().len() == 64, "{before}");
    assert_eq!((refused("policy"), refused("revocation"), refused("identity")), (0, 0, 0));

    std::fs::write(&policy, "rules: [{ nmae: x }]\n").unwrap();
    deny("denied: [{ reason: x }]\n");
    identities.authority.set_fault(Fault::Garbage);
    for (subject, why) in [("policy", "nmae"), ("revocation", "names nobody"), ("identity", "its message can't be used")] {
        eventually(subject, || (refused(subject) == 1).then_some(()));
        let refusal = load(subject)["refused"][0].clone();
        assert!(refusal["why"].as_str().unwrap().contains(why), "{refusal}");
        let (_, screen, _) = api.command(&["status"]);
        let words = screen.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.split("REFUSED for ").skip(1).any(|refusal| refusal.contains(why)), "{screen}");
        assert!(screen.lines().all(|line| line.len() <= 120 || !line.trim().contains(' ')), "{screen}");
        assert_eq!(api.metric(&format!("sidegate_load_refused{{sidegate_load_subject=\"{subject}\"}}")), 1.0);
    }
    assert_eq!(load("policy")["since"], before["since"], "what is in force is the old one");

    std::fs::write(&policy, &good).unwrap();
    deny("denied: []\n");
    identities.authority.set_fault(Fault::None);
    for subject in ["policy", "revocation", "identity"] {
        eventually(subject, || (refused(subject) == 0).then_some(()));
    }
    let events = |name: &str| {
        let output = Command::new(sidegate()).args(["audit", "show", "--json", "--event", name]).arg(folder.join("api.audit")).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    for (event, why) in [("policy.refused", "nmae"), ("revocation.refused", "names nobody"), ("identity.refused", "can't be used")] {
        let found = eventually(event, || Some(events(event)).filter(|found| !found.is_empty()));
        assert!(found.contains(why), "{found}");
    }
}

/// What tools read is as the schemas say, and an open connection has the names, and the values, of its record.
#[test]
fn what_tools_read_is_as_the_schemas_say() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let valid = |name: &str, value: &Value| {
        let problems = problems_by(name, value);
        assert!(problems.is_empty(), "{name}: {problems:?}\n{value:#}");
    };
    let mut watching = Command::new(sidegate());
    watching.args(["connections", "--watch", "--json", "--socket"]).arg(&pair.api.socket).stdout(Stdio::piped());
    let mut watching = watching.spawn().unwrap();
    let mut lines =
        BufReader::new(watching.stdout.take().unwrap()).lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let held = open(&pair);
    let opened = lines.by_ref().inspect(|line| valid("connections", line)).find(|line| line["opened"]["admitted"] == true).unwrap();
    let listed = listed(&pair).remove(0);
    valid("connections", &listed);
    let (_, status, _) = pair.api.command(&["status", "--json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    valid("status", &status);
    drop(held);
    let ended = lines.by_ref().inspect(|line| valid("connections", line)).find(|line| line["ended"].is_object()).unwrap();
    let record = pair.api.reason("closed");
    assert_eq!(ended["ended"], record);
    let _ = (watching.kill(), watching.wait());
    // One that gets no further than its handshake has other fields.
    std::net::TcpStream::connect(pair.port).unwrap().write_all(b"no TLS at all").unwrap();
    pair.api.reason("plaintext_refused");
    for record in pair.api.records().iter().chain(&pair.web.records()) {
        valid("access-log", record);
        let mut changed = record.clone();
        changed["reason"] = "closedx".into();
        assert!(!problems_by("access-log", &changed).is_empty(), "the schema takes anything for a reason");
    }
    for (name, value) in listed.as_object().unwrap().iter().filter(|(name, _)| *name != "admitted") {
        assert_eq!(&record[name], value, "{name}");
        // It may be seen before its first bytes.
        assert!(&opened["opened"][name] == value || name.starts_with("bytes"), "{name}: {opened:#}");
    }
    let (svid, certificate) = (&status["identities"]["svid"], &record["localCertificate"]);
    for name in ["serial", "sha256", "notBefore", "notAfter"] {
        assert!(svid[name].is_string() && svid[name] == certificate[name], "{name}: {svid:#} {certificate:#}");
    }
    assert_eq!(svid["spiffeId"], record["localId"]);
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
    assert_eq!((one["direction"].as_str(), one["peerId"].as_str()), (Some("inbound"), Some(&*id("web"))));
    assert_eq!((one["transport"].as_str(), one["bytesUp"].as_u64(), one["bytesDown"].as_u64()), (Some("mtls"), Some(5), Some(5)));
    assert!(one["decision"]["rule"].as_str().unwrap().starts_with("web ("), "{one}");
    let connection = one["connectionId"].as_str().unwrap();
    // It may be seen first while it shakes hands.
    let opened = lines.by_ref().map(Result::unwrap).find(|line| line.starts_with("open ")).unwrap();
    assert!(opened.contains(connection), "{opened}");

    let (status, _, err) = pair.api.command(&["cut", "00000000000000000000000000000000"]);
    assert!(!status.success() && err.contains("none is open"), "{err}");
    assert_eq!(held.write_all(b"x").and_then(|()| held.read_exact(&mut [0])).map_err(|e| e.to_string()), Ok(()));
    let (_, table, _) = pair.api.command(&["connections"]);
    let table: Vec<&str> = table.lines().collect();
    assert!(table.len() == 2 && table[0].starts_with("ID ") && table[1].starts_with(connection), "{table:#?}");
    let (column, peer) = (table[0].find("PEER").unwrap(), id("web"));
    assert!(table[1][column..].starts_with(&peer), "{table:#?}");
    // As much of its ID as is enough.
    let (status, _, err) = pair.api.command(&["cut", &connection[..12]]);
    assert!(status.success() && err == "cut 1 connection\n", "{err}");
    assert!(held.read_exact(&mut [0]).is_err());
    let record = pair.api.reason("cut");
    assert_eq!((record["connectionId"].as_str(), record["bytesUp"].as_u64()), (Some(connection), Some(6)));
    let ended = lines.next().unwrap().unwrap();
    assert!(ended.starts_with(&format!("ended   {connection} cut: ")) && ended.contains(&id("web")), "{ended}");
    watching.kill().unwrap();
    watching.wait().unwrap();
    let (status, out, _) = pair.api.command(&["connections"]);
    assert!(status.success() && out == "no connection is open\n", "{out}");

    // All of a peer.
    let mut more = [open(&pair), open(&pair)];
    let all_of_domain = "spiffe://test.sidegate/**";
    let (status, _, err) = pair.api.command(&["cut", "--peer", "spiffe://other.test/**"]);
    assert!(status.code() == Some(1) && err.contains("none is open, and nothing was cut"), "{err}");
    let (status, _, err) = pair.api.command(&["cut", "--peer", "spiffe://test.sidegate/w*"]);
    assert!(status.code() == Some(2) && err.contains("a whole path segment"), "{err}");
    let (status, _, err) = pair.api.command(&["cut", "--peer", all_of_domain]);
    assert!(status.success() && err == "cut 2 connections\n", "{err}");
    for tcp in &mut more {
        assert!(tcp.read_exact(&mut [0]).is_err());
    }
    // Who did it is on record.
    let me = nix::unistd::getuid();
    let log = eventually("the events", || Some(pair.api.log()).filter(|log| log.matches("\"sidegate.admin.cut\"").count() == 4));
    assert!(log.contains(&format!("\"uid\":{me}")), "{log}");
    assert_eq!(listed(&pair).len(), 0);
}

/// An ID that is the beginning of several names them, and cuts none.
#[test]
fn an_id_that_is_not_whole_must_mean_one() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    // With more connections than digits two IDs begin alike.
    let mut held: Vec<TcpStream> = (0..17).map(|_| open(&pair)).collect();
    let ids: Vec<String> = listed(&pair).iter().map(|one| one["connectionId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 17);
    let start = ids.iter().map(|id| &id[..1]).find(|start| ids.iter().filter(|id| id.starts_with(start)).count() > 1).unwrap();
    let (status, _, err) = pair.api.command(&["cut", start]);
    let alike: Vec<&String> = ids.iter().filter(|id| id.starts_with(start)).collect();
    assert_eq!(status.code(), Some(1), "{err}");
    assert!(err.contains(&format!("{} open connections have an ID that begins with {start}", alike.len())), "{err}");
    assert!(alike.iter().filter(|id| err.contains(id.as_str())).count() == alike.len().min(10), "{err}");
    assert_eq!(listed(&pair).len(), 17);
    for tcp in &mut held {
        tcp.write_all(b"x").and_then(|()| tcp.read_exact(&mut [0])).unwrap();
    }
}

/// Who watches is told when the sidecar ends, however it does.
#[test]
fn watching_ends_with_the_sidecar() {
    let echo = Echo::start();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut pair = Pair::start(echo.address, HOUR, "drain: { settle: 0s, quiet: 0s }\n");
        let mut command = Command::new(sidegate());
        command.args(["connections", "--watch", "--socket"]).arg(&pair.api.socket).stdout(Stdio::null());
        let mut watching = Process::start(command, &pair.identities.folder().join("watching"));
        watching.wait_log("no connection is open yet; each that opens or ends is shown, until Ctrl-C");
        pair.api.signal(signal);
        pair.api.wait_end();
        let status = watching.wait_end();
        assert!(status.success() && watching.log().ends_with("\nthe sidecar has ended\n"), "{status} {}", watching.log());
    }
}

/// On a terminal nothing is wider than it.
#[test]
fn what_is_shown_fits_the_terminal() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let _held = open(&pair);
    let connection = listed(&pair)[0]["connectionId"].as_str().unwrap().to_owned();
    let shown = |columns: u16, socket: &std::path::Path| {
        let mut command = Command::new(sidegate());
        command.args(["connections", "--socket"]).arg(socket);
        let (status, text) = on_a_terminal(columns, command);
        assert!(status.success(), "{text}");
        text
    };
    for columns in [40, 80, 120, 300] {
        let text = shown(columns, &pair.api.socket);
        assert!(text.lines().count() == 2 && text.lines().all(|line| line.chars().count() <= columns.into()), "{columns}: {text}");
        assert!(text.contains(&connection[..12]), "{columns}: {text}");
        assert_eq!(text.contains(&connection), columns == 300, "{columns}: {text}");
    }
}

#[test]
fn the_log_filter_changes_at_run_time() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    assert!(!pair.api.log().contains("\"level\":\"DEBUG\""));
    for (filter, why) in [
        ("hyper=shout", "`shout` is no level: there are off, error, warn, info, debug, trace"),
        ("debg", "`debg` is no level: there are off, error, warn, info, debug, trace; for one module write MODULE=LEVEL"),
        ("info,sidegate_idntity=debug", "sidegate has no module `sidegate_idntity`: there are sidegate, sidegate_admin, "),
    ] {
        let (status, _, err) = pair.api.command(&["log-filter", filter]);
        assert!(!status.success() && err.contains(why), "{err}");
    }
    assert_eq!(pair.api.command(&["log-filter"]).1, "info\n");
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

/// The platform's signal follows the preStop hook's drain, and changes nothing; the second signal is meant.
#[test]
fn a_signal_after_a_drain_goes_on_draining() {
    let echo = Echo::start();
    let mut pair = Pair::start(echo.address, HOUR, "");
    let mut held = open(&pair);
    let mut still_there = || held.write_all(b"x").and_then(|()| held.read_exact(&mut [0])).is_ok();
    let mut waiting =
        Command::new(sidegate()).args(["drain", "--wait", "--socket"]).arg(&pair.api.socket).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the drain", || pair.api.log().contains("as the admin API was told").then_some(()));
    pair.api.signal(Signal::SIGTERM);
    eventually("the signal", || pair.api.log().contains("draining already").then_some(()));
    assert!(still_there(), "the signal cut it");
    let (_, screen, _) = pair.api.command(&["status"]);
    assert!(screen.contains("settling, NOT READY\n            draining; ends by 20") || screen.contains("draining, NOT READY"), "{screen}");
    assert!(waiting.try_wait().unwrap().is_none(), "it has come back before the end");
    pair.api.signal(Signal::SIGTERM);
    assert!(pair.api.wait_end().success());
    assert!(!still_there());
    let output = waiting.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.starts_with("draining; waiting for its end, by 20") && said.ends_with("\nit has ended\n"),
        "{said}"
    );
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
