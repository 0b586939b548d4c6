//! The webhook over real TLS, and the program with manifests.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use sidegate_kube::{ControllerConfig, WebhookServer};

const SIDECAR: &str = "sidecar: { image: 'sidegate:1', config: { outbound: { destinations: [{ name: all, cidrs: [10.0.0.0/8] }] } } }";

/// Writes a certificate for `localhost` and its key, and returns the certificate.
fn issue(folder: &Path) -> CertificateDer<'static> {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    // The key first: with the old certificate it is an error, which must leave the old one in use.
    for (name, text) in [("key.pem", issued.signing_key.serialize_pem()), ("cert.pem", issued.cert.pem())] {
        let new = folder.join(format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, folder.join(name)).unwrap();
    }
    issued.cert.der().clone()
}

fn serve(folder: &Path) -> SocketAddr {
    let text = format!(
        "{SIDECAR}\nwebhook: {{ listen: '127.0.0.1:0', certificate: {}, key: {} }}",
        folder.join("cert.pem").display(),
        folder.join("key.pem").display()
    );
    let config = sidegate_config::typed::<ControllerConfig>("controller.yaml", &text).unwrap().0;
    let server = WebhookServer::bind(config).unwrap();
    let address = server.local_addr().unwrap();
    // It ends with the process.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(server.serve(std::future::pending()))
    });
    address
}

fn ask(address: SocketAddr, root: &CertificateDer<'static>, request: &[u8]) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = StreamOwned::new(connection, tcp);
    stream.write_all(request).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    // The server closes as it is asked to.
    stream.read_to_end(&mut answer).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(answer).unwrap())
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

fn review(pod: &Value) -> String {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": { "uid": "u-1", "kind": { "group": "", "version": "v1", "kind": "Pod" }, "namespace": "shop", "operation": "CREATE", "object": pod }
    })
    .to_string()
}

fn response(answer: &str) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str::<Value>(body).unwrap()["response"].clone()
}

fn pod() -> Value {
    json!({ "metadata": { "generateName": "web-" }, "spec": { "containers": [{ "name": "web", "image": "web" }] } })
}

#[test]
fn reviews_are_answered_with_a_patch_or_with_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let root = issue(folder.path());
    let address = serve(folder.path());
    let answer = response(&ask(address, &root, &post("/inject", &review(&pod()))).unwrap());
    assert_eq!((&answer["uid"], &answer["allowed"], &answer["patchType"]), (&json!("u-1"), &json!(true), &json!("JSONPatch")));
    // The patch makes of the pod what the injector makes of it.
    let patch = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, answer["patch"].as_str().unwrap()).unwrap();
    let mut patched = pod();
    json_patch::patch(&mut patched, &serde_json::from_slice::<json_patch::Patch>(&patch).unwrap()).unwrap();
    let mut expected = pod();
    let settings = sidegate_config::typed::<ControllerConfig>("c", SIDECAR).unwrap().0.sidecar;
    sidegate_kube::inject(&mut expected, &settings).unwrap();
    assert_eq!(patched, expected);

    let mut refused = pod();
    refused["spec"]["hostNetwork"] = json!(true);
    let answer = response(&ask(address, &root, &post("/inject", &review(&refused))).unwrap());
    assert_eq!((&answer["allowed"], &answer["status"]["code"]), (&json!(false), &json!(422)));
    assert!(answer["status"]["message"].as_str().unwrap().starts_with("sidegate: hostNetwork"), "{answer}");

    // A pod that says no, and what is no pod, pass as they are.
    let mut unwilling = pod();
    unwilling["metadata"]["labels"] = json!({ "sidegate.dev/inject": "false" });
    let other = review(&pod()).replace("\"Pod\"", "\"Node\"");
    for body in [review(&unwilling), other] {
        assert_eq!(response(&ask(address, &root, &post("/inject", &body)).unwrap()), json!({ "uid": "u-1", "allowed": true }));
    }
    for (request, status) in [
        (post("/inject", "{}"), "400"),
        (post("/inject", "\u{0}"), "400"),
        (post("/other", "{}"), "404"),
        (b"GET /inject HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(), "405"),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(), "200"),
        // The answer comes before the body.
        (b"POST /inject HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5242880\r\n\r\n".to_vec(), "413"),
    ] {
        let answer = ask(address, &root, &request).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
}

#[test]
fn a_new_certificate_is_used_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = issue(folder.path());
    let address = serve(folder.path());
    let healthy = |root: &CertificateDer<'static>| ask(address, root, b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(healthy(&first).unwrap().starts_with("HTTP/1.1 200"));
    // What is no certificate leaves the last one in use.
    std::fs::write(folder.path().join("cert.pem"), "nothing").unwrap();
    let second = issue(folder.path());
    let end = Instant::now() + Duration::from_secs(30);
    while healthy(&second).is_err() {
        assert!(Instant::now() < end, "the new certificate is not used");
        assert!(healthy(&first).is_ok() || healthy(&second).is_ok(), "neither certificate is used");
    }
    assert!(healthy(&first).is_err());
}

