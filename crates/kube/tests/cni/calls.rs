//! The commands of the specification.

use std::process::Command;

use serde_json::{Value, json};

use crate::node::{Call, differences, has_rules, injected, node, plain, plan_of, refusal};

#[test]
fn a_pod_gets_its_rules_and_the_result_passes_as_it_came() {
    let Some(mut node) = node() else { return };
    let pod = node.network.pod("web").unwrap();
    let recorded = injected("web", 9000);
    node.record(&recorded);
    let add = node.call("ADD", &pod, "web");
    assert_eq!(node.succeeds(&add), add.previous());
    assert_eq!(differences(&pod, &plan_of(&recorded)), []);
    // A runtime may call again.
    assert_eq!(node.succeeds(&add), add.previous());
    let check = node.call("CHECK", &pod, "web");
    assert_eq!(node.succeeds(&check), "");
    // Nothing is taken away while a container of the pod could still send something.
    for command in ["DEL", "DEL", "GC"] {
        assert_eq!(node.succeeds(&node.call(command, &pod, "web")), "");
    }
    assert_eq!(differences(&pod, &plan_of(&recorded)), []);
    // Somebody takes a part of the rules away.
    let flushed = pod.run(|| Command::new("nft").args(["delete", "chain", "inet", "sidegate", "proof"]).status()).unwrap().unwrap();
    assert!(flushed.success());
    let (code, why) = node.fails(&check);
    assert!(code == 104 && why.contains("missing: `chain proof`"), "{code} {why}");
    pod.run(|| Command::new("nft").args(["delete", "table", "inet", "sidegate"]).status()).unwrap().unwrap();
    assert_eq!(node.fails(&check).0, 104);
    assert!(!has_rules(&pod), "a check repairs nothing");
}

#[test]
fn results_of_all_versions_pass() {
    let Some(mut node) = node() else { return };
    for (at, version) in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"].into_iter().enumerate() {
        let name = format!("web{at}");
        let pod = node.network.pod(&name).unwrap();
        node.record(&injected(&name, 9000));
        let mut add = node.call("ADD", &pod, &name).input("cniVersion", json!(version));
        add.input["prevResult"]["cniVersion"] = json!(version);
        // Some plugins don't say which interface has an address.
        add.input["prevResult"]["ips"][0].as_object_mut().unwrap().remove("interface");
        assert_eq!(node.succeeds(&add), add.previous());
        assert!(has_rules(&pod));
    }
}

#[test]
fn pods_that_are_not_injected_are_left_alone() {
    let Some(mut node) = node() else { return };
    let pod = node.network.pod("web").unwrap();
    node.record(&plain("web"));
    let add = node.call("ADD", &pod, "web");
    assert_eq!(node.succeeds(&add), add.previous());
    // One whose rules an init container makes.
    let mut by_container = injected("web", 9000);
    by_container["metadata"]["annotations"].as_object_mut().unwrap().remove("sidegate.dev/rules");
    node.record(&by_container);
    assert_eq!(node.succeeds(&add), add.previous());
    assert_eq!(node.succeeds(&node.call("CHECK", &pod, "web")), "");
    let asked = node.api_server.requests().len();
    assert_eq!(asked, 3);
    // Without asking: namespaces that are excluded, and what is no pod of Kubernetes.
    for arguments in ["K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns;K8S_POD_UID=u", "IgnoreUnknown=1", ""] {
        assert_eq!(node.succeeds(&add.clone().with("CNI_ARGS", arguments)), add.previous());
    }
    assert_eq!(node.api_server.requests().len(), asked);
    assert!(!has_rules(&pod));
}

#[test]
fn a_namespace_that_is_not_the_pods_own_is_refused() {
    let Some(mut node) = node() else { return };
    let (pod, other) = (node.network.pod("web").unwrap(), node.network.pod("other").unwrap());
    node.record(&injected("web", 9000));
    let add = node.call("ADD", &pod, "web");
    let switch = node.network.switch();
    let refused = |call: &Call, part: &str| {
        let (code, why) = node.fails(call);
        assert!(code == 100 && why.contains(part) && why.ends_with("no rules were made"), "{code} {why}");
        for pod in [&pod, &other, switch] {
            assert!(!has_rules(pod), "{part}");
        }
    };
    let switch_path = switch.netns_path().display().to_string();
    refused(&add.clone().with("CNI_NETNS", &switch_path), "the network namespace of the node");
    refused(&add.clone().with("CNI_NETNS", "/proc/self/ns/net"), "the network namespace of the node");
    refused(&add.clone().with("CNI_NETNS", &other.netns_path().display().to_string()), "it is the namespace of another pod");
    refused(&add.clone().with("CNI_NETNS", "/dev/null"), "it is no namespace");
    refused(&add.clone().with("CNI_NETNS", "/run/netns/no-such"), "can't be opened");
    refused(&add.clone().with("CNI_NETNS", "/proc/self/ns/uts"), "can't be entered as a network namespace");
    refused(&add.clone().with("CNI_IFNAME", "lo"), "names no address on lo");
    let mut more = add.clone();
    more.input["prevResult"]["ips"].as_array_mut().unwrap().push(json!({ "address": "10.77.0.99/24" }));
    refused(&more, "does not have 10.77.0.99");
    // The right one works, so each refusal above was for its reason.
    node.succeeds(&add);
}

