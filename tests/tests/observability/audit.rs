//! The audit log of real sidecars: what is in it, that it is proved, and what happens when it can't be written.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use sidegate_tests::{
    AuditLog, Echo, Pair, Sidecar, echo_bytes, eventually, exchange, free_port, id, on_a_terminal, problems_by, server_config, sidegate,
};

const HOUR: Duration = Duration::from_secs(3600);
const QUICK: &str = "drain: { settle: 0s, quiet: 50ms }\n";

/// A connection that is open for longer than the log takes to say so.
fn hold(pair: &Pair, log: &AuditLog) {
    let mut held = TcpStream::connect(pair.entry).unwrap();
    held.write_all(b"held").unwrap();
    held.read_exact(&mut [0; 4]).unwrap();
    log.record("an admission", |record| record["event"] == "connection.admitted");
}

/// Ends both in order, so that their logs are closed.
fn end(pair: &mut Pair) {
    for sidecar in [&mut pair.web, &mut pair.api] {
        sidecar.signal(Signal::SIGTERM);
        assert!(sidecar.wait_end().success());
    }
}

#[test]
fn the_two_ends_of_each_connection_have_one_name_and_are_joined() {
    let echo = Echo::start();
    let mut pair = Pair::start(echo.address, HOUR, &format!("{}{QUICK}", AuditLog::config("", "")));
    for i in 0..20 {
        echo_bytes(pair.entry, 1000 + i, 1).unwrap();
    }
    // Of this one nobody else has a record.
    let _ = exchange(pair.port, b"GET / HTTP/1.1\r\n\r\n");
    AuditLog::of(&pair.identities, "api").record("a refusal", |r| r["event"] == "connection.refused");
    end(&mut pair);
    let [web, api] = ["web", "api"].map(|name| AuditLog::of(&pair.identities, name));
    for log in [&web, &api] {
        let report = log.proved();
        assert_eq!(report["provenUntil"], report["lastSeq"], "{report:#}");
        assert_eq!(report["anchored"], report["lastSeq"], "{report:#}");
    }
    let ids = |log: &AuditLog| -> BTreeSet<String> {
        let ended = log.records().into_iter().filter(|r| r["event"] == "connection.ended" && r["connection"]["reason"] == "closed");
        ended.map(|r| r["connection"]["connectionId"].as_str().unwrap().to_owned()).collect()
    };
    // Without a tunnel there is nobody to tell the server the name.
    if std::env::var("SIDEGATE_TEST_TUNNEL").is_ok_and(|mode| mode == "off") {
        return;
    }
    assert_eq!(ids(&web), ids(&api));
    assert_eq!(ids(&web).len(), 20);
    let folders = [&web, &api].map(|log| log.folder.display().to_string());
    let (status, out, err) = AuditLog::command(&["join", &folders[0], &folders[1]]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("\n20 connections in both logs; 0 differ, or should be in both and are not\n"), "{out}");
    assert_eq!(out.matches(" ok: ").count(), 20, "{out}");
    assert!(out.contains(" in one log only, which can have no other end here: ended before the handshake was done\n"), "{out}");

    // Another workload of the same trust domain has a key too, but it is not its log.
    let bundle = pair.identities.folder().join("web.trusted.pem").display().to_string();
    let (status, out, _) = AuditLog::command(&["verify", &folders[0], "--bundle", &bundle, "--signer", &id("api")]);
    let words = out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(status == 1 && words.contains(&format!("its signer is {}, not {}", id("web"), id("api"))), "{out}");

    // A connection that one end has struck off its log is missed, and so is the record.
    let file = sidegate_audit::folder::files(&api.folder).unwrap().remove(0);
    let text = std::fs::read_to_string(&file).unwrap();
    let struck = ids(&web).into_iter().next().unwrap();
    let left: String = text.split_inclusive('\n').filter(|line| !line.contains(&struck)).collect();
    std::fs::write(&file, left).unwrap();
    let (status, out, _) = AuditLog::command(&["join", &folders[0], &folders[1], "--json"]);
    assert_eq!(status, 1);
    assert!(out.lines().any(|line| line.contains(&struck) && line.contains("in A only")), "{out}");
    let (status, report) = api.verify_at(&api.folder);
    assert_eq!(status, 1);
    assert!(report["findings"][0]["what"].as_str().unwrap().contains("missing before it"), "{report:#}");
}

