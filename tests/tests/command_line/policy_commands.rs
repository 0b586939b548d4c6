//! `sidegate policy`, as people and their CI meet it: exit codes, what is said, what is JSON.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use sidegate_tests::sidegate;

const POLICY: &str = "rules:
  - name: web
    action: allow
    from: { spiffeIds: ['spiffe://prod.example/web'] }
    to: { ports: [8080, 9000-9010] }
  - name: office-hours
    action: allow
    from: { spiffeIds: ['spiffe://prod.example/ops'] }
    to: { ports: [22] }
    when: time.weekday <= 5 && time.hour >= 8 && time.hour < 18
  - name: not-from-lab
    action: deny
    from: { cidrs: [10.9.0.0/16] }
  - name: watch-22
    action: audit
    to: { ports: [22] }
";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("policy.yaml"), POLICY).unwrap();
    folder
}

/// Runs `sidegate policy ARGUMENTS`: exit code, standard output, standard error.
fn policy(folder: &Path, arguments: &str) -> (i32, String, String) {
    let output = Command::new(sidegate())
        .arg("policy")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .env_remove("SIDEGATE_CONFIG")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn check_tells_good_from_questionable_from_bad() {
    let folder = folder();
    let (code, said, _) = policy(folder.path(), "check --policy policy.yaml");
    assert_eq!((code, said.as_str()), (0, "4 rules, nothing to object to\n"));
    std::fs::create_dir(folder.path().join("more")).unwrap();
    let all = "rules:\n  - { name: all, action: allow }\n";
    std::fs::write(folder.path().join("more/20-all.yml"), all).unwrap();
    std::fs::write(folder.path().join("more/10-web.yaml"), POLICY.replace("name: ", "name: more-")).unwrap();
    std::fs::write(folder.path().join("more/.hidden.yaml"), "not read").unwrap();
    std::fs::write(folder.path().join("more/README"), "not read").unwrap();
    let (code, said, _) = policy(folder.path(), "check --policy policy.yaml --policy more");
    assert_eq!(code, 1, "{said}");
    for line in [
        "more/10-web.yaml:2:5: rule `more-web` adds nothing: rule `web` at policy.yaml:2:5 covers all of it",
        "more/20-all.yml:2:5: rule `all` allows every peer of every trust domain; name the SPIFFE IDs",
        "policy.yaml:2:5: rule `web` adds nothing: rule `all` at more/20-all.yml:2:5",
        "9 rules, ",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    let (code, said, _) = policy(folder.path(), "check --policy more/20-all.yml --json");
    let findings: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &findings[0]["doubt"], &findings[0]["line"]), (1, &"allowsEveryone".into(), &2.into()));
    std::fs::write(folder.path().join("bad.yaml"), "rules:\n  - { name: a, action: deny, when: peer.nam == 'x' }\n  - { nam: b }\n")
        .unwrap();
    let (code, said, errors) = policy(folder.path(), "check --policy bad.yaml --policy none.yaml");
    assert_eq!((code, said.as_str()), (2, ""));
    for mistake in ["policy file none.yaml can't be read", "rules[0].when: `peer` has no `nam`", "rules[1].nam: unknown key"] {
        assert!(errors.contains(mistake), "{mistake}\n{errors}");
    }
    let (code, _, errors) = policy(folder.path(), "check --policy bad.yaml");
    assert!(code == 2 && errors.contains("bad.yaml:3:7: rules[1].nam: unknown key; did you mean `name`?"), "{errors}");
    let (code, _, errors) = policy(folder.path(), "check --config none.yaml");
    assert!(code == 2 && errors.contains("name policy files with --policy"), "{errors}");
}