#[test]
fn another_pod_of_the_same_name_is_refused() {
    let Some(mut node) = node() else { return };
    let pod = node.network.pod("web").unwrap();
    let mut recorded = injected("web", 9000);
    recorded["metadata"]["uid"] = json!("uid-of-its-successor");
    node.record(&recorded);
    let (code, why) = node.fails(&node.call("ADD", &pod, "web"));
    assert!(code == 101 && why.contains("uid-of-its-successor"), "{code} {why}");
    assert!(!has_rules(&pod));
}

/// Rules that are there are those of a pod that runs: they are never replaced.
#[test]
fn rules_of_another_pod_stay() {
    let Some(mut node) = node() else { return };
    let pod = node.network.pod("web").unwrap();
    let (first, second) = (injected("web", 9000), injected("web", 9001));
    node.record(&first);
    let add = node.call("ADD", &pod, "web");
    node.succeeds(&add);
    node.record(&second);
    let (code, why) = node.fails(&add);
    assert!(code == 104 && why.contains("its kernel rules are not those of the pod"), "{code} {why}");
    assert_eq!(differences(&pod, &plan_of(&first)), []);
}

#[test]
fn many_pods_at_once_get_their_own_rules() {
    let Some(mut node) = node() else { return };
    let pods: Vec<_> =
        (0..8_u16).map(|at| (node.network.pod(&format!("web{at}")).unwrap(), injected(&format!("web{at}"), 9000 + at))).collect();
    for (_, recorded) in &pods {
        node.record(recorded);
    }
    let calls: Vec<_> = pods.iter().map(|(pod, recorded)| node.call("ADD", pod, recorded["metadata"]["name"].as_str().unwrap())).collect();
    let children: Vec<_> = calls.iter().map(|call| node.start(call)).collect();
    for (child, call) in children.into_iter().zip(&calls) {
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), call.previous());
    }
    for (pod, recorded) in &pods {
        assert_eq!(differences(pod, &plan_of(recorded)), []);
    }
}

#[test]
fn what_the_plugin_supports_is_told() {
    let Some(mut node) = node() else { return };
    let pod = node.network.pod("web").unwrap();
    let version = node.call("VERSION", &pod, "web");
    let answer: Value = serde_json::from_str(&node.succeeds(&version)).unwrap();
    assert_eq!(answer, json!({ "cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] }));
    assert_eq!(node.succeeds(&node.call("STATUS", &pod, "web")), "");
    assert!(node.api_server.requests().is_empty(), "a runtime asks every few seconds");
    let add = node.call("ADD", &pod, "web");
    for (call, code, part) in [
        (add.clone().with("CNI_COMMAND", "REMOVE"), 4, "CNI_COMMAND is `REMOVE`"),
        (add.clone().with("CNI_NETNS", "").with("CNI_IFNAME", "a/b"), 4, "CNI_NETNS is missing; CNI_IFNAME is `a/b`"),
        (add.clone().with("CNI_ARGS", "K8S_POD_NAME=web"), 4, "CNI_ARGS has not all of"),
        (add.clone().with("CNI_ARGS", "K8S_POD_NAMESPACE=..;K8S_POD_NAME=/;K8S_POD_UID=x"), 4, "is no name of a pod"),
        (add.clone().input("cniVersion", json!("2.0.0")), 1, "`2.0.0` is not supported"),
        (add.clone().input("cniVersion", Value::Null), 1, "`0.1.0` is not supported"),
        (add.clone().input("chained", json!(true)), 2, "`chained: true`"),
        (add.clone().input("apiServer", json!("http://127.0.0.1")), 7, "it has to be https"),
        (add.clone().input("timeout", json!("soon")), 7, "timeout"),
        (add.clone().input("prevResult", Value::Null), 7, "chain it after the plugin"),
        (add.clone().input("cniVersion", json!([])), 6, "names no cniVersion"),
    ] {
        let (found, why) = node.fails(&call);
        assert!(found == code && why.contains(part), "{found} {why}");
    }
    let mut garbage = add;
    garbage.input = json!("text");
    assert_eq!(node.fails(&garbage).0, 6);
    // What is released succeeds whatever else is wrong.
    for command in ["DEL", "GC"] {
        assert_eq!(node.succeeds(&garbage.clone().with("CNI_COMMAND", command).with("CNI_NETNS", "")), "");
    }
    assert!(node.api_server.requests().is_empty() && !has_rules(&pod));
    let output = node.run(&garbage.with("CNI_COMMAND", ""));
    assert_eq!(refusal(&output).0, 4);
}