/// What an audit log tells policy: what would be decided differently, and the rules that would have been enough.
#[test]
fn policy_is_replayed_and_suggested_on_the_log_of_a_real_run() {
    let echo = Echo::start();
    let mut pair = Pair::start(echo.address, HOUR, &format!("{}{QUICK}", AuditLog::config("", "")));
    for seed in 0..5 {
        echo_bytes(pair.entry, 1000, seed).unwrap();
    }
    end(&mut pair);
    let log = AuditLog::of(&pair.identities, "api").folder.display().to_string();
    let policy = |arguments: &[&str]| {
        let output = Command::new(sidegate()).arg("policy").args(arguments).args(["--audit", &log]).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let suggested = pair.identities.folder().join("suggested.yaml");
    let (status, rules, errors) = policy(&["suggest"]);
    assert_eq!(status, Some(0), "{errors}");
    assert!(rules.contains(&format!("- \"{}\"", id("web"))) && rules.contains(&format!("ports: [{}]", echo.address.port())), "{rules}");
    std::fs::write(&suggested, rules).unwrap();
    let (status, same, errors) = policy(&["replay", "--policy", &suggested.display().to_string()]);
    assert_eq!((status, same.contains("0 of 5 connections would be decided differently")), (Some(0), true), "{same}{errors}");
    std::fs::write(&suggested, "rules: []\n").unwrap();
    let (status, other, _) = policy(&["replay", "--policy", &suggested.display().to_string()]);
    assert_eq!((status, other.contains("5 of 5 connections would be decided differently")), (Some(1), true), "{other}");
}

/// Every kind of event that can be brought about here, and each record as the schema has it.
#[test]
fn every_security_event_is_on_record() {
    let echo = Echo::start();
    let mut pair = Pair::start(echo.address, Duration::from_secs(6), &format!("{}{QUICK}", AuditLog::config("", "")));
    let log = AuditLog::of(&pair.identities, "api");
    let event = |name: &'static str| move |record: &serde_json::Value| record["event"] == name;
    echo_bytes(pair.entry, 1000, 1).unwrap();
    hold(&pair, &log);
    let _ = exchange(pair.port, b"GET / HTTP/1.1\r\n\r\n");
    let refused = log.record("a refusal", event("connection.refused"));
    assert_eq!(refused["connection"]["reason"], "plaintext_refused");
    for arguments in [&["log-filter", "debug"][..], &["status", "--print-config"], &["cut", "--peer", "spiffe://nobody.test/x"]] {
        pair.api.command(arguments);
    }
    pair.set_policy("rules: []\n");
    log.record("another policy", |r| r["event"] == "policy.loaded" && r["rules"] == 0);
    // What is under way at that moment is cut instead.
    let denied = eventually("a denial", || {
        let _ = echo_bytes(pair.entry, 10, 1);
        log.records().into_iter().find(|r| r["connection"]["decision"]["allowed"] == false)
    });
    assert_eq!((&denied["event"], &denied["connection"]["peerId"]), (&"connection.refused".into(), &id("web").into()));
    pair.set_policy("rules: [{");
    log.record("a policy that can't be used", event("policy.refused"));
    log.record("a rotation", event("identity.rotated"));
    end(&mut pair);
    let seen: BTreeSet<String> = log.records().iter().map(|r| r["event"].as_str().unwrap().to_owned()).collect();
    for name in [
        "admin.action",
        "bundle.changed",
        "connection.admitted",
        "connection.ended",
        "connection.refused",
        "identity.received",
        "identity.rotated",
        "log.checkpoint",
        "log.opened",
        "policy.loaded",
        "policy.refused",
        "process.started",
        "process.stopping",
        "secret.accessed",
    ] {
        assert!(seen.contains(name), "{name} is not among {seen:?}");
    }
    let actions: BTreeSet<String> = log.records().iter().filter_map(|r| Some(r["action"].as_str()?.to_owned())).collect();
    assert_eq!(actions, ["config_read", "cut", "log_filter"].map(str::to_owned).into());
    // Certificates that have expired since were valid when they signed.
    log.proved();

    for record in log.records() {
        let problems = problems_by("audit", &record);
        assert!(problems.is_empty(), "{problems:?}\n{record:#}");
        let name = record["event"].as_str().unwrap().to_owned();
        let mut changed = record;
        changed["event"] = format!("{name}x").into();
        assert!(!problems_by("audit", &changed).is_empty(), "the schema takes anything for an event");
    }
}

/// What people see: a table of what they ask for, a report in each format, and what is wrong in words.
#[test]
fn a_log_is_shown_and_reported() {
    let echo = Echo::start();
    let mut pair = Pair::start(echo.address, HOUR, &format!("{}{QUICK}", AuditLog::config("", "")));
    for _ in 0..3 {
        echo_bytes(pair.entry, 1000, 1).unwrap();
    }
    let log = AuditLog::of(&pair.identities, "api");
    hold(&pair, &log);
    let _ = exchange(pair.port, b"GET / HTTP/1.1\r\n\r\n");
    log.record("a refusal", |r| r["event"] == "connection.refused");
    end(&mut pair);
    let folder = log.folder.display().to_string();
    let show = |arguments: &[&str]| {
        let (status, out, err) = AuditLog::command(&[&["show", &folder], arguments].concat());
        assert_eq!((status, err.as_str()), (0, ""));
        out
    };
    let ended = show(&["--event", "connection.ended", "--peer", &id("web")]);
    assert_eq!(ended.lines().count(), 4, "{ended}");
    assert!(
        ended.lines().all(|line| line.contains(&id("web")) && line.contains(" allowed by web ") && line.contains(" closed ")),
        "{ended}"
    );
    assert_eq!(show(&["--reason", "plaintext_refused"]).lines().count(), 1);
    assert_eq!(show(&["--until", "1h"]), "");
    let mut on_screen = Command::new(sidegate());
    on_screen.args(["audit", "show"]).arg(&log.folder);
    let (status, text) = on_a_terminal(80, on_screen);
    assert!(status.success() && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let words = |text: &str| text.split_whitespace().collect::<String>();
    assert_eq!(words(&text), words(&show(&[])), "nothing is left out");
    let first: serde_json::Value = serde_json::from_str(show(&["--json"]).lines().next().unwrap()).unwrap();
    assert_eq!((&first["seq"], &first["event"]), (&1.into(), &"log.opened".into()));
    // Those that ended at once have one record for both.
    let admitted = show(&["--json", "--event", "connection.admitted"]);
    let admitted: Vec<serde_json::Value> = admitted.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(admitted.len(), 4, "{admitted:#?}");
    let one = admitted.iter().find(|record| record["event"] == "connection.admitted").unwrap();
    let of_it = show(&["--connection", one["connection"]["connectionId"].as_str().unwrap()]);
    assert_eq!(of_it.lines().count(), 2, "{of_it}");

    let report = |format: &str| {
        let (status, out, err) = log.with_proof(&["report", &folder, "--format", format]);
        assert_eq!((status, err.as_str()), (0, ""));
        out
    };
    let json: serde_json::Value = serde_json::from_str(&report("json")).unwrap();
    let (summary, connections) = (&json["summary"], &json["summary"]["connections"]);
    assert_eq!((&connections["admitted"], &connections["mtls"], &connections["judged"]), (&4.into(), &4.into(), &4.into()));
    assert_eq!(summary["refusals"]["plaintext_refused"], 1);
    assert_eq!(summary["admissions"], serde_json::json!({ "policy": 4 }));
    assert_eq!(summary["tls"]["versions"], serde_json::json!({ "TLS 1.3": summary["tls"]["exchanges"] }));
    assert_eq!(summary["peers"][id("web")], 4);
    assert_eq!(json["verification"]["verdict"], "proved");
    let markdown = report("markdown");
    assert!(markdown.starts_with("# Audit report\n\n> **PROVED: "), "{markdown}");
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let point = |name: &str| cells(markdown.lines().find(|line| line.contains(name)).unwrap())[3].clone();
    assert_eq!((point("3.1 protocol versions"), point("8.15 logging")), ("yes".to_owned(), "yes".to_owned()), "{markdown}");
    let html = report("html");
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains("<td>plaintext_refused</td>"), "{html}");
    assert!(html.contains("<div class=\"verdict good\"><strong>PROVED: "), "{html}");
    let (status, empty, _) = log.with_proof(&["report", &folder, "--until", "2020-01-01T00:00:00Z"]);
    assert!(status == 0 && empty.contains("**Period:** no record before 2020-01-01T00:00:00Z\n"), "{empty}");

    // A name that nothing has is no filter.
    for (filter, says) in [
        (["--event", "conection"], "did you mean `connection`?"),
        (["--reason", "dial_refuse"], "did you mean `dial_refused`? Known: dial_refused, "),
        (["--connection", "web"], "has 32 digits"),
        (["--peer", "web"], "is not a SPIFFE ID pattern"),
    ] {
        let (status, out, err) = AuditLog::command(&[&["show", &folder], &filter[..]].concat());
        assert!(status == 2 && out.is_empty() && err.contains(says), "{filter:?}: {status} {out} {err}");
    }
    let all = id("web").rsplit_once('/').unwrap().0.to_owned() + "/*";
    assert_eq!(show(&["--event", "connection.ended", "--peer", &all]).lines().count(), 4);

    // What can't be answered is neither good nor a finding.
    for arguments in [&["verify", "/nowhere"][..], &["show", "/nowhere"], &["verify", &folder, "--anchor", "/nowhere"]] {
        let (status, _, err) = AuditLog::command(arguments);
        assert!(status == 2 && err.contains("/nowhere can't be read"), "{status} {err}");
    }
    let (status, _, err) = AuditLog::command(&["verify", pair.identities.folder().to_str().unwrap()]);
    assert!(status == 2 && err.contains("holds no audit log"), "{err}");
    let nothing = pair.identities.folder().join("nothing.jsonl");
    std::fs::write(&nothing, "").unwrap();
    let (status, _, err) = AuditLog::command(&["verify", &folder, "--anchor", nothing.to_str().unwrap()]);
    assert!(status == 2 && err.contains("there is nothing to compare the log with"), "{err}");
}

/// Without all checkpoints and without the records that `is_unwanted` says, numbered and linked as if they had never been.
fn forge(folder: &Path, is_unwanted: impl Fn(&serde_json::Value) -> bool) {
    let [file] = sidegate_audit::folder::files(folder).unwrap().try_into().unwrap();
    let mut forged: Vec<String> = Vec::new();
    for line in std::fs::read_to_string(&file).unwrap().lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        if record["event"] == "log.checkpoint" || is_unwanted(&record) {
            continue;
        }
        let seq = forged.len() + 1;
        let mut text = line.replacen(&format!("\"seq\":{},", record["seq"]), &format!("\"seq\":{seq},"), 1);
        if let Some(last) = forged.last() {
            text = text.replace(record["prev"].as_str().unwrap(), &sidegate_audit::hex::sha256_hex(last.as_bytes()));
        }
        forged.push(text);
    }
    std::fs::write(&file, forged.join("\n") + "\n").unwrap();
}

