//! `sidegate policy explain` says what the sidecar does: random configurations, real connections, and both asked about each.
//!
//! `SIDEGATE_TEST_SEED=7` makes the same configurations again.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;
use sidegate_tests::{Echo, Identities, PodMesh, Sidecar, exchange, free_port, id, require, sidegate};

const HOUR: Duration = Duration::from_secs(3600);
const PLAINTEXT: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// What `explain` answers with the configuration of the sidecar `name`.
fn explain(folder: &Path, name: &str, arguments: &[String]) -> Value {
    let mut command = Command::new(sidegate());
    command.args(["policy", "explain", "--json", "--config"]).arg(folder.join(format!("{name}.yaml"))).args(arguments);
    let output = command.output().unwrap();
    let answer: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)));
    let code = if answer["reason"].is_null() { 0 } else { 1 };
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {answer}");
    answer
}

fn arguments(pairs: &[(&str, &Value)]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned();
    pairs.iter().flat_map(|(name, value)| [format!("--{name}"), text(value)]).collect()
}

/// Compares what was recorded of a connection with what is answered.
fn same(answer: &Value, record: &Value, context: &str, seen: &mut BTreeMap<String, usize>) {
    let context = || format!("{context}\nanswer: {answer:#}\nrecord: {record:#}");
    if record["decision"].is_null() {
        assert_eq!(answer["reason"], record["reason"], "{}", context());
    } else {
        for key in ["allowed", "rule", "nearest", "remarks"] {
            assert_eq!(answer[key], record["decision"][key], "{key} {}", context());
        }
        if answer["allowed"] == false {
            assert_eq!(answer["reason"], record["reason"], "{}", context());
        }
    }
    if answer["transport"].is_string() && record["transport"].is_string() {
        assert_eq!(answer["transport"], record["transport"], "{}", context());
    }
    *seen.entry(answer["reason"].as_str().unwrap_or("allowed").to_owned()).or_default() += 1;
    *seen.entry(format!("by {}", answer["rule"].as_str().unwrap_or_default().split(" (").next().unwrap())).or_default() += 1;
}

fn one<'a>(random: &mut Rng, of: &[&'a str]) -> &'a str {
    of[random.usize(..of.len())]
}

/// Rules about connections to the workload; `ports` are those that may be named.
fn rules_inbound(random: &mut Rng, ports: &[u16]) -> String {
    let mut text = String::from("rules:\n");
    for n in 0..random.usize(1..6) {
        let action = one(random, &["allow", "allow", "allow", "deny", "audit"]);
        let who = one(random, &["spiffe://test.sidegate/web", "spiffe://test.sidegate/other", "spiffe://test.sidegate/*"]);
        let mut from = if action == "deny" && random.bool() { String::new() } else { format!("spiffeIds: ['{who}'], ") };
        from += one(
            random,
            &["", "", "cidrs: [127.0.0.0/8], ", "cidrs: [10.0.0.0/8], ", "not: { spiffeIds: ['spiffe://test.sidegate/web'] }, "],
        );
        let port = ports[random.usize(..ports.len())];
        let to = one(random, &["", "to: { ports: [PORT] }, ", "to: { ports: [1-65535], cidrs: [127.0.0.1] }, "])
            .replace("PORT", &port.to_string());
        let when = one(random, &["", "", "when: peer.id.endsWith('/web'), ", "when: time.year > 2000, "]);
        let dry = one(random, &["", "", "", "dryRun: true, "]);
        writeln!(text, "  - {{ name: in{n}, action: {action}, from: {{ {from}}}, {to}{when}{dry}}}").unwrap();
    }
    text
}

/// Rules about connections from the workload to the destinations `to-0` and so on.
fn rules_outbound(random: &mut Rng, destinations: usize) -> String {
    let mut text = String::from("rules:\n  - { name: none, action: deny, to: { destinations: [elsewhere] } }\n");
    for n in 0..random.usize(..3) {
        let (action, to) = (one(random, &["allow", "deny", "audit"]), random.usize(..destinations));
        let when = one(random, &["", "when: peer.id.endsWith('/api'), ", "when: peer.id.endsWith('/x'), "]);
        writeln!(text, "  - {{ name: out{n}, action: {action}, to: {{ destinations: [to-{to}] }}, {when}}}").unwrap();
    }
    text
}

