//! Pods, before and after.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use serde_json::{Value, json};
use sidegate_config::Config;
use sidegate_config::schema::Mode;
use sidegate_kube::{
    ANNOTATIONS, CONFIG, ControllerConfig, RESTORE, RULES, Rules, SidecarConfig, check_sidecar, inject, is_injected, uninject,
};

fn settings() -> SidecarConfig {
    let text = "
sidecar:
  image: registry.example/sidegate:0.1.0
  config:
    outbound: { destinations: [{ name: cluster, cidrs: [10.0.0.0/8] }] }
    redirect: { dnsResolvers: [10.96.0.10] }
";
    sidegate_config::typed::<ControllerConfig>("controller.yaml", text).unwrap().0.sidecar
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "web", "annotations": { "other.example/note": "kept" } },
        "spec": {
            "initContainers": [{ "name": "migrate", "image": "web:1", "securityContext": { "runAsUser": 1000 } }],
            "containers": [{
                "name": "web", "image": "web:1", "aFieldOfTomorrow": { "kept": true },
                "ports": [{ "name": "http", "containerPort": 8080 }, { "containerPort": 9090 }],
                "securityContext": { "runAsUser": 1000, "capabilities": { "drop": ["CHOWN"] } },
                "readinessProbe": { "httpGet": { "path": "/ready", "port": "http", "httpHeaders": [{ "name": "X-A", "value": "b" }] }, "periodSeconds": 3 },
                "livenessProbe": { "grpc": { "port": 9090, "service": "shop" }, "timeoutSeconds": 5 },
                "startupProbe": { "exec": { "command": ["true"] } }
            }, {
                "name": "helper", "image": "helper:1",
                "securityContext": { "runAsNonRoot": true, "capabilities": { "drop": ["ALL"] } },
                "livenessProbe": { "tcpSocket": { "port": 7000 } }
            }]
        }
    })
}