/// Five denials and all checkpoints are removed, and the links made again: nothing contradicts that, so nothing may vouch for it.
#[test]
fn a_log_that_nothing_proves_passes_nowhere() {
    let echo = Echo::start();
    let mut pair = Pair::start(echo.address, HOUR, &format!("{}{QUICK}", AuditLog::config("", "")));
    let log = AuditLog::of(&pair.identities, "api");
    echo_bytes(pair.entry, 1000, 1).unwrap();
    for _ in 0..5 {
        let _ = exchange(pair.port, b"GET / HTTP/1.1\r\n\r\n");
    }
    let is_refusal = |record: &serde_json::Value| record["event"] == "connection.refused";
    eventually("five refusals", || (log.records().iter().filter(|r| is_refusal(r)).count() == 5).then_some(()));
    end(&mut pair);
    log.proved();
    forge(&log.folder, is_refusal);
    let folder = log.folder.display().to_string();

    let (status, out, _) = AuditLog::command(&["verify", &folder]);
    assert!(status == 1 && out.starts_with("NOTHING PROVED: "), "{status} {out}");
    assert!(["--bundle", "--public-key", "--anchor", "--identity"].iter().all(|what| out.contains(what)), "{out}");
    let (status, out, _) = AuditLog::command(&["verify", &folder, "--allow-unproved"]);
    assert!(status == 0 && out.starts_with("NOTHING PROVED: "), "{status} {out}");
    let (status, out, _) = log.with_proof(&["verify", &folder, "--allow-unproved"]);
    assert!(status == 1 && out.starts_with("NOT INTACT: "), "{status} {out}");
    let (status, report) = json(AuditLog::command(&["verify", &folder, "--json"]));
    assert_eq!((status, &report["verdict"], &report["proved"]), (1, &"nothing_proved".into(), &serde_json::json!([])));

    for (more, status) in [(&[][..], 1), (&["--allow-unproved"], 0)] {
        let (exit, report) = json(AuditLog::command(&[&["report", &folder, "--format", "json"], more].concat()));
        assert_eq!(exit, status, "{report:#}");
        assert!(report["points"].as_array().unwrap().iter().all(|point| point["met"].is_null()), "{report:#}");
        assert_eq!(report["records"]["proved"], 0);
        // What was asked for all the same is summed up.
        assert_eq!(report["summary"]["connections"]["admitted"] != 0, !more.is_empty(), "{report:#}");
        for format in ["markdown", "html"] {
            let (exit, text, _) = AuditLog::command(&[&["report", &folder, "--format", format], more].concat());
            assert!(exit == status && text.contains("NOTHING PROVED: ") && !text.contains("| yes ") && !text.contains(">yes<"), "{text}");
            assert_eq!(text.contains("NOTHING IN THIS REPORT IS PROVED"), !more.is_empty(), "{text}");
        }
    }
}