fn configuration(identities: &Identities, name: &str, policy: &str, rest: &str) -> String {
    let file = format!("{name}.policy.yaml");
    std::fs::write(identities.folder().join(&file), policy).unwrap();
    let socket = identities.socket(name);
    format!(
        "profile: development\nidentity: {{ sources: [{{ workloadApi: {{ socket: 'unix://{}' }} }}] }}\npolicy: {{ files: [{file}] }}\n{rest}",
        socket.display()
    )
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

fn seed() -> u64 {
    std::env::var("SIDEGATE_TEST_SEED").map_or(1, |seed| seed.parse().unwrap())
}

/// Modes of ports, policy for clients with and without identity, expected servers, policy towards them: by explicit listeners.
#[test]
fn explain_says_what_the_data_path_does() {
    let echoes: Vec<Echo> = (0..4).map(|_| Echo::start()).collect();
    let ports: Vec<u16> = echoes.iter().map(|echo| echo.address.port()).collect();
    let identities = Identities::start(&["api", "web", "other"], HOUR);
    let folder = identities.folder();
    let mut random = Rng::with_seed(seed());
    let mut seen = BTreeMap::new();
    for round in 0..12 {
        let (entries, doors): (Vec<_>, Vec<_>) = ports.iter().map(|_| (loopback(), loopback())).unzip();
        let mut inbound =
            format!("inbound:\n  listen: null\n  defaultMode: {}\n  ports:\n", one(&mut random, &["strict", "permissive", "plaintext"]));
        for port in ports.iter().filter(|_| random.u8(..3) > 0).collect::<Vec<_>>() {
            writeln!(inbound, "    - {{ port: {port}, mode: {} }}", one(&mut random, &["strict", "strict", "permissive", "plaintext"]))
                .unwrap();
        }
        if inbound.ends_with("ports:\n") {
            inbound.truncate(inbound.len() - "  ports:\n".len());
        }
        inbound += "  listeners:\n";
        let mut outbound = String::from("outbound:\n  listen: null\n  listen6: null\n  listeners:\n");
        for (n, echo) in echoes.iter().enumerate() {
            writeln!(inbound, "    - {{ listen: '{}', to: '{}' }}", doors[n], echo.address).unwrap();
            let who =
                one(&mut random, &["spiffeIds: ['spiffe://test.sidegate/api'], ", "spiffeIds: ['spiffe://test.sidegate/x'], ", "", ""]);
            writeln!(outbound, "    - {{ name: to-{n}, listen: '{}', to: '{}', {who}tunnel: off }}", entries[n], doors[n]).unwrap();
        }
        let client = one(&mut random, &["web", "web", "other"]);
        let server = configuration(
            &identities,
            "api",
            &rules_inbound(&mut random, &ports),
            &format!("{inbound}outbound: {{ listen: null, listen6: null }}\n"),
        );
        let caller = configuration(
            &identities,
            client,
            &rules_outbound(&mut random, ports.len()),
            &format!("{outbound}inbound: {{ listen: null }}\n"),
        );
        let (api, web) = (Sidecar::start(folder, "api", &server), Sidecar::start(folder, client, &caller));
        api.wait_ready();
        web.wait_ready();
        let policies = ["api", client].map(|name| std::fs::read_to_string(folder.join(format!("{name}.policy.yaml"))).unwrap());
        let context = format!("seed {}, round {round}\n{server}\n{}\n{caller}\n{}", seed(), policies[0], policies[1]);
        for (n, entry) in entries.iter().enumerate() {
            // Without an identity, straight to the sidecar of the server.
            let _ = exchange(doors[n], PLAINTEXT);
            let record = api.wait_records(2 * n + 1)[2 * n].clone();
            let from = arguments(&[("from-address", &"127.0.0.1".into()), ("to", &record["originalDestination"])]);
            same(&explain(folder, "api", &from), &record, &context, &mut seen);
            // By the sidecar of the client.
            let _ = exchange(*entry, PLAINTEXT);
            let (left, arrived) = (web.wait_records(n + 1)[n].clone(), api.wait_records(2 * n + 2)[2 * n + 1].clone());
            let me = Value::from(id(client));
            let mut goes = true;
            if left["peerId"].is_string() {
                let to = [
                    ("from", &me),
                    ("destination", &left["destination"]),
                    ("to", &left["originalDestination"]),
                    ("server", &left["peerId"]),
                ];
                let answer = explain(folder, client, &arguments(&to));
                same(&answer, &left, &context, &mut seen);
                goes = answer["allowed"] == true;
            }
            // Where its own sidecar does not let it go on, the server's may not have come to a decision.
            if goes || !arrived["decision"].is_null() {
                let from = [("from", &me), ("from-address", &"127.0.0.1".into()), ("to", &arrived["originalDestination"])];
                same(&explain(folder, "api", &arguments(&from)), &arrived, &context, &mut seen);
            }
        }
    }
    for kind in [
        "allowed",
        "denied_by_rule",
        "denied_by_default",
        "plaintext_refused",
        "unexpected_peer",
        "by mode permissive",
        "by mode plaintext",
        "by mode strict",
    ] {
        assert!(seen.contains_key(kind), "{kind} was never seen: {seen:#?}");
    }
}

/// Which destination an address meets, by blocks, ports and names that do not resolve, and what becomes of the others: as the kernel's
/// redirection brings them.
#[test]
fn explain_says_which_destination_an_address_meets() {
    if !require() {
        return;
    }
    let names = ["p0", "p1", "p2", "p3", "p4", "p5"];
    let mut mesh = PodMesh::new(&names, HOUR);
    let targets = [mesh.bare("a"), mesh.bare("b")];
    let addresses: Vec<IpAddr> = targets.iter().flat_map(|pod| [IpAddr::from(pod.ipv4()), IpAddr::from(pod.ipv6())]).collect();
    let mut random = Rng::with_seed(seed());
    let mut seen = BTreeMap::new();
    for (at, name) in names.into_iter().enumerate() {
        let mut outbound = format!("outbound:\n  otherwise: {}\n  destinations:\n", ["refuse", "passthrough"][at % 2]);
        for n in 0..random.usize(1..5) {
            let cidrs =
                [addresses[random.usize(..4)].to_string(), "10.77.0.0/16".to_owned(), "'fd77::/64'".to_owned(), "192.0.2.0/24".to_owned()];
            let place = match random.u8(..8) {
                0 => String::new(),
                1..=3 => "dns: [never.invalid], ".to_owned(),
                _ => format!("cidrs: ['{}'], ", cidrs[random.usize(..4)].trim_matches('\'')),
            };
            let ports = one(&mut random, &["", "ports: [4001], ", "ports: [4000, 4002-4003], ", "ports: [9], "]);
            writeln!(outbound, "    - {{ name: d{n}, {place}{ports}}}").unwrap();
        }
        let pod = mesh.workload(name, &[], &outbound);
        let sidecar = pod.start();
        sidecar.wait_ready();
        for (n, (address, port)) in addresses.iter().flat_map(|address| (4000..4003_u16).map(move |port| (*address, port))).enumerate() {
            let to = SocketAddr::new(address, port);
            // Nobody listens there: what is let go is refused by the other pod.
            let connect = move || {
                drop(TcpStream::connect_timeout(&to, Duration::from_secs(10)).map(|mut tcp| std::io::Read::read(&mut tcp, &mut [0])))
            };
            pod.pod.run(connect).unwrap();
            let record = sidecar.wait_records(n + 1)[n].clone();
            assert_eq!(record["originalDestination"], to.to_string());
            let me = Value::from(id(name));
            let mut question = arguments(&[("from", &me), ("to", &to.to_string().into())]);
            question.push("--outbound".to_owned());
            let answer = explain(mesh.identities.folder(), name, &question);
            let context = format!("seed {}, {name}\n{outbound}\nanswer: {answer:#}\nrecord: {record:#}", seed());
            assert_eq!(answer["destination"], record["destination"], "{context}");
            match answer["reason"].as_str() {
                Some(reason) => {
                    assert_eq!(record["reason"], reason, "{context}");
                    assert_eq!(answer["detail"], record["detail"], "{context}");
                    assert_eq!(answer["rule"], record["decision"]["rule"], "{context}");
                }
                None => {
                    assert_eq!(record["reason"], "dial_refused", "{context}");
                    if answer["destination"].is_null() {
                        assert_eq!(answer["rule"], record["decision"]["rule"], "{context}");
                    }
                }
            }
            let kind = answer["reason"].as_str().unwrap_or(if answer["destination"].is_null() { "passthrough" } else { "destination" });
            *seen.entry(kind.to_owned()).or_insert(0) += 1;
        }
    }
    for kind in ["destination", "not_in_mesh", "not_ready", "passthrough"] {
        assert!(seen.contains_key(kind), "{kind} was never seen: {seen:#?}");
    }
}