/// Runs `sidegate check`: exit code and standard error.
fn check(folder: &Path) -> (i32, String) {
    let output = Command::new(sidegate()).args(["check", "--config", "sidegate.yaml"]).current_dir(folder).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// `check` and `policy check` say the same of a policy, and end with the same code.
#[test]
fn check_of_a_configuration_knows_its_destinations() {
    let folder = folder();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let config = "policy: { files: [out.yaml] }\noutbound: { destinations: [{ name: db, cidrs: [10.1.0.0/16] }] }\n";
    put("sidegate.yaml", config);
    let rule = |name: &str, to: &str| format!("rules:\n  - {{ name: {name}, action: deny, to: {{ destinations: [{to}] }} }}\n");
    for (to, code, finding) in [
        ("db", 0, ""),
        ("dbb", 1, "rule `to-db` can never match: the configuration has no destination dbb; it has db"),
        ("db, dbb, x", 1, "rule `to-db` names what is not there: the configuration has no destination dbb, x; it has db"),
        ("db]", 2, "out.yaml:2:"),
    ] {
        put("out.yaml", &rule("to-db", to));
        let (by_policy, said, errors) = policy(folder.path(), "check --config sidegate.yaml");
        assert_eq!(by_policy, code, "{said}{errors}");
        assert!((said + &errors).contains(finding), "{errors}");
        let (by_check, errors) = check(folder.path());
        assert_eq!(by_check, code, "{errors}");
        assert!(errors.contains(finding), "{errors}");
        let count = ["; 1 rule in 1 policy file, nothing to object to\n", "; 1 rule in 1 policy file, 1 finding\n", ""]
            [usize::try_from(code).unwrap()];
        assert!(errors.ends_with(count), "{errors}");
    }
    put("out.yaml", &rule("to-db", "db"));
    let (code, _, errors) =
        policy(folder.path(), "explain --config sidegate.yaml --from spiffe://a.b/x --to 10.1.0.1:5432 --destination cache");
    assert!(code == 2 && errors.contains("no destination `cache`; it has db"), "{errors}");
}

#[test]
fn explain_says_whether_and_why() {
    let folder = folder();
    let explain = |rest: &str| policy(folder.path(), &format!("explain --policy policy.yaml {rest}"));
    let (code, said, _) = explain("--from spiffe://prod.example/web --to 10.0.0.7:9005 --from-address 10.1.0.1");
    assert_eq!((code, said.as_str()), (0, "allowed by web (policy.yaml:2)\nrules that match:\n  allow web (policy.yaml:2), decides\n"));
    let (code, said, notes) = explain("--from spiffe://prod.example/web --to :9011");
    assert_eq!(code, 1);
    assert_eq!(
        said,
        "DENIED by default (no allow rule matches)\n  nearest: web (policy.yaml:2)\n           lacked: port 9011 is not in `to.ports`: 8080, 9000-9010\n"
    );
    assert!(notes.contains("--from-address was not given") && notes.contains("--to has no address"), "{notes}");
    let (code, said, _) = explain("--from spiffe://prod.example/web --to :8080 --from-address 10.9.1.1");
    assert!(code == 1 && said.starts_with("DENIED by not-from-lab (policy.yaml:11)\n"), "{said}");
    assert!(said.contains("  allow web (policy.yaml:2)\n  deny  not-from-lab (policy.yaml:11), decides\n"), "{said}");
    // Saturday.
    let (code, said, _) = explain("--from spiffe://prod.example/ops --to :22 --at 2026-01-31T14:30:00Z");
    assert!(code == 1 && said.contains("lacked: `when` does not hold: time.weekday <= 5"), "{said}");
    assert!(said.contains("audit watch-22 (policy.yaml:14)"), "{said}");
    let (code, said, _) = explain("--from spiffe://prod.example/ops --to :22 --at 2026-01-30T14:30:00Z --json");
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &answer["allowed"], &answer["remarks"][0]["says"]), (0, &true.into(), &"audit".into()));
    assert_eq!(answer["matching"][0], serde_json::json!({ "rule": "office-hours (policy.yaml:6)", "action": "allow", "dryRun": false }));
    let (code, _, errors) = explain("--from web --to :22");
    assert!(code == 2 && errors.contains("`web` is not a SPIFFE ID"), "{errors}");
    let (code, said, _) = explain("--to :8080 --from-address 10.1.0.1");
    assert_eq!((code, said.as_str()), (0, "allowed by mode permissive\n"));
}

