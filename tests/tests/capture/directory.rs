//! Nobody writes down a peer's SPIFFE ID: the controller's directory says who is expected at an address, as the API server knows it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sidegate_devkit::authority::TrustDomainConfig;
use sidegate_devkit::pods::Pod;
use sidegate_tests::{ApiServer, Identities, PodMesh, PodWorkload, Sidecar, TRUST_DOMAIN, controller, eventually, exchange, id, require};

const PORT: u16 = 8080;
const API_SERVER: u16 = 6443;
const DIRECTORY: u16 = 8444;
const SERVICE_PORT: u16 = 80;

/// Not an address of any pod.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);

fn account(name: &str) -> String {
    format!("ns/shop/sa/{name}")
}

/// web, which calls, and api and db, which answer, each in a pod with kernel rules; and the controller, in a pod of its own.
struct World {
    mesh: PodMesh,
    web: PodWorkload,
    api: PodWorkload,
    db: PodWorkload,
    controller_pod: Pod,
    api_server: ApiServer,
    controller: Option<Child>,
}

impl World {
    fn new(otherwise: &str) -> Self {
        let identities = Identities::start_with(vec![TrustDomainConfig::new(TRUST_DOMAIN)], |folder| {
            let workload = |name: &str| (folder.join(format!("{name}.sock")), id(&account(name)));
            ["web", "api", "db", "controller"].map(workload).into()
        });
        let mut mesh = PodMesh::of(identities);
        let controller_pod = mesh.bare("controller");
        let directory = format!(
            "workers: 1\noutbound: {{ {otherwise}directory: {{ to: \"{}:{DIRECTORY}\", spiffeIds: [\"{}\"] }} }}\n",
            controller_pod.ipv4(),
            id(&account("controller"))
        );
        let web = mesh.workload("web", &[], &directory);
        let [api, db] = ["api", "db"].map(|name| mesh.workload(name, &[&account("web")], ""));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, API_SERVER));
        let api_server = ApiServer::on(controller_pod.run(move || TcpListener::bind(address)).unwrap().unwrap());
        let mut world = Self { mesh, web, api, db, controller_pod, api_server, controller: None };
        for workload in [&world.web, &world.api, &world.db] {
            world.api_server.set(pod(&workload.name, workload.pod.ipv4().into(), &json!({})));
        }
        world.start_controller();
        world
    }

    fn start_controller(&mut self) {
        let folder = self.mesh.identities.folder();
        let (config, kubeconfig) = (folder.join("controller.yaml"), folder.join("kubeconfig"));
        let socket = self.mesh.identities.socket("controller");
        let text = format!(
            "sidecar: {{ image: x }}\ndirectory:\n  profile: development\n  spiffeId: \"spiffe://{TRUST_DOMAIN}/ns/{{namespace}}/sa/{{serviceAccount}}\"\n  identity: {{ sources: [{{ workloadApi: {{ socket: \"unix://{}\" }} }}] }}\n",
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        std::fs::write(&kubeconfig, ApiServer::kubeconfig((Ipv4Addr::LOCALHOST, API_SERVER).into())).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("controller.log")).unwrap();
        let mut command = Command::new(controller());
        command
            .args(["run", "--config"])
            .arg(&config)
            .env("KUBECONFIG", &kubeconfig)
            .stdout(Stdio::null())
            .stderr(log)
            .uid(65_000)
            .gid(65_000);
        self.controller = Some(self.controller_pod.spawn_process(command).unwrap());
    }

    fn stop_controller(&mut self) {
        let mut controller = self.controller.take().unwrap();
        controller.kill().unwrap();
        controller.wait().unwrap();
    }

    /// The service `name` at [`SERVICE`], with this pod behind it; and what kube-proxy makes of it.
    fn service(&self, name: &str, behind: &PodWorkload) {
        self.api_server.set(json!({
            "kind": "Service", "apiVersion": "v1", "metadata": { "namespace": "shop", "name": name },
            "spec": { "clusterIP": SERVICE.to_string(), "clusterIPs": [SERVICE.to_string()], "ports": [{ "name": "http", "port": SERVICE_PORT }] }
        }));
        self.api_server.set(slice(name, behind));
        route(&self.web.pod, behind.v4(PORT));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.mesh.identities.folder().join("controller.log"));
            eprintln!("the controller said:\n{}", log.unwrap_or_default());
        }
        if let Some(controller) = &mut self.controller {
            let _ = controller.kill();
            let _ = controller.wait();
        }
    }
}

