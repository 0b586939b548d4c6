//! What is missing, slow or hostile.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api_server::Says;
use crate::node::{has_rules, injected, node};

/// Each failure leaves a pod without rules that does not start, and says what to do.
#[test]
fn without_the_api_servers_answer_no_pod_starts() {
    let Some(mut node) = node() else { return };
    let pod = node.network.pod("web").unwrap();
    let add = node.call("ADD", &pod, "web");
    // Two seconds, of which a silent API server has one. One that answers has the time that a busy machine needs.
    let hurried = add.clone().input("timeout", json!("2s"));
    for (says, part) in [
        (Says::Status(404), "knows no pod shop/web"),
        (Says::Status(403), "its role may get pods"),
        (Says::Status(503), "it answers 503"),
        (Says::Text("{"), "its answer is no JSON"),
        (Says::Nothing, "did not answer within 1 s"),
    ] {
        node.api_server.say("shop", "web", says);
        let start = Instant::now();
        let (code, why) = node.fails(if part.contains("did not answer") { &hurried } else { &add });
        assert!(code == 11 && why.contains(part), "{code} {why}");
        assert!(start.elapsed() < Duration::from_secs(30), "{part}");
    }
    // A port that nobody listens on, and one that takes connections and says nothing.
    let silent = node.network.switch().run(|| std::net::TcpListener::bind("127.0.0.1:0")).unwrap().unwrap();
    let address = silent.local_addr().unwrap();
    let (code, why) = node.fails(&hurried.clone().input("apiServer", json!(format!("https://{address}"))));
    assert!(code == 11 && why.contains("did not answer within 1 s"), "{code} {why}");
    drop(silent);
    let (code, why) = node.fails(&add.clone().input("apiServer", json!(format!("https://{address}"))));
    assert!(code == 11 && why.contains("can't be asked"), "{code} {why}");
    // A token that is not valid any more, a CA of another server, and files that are gone.
    node.record(&injected("web", 9000));
    std::fs::write(&node.api_server.token_file, "old").unwrap();
    let (code, why) = node.fails(&add);
    assert!(code == 11 && why.contains("it answers 401") && why.contains("sidegate-cni install"), "{code} {why}");
    assert!(!why.contains("old"), "{why}");
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap().cert.pem();
    std::fs::write(&node.api_server.ca_file, other).unwrap();
    let (code, why) = node.fails(&add);
    assert!(code == 11 && why.contains("invalid peer certificate"), "{code} {why}");
    std::fs::write(&node.api_server.ca_file, "no certificate").unwrap();
    assert!(node.fails(&add).1.contains("it has no certificate"));
    std::fs::remove_file(&node.api_server.ca_file).unwrap();
    let (code, why) = node.fails(&add);
    assert!(code == 5 && why.contains("ca.crt"), "{code} {why}");
    let (code, why) = node.fails(&node.call("STATUS", &pod, "web"));
    assert!(code == 50 && why.contains("ca.crt"), "{code} {why}");
    assert!(!has_rules(&pod));
}

#[test]
fn without_nft_no_pod_starts() {
    let Some(mut node) = node() else { return };
    let pod = node.network.pod("web").unwrap();
    node.record(&injected("web", 9000));
    let (code, why) = node.fails(&node.call("ADD", &pod, "web").with("PATH", "/nowhere"));
    assert!(code == 103 && why.contains("install the package nftables"), "{code} {why}");
    let (code, why) = node.fails(&node.call("STATUS", &pod, "web").with("PATH", "/nowhere"));
    assert!(code == 50 && why.contains("install the package nftables"), "{code} {why}");

    // One that hangs does not keep the runtime waiting, and does not go on when the plugin has given up.
    let nft = node.folder.path().join("nft");
    let pid = node.folder.path().join("pid");
    std::fs::write(&nft, format!("#!/bin/sh\necho $$ > {}\nexec sleep 600\n", pid.display())).unwrap();
    std::fs::set_permissions(&nft, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", node.folder.path().display(), std::env::var("PATH").unwrap());
    let start = Instant::now();
    let (code, why) = node.fails(&node.call("ADD", &pod, "web").input("timeout", json!("10s")).with("PATH", &path));
    assert!(code == 11 && why.contains("it was not done within 10 s"), "{code} {why}");
    assert!(start.elapsed() < Duration::from_secs(30));
    let process = std::fs::read_to_string(&pid).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    // It may be a zombie until the first process has noticed.
    let runs = || std::fs::read_to_string(format!("/proc/{}/cmdline", process.trim())).is_ok_and(|line| !line.is_empty());
    while runs() {
        assert!(Instant::now() < end, "nft goes on");
        std::thread::yield_now();
    }
    assert!(!has_rules(&pod));
}

/// What an author could write into annotations never becomes a part of a command, and makes no rules.
#[test]
fn a_hostile_configuration_is_refused() {
    let Some(mut node) = node() else { return };
    let pod = node.network.pod("web").unwrap();
    let add = node.call("ADD", &pod, "web");
    let marker = node.folder.path().join("marker");
    let shell = format!("$(touch {0}); `touch {0}`", marker.display());
    for config in [
        json!({ "redirect": { "dnsResolvers": [shell] } }).to_string(),
        json!({ "redirect": { "outbound": { "excludeCidrs": ["10.0.0.0/8 accept; } chain x {"] } } }).to_string(),
        json!({ "redirect": { "inbound": { "excludePorts": ["80 accept\n}\ndelete table inet sidegate"] } } }).to_string(),
        json!({ "redirect": { "exemptUid": "0\ninclude \"/etc/shadow\"" } }).to_string(),
        json!({ "redirect": { "exemptUid": 4_294_967_295_u32 } }).to_string(),
        "{ redirect: { exemptUid: 1337 ".to_owned(),
        "&a [*a]".to_owned(),
        "[".repeat(200_000),
        "x".repeat(300_000),
        format!("{{ redirect: {{ dnsResolvers: [{}] }} }}", "10.0.0.1,".repeat(20_000)),
    ] {
        let mut recorded = injected("web", 9000);
        recorded["metadata"]["annotations"]["sidegate.dev/config"] = json!(config);
        node.record(&recorded);
        let (code, why) = node.fails(&add);
        assert!(code == 102 && why.len() < 100_000, "{code} {} {why:.500}", why.len());
    }
    // Without a configuration, and with a word that is none of ours.
    for (annotation, value) in [("sidegate.dev/config", Value::Null), ("sidegate.dev/rules", json!("CNI"))] {
        let mut recorded = injected("web", 9000);
        recorded["metadata"]["annotations"][annotation] = value;
        node.record(&recorded);
        assert_eq!(node.fails(&add).0, 102);
    }
    // An answer without end.
    node.api_server.say("shop", "web", Says::Pod(json!({ "metadata": { "annotations": { "a": "x".repeat(5 << 20) } } })));
    let (code, why) = node.fails(&add);
    assert!(code == 11 && why.contains("length limit"), "{code} {why}");
    assert!(!has_rules(&pod) && !marker.exists());
}