/// With a configuration the answer is the sidecar's: modes of ports, what destinations cover, who may answer there.
#[test]
fn explain_with_a_configuration_names_what_decided() {
    let folder = folder();
    let config = "
policy: { files: [policy.yaml] }
inbound: { ports: [{ port: 80, mode: permissive, reason: x }, { port: 81-90, mode: plaintext, reason: x }], listeners: [{ listen: '127.0.0.1:7001', to: '127.0.0.1:70' }] }
redirect: { inbound: { excludePorts: [2222] } }
outbound:
  destinations:
    - { name: db, cidrs: [10.1.0.0/16], ports: [5432], spiffeIds: ['spiffe://prod.example/db'] }
    - { name: cache, dns: [cache.svc] }
    - { name: rest, cidrs: [10.0.0.0/8] }
  listeners: [{ name: mail, listen: '127.0.0.1:7025', to: '10.2.0.1:25' }]
";
    std::fs::write(folder.path().join("sidegate.yaml"), config).unwrap();
    let explain = |rest: &str| policy(folder.path(), &format!("explain --config sidegate.yaml {rest}"));
    let web = "--from spiffe://prod.example/web";
    for (arguments, code, wanted) in [
        ("--to :8080", 1, "DENIED by mode strict\n  every other port has mode strict by `inbound.defaultMode`\n"),
        (
            "--to :80",
            0,
            "allowed by mode permissive\n  port 80 has mode permissive by `inbound.ports[0]`\n  it is in plaintext on the network\n",
        ),
        (
            "--to :85 --from spiffe://prod.example/web",
            0,
            "allowed by mode plaintext\n  port 81-90 has mode plaintext by `inbound.ports[1]`\n",
        ),
        ("--to 127.0.0.1:9005", 1, "DENIED: 127.0.0.1:9005 is not an address of this pod that others may reach\n"),
        ("--to 127.0.0.1:70", 1, "DENIED by mode strict\n"),
        ("--to 10.0.0.7:15006", 1, "DENIED: 10.0.0.7:15006 is sidegate itself\n"),
        (
            "--outbound --to 192.0.2.1:1 --resolved cache.svc=10.3.0.1",
            1,
            "DENIED by outbound.otherwise: refuse\n  no destination covers 192.0.2.1:1\n",
        ),
        ("--outbound --to 192.0.2.1:1", 1, "DENIED: `cache.svc` has not been resolved yet, so it is not known where 192.0.2.1:1 belongs\n"),
        (
            "--to 10.1.0.9:5432 --server spiffe://prod.example/db",
            0,
            "allowed by destination db\n  it goes to destination db, `outbound.destinations[0]`\n",
        ),
        (
            "--to 10.1.0.9:5432 --server spiffe://prod.example/x",
            1,
            "DENIED by destination db\n  it goes to destination db, `outbound.destinations[0]`\n  expected spiffe://prod.example/db\n",
        ),
        ("--to 10.3.0.1:1 --server spiffe://prod.example/x --resolved cache.svc=10.3.0.1", 0, "allowed by destination cache\n"),
        ("--to 10.2.0.1:25 --destination mail", 0, "allowed by destination mail\n  it goes to destination mail, `outbound.listeners[0]`\n"),
    ] {
        let from = if arguments.contains("--server") { web } else { "" };
        let (got, said, errors) = explain(&format!("{arguments} {from}"));
        assert!(got == code && said.starts_with(wanted), "{arguments}: {got}\n{said}{errors}");
    }
    for (arguments, mistake) in [
        ("--to 10.9.0.1:5432 --destination db", "destination `db` does not get 10.9.0.1:5432: destination `rest` does"),
        ("--to 10.1.0.1:5433 --destination db", "destination `db` does not get 10.1.0.1:5433: destination `rest` does"),
        ("--to 10.1.0.1:5432 --destination rest", "destination `rest` does not get 10.1.0.1:5432: destination `db` does"),
        ("--to 192.0.2.1:1 --destination db", "destination `db` does not cover 192.0.2.1:1, nor does another"),
        ("--to 10.2.0.2:25 --destination mail", "outbound listener `mail` leads to 10.2.0.1:25, not to 10.2.0.2:25"),
        ("--to :25 --outbound", "--to has no address, which says where a connection from the workload goes"),
    ] {
        let (code, said, errors) = explain(arguments);
        assert!(code == 2 && said.is_empty() && errors.contains(mistake), "{arguments}: {said}{errors}");
    }
    let (_, _, notes) = explain("--to 10.9.0.1:80 --destination cache");
    assert!(notes.contains("`cache.svc` is taken to stand for the address, since nothing is resolved here"), "{notes}");
    let (_, _, notes) = explain("--to 10.0.0.7:2222");
    assert!(notes.contains("the kernel rules leave this connection out, by section `redirect`"), "{notes}");
    let (_, _, notes) = policy(folder.path(), "explain --policy policy.yaml --to :80");
    assert!(notes.contains("without a configuration the modes of ports, and what destinations cover, are not considered"), "{notes}");
    let (_, said, _) = explain("--to :8080 --json");
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&answer["allowed"], &answer["reason"]), (&false.into(), &"plaintext_refused".into()));
    assert_eq!(answer["port"], serde_json::json!({ "ports": "1-65535", "mode": "strict", "key": "inbound.defaultMode" }));
}

