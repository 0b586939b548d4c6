//! The specification's own tool, `cnitool`, with the chain of a real runtime. SIDEGATE_TEST_CNITOOL names it, and needs the reference
//! plugins in CNI_PATH or /usr/lib/cni.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::node::{Node, PLUGIN, differences, has_rules, injected, node, plain, plan_of};

#[test]
fn cnitool_adds_checks_and_deletes() {
    let Ok(tool) = std::env::var("SIDEGATE_TEST_CNITOOL") else {
        println!("SKIPPED: SIDEGATE_TEST_CNITOOL does not name cnitool (go install github.com/containernetworking/cni/cnitool@v1.3.0)");
        return;
    };
    let Some(mut node) = node() else { return };
    let folder = node.folder.path().to_owned();
    let ipam = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.99.0.0/24" }]], "dataDir": folder.join("ipam") });
    let list = json!({
        "cniVersion": "1.0.0", "name": "sidegate-test",
        "plugins": [{ "type": "ptp", "ipam": ipam }, node.entry()]
    });
    std::fs::create_dir(folder.join("net.d")).unwrap();
    std::fs::write(folder.join("net.d/10-test.conflist"), list.to_string()).unwrap();
    let plugins = std::env::var("CNI_PATH").unwrap_or_else(|_| "/usr/lib/cni".to_owned());
    let path = format!("{}:{plugins}", std::path::Path::new(PLUGIN).parent().unwrap().display());
    let cnitool = |node: &Node, command: &str, namespace: &str, name: &str| {
        let mut process = Command::new(&tool);
        process.args([command, "sidegate-test", namespace]).env("CNI_PATH", &path).env("NETCONFPATH", folder.join("net.d"));
        // The namespace has an eth0 already.
        process
            .env("CNI_IFNAME", "eth7")
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};K8S_POD_UID=uid-of-{name}"));
        process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = node.network.switch().spawn_process(process).unwrap().wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    let (web, other) = (node.network.pod("web").unwrap(), node.network.pod("other").unwrap());
    let [web_path, other_path] = [&web, &other].map(|pod| pod.netns_path().display().to_string());
    let recorded = injected("web", 9000);
    node.record(&recorded);
    node.record(&plain("other"));
    for (name, namespace) in [("web", &web_path), ("other", &other_path)] {
        let (done, text) = cnitool(&node, "add", namespace, name);
        assert!(done, "{text}");
        let result: Value = serde_json::from_str(&text).unwrap();
        assert!(result["ips"][0]["address"].as_str().unwrap().starts_with("10.99.0."), "{text}");
        let (done, text) = cnitool(&node, "check", namespace, name);
        assert!(done, "{text}");
    }
    assert_eq!(differences(&web, &plan_of(&recorded)), []);
    assert!(!has_rules(&other));
    web.run(|| Command::new("nft").args(["delete", "table", "inet", "sidegate"]).status()).unwrap().unwrap();
    let (done, text) = cnitool(&node, "check", &web_path, "web");
    assert!(!done && text.contains("its kernel rules are not those of the pod"), "{text}");
    for (name, namespace) in [("web", &web_path), ("other", &other_path), ("web", &web_path)] {
        let (done, text) = cnitool(&node, "del", namespace, name);
        assert!(done, "{text}");
    }
    // A pod whose rules can't be made does not start, and says why.
    let mut broken = recorded;
    broken["metadata"]["annotations"]["sidegate.dev/config"] = json!("{ redirect: 7 }");
    node.record(&broken);
    let (done, text) = cnitool(&node, "add", &web_path, "web");
    assert!(!done && text.contains("the pod's configuration can't be used"), "{text}");
    assert!(cnitool(&node, "del", &web_path, "web").0);
}
