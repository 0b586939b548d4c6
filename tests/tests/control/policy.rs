//! Policy in running sidecars: directories that change, rules about connections from the workload, what records say, and the
//! commands on the log of a real run.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sidegate_tests::{Echo, Identities, Pair, Sidecar, client_config, echo_bytes, eventually, free_port, id, server_config, sidegate};

const HOUR: Duration = Duration::from_secs(3600);

fn reloads(sidecar: &Sidecar, outcome: &str) -> f64 {
    sidecar.metric(&format!("sidegate_policy_reloads_total{{sidegate_outcome=\"{outcome}\"}}"))
}

/// Waits for so many reloads.
#[track_caller]
fn reloaded(sidecar: &Sidecar, outcome: &str, count: f64) {
    eventually("the reload", || (reloads(sidecar, outcome) >= count).then_some(()));
}

fn allow(name: &str, who: &str) -> String {
    format!("rules:\n  - name: {name}\n    action: allow\n    from: {{ spiffeIds: ['{}'] }}\n", id(who))
}

/// A directory as Kubernetes mounts a ConfigMap: what changes is one link, behind which all files are others.
fn publish(mount: &Path, version: &str, files: &[(&str, String)]) {
    let data = mount.join(format!("..{version}"));
    std::fs::create_dir_all(&data).unwrap();
    for (name, text) in files {
        std::fs::write(data.join(name), text).unwrap();
        let link = mount.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    symlink(format!("..{version}"), mount.join("..data_tmp")).unwrap();
    std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
}

/// Puts a file into a directory that is watched, all of it at once.
fn put(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(".new"), text).unwrap();
    std::fs::rename(directory.join(".new"), directory.join(name)).unwrap();
}

/// web and api as in [`Pair`], whose policies are the files or directories that are named.
fn pair_with(service: SocketAddr, api_policy: Option<&Path>, web_policy: Option<&Path>, identities: Identities) -> Pair {
    let loopback = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let (entry, port) = (loopback(), loopback());
    let folder = identities.folder();
    let mut server = server_config(&identities, port, service);
    if let Some(path) = api_policy {
        server = server.replace(&folder.join("api.policy.yaml").display().to_string(), &path.display().to_string());
    }
    let mut client = client_config(&identities, entry, port);
    if let Some(path) = web_policy {
        client += &format!("policy: {{ files: ['{}'] }}\n", path.display());
    }
    let api = Sidecar::start(folder, "api", &server);
    let web = Sidecar::start(folder, "web", &client);
    api.wait_ready();
    web.wait_ready();
    Pair { identities, web, api, entry, port }
}

#[test]
fn a_directory_is_a_policy_and_its_changes_count() {
    let echo = Echo::start();
    let identities = Identities::start(&["web", "api"], HOUR);
    let mount = identities.folder().join("policies");
    std::fs::create_dir(&mount).unwrap();
    publish(&mount, "1", &[("10-web.yaml", allow("web", "web"))]);
    let pair = pair_with(echo.address, Some(&mount), None, identities);
    let api = &pair.api;
    let passes = || echo_bytes(pair.entry, 100, 1).is_ok();
    assert!(passes());

    // All files are others, by one link.
    publish(&mount, "2", &[("10-web.yaml", allow("other", "other"))]);
    reloaded(api, "success", 1.0);
    let denied = api.reason_of("denied_by_default", || {
        passes();
    });
    let nearest = &denied["decision"]["nearest"][0];
    assert!(nearest["rule"].as_str().unwrap().starts_with("other ("), "{denied}");
    assert!(nearest["lacked"].as_str().unwrap().contains("/web is not in `from`"), "{denied}");

    // A file comes.
    put(&mount, "20-more.yml", &allow("more", "web"));
    reloaded(api, "success", 2.0);
    eventually("to be let in", || passes().then_some(()));

    // A bad one comes, beside the good: the last good policy stays, and the log says where the mistake is.
    put(&mount, "30-bad.yaml", "rules:\n  - name: bad\n    action: deny\n    when: peer.nam == 'x'\n");
    reloaded(api, "failure", 1.0);
    assert!(passes());
    eventually("the report", || api.log().contains("30-bad.yaml:4:11: rules[0].when: `peer` has no `nam`").then_some(()));
    std::fs::remove_file(mount.join("30-bad.yaml")).unwrap();
    reloaded(api, "success", 3.0);

    // A file goes.
    std::fs::remove_file(mount.join("20-more.yml")).unwrap();
    reloaded(api, "success", 4.0);
    eventually("the denial", || (!passes()).then_some(()));
}