#[test]
fn test_holds_a_policy_against_expectations() {
    let folder = folder();
    let suite = "expectations:
  - { name: web calls, from: 'spiffe://prod.example/web', to: ':8080', expect: allow, rule: web }
  - { name: web from the lab, from: 'spiffe://prod.example/web', fromAddress: 10.9.0.1, to: ':8080', expect: deny, rule: not-from-lab }
  - { name: ops by day, from: 'spiffe://prod.example/ops', to: ':22', expect: allow }
  - { name: ops by night, from: 'spiffe://prod.example/ops', to: ':22', at: '2026-01-30T03:00:00Z', expect: deny }
";
    std::fs::write(folder.path().join("suite.yaml"), suite).unwrap();
    let test = |rest: &str| policy(folder.path(), &format!("test --policy policy.yaml {rest}"));
    let (code, said, errors) = test("suite.yaml --require-coverage");
    assert_eq!((code, said.as_str()), (0, "4 expectations met, 0 failed; 4 of 4 rules covered\n"), "{errors}");
    let wrong = "expectations:
  - { name: web may, from: 'spiffe://prod.example/web', to: ':8081', expect: allow }
  - { name: web by ops, from: 'spiffe://prod.example/web', to: ':8080', expect: allow, rule: office-hours }
";
    std::fs::write(folder.path().join("wrong.yaml"), wrong).unwrap();
    let (code, said, _) = test("wrong.yaml");
    assert_eq!(code, 1);
    for line in [
        "FAILED wrong.yaml:2:5: web may\n  expected to be allowed, is denied by default (no allow rule matches)\n  nearest: web (policy.yaml:2)\n",
        "FAILED wrong.yaml:3:5: web by ops\n  expected to be decided by office-hours (policy.yaml:6), is by web (policy.yaml:2)\n",
        "3 rules that no expectation covers:\n  office-hours (policy.yaml:6)\n  not-from-lab (policy.yaml:11)\n  watch-22 (policy.yaml:14)\n",
        "0 expectations met, 2 failed; 1 of 4 rules covered\n",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    let (code, said, _) = test("wrong.yaml suite.yaml --json");
    let outcomes: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &outcomes["uncovered"]), (1, &serde_json::json!([])), "suites together");
    assert_eq!(outcomes["expectations"][0]["place"], "wrong.yaml:2:5");
    // All of it holds, and still a rule has no expectation.
    std::fs::write(folder.path().join("one.yaml"), suite.lines().take(2).collect::<Vec<_>>().join("\n")).unwrap();
    assert_eq!(test("one.yaml").0, 0);
    assert_eq!(test("one.yaml --require-coverage").0, 1);
    let bad = "expectations:
  - { name: a, to: '5432', expect: allow }
  - { name: b, to: ':1', expect: maybe, rule: web }
  - { name: c, to: ':1', expect: deny, server: 'spiffe://a.b/x' }
";
    std::fs::write(folder.path().join("bad.yaml"), bad).unwrap();
    let (code, said, errors) = test("bad.yaml");
    assert_eq!((code, said.as_str()), (2, ""));
    for line in ["bad.yaml:2:20: expectations[0].to: `5432` is not an address and port", "bad.yaml:3:34: expectations[1].expect: `maybe`"] {
        assert!(errors.contains(line), "{line}\n{errors}");
    }
    std::fs::write(folder.path().join("bad.yaml"), "expectations:\n  - { name: a, to: ':1', expect: deny, rule: wep }\n").unwrap();
    let (code, _, errors) = test("bad.yaml");
    assert!(code == 2 && errors.contains("expectations[0].rule: the policy has no rule `wep`"), "{errors}");
    std::fs::write(folder.path().join("bad.yaml"), "expectations: []\n").unwrap();
    let (code, _, errors) = test("bad.yaml");
    assert!(code == 2 && errors.contains("bad.yaml:1:15: expectations: there is none; write at least one"), "{errors}");
}