/// A pod as the API server has it, with a sidecar.
fn pod(name: &str, ip: IpAddr, spec: &Value) -> Value {
    let mut object = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": { "namespace": "shop", "name": name, "annotations": { "sidegate.dev/restore": "{}" } },
        "spec": { "serviceAccountName": name, "containers": [] },
        "status": { "phase": "Running", "podIP": ip.to_string(), "podIPs": [{ "ip": ip.to_string() }] }
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

fn slice(service: &str, behind: &PodWorkload) -> Value {
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
        "metadata": { "namespace": "shop", "name": format!("{service}-1"), "labels": { "kubernetes.io/service-name": service } },
        "endpoints": [{
            "addresses": [behind.pod.ipv4().to_string()], "conditions": { "ready": true },
            "targetRef": { "kind": "Pod", "namespace": "shop", "name": behind.name }
        }],
        "ports": [{ "name": "http", "port": PORT, "protocol": "TCP" }]
    })
}

/// Leads the service's address to `to`, as kube-proxy does: after sidegate's own rules have had the application's packets.
fn route(pod: &Pod, to: SocketAddr) {
    let rules = format!(
        "table ip service\ndelete table ip service\ntable ip service {{\nchain output {{\ntype nat hook output priority -50;\nip daddr {SERVICE} tcp dport {SERVICE_PORT} dnat to {to}\n}}\n}}\n"
    );
    let mut nft = Command::new("nft");
    nft.arg(rules);
    assert!(pod.spawn_process(nft).unwrap().wait().unwrap().success());
}

/// What becomes of a connection of web's application.
fn call(web: &PodWorkload, sidecar: &Sidecar, to: SocketAddr) -> Value {
    let before = sidecar.records().len();
    let answer = web.pod.run(move || exchange(to, b"hello")).unwrap();
    let record = sidecar.wait_records(before + 1)[before].clone();
    assert_eq!(record["reason"] == "closed", answer.is_ok_and(|answer| answer == b"hello"), "{record}");
    record
}

/// Calls until the directory has said something else than before.
fn call_until(web: &PodWorkload, sidecar: &Sidecar, to: SocketAddr, reason: &str) -> Value {
    let mut seen = Value::Null;
    let look = || {
        seen = call(web, sidecar, to);
        (seen["reason"] == reason).then(|| seen.clone())
    };
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| eventually(reason, look)));
    found.unwrap_or_else(|_| panic!("the last was: {seen}"))
}