fn controller(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidegate-controller"));
    let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that refuses its configuration reads no input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

const MANIFEST: &str = "
apiVersion: v1
kind: ConfigMap
metadata: { name: kept }
data: { key: 'yes', number: '0123', text: \"two\\nlines\" }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  template:
    spec: { containers: [{ name: web, image: web }] }
---
apiVersion: batch/v1
kind: CronJob
metadata: { name: nightly }
spec: { jobTemplate: { spec: { template: { spec: { restartPolicy: Never, containers: [{ name: job, image: job }] } } } } }
---
apiVersion: v1
kind: List
items:
  - { apiVersion: v1, kind: Pod, metadata: { name: one, labels: { sidegate.dev/inject: 'false' } }, spec: { containers: [] } }
  - { apiVersion: v1, kind: Pod, metadata: { name: two }, spec: { containers: [{ name: a, image: a }] } }
---
apiVersion: v1
kind: PodList
items: [{ metadata: { name: three }, spec: { containers: [{ name: a, image: a }] } }]
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: odd }
spec: odd
";

fn documents(text: &[u8]) -> Vec<Value> {
    serde_saphyr::from_multiple(std::str::from_utf8(text).unwrap()).unwrap()
}

#[test]
fn manifests_of_all_kinds_are_injected_and_restored() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("controller.yaml");
    std::fs::write(&config, SIDECAR).unwrap();
    let config = config.to_str().unwrap();
    let once = controller(&["inject", "-f", "-", "--config", config], MANIFEST);
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    let text = String::from_utf8(once.stdout.clone()).unwrap();
    let injected = documents(&once.stdout);
    assert_eq!(injected[0], documents(MANIFEST.as_bytes())[0], "what has no pods stays as it is");
    for at in ["/1/spec/template", "/2/spec/jobTemplate/spec/template", "/3/items/1", "/4/items/0"] {
        let template = json!(injected).pointer(at).unwrap().clone();
        assert_eq!(template["spec"]["initContainers"][1]["name"], "sidegate", "{at}");
    }
    assert!(injected[3]["items"][0]["spec"]["initContainers"].is_null());
    assert_eq!(controller(&["inject", "-f", "-", "--config", config], &text).stdout, once.stdout, "twice is once");
    let restored = controller(&["uninject", "-f", "-"], &text);
    let mut before = documents(MANIFEST.as_bytes());
    // Templates came without metadata, and have it now.
    before[1]["spec"]["template"]["metadata"] = json!({});
    before[2]["spec"]["jobTemplate"]["spec"]["template"]["metadata"] = json!({});
    assert_eq!(documents(&restored.stdout), before);
}

/// A manifest means the same afterwards, by the YAML that kubectl reads, which is 1.1.
#[test]
fn values_keep_their_meaning() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("controller.yaml");
    std::fs::write(&config, SIDECAR).unwrap();
    let manifest = "{ kind: X, a: 0440, b: yes, c: 'no', d: \"on\", e: '0440', f: 1.5, g: '1e3', h: ~, i: '12:30:45' }";
    let output = controller(&["inject", "-f", "-", "--config", config.to_str().unwrap()], manifest);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let expected =
        ["a: 288", "b: true", "c: \"no\"", "d: \"on\"", "e: \"0440\"", "f: 1.5", "g: \"1e3\"", "h: null", "i: \"12:30:45\"", "kind: X"];
    assert_eq!(lines, expected);
}

#[test]
fn mistakes_are_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("controller.yaml");
    let fails = |text: &str, arguments: &[&str], input: &str| {
        std::fs::write(&config, text).unwrap();
        let output = controller(&[arguments, &["--config", config.to_str().unwrap()]].concat(), input);
        assert!(!output.status.success() && output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let inject = ["inject", "-f", "-"];
    let text = fails(SIDECAR, &inject, &MANIFEST.replace("name: web, image: web }", "name: web, securityContext: { runAsUser: 1337 } }"));
    assert!(text.contains("Deployment web:\ncontainer `web` runs as user 1337"), "{text}");
    assert!(fails(SIDECAR, &inject, "a: [").contains("the manifest can't be read"));
    let text = fails("sidecar: { image: x, imagePullPolicy: Sometimes, port: 1 }", &["check"], "");
    assert!(text.contains("controller.yaml:1:") && text.contains("sidecar.port"), "{text}");
    assert!(fails("sidecar: { image: x, resources: { limits: { memory: lots } } }", &["check"], "").contains("`lots` is no quantity"));
    let secret = "sidecar: { image: x, config: { telemetry: { otlp: { endpoint: 'https://c', headers: { token: hunter2 } } } } }";
    let text = fails(secret, &["check"], "");
    assert!(text.contains("it holds a secret") && !text.contains("hunter2"), "{text}");
    let text = fails("sidecar: { image: x, config: { outbound: { otherwise: passthrough } } }", &["check"], "");
    assert!(text.contains("outbound.otherwise") || text.contains("outbound.reason"), "{text}");
    assert!(fails(SIDECAR, &["run"], "").contains("the configuration has neither `webhook` nor `directory`"));
}