/// A record as the access log writes it.
fn record(peer: Option<&str>, port: u16, allowed: bool, reason: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = format!("{:032x}", NEXT.fetch_add(1, Ordering::Relaxed));
    let rule = if allowed { "old (old.yaml:2)" } else { "default (no allow rule matches)" };
    let record = serde_json::json!({
        "connectionId": id, "time": "2026-01-30T14:30:00.000000Z", "direction": "inbound",
        "downstream": "10.1.0.1:40000", "originalDestination": format!("10.0.0.7:{port}"), "peerId": peer,
        "localId": "spiffe://prod.example/api", "decision": { "allowed": allowed, "rule": rule }, "reason": reason,
        "tls": peer.map(|_| serde_json::json!({ "version": "1.3", "cipher": "c", "group": null, "resumed": true })),
        "peerCertificate": peer.map(|_| serde_json::json!({ "serial": "01", "sha256": "00", "notBefore": "2026-01-01T00:00:00Z", "notAfter": "2033-05-18T03:33:20Z" })),
    });
    record.to_string()
}

#[test]
fn replay_and_suggest_read_what_was_recorded() {
    let folder = folder();
    let (web, ops, lab) = ("spiffe://prod.example/web", "spiffe://prod.example/ops", "spiffe://prod.example/lab");
    let twice = record(Some(web), 7000, true, "closed");
    let lines = [
        record(Some(web), 8080, true, "closed"),
        // What was taken out of an audit log has it under `connection`, and perhaps twice.
        format!("{{ \"sequence\": 7, \"connection\": {twice} }}"),
        record(Some(web), 7000, true, "upstream_reset"),
        record(Some(ops), 22, false, "denied_by_default"),
        record(Some(lab), 8080, false, "denied_by_default"),
        record(None, 8080, true, "closed"),
        record(Some(web), 8080, true, "prepared"),
        "{ \"sequence\": 8, \"configuration\": {} }".to_owned(),
        "not JSON".to_owned(),
        "{ \"connectionId\": \"x\", \"direction\": \"inbound\" }".to_owned(),
        String::new(),
        format!("{{ \"sequence\": 9, \"connection\": {twice} }}"),
    ];
    std::fs::write(folder.path().join("log"), lines.join("\n")).unwrap();
    let (code, said, errors) = policy(folder.path(), "replay --audit log --policy policy.yaml");
    assert_eq!(code, 1, "{errors}");
    for line in [
        "2 x  spiffe://prod.example/web -> :7000, first 2026-01-30T14:30:00Z\n  before: allowed by old (old.yaml:2)\n  now:    DENIED by default",
        "    nearest: web (policy.yaml:2)\n",
        "1 x  spiffe://prod.example/ops -> :22, first",
        "  before: DENIED by default (no allow rule matches)\n  now:    allowed by office-hours (policy.yaml:6)\n    audit watch-22",
        "3 of 6 connections would be decided differently",
        "read: 6 connections, 1 that policy had not decided, 1 other line, 2 unreadable",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(errors.contains("log:9: left out: the line is not JSON") && errors.contains("log:10: left out: it is not"), "{errors}");
    let (code, said, _) = policy(folder.path(), "replay --audit log --policy policy.yaml --json");
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, answer["differences"].as_array().unwrap().len(), &answer["read"]["unreadable"]), (1, 2, &2.into()));

    // What is suggested is good, and decides as it was; with what was denied it allows that too.
    let (code, suggested, _) = policy(folder.path(), "suggest --audit log");
    assert_eq!(code, 0);
    assert!(suggested.contains("- \"spiffe://prod.example/web\"\n    to: { ports: [7000, 8080] }\n"), "{suggested}");
    for comment in ["1 x plaintext from 10.1.0.1 to port 8080", "Left out, since it was denied: 1 x spiffe://prod.example/lab to port 8080"]
    {
        assert!(suggested.contains(comment), "{suggested}");
    }
    std::fs::write(folder.path().join("suggested.yaml"), &suggested).unwrap();
    assert_eq!(policy(folder.path(), "check --policy suggested.yaml").0, 0);
    let (code, said, _) = policy(folder.path(), "replay --audit log --policy suggested.yaml");
    assert!(code == 0 && said.contains("0 of 6 connections would be decided differently"), "{said}");
    let (_, suggested, _) = policy(folder.path(), "suggest --audit log --include-denied");
    assert!(suggested.contains(lab) && suggested.contains(ops), "{suggested}");

    std::fs::write(folder.path().join("empty"), "{}\n").unwrap();
    for command in ["replay --policy policy.yaml", "suggest"] {
        let (code, said, errors) = policy(folder.path(), &format!("{command} --audit empty"));
        assert!(code == 2 && said.is_empty() && errors.contains("there is no connection"), "{errors}");
        assert_eq!(policy(folder.path(), &format!("{command} --audit none")).0, 2);
    }
}