/// What a command says in JSON.
fn json((status, out, err): (i32, String, String)) -> (i32, serde_json::Value) {
    (status, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}")))
}

/// A log is verified while it is written; what is followed goes on with what comes.
#[test]
fn a_log_is_verified_and_followed_while_it_is_written() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, &AuditLog::config(", rotate: { bytes: 20000 }", ""));
    let log = AuditLog::of(&pair.identities, "api");
    let out = pair.identities.folder().join("followed");
    let mut follow = Command::new(sidegate_tests::sidegate());
    follow.args(["audit", "show", "--follow", "--json", "--event", "connection.ended"]).arg(&log.folder);
    let mut follow = follow.stdout(std::fs::File::create(&out).unwrap()).spawn().unwrap();
    for _ in 0..40 {
        echo_bytes(pair.entry, 1000, 1).unwrap();
    }
    eventually("all ends", || (std::fs::read_to_string(&out).unwrap().lines().count() == 40).then_some(()));
    follow.kill().unwrap();
    follow.wait().unwrap();
    assert!(sidegate_audit::folder::files(&log.folder).unwrap().len() > 1, "it has been rotated meanwhile");
    log.proved();
}

/// Killed under load, and started again: the chain goes on, and says so.
#[test]
fn a_sidecar_that_was_killed_goes_on_with_its_log() {
    let echo = Echo::start();
    let more = AuditLog::config("", "");
    let mut pair = Pair::start(echo.address, HOUR, &more);
    let log = AuditLog::of(&pair.identities, "api");
    for _ in 0..30 {
        echo_bytes(pair.entry, 1000, 1).unwrap();
    }
    log.record("an end", |r| r["event"] == "connection.ended");
    pair.api.kill();
    let config = format!("{}{more}{QUICK}", server_config(&pair.identities, pair.port, echo.address));
    let mut again = Sidecar::start(pair.identities.folder(), "api", &config);
    again.wait_ready();
    eventually("a connection", || echo_bytes(pair.entry, 1000, 1).ok());
    again.signal(Signal::SIGTERM);
    assert!(again.wait_end().success());
    // What the killed process wrote after its last checkpoint nobody vouches for, and nothing else is in doubt.
    let (_, report) = log.verify_at(&log.folder);
    assert_eq!((&report["resumed"], &report["findings"]), (&1.into(), &serde_json::json!([])), "{report:#}");
    assert!(["proved", "partly_proved"].contains(&report["verdict"].as_str().unwrap()), "{report:#}");
    assert!(again.log().contains("sidegate.audit.resumed"), "{}", again.log());
}

