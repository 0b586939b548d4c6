//! A node with pods, an API server and a runtime that calls the plugin.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use sidegate_devkit::pods::{Network, Pod, Support, nft_support, support};
use sidegate_kube::{CONFIG, ControllerConfig, inject};
use sidegate_redirect::{Difference, Plan, is_applied, verify};
use tempfile::TempDir;

use crate::api_server::{ApiServer, Says};

pub(crate) const PLUGIN: &str = env!("CARGO_BIN_EXE_sidegate-cni");

pub(crate) struct Node {
    pub(crate) network: Network,
    pub(crate) api_server: ApiServer,
    pub(crate) folder: TempDir,
}

/// None, and a message, where this machine can't do it.
pub(crate) fn node() -> Option<Node> {
    for support in [support(), nft_support()] {
        if let Support::NotPossible(why) = support {
            assert_ne!(std::env::var("SIDEGATE_REQUIRE_PEERS").as_deref(), Ok("1"), "{why}");
            println!("SKIPPED: {why}");
            return None;
        }
    }
    let network = Network::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    // In the node's namespace, where the plugin is called.
    let listener = network.switch().run(|| TcpListener::bind("127.0.0.1:0")).unwrap().unwrap();
    Some(Node { network, api_server: ApiServer::serve(listener, folder.path()), folder })
}

/// An injected pod as the API server has it. `annotation` makes one differ from another.
pub(crate) fn injected(name: &str, excluded_port: u16) -> Value {
    let text = format!(
        "sidecar: {{ image: x, rules: cni, config: {{ outbound: {{ destinations: [{{ name: all, cidrs: [10.0.0.0/8] }}] }}, \
         redirect: {{ dnsResolvers: [10.96.0.10], inbound: {{ excludePorts: [{excluded_port}] }} }} }} }}"
    );
    let settings = sidegate_config::typed::<ControllerConfig>("controller.yaml", &text).unwrap().0.sidecar;
    let mut pod = plain(name);
    inject(&mut pod, &settings).unwrap();
    pod
}

/// A pod that nobody has injected.
pub(crate) fn plain(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-of-{name}") },
        "spec": { "containers": [{ "name": "web", "image": "web" }] }
    })
}

pub(crate) fn plan_of(pod: &Value) -> Plan {
    let text = pod["metadata"]["annotations"][CONFIG].as_str().unwrap();
    Plan::new(&sidegate_config::parse("sidegate.yaml", text).unwrap())
}

pub(crate) fn differences(pod: &Pod, plan: &Plan) -> Vec<Difference> {
    let plan = plan.clone();
    pod.run(move || verify(&plan)).unwrap().unwrap()
}

pub(crate) fn has_rules(pod: &Pod) -> bool {
    pod.run(is_applied).unwrap().unwrap()
}

/// One call of the plugin: the variables and the input, which a test may change.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) variables: Vec<(&'static str, String)>,
    pub(crate) input: Value,
}

impl Node {
    /// How a runtime calls the plugin for the pod `name`, which has the namespace of `pod`.
    pub(crate) fn call(&self, command: &str, pod: &Pod, name: &str) -> Call {
        let sandbox = pod.netns_path().display().to_string();
        let arguments =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=uid-of-{name}");
        let mut input = self.entry();
        input["cniVersion"] = json!("1.1.0");
        input["name"] = json!("pods");
        input["prevResult"] = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "port1" }, { "name": "eth0", "mac": "aa:bb:cc:dd:ee:ff", "sandbox": sandbox }],
            "ips": [
                { "address": format!("{}/24", pod.ipv4()), "gateway": "10.77.0.254", "interface": 1 },
                { "address": format!("{}/64", pod.ipv6()), "interface": 1 }
            ],
            "routes": [{ "dst": "0.0.0.0/0" }], "dns": {}, "aKeyOfTomorrow": 18446744073709551615u64
        });
        let variables = vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", format!("c-{name}")),
            ("CNI_NETNS", sandbox),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_ARGS", arguments),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
        ];
        Call { variables, input }
    }

    /// The plugin's keys of the network configuration.
    pub(crate) fn entry(&self) -> Value {
        json!({
            "type": "sidegate-cni",
            "apiServer": format!("https://{}", self.api_server.address),
            "caFile": self.api_server.ca_file, "tokenFile": self.api_server.token_file,
            "runtimeConfig": { "portMappings": [] }
        })
    }

    /// Has the API server serve `pod`.
    pub(crate) fn record(&self, pod: &Value) {
        let (namespace, name) = (&pod["metadata"]["namespace"], &pod["metadata"]["name"]);
        self.api_server.say(namespace.as_str().unwrap(), name.as_str().unwrap(), Says::Pod(pod.clone()));
    }

    pub(crate) fn start(&self, call: &Call) -> Child {
        let mut command = Command::new(PLUGIN);
        command.envs(call.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.network.switch().spawn_process(command).unwrap();
        // A command that needs no input reads none.
        let _ = child.stdin.take().unwrap().write_all(call.input.to_string().as_bytes());
        child
    }

    pub(crate) fn run(&self, call: &Call) -> Output {
        self.start(call).wait_with_output().unwrap()
    }

    /// Runs what has to succeed, and returns what it prints.
    #[track_caller]
    pub(crate) fn succeeds(&self, call: &Call) -> String {
        let output = self.run(call);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Runs what has to fail, and returns the code and the details of the error.
    #[track_caller]
    pub(crate) fn fails(&self, call: &Call) -> (u64, String) {
        refusal(&self.run(call))
    }
}

/// The code and the details of an error result.
#[track_caller]
pub(crate) fn refusal(output: &Output) -> (u64, String) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(!output.status.success(), "{text}");
    let error: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(error["cniVersion"].is_string() && error["msg"].as_str().unwrap().starts_with("sidegate-cni: "), "{text}");
    (error["code"].as_u64().unwrap(), error["details"].as_str().unwrap().to_owned())
}

impl Call {
    /// With another value of a variable; an empty one is as none.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.to_owned()));
        self
    }

    /// With another value of a key of the network configuration.
    pub(crate) fn input(mut self, key: &str, value: Value) -> Self {
        self.input[key] = value;
        self
    }

    /// What the plugin has to print.
    pub(crate) fn previous(&self) -> String {
        self.input["prevResult"].to_string()
    }
}