#[test]
fn the_directory_says_who_is_expected_and_follows_the_cluster() {
    if !require() {
        return;
    }
    let mut world = World::new("");
    let _servers = [world.api.echo((Ipv4Addr::UNSPECIFIED, PORT)), world.db.echo((Ipv4Addr::UNSPECIFIED, PORT))];
    let sidecars = [world.web.start(), world.api.start(), world.db.start()];
    for sidecar in &sidecars {
        sidecar.wait_ready();
    }
    let web = &sidecars[0];
    world.service("api", &world.api);

    // A pod, by its own address.
    let record = call_until(&world.web, web, world.db.v4(PORT), "closed");
    assert_eq!(record["peerId"], id(&account("db")), "{record}");
    assert_eq!(record["destination"], "shop/db", "{record}");
    assert_eq!((web.metric("sidegate_directory_reachable"), web.metric("sidegate_directory_addresses")), (1.0, 1.0));

    // A service, by its virtual address. Where that leads to another than who is behind it, that one is not taken for it.
    let vip = SocketAddr::from((SERVICE, SERVICE_PORT));
    route(&world.web.pod, world.db.v4(PORT));
    call_until(&world.web, web, vip, "unexpected_peer");
    route(&world.web.pod, world.api.v4(PORT));
    let record = call(&world.web, web, vip);
    assert_eq!((&record["peerId"], &record["destination"]), (&id(&account("api")).into(), &"shop/api".into()), "{record}");
    // The session carries the next connection too, since its server was reached at an endpoint of the service.
    let record = call(&world.web, web, vip);
    assert_eq!((&record["tunnel"], &record["reason"]), (&"reused".into(), &"closed".into()), "{record}");
    assert_eq!(sidecars[1].wait_records(2).last().unwrap()["originalDestination"], world.api.v4(PORT).to_string());

    // The endpoints move, and connections with them, also where a session to the old one still waits.
    route(&world.web.pod, world.db.v4(PORT));
    world.api_server.set(slice("api", &world.db));
    eventually("an answer of db", || Some(call(&world.web, web, vip)).filter(|record| record["peerId"] == id(&account("db"))));

    // Nothing behind it, a port that it does not have, an address that nobody has.
    world.api_server.delete(&slice("api", &world.db));
    let record = call_until(&world.web, web, vip, "no_identity");
    assert!(record["detail"].as_str().unwrap().contains("shop/api"), "{record}");
    assert_eq!(call(&world.web, web, (SERVICE, 81).into())["reason"], "no_identity");
    let record = call(&world.web, web, (Ipv4Addr::new(10, 77, 0, 201), PORT).into());
    assert_eq!(record["reason"], "not_in_mesh", "{record}");

    // The pod's address goes to one on its node's network, then to one without a sidecar.
    world.api_server.set(pod("db", world.db.pod.ipv4().into(), &json!({ "hostNetwork": true })));
    assert_eq!(call_until(&world.web, web, world.db.v4(PORT), "no_identity")["peerId"], Value::Null);
    let mut bare = pod("db", world.db.pod.ipv4().into(), &json!({}));
    bare["metadata"]["annotations"] = json!({});
    world.api_server.set(bare);
    let record = call_until(&world.web, web, world.db.v4(PORT), "not_in_mesh");
    assert!(record["detail"].as_str().unwrap().contains("no sidecar"), "{record}");

    // The controller is gone: what is known stays, what is not is refused for a reason of its own.
    assert_eq!(call(&world.web, web, world.api.v4(PORT))["reason"], "closed");
    world.stop_controller();
    assert_eq!(call(&world.web, web, world.api.v4(PORT))["reason"], "closed");
    let record = call(&world.web, web, (Ipv4Addr::new(10, 77, 0, 202), PORT).into());
    assert_eq!(record["reason"], "directory_unavailable", "{record}");
    eventually("the directory to be unreachable", || (web.metric("sidegate_directory_reachable") == 0.0).then_some(()));
    // It comes back, and what has changed meanwhile is told.
    world.api_server.set(pod("db", world.db.pod.ipv4().into(), &json!({})));
    world.start_controller();
    call_until(&world.web, web, world.db.v4(PORT), "closed");

    // The API server is gone: the controller says what it knew.
    world.api_server.stop();
    assert_eq!(call(&world.web, web, world.db.v4(PORT))["reason"], "closed");
}

/// Where the controller is not the one that is expected, nothing that it says is believed, and nothing goes out in plaintext for it.
#[test]
fn a_directory_that_is_not_believed_makes_no_traffic_leave() {
    if !require() {
        return;
    }
    let world = World::new("otherwise: passthrough, ");
    let _server = world.db.echo((Ipv4Addr::UNSPECIFIED, PORT));
    let (web, db) = (world.web.start_differently(&id(&account("controller")), &id(&account("other"))), world.db.start());
    for sidecar in [&web, &db] {
        sidecar.wait_ready();
    }
    let record = call_until(&world.web, &web, world.db.v4(PORT), "directory_unavailable");
    assert_eq!((&record["transport"], &record["bytesUp"]), (&Value::Null, &0.into()), "{record}");
    assert!(db.records().iter().all(|record| record["reason"] != "plaintext_refused"), "{:?}", db.records());
}