/// A folder on a file system of its own, which is nearly full, in a mount namespace of the sidecar.
fn on_a_small_disk(pair: &Pair, echo: &Echo, on_failure: &str) -> Option<Sidecar> {
    small_disk_sidecar(pair, echo, on_failure, "", QUICK, None)
}

/// With `of_audit`, YAML inside `audit`, and `more` beside it; `output` takes the access log, else the test reads it.
fn small_disk_sidecar(
    pair: &Pair,
    echo: &Echo,
    on_failure: &str,
    of_audit: &str,
    more: &str,
    output: Option<std::io::PipeWriter>,
) -> Option<Sidecar> {
    let folder = pair.identities.folder();
    let disk = folder.join("api.audit");
    std::fs::create_dir_all(&disk).unwrap();
    // `ballast` is what can be deleted to make room.
    let script = format!("mount -t tmpfs -o size=96k none '{0}' && head -c 40960 /dev/zero > '{0}/ballast' && exec \"$@\"", disk.display());
    let can = Command::new("unshare").args(["-m", "sh", "-c", &script, "sh", "true"]).status().is_ok_and(|status| status.success());
    if !can {
        sidegate_tests::skipped("no file system can be mounted here");
        return None;
    }
    let audit = AuditLog::config(&format!(", onFailure: {on_failure}"), of_audit);
    let config = format!("{}{audit}{more}", server_config(&pair.identities, pair.port, echo.address));
    let through = ["unshare", "-m", "sh", "-c", &script, "sh"];
    let spawn = |mut command: Command| {
        if let Some(output) = output {
            command.stdout(output);
        }
        command.spawn().unwrap()
    };
    let sidecar = Sidecar::start_by(folder, "api", &config, free_port(), &through, spawn, sidegate_tests::get);
    sidecar.wait_ready();
    Some(sidecar)
}