fn configuration(pod: &Value) -> Config {
    let text = pod["metadata"]["annotations"][CONFIG].as_str().unwrap();
    sidegate_config::parse("sidegate.yaml", text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

fn annotate(pod: &mut Value, name: &str, value: &str) {
    pod["metadata"]["annotations"][name] = json!(value);
}

fn refusal(pod: &Value) -> String {
    let mut changed = pod.clone();
    let refusals = inject(&mut changed, &settings()).unwrap_err();
    assert_eq!(&changed, pod, "a pod that is refused is as it was");
    refusals.to_string()
}

#[test]
fn a_pod_gets_its_sidecar_before_everything_else() {
    let mut pod = pod();
    assert_eq!(inject(&mut pod, &settings()).unwrap(), Vec::<String>::new());
    let names: Vec<&str> = pod["spec"]["initContainers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["sidegate-redirect", "sidegate", "migrate"]);
    let sidecar = &pod["spec"]["initContainers"][1];
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert_eq!(sidecar["startupProbe"]["httpGet"], json!({ "path": "/startupz", "port": 15020 }));
    // Pod Security `restricted`.
    assert_eq!(
        sidecar["securityContext"],
        json!({
            "runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true, "privileged": false, "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
        })
    );
    assert_eq!(pod["spec"]["initContainers"][0]["securityContext"]["capabilities"], json!({ "add": ["NET_ADMIN"], "drop": ["ALL"] }));
    // Every volume that is mounted is there, and no container but ours has one of ours.
    let volumes: Vec<&Value> = pod["spec"]["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).collect();
    for mount in sidecar["volumeMounts"].as_array().unwrap() {
        assert!(volumes.contains(&&mount["name"]), "{mount}");
    }
    assert!(pod["spec"]["containers"].as_array().unwrap().iter().all(|container| container["volumeMounts"].is_null()));
    assert_eq!(pod["spec"]["containers"][0]["aFieldOfTomorrow"], json!({ "kept": true }));
    let config = configuration(&pod);
    assert_eq!((config.outbound.destinations[0].name.as_str(), config.inbound.default_mode), ("cluster", Mode::Strict));
    assert!(config.admin.listen.unwrap().0.ip().is_unspecified());
}

#[test]
fn probes_of_strict_ports_are_asked_by_the_sidecar() {
    let mut pod = pod();
    inject(&mut pod, &settings()).unwrap();
    let web = &pod["spec"]["containers"][0];
    assert_eq!(web["readinessProbe"], json!({ "httpGet": { "path": "/probe/web/readiness", "port": 15020 }, "periodSeconds": 3 }));
    assert_eq!(web["livenessProbe"], json!({ "httpGet": { "path": "/probe/web/liveness", "port": 15020 }, "timeoutSeconds": 5 }));
    assert_eq!(web["startupProbe"], json!({ "exec": { "command": ["true"] } }), "the kubelet runs it in the container");
    let config = serde_json::to_value(configuration(&pod).admin.probes).unwrap();
    let entry = |path: &str| config.as_array().unwrap().iter().find(|probe| probe["path"] == path).unwrap();
    let readiness = entry("/probe/web/readiness");
    assert_eq!((&readiness["http"]["port"], &readiness["http"]["path"]), (&json!(8080), &json!("/ready")));
    assert_eq!(readiness["http"]["headers"][0]["name"], "X-A");
    let liveness = entry("/probe/web/liveness");
    assert_eq!(
        (&liveness["grpc"]["port"], &liveness["grpc"]["service"], &liveness["timeout"]),
        (&json!(9090), &json!("shop"), &json!("4s900ms"))
    );
    assert_eq!(entry("/probe/helper/liveness")["tcp"]["port"], 7000);

    // The kubelet reaches a port of mode plaintext itself.
    let mut pod = self::pod();
    annotate(&mut pod, "sidegate.dev/inbound-ports", "[{ port: 8080, mode: plaintext, reason: 'health checks' }]");
    inject(&mut pod, &settings()).unwrap();
    assert_eq!(pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"], "http");

    let mut pod = self::pod();
    pod["spec"]["containers"][1]["livenessProbe"] = json!({ "tcpSocket": { "port": "nowhere" } });
    assert!(refusal(&pod).contains("container `helper`: its livenessProbe probe is for port `nowhere`"), "{}", refusal(&pod));
}

#[test]
fn injecting_twice_is_injecting_once_and_uninject_undoes_it() {
    for pod in [pod(), json!({ "metadata": {}, "spec": { "containers": [{ "name": "a", "image": "a" }] } })] {
        let mut once = pod.clone();
        inject(&mut once, &settings()).unwrap();
        let mut twice = once.clone();
        inject(&mut twice, &settings()).unwrap();
        assert_eq!(once, twice);
        assert!(is_injected(&once) && !is_injected(&pod));
        uninject(&mut twice).unwrap();
        assert_eq!(twice, pod);
        uninject(&mut twice).unwrap();
        assert_eq!(twice, pod, "one that was not injected stays as it is");
    }
}

#[test]
fn annotations_of_a_pod_come_before_the_clusters_configuration() {
    let mut pod = pod();
    annotate(&mut pod, "sidegate.dev/destinations", "[{ name: db, cidrs: [10.1.0.0/16], spiffeIds: ['spiffe://a.b/db'] }]");
    annotate(&mut pod, "sidegate.dev/default-mode", "{ mode: permissive, reason: 'clients move' }");
    annotate(&mut pod, "sidegate.dev/policy", "web-policy");
    annotate(&mut pod, "sidegate.dev/log-filter", "warn");
    annotate(&mut pod, "sidegate.dev/resources", "limits: { memory: 64Mi }");
    pod["spec"]["dnsConfig"] = json!({ "nameservers": ["10.0.0.53", "10.96.0.10"] });
    let warnings = inject(&mut pod, &settings()).unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("dnsConfig names 10.0.0.53"), "{warnings:?}");
    let config = configuration(&pod);
    let names: Vec<&str> = config.outbound.destinations.iter().map(|destination| destination.name.as_str()).collect();
    assert_eq!(names, ["db", "cluster"]);
    assert_eq!((config.inbound.default_mode, config.policy.files.len(), config.redirect.dns_resolvers.len()), (Mode::Permissive, 1, 1));
    let sidecar = &pod["spec"]["initContainers"][1];
    assert_eq!(sidecar["resources"]["limits"]["memory"], "64Mi");
    assert!(sidecar["env"].as_array().unwrap().contains(&json!({ "name": "SIDEGATE_LOG", "value": "warn" })));
    let volume = pod["spec"]["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "sidegate-policy").unwrap();
    assert_eq!(volume["configMap"]["name"], "web-policy");
    assert_eq!(pod["spec"]["containers"][0]["livenessProbe"]["grpc"]["port"], 9090, "a permissive port lets the kubelet in");
}

/// What a workload could use to get around its sidecar.
#[test]
fn who_could_get_around_the_sidecar_is_refused() {
    let with = |field: &str, value: Value| {
        let mut pod = pod();
        pod["spec"][field] = value;
        pod
    };
    let container = |context: Value| with("containers", json!([{ "name": "web", "image": "web", "securityContext": context }]));
    for (pod, why) in [
        (with("hostNetwork", json!(true)), "hostNetwork"),
        (with("shareProcessNamespace", json!(true)), "shareProcessNamespace"),
        (with("hostPID", json!(true)), "hostPID"),
        (with("hostIPC", json!(true)), "hostIPC"),
        (with("os", json!({ "name": "windows" })), "os `windows`"),
        (with("securityContext", json!({ "runAsUser": 1337 })), "`helper` runs as user 1337"),
        (container(json!({ "runAsUser": 1337 })), "`web` runs as user 1337"),
        (container(json!({ "privileged": true })), "`web` has privileged: true"),
        (container(json!({ "capabilities": { "add": ["CAP_NET_ADMIN"] } })), "`web` has CAP_NET_ADMIN"),
        (container(json!({ "capabilities": { "add": ["net_raw"] } })), "`web` has net_raw"),
        (container(json!({ "capabilities": { "add": ["ALL"] } })), "`web` has ALL"),
        (with("initContainers", json!([{ "name": "sidegate", "image": "mine" }])), "container `sidegate` has a name"),
        (with("volumes", json!([{ "name": "sidegate-run", "emptyDir": {} }])), "volume `sidegate-run` has a name"),
        (with("containers", json!([{ "name": "web", "ports": [{ "containerPort": 15006 }] }])), "has port 15006"),
        (container(json!({ "capabilities": { "drop": ["ALL"], "add": ["SETUID"] } })), "`web` has SETUID"),
        (
            with("containers", json!([{ "name": "web", "volumeMounts": [{ "name": "sidegate-run", "mountPath": "/x" }] }])),
            "`web` mounts `sidegate-run`",
        ),
        (
            with("containers", json!([{ "name": "web", "lifecycle": { "postStart": { "httpGet": { "port": 80 } } } }])),
            "its postStart hook asks port 80",
        ),
        (with("containers", json!("none")), "this is no pod"),
    ] {
        assert!(refusal(&pod).contains(why), "{why}: {}", refusal(&pod));
    }
    // All of it at once.
    let mut pod = container(json!({ "runAsUser": 1337, "privileged": true }));
    annotate(&mut pod, "sidegate.dev/inbound-ports", "8080");
    assert_eq!(refusal(&pod).lines().count(), 3, "{}", refusal(&pod));

    // In writing, with a warning.
    let mut pod = container(json!({ "runAsUser": 1000, "capabilities": { "add": ["NET_RAW"] } }));
    annotate(&mut pod, "sidegate.dev/exceptions", "{ capabilities: 'it pings' }");
    assert_eq!(inject(&mut pod, &settings()).unwrap(), ["sidegate: container web has NET_RAW: it pings"]);
    assert_eq!(pod["spec"]["containers"][0]["securityContext"]["capabilities"], json!({ "add": ["NET_RAW"] }));
}

/// Root with the capabilities that runtimes give can become the sidecar's user: not refused, for many images begin as root.
#[test]
fn who_can_become_the_sidecars_user_is_a_warning() {
    for (pods, own, warns) in [
        (json!({}), json!({}), true),
        (json!({}), json!({ "runAsUser": 0 }), true),
        (json!({ "runAsUser": 5 }), json!({}), false),
        (json!({ "runAsNonRoot": true }), json!({}), false),
        (json!({}), json!({ "capabilities": { "drop": ["CAP_SETUID"] } }), false),
        (json!({}), json!({ "capabilities": { "drop": ["all"] } }), false),
    ] {
        let mut pod =
            json!({ "metadata": {}, "spec": { "securityContext": pods, "containers": [{ "name": "a", "securityContext": own }] } });
        let warnings = inject(&mut pod, &settings()).unwrap();
        assert_eq!(warnings.iter().any(|warning| warning.contains("become user 1337")), warns, "{pod}");
    }
}

#[test]
fn a_pod_says_more_of_its_ports_than_the_cluster() {
    let text = "sidecar: { image: x, config: { inbound: { ports: [{ port: 9090, mode: plaintext, reason: scrape }, { port: 80 }] } } }";
    let settings = sidegate_config::typed::<ControllerConfig>("c", text).unwrap().0.sidecar;
    let mut pod = pod();
    annotate(&mut pod, "sidegate.dev/inbound-ports", "[{ port: 9090 }]");
    inject(&mut pod, &settings).unwrap();
    let ports: Vec<(u16, Mode)> = configuration(&pod).inbound.ports.iter().map(|port| (port.port.0.first, port.mode)).collect();
    assert_eq!(ports, [(9090, Mode::Strict), (80, Mode::Strict)]);
}

/// With the plugin that makes the rules, a pod is as Pod Security `restricted` wants it.
#[test]
fn with_the_cni_plugin_no_container_has_a_privilege() {
    let settings = SidecarConfig { rules: Rules::Cni, ..settings() };
    let mut pod = json!({ "metadata": {}, "spec": { "containers": [{ "name": "web", "image": "web", "securityContext": {
        "runAsUser": 1000, "runAsNonRoot": true, "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
    } }] } });
    let before = pod.clone();
    inject(&mut pod, &settings).unwrap();
    assert_eq!(pod["metadata"]["annotations"][RULES], "cni");
    let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array().unwrap().clone());
    let names: Vec<&str> = lists.iter().flatten().map(|container| container["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["sidegate", "web"]);
    for container in lists.iter().flatten() {
        let context = &container["securityContext"];
        assert_eq!((&context["runAsNonRoot"], &context["allowPrivilegeEscalation"]), (&json!(true), &json!(false)), "{container}");
        assert_eq!((&context["capabilities"]["drop"], &context["capabilities"]["add"]), (&json!(["ALL"]), &json!(null)), "{container}");
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{container}");
        assert!(context["runAsUser"].as_u64().unwrap() > 0 && context["privileged"] != true, "{container}");
    }
    let volumes = pod["spec"]["volumes"].as_array().unwrap().iter();
    for kind in volumes.flat_map(|volume| volume.as_object().unwrap().keys().filter(|key| *key != "name")) {
        assert!(["csi", "downwardAPI", "emptyDir", "configMap"].contains(&kind.as_str()), "{kind}");
    }
    // Another injection, with other settings, leaves nothing of this one.
    let mut again = pod.clone();
    inject(&mut again, &self::settings()).unwrap();
    assert!(again["metadata"]["annotations"][RULES].is_null());
    assert_eq!(again["spec"]["initContainers"][0]["name"], "sidegate-redirect");
    uninject(&mut pod).unwrap();
    assert_eq!(pod, before);
    // An author can't say it: only the injector knows what the nodes have.
    annotate(&mut pod, RULES, "cni");
    assert!(inject(&mut pod, &settings).unwrap_err().to_string().contains("`sidegate.dev/rules` is not known"));
}

/// The reference, the manifest and their configurations are those of the code.
#[test]
fn the_documents_are_true() {
    let read = |path: &str| std::fs::read_to_string(format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let reference = read("docs/reference/injection.md");
    let table = reference.split("<!-- annotations -->").nth(1).unwrap().split("<!-- /annotations -->").next().unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect())
        .collect();
    let said: Vec<(String, &str)> = rows.iter().map(|row| (row[0].trim_matches('`').to_owned(), row[1])).collect();
    let known: Vec<(String, &str)> = ANNOTATIONS.iter().map(|(name, text)| ((*name).to_owned(), *text)).collect();
    assert_eq!(said, known);
    // All examples together make a pod.
    let mut pod = pod();
    for row in &rows {
        annotate(&mut pod, row[0].trim_matches('`'), row[2].trim_matches('`'));
    }
    inject(&mut pod, &settings()).unwrap();

    let controller = |text: &str| {
        let config =
            sidegate_config::typed::<ControllerConfig>("controller.yaml", text).unwrap_or_else(|problems| panic!("{problems}\n{text}")).0;
        check_sidecar(&config.sidecar).unwrap();
        config
    };
    let example = reference.split("```yaml controller\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(controller(example).webhook.is_some());
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let manifest: Vec<Value> = serde_saphyr::from_multiple_with_options(&read("deploy/kubernetes/injector.yaml"), options).unwrap();
    let map = manifest.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    let webhook = controller(map["data"]["controller.yaml"].as_str().unwrap()).webhook.unwrap();
    let of_kind = |kind: &str| manifest.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"));
    // The same port and the same files in configuration, deployment, service and webhook.
    let container = &of_kind("Deployment")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["ports"][0]["containerPort"], webhook.listen.0.port());
    let mounts: Vec<&str> =
        container["volumeMounts"].as_array().unwrap().iter().map(|mount| mount["mountPath"].as_str().unwrap()).collect();
    for file in [&webhook.certificate, &webhook.key] {
        assert!(mounts.iter().any(|mount| file.starts_with(mount)), "{}", file.display());
    }
    for hook in of_kind("MutatingWebhookConfiguration")["webhooks"].as_array().unwrap() {
        assert_eq!(hook["clientConfig"]["service"]["path"], "/inject");
        assert_eq!(hook["clientConfig"]["service"]["name"], of_kind("Service")["metadata"]["name"]);
        assert_eq!((&hook["failurePolicy"], &hook["sideEffects"]), (&json!("Fail"), &json!("None")));
    }
    // Every object is one, by the types of Kubernetes' API.
    let _: k8s_openapi::api::apps::v1::Deployment = serde_json::from_value(of_kind("Deployment").clone()).unwrap();
    let _: k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration =
        serde_json::from_value(of_kind("MutatingWebhookConfiguration").clone()).unwrap();
    let _: k8s_openapi::api::networking::v1::NetworkPolicy = serde_json::from_value(of_kind("NetworkPolicy").clone()).unwrap();
}

#[test]
fn what_runtimes_give_by_default_is_dropped() {
    let mut pod = pod();
    inject(&mut pod, &settings()).unwrap();
    let drop = |list: &str, at: usize| pod["spec"][list][at]["securityContext"]["capabilities"]["drop"].clone();
    assert_eq!(drop("containers", 0), json!(["CHOWN", "NET_RAW"]));
    assert_eq!(drop("containers", 1), json!(["ALL"]));
    assert_eq!(drop("initContainers", 2), json!(["NET_RAW"]));
}

/// What others change after the injection stays when it is made again, and when it is undone.
#[test]
fn what_others_have_changed_stays() {
    let mut pod = pod();
    inject(&mut pod, &settings()).unwrap();
    let web = &mut pod["spec"]["containers"][0];
    web["securityContext"]["readOnlyRootFilesystem"] = json!(true);
    web["readinessProbe"] = json!({ "exec": { "command": ["ready"] } });
    pod["spec"]["initContainers"][2]["securityContext"]["capabilities"]["drop"].as_array_mut().unwrap().push(json!("ALL"));
    inject(&mut pod, &settings()).unwrap();
    let hardened = json!({ "runAsUser": 1000, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["CHOWN", "NET_RAW"] } });
    assert_eq!(pod["spec"]["containers"][0]["securityContext"], hardened);
    assert_eq!(pod["spec"]["containers"][0]["readinessProbe"], json!({ "exec": { "command": ["ready"] } }));
    assert_eq!(pod["spec"]["initContainers"][2]["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
    uninject(&mut pod).unwrap();
    let hardened = json!({ "runAsUser": 1000, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["CHOWN"] } });
    assert_eq!(pod["spec"]["containers"][0]["securityContext"], hardened);
}

/// A webhook has one thread and little memory, and many who may create pods.
#[test]
fn what_would_take_long_is_refused_at_once() {
    let start = std::time::Instant::now();
    let mut pod = pod();
    let pattern = format!("[a{{b=(x|y)*x{}}}]=info", "(x|y)".repeat(40));
    annotate(&mut pod, "sidegate.dev/log-filter", &pattern);
    let _ = inject(&mut pod.clone(), &settings());
    annotate(&mut pod, "sidegate.dev/log-filter", "info");
    annotate(&mut pod, &format!("sidegate.dev/{}", "x".repeat(200_000)), "");
    assert!(refusal(&pod).len() < 1000);
    annotate(&mut pod, "sidegate.dev/inbound-ports", &"[".repeat(300_000));
    assert!(refusal(&pod).contains("Kubernetes allows 262144"));
    assert!(start.elapsed().as_secs() < 20, "a pattern was compiled");
}

/// An author who writes what the injector writes gets no more than any other.
#[test]
fn a_forged_restore_is_no_way_around() {
    let mut pod = pod();
    annotate(
        &mut pod,
        RESTORE,
        r#"{"probes":{"web":{"readinessProbe":{"exec":{}},"securityContext":{"privileged":true}}},"dropped":{"web":7}}"#,
    );
    let mut forged = pod.clone();
    inject(&mut forged, &settings()).unwrap();
    assert!(forged["spec"]["containers"][0]["securityContext"]["privileged"].is_null());
    assert_eq!(forged["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"], "/probe/web/readiness");
    annotate(&mut pod, RESTORE, "{");
    assert!(inject(&mut pod.clone(), &settings()).unwrap_err().to_string().contains("can't be read"));
    let mut pod = self::pod();
    annotate(&mut pod, CONFIG, "{}");
    assert!(refusal(&pod).contains("`sidegate.dev/config` is not known"));
}

#[test]
fn a_contradiction_in_the_configuration_is_told() {
    let mut pod = pod();
    annotate(&mut pod, "sidegate.dev/inbound-ports", "[{ port: 8080, mode: permissive }]");
    let text = refusal(&pod);
    assert!(text.contains("inbound.ports[0]") && text.contains("reason"), "{text}");
}