#[test]
fn rules_that_name_destinations_are_about_connections_from_the_workload() {
    let echo = Echo::start();
    let identities = Identities::start(&["web", "api"], HOUR);
    let file = identities.folder().join("web.policy.yaml");
    let rule = |rest: &str| format!("rules:\n  - {{ name: to-api, {rest} }}\n");
    let server = format!("action: allow, to: {{ destinations: [api] }}, when: peer.id == '{}' && local.id == '{}'", id("api"), id("web"));
    std::fs::write(&file, rule(&server)).unwrap();
    let pair = pair_with(echo.address, None, Some(&file), identities);
    let by = |record: serde_json::Value| record["decision"]["rule"].as_str().unwrap().to_owned();
    echo_bytes(pair.entry, 100, 1).unwrap();
    assert!(by(pair.web.reason("closed")).starts_with("to-api ("));

    put(pair.identities.folder(), "web.policy.yaml", &rule(&server.replace("peer.id ==", "peer.id !=")));
    reloaded(&pair.web, "success", 1.0);
    let denied = pair.web.reason_of("denied_by_default", || drop(echo_bytes(pair.entry, 100, 2)));
    assert!(denied["decision"]["nearest"][0]["lacked"].as_str().unwrap().starts_with("`when` does not hold"), "{denied}");

    put(pair.identities.folder(), "web.policy.yaml", &rule("action: deny, to: { destinations: [api] }"));
    reloaded(&pair.web, "success", 2.0);
    assert!(by(pair.web.reason_of("denied_by_rule", || drop(echo_bytes(pair.entry, 100, 3)))).starts_with("to-api ("));

    // A rule about another destination, or about connections to the workload, does not matter here.
    put(
        pair.identities.folder(),
        "web.policy.yaml",
        "rules:\n  - { name: in, action: deny }\n  - { name: x, action: deny, to: { destinations: [x] } }\n",
    );
    reloaded(&pair.web, "success", 3.0);
    eventually("to be let out", || echo_bytes(pair.entry, 100, 4).is_ok().then_some(()));
    pair.web.record("the destination's own decision", |r| r["decision"]["rule"] == "destination api");
}

/// Runs `sidegate policy ARGUMENTS` in `folder`: exit code and standard output.
fn policy(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(sidegate()).arg("policy").args(arguments).current_dir(folder).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr))
}

/// What was recorded is what the commands read: they say of it what the sidecars had decided.
#[test]
fn the_log_of_a_real_run_is_replayed_and_becomes_a_policy() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    (0..3).for_each(|seed| echo_bytes(pair.entry, 100, seed).unwrap());
    pair.set_policy(&format!(
        "{}  - {{ name: look, action: audit }}\n  - {{ name: soon, action: deny, dryRun: true }}\n",
        allow("other", "other")
    ));
    reloaded(&pair.api, "success", 1.0);
    let denied = pair.api.reason_of("denied_by_default", || drop(echo_bytes(pair.entry, 100, 3)));
    let says: Vec<_> = denied["decision"]["remarks"].as_array().unwrap().iter().map(|remark| remark["says"].as_str().unwrap()).collect();
    assert_eq!(says, ["audit", "wouldDeny"]);
    let let_in = pair.api.records().iter().filter(|r| r["decision"]["allowed"] == true).count();

    let folder = pair.identities.folder();
    let records: Vec<String> = pair.api.records().iter().chain(&pair.web.records()).map(ToString::to_string).collect();
    std::fs::write(folder.join("log"), records.join("\n")).unwrap();
    let port = echo.address.port();
    let (code, suggested) = policy(folder, &["suggest", "--audit", "log"]);
    assert_eq!(code, 0, "{suggested}");
    assert!(suggested.contains(&format!("- \"{}\"\n    to: {{ ports: [{port}] }}\n", id("web"))), "{suggested}");
    assert!(suggested.contains(&format!("# {let_in} connections\n")), "{suggested}");
    assert!(suggested.contains(&format!("# Take care: {} to port {port} was also denied", id("web"))), "{suggested}");
    std::fs::write(folder.join("suggested.yaml"), &suggested).unwrap();
    assert_eq!(policy(folder, &["check", "--policy", "suggested.yaml"]), (0, "1 rule, nothing to object to\n".to_owned()));

    // The suggestion lets in what was denied in between, and nothing else is decided differently.
    let (code, said) = policy(folder, &["replay", "--audit", "log", "--policy", "suggested.yaml", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    let differences = answer["differences"].as_array().unwrap();
    assert_eq!((code, differences.len()), (1, 1), "{said}");
    assert_eq!((&differences[0]["before"]["allowed"], &differences[0]["now"]["allowed"]), (&false.into(), &true.into()));
    assert_eq!((&answer["read"]["unreadable"], &answer["read"]["otherLines"]), (&0.into(), &0.into()));

    // Without that nothing is, of either sidecar's connections.
    let allowed = records.iter().filter(|record| !record.contains("denied_by_default")).cloned().collect::<Vec<_>>();
    std::fs::write(folder.join("log"), allowed.join("\n")).unwrap();
    let (code, said) = policy(folder, &["replay", "--audit", "log", "--policy", "suggested.yaml"]);
    assert!(code == 0 && said.starts_with("0 of "), "{said}");
}