/// Takes the ballast away.
fn make_room(pair: &Pair, sidecar: &Sidecar) {
    let ballast = pair.identities.folder().join("api.audit/ballast");
    let status = Command::new("nsenter").args(["-t", &sidecar.pid().to_string(), "-m", "rm"]).arg(ballast).status().unwrap();
    assert!(status.success());
}

/// A copy of the log out of the mount namespace, taken while the sidecar still runs.
fn copy_out(pair: &Pair, sidecar: &Sidecar) -> std::path::PathBuf {
    let (from, to) = (pair.identities.folder().join("api.audit"), pair.identities.folder().join("copied"));
    std::fs::create_dir_all(&to).unwrap();
    let script = format!("cat '{}'/audit-*.jsonl", from.display());
    let output = Command::new("nsenter").args(["-t", &sidecar.pid().to_string(), "-m", "sh", "-c", &script]).output().unwrap();
    assert!(output.status.success());
    std::fs::write(to.join("audit-00000000000000000001.jsonl"), output.stdout).unwrap();
    to
}

fn small_disk_world(on_failure: &str) -> Option<(Pair, Sidecar, Echo)> {
    let echo = Echo::start();
    let mut pair = Pair::start(echo.address, HOUR, "");
    pair.api.kill();
    let sidecar = on_a_small_disk(&pair, &echo, on_failure)?;
    eventually("a connection", || echo_bytes(pair.entry, 100, 1).ok());
    Some((pair, sidecar, echo))
}

#[test]
fn on_a_full_disk_new_connections_are_refused_until_there_is_room() {
    let Some((pair, api, _echo)) = small_disk_world("block-new-connections") else { return };
    eventually("a refusal", || {
        let _ = echo_bytes(pair.entry, 100, 1);
        api.records().iter().any(|r| r["reason"] == "audit_unavailable").then_some(())
    });
    assert!(api.metric("sidegate_audit_blocked") > 0.0);
    assert!(api.log().contains("sidegate.audit.failing"), "{}", api.log());
    assert!(TcpStream::connect(pair.port).is_ok(), "it is there, and refuses");
    make_room(&pair, &api);
    eventually("a connection", || echo_bytes(pair.entry, 100, 1).ok());
    assert_eq!(api.metric("sidegate_audit_blocked"), 0.0);
    assert_eq!(
        api.metric("sidegate_telemetry_dropped_total{sidegate_telemetry_signal=\"audit\",sidegate_telemetry_cause=\"queue_full\"}"),
        0.0,
        "nothing was lost"
    );
    let log = AuditLog::of(&pair.identities, "api");
    eventually("the log of it", || {
        let (status, report) = log.verify_at(&copy_out(&pair, &api));
        let refused = std::fs::read_to_string(pair.identities.folder().join("copied/audit-00000000000000000001.jsonl")).unwrap();
        (status == 0 && report["missing"] == 0 && refused.contains("audit_unavailable")).then_some(())
    });
}

#[test]
fn on_a_full_disk_records_are_dropped_counted_and_told_of() {
    let Some((pair, api, _echo)) = small_disk_world("drop-and-count") else { return };
    let lost = "sidegate_telemetry_dropped_total{sidegate_telemetry_signal=\"audit\",sidegate_telemetry_cause=\"export_failed\"}";
    eventually("a loss", || {
        echo_bytes(pair.entry, 100, 1).expect("connections go on");
        (api.metric(lost) > 0.0).then_some(())
    });
    make_room(&pair, &api);
    let log = AuditLog::of(&pair.identities, "api");
    eventually("the gap to be told of", || {
        echo_bytes(pair.entry, 100, 1).unwrap();
        let (status, report) = log.verify_at(&copy_out(&pair, &api));
        (status == 0 && report["missing"].as_f64() == Some(api.metric(lost))).then_some(())
    });
    assert!(api.records().iter().all(|r| r["reason"] != "audit_unavailable"));
}

/// `/readyz` says why nobody gets in, and that everybody does again.
#[test]
fn who_can_record_nothing_is_not_ready() {
    let Some((pair, api, _echo)) = small_disk_world("block-new-connections") else { return };
    let (_, why) = eventually("readiness to revert", || {
        let _ = echo_bytes(pair.entry, 100, 1);
        api.ask("/readyz").filter(|(status, _)| *status == 503)
    });
    assert!(why.contains("audit records can't be kept, so every new connection is refused"), "{why}");
    assert_eq!(api.metric("sidegate_ready"), 0.0);
    assert_eq!(api.ask("/livez").unwrap().0, 200);
    make_room(&pair, &api);
    api.wait_ready();
}

/// A disk that is full, copies into a pipe that nobody reads, a collector that never answers, an access log that nobody reads, and a
/// connection that does not end: the process ends before its deadline all the same.
#[test]
fn the_deadline_holds_whatever_hangs() {
    const DEADLINE: Duration = Duration::from_secs(8);
    let Some((pair, api, echo)) = small_disk_world("block-new-connections") else { return };
    drop(api);
    let folder = pair.identities.folder();
    let pipe = folder.join("copies.pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!(", copies: [{{ file: '{}' }}]", pipe.display());
    let telemetry = format!("telemetry: {{ otlp: {{ endpoint: 'http://{}' }}, flush: 5s }}\n", deaf.local_addr().unwrap());
    let drain = format!("drain: {{ deadline: {}s, settle: 0s, quiet: 1h }}\n", DEADLINE.as_secs());
    let (output, _unread) = std::io::pipe().map(|(reader, writer)| (writer, reader)).unwrap();
    let mut api = small_disk_sidecar(&pair, &echo, "block-new-connections", &more, &format!("{telemetry}{drain}"), Some(output)).unwrap();
    let mut held = TcpStream::connect(pair.entry).unwrap();
    eventually("a connection that stays", || {
        held = TcpStream::connect(pair.entry).ok()?;
        held.write_all(b"held").ok()?;
        held.read_exact(&mut [0; 4]).ok()
    });
    eventually("a full disk", || {
        let _ = echo_bytes(pair.entry, 100, 1);
        (api.metric("sidegate_audit_blocked") > 0.0).then_some(())
    });
    let start = std::time::Instant::now();
    api.signal(Signal::SIGTERM);
    assert!(api.wait_end().success());
    assert!(start.elapsed() < DEADLINE, "{:?}\n{}", start.elapsed(), api.log());
    assert!(start.elapsed() > DEADLINE / 2, "what is open may go on for most of it: {:?}", start.elapsed());
    assert!(api.log().contains("sidegate.lifecycle.drain_deadline"), "{}", api.log());
}
