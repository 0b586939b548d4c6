//! What a large cluster asks of one controller: ten thousand sidecars' streams, ten thousand pods in a thousand services.
//!
//! A real `sidegate-controller` follows a server of recorded objects. Sidecars are streams of this process, each of which wants some
//! addresses. All share the machine, so what is measured includes the making of the load. Printed are: how long it takes until all have
//! their answers, at first and after the controller was killed and comes back; the controller's memory; and the time from a change of an
//! endpoint to the last stream that wants it.
//!
//!     cargo bench --package sidegate-benches --bench directory [-- STREAMS]

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark that can't go on has failed")]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sidegate_config::schema::telemetry::CollectorTls;
use sidegate_config::value::IdPattern;
use sidegate_devkit::harness::{Identities, TRUST_DOMAIN, controller, free_port, id};
use sidegate_directory::TYPE_URL;
use sidegate_directory::xds::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use sidegate_directory::xds::{DeltaDiscoveryRequest, Node};
use sidegate_identity::{Identity, Material};
use sidegate_tests::ApiServer;
use sidegate_tls::{CollectorConfig, ServerName};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Uri};

const SERVICES: u32 = 1000;
const PODS_OF_EACH: u32 = 10;
/// Services that a stream wants, and as many pods.
const WANTED: u32 = 10;
const CHANGES_A_SECOND: u32 = 50;
const CHANGES: u32 = 1000;
/// Streams come back with a jitter, as a sidecar's back-off has it.
const JITTER: Duration = Duration::from_secs(2);

fn vip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0A60_0000 + service)
}

fn pod_ip(service: u32, pod: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0A00_0000 + service * PODS_OF_EACH + pod)
}

fn pod(service: u32, pod: u32) -> Value {
    // About as long as a pod is that comes from an API server.
    let environment: Vec<Value> = (0..20).map(|n| json!({ "name": format!("VARIABLE_{n}"), "value": "x".repeat(60) })).collect();
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": { "namespace": "shop", "name": format!("pod-{service}-{pod}"), "annotations": { "sidegate.dev/restore": "{}" } },
        "spec": {
            "serviceAccountName": format!("account-{service}"),
            "containers": [{ "name": "app", "image": "app:1", "env": environment }]
        },
        "status": { "phase": "Running", "podIPs": [{ "ip": pod_ip(service, pod).to_string() }] }
    })
}

fn service(number: u32) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1", "metadata": { "namespace": "shop", "name": format!("service-{number}") },
        "spec": { "clusterIPs": [vip(number).to_string()], "ports": [{ "port": 80 }] }
    })
}

/// With another port of the endpoints than before, so that something has changed.
fn slice(service: u32, port: u32) -> Value {
    let endpoint = |pod: u32| {
        json!({
            "addresses": [pod_ip(service, pod).to_string()], "conditions": { "ready": true },
            "targetRef": { "kind": "Pod", "namespace": "shop", "name": format!("pod-{service}-{pod}") }
        })
    };
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
        "metadata": {
            "namespace": "shop", "name": format!("service-{service}-1"),
            "labels": { "kubernetes.io/service-name": format!("service-{service}") }
        },
        "endpoints": (0..PODS_OF_EACH).map(endpoint).collect::<Vec<_>>(),
        "ports": [{ "port": port }]
    })
}

/// When a change was told, when the last stream had it, and how many have it.
type Change = (Instant, Option<Instant>, usize);

/// What all streams have seen.
#[derive(Default)]
struct Seen {
    /// Answers to what was asked.
    answers: AtomicUsize,
    /// By service: when its last change was told to the API server, and when the last stream had it.
    changes: Mutex<HashMap<String, Change>>,
}

/// A sidecar that asks, follows, and comes back.
async fn stream(number: u32, to: SocketAddr, tls: Arc<sidegate_tls::ClientConfig>, seen: Arc<Seen>) {
    let names: Vec<String> = (0..WANTED)
        .flat_map(|n| {
            let service = (number * 7 + n * 101) % SERVICES;
            [IpAddr::from(vip(service)), pod_ip(service, number % PODS_OF_EACH).into()]
        })
        .map(|ip| ip.to_string())
        .collect();
    let mut versions: HashMap<String, String> = HashMap::new();
    loop {
        sleep(JITTER.mul_f64(fastrand::f64())).await;
        let Ok(tcp) = tokio::net::TcpStream::connect(to).await else { continue };
        let Ok(stream) = TlsConnector::from(tls.clone()).connect(ServerName::try_from("localhost").unwrap(), tcp).await else { continue };
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionAborted)) }
        });
        let Ok(channel) = Endpoint::from_static("http://directory.invalid").connect_with_connector(connector).await else { continue };
        let (requests, outgoing) = mpsc::channel(4);
        let first = DeltaDiscoveryRequest {
            node: Some(Node::default()),
            type_url: TYPE_URL.to_owned(),
            resource_names_subscribe: names.clone(),
            initial_resource_versions: versions.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(first).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let Ok(responses) = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await else { continue };
        // What it has already is not sent again.
        seen.answers.fetch_add(versions.len(), Ordering::Relaxed);
        let mut responses = responses.into_inner();
        while let Ok(Some(response)) = responses.message().await {
            let now = Instant::now();
            for resource in &response.resources {
                if let Some((_, last, count)) = seen.changes.lock().unwrap().get_mut(&resource.name) {
                    (*last, *count) = (Some(now), *count + 1);
                }
                if versions.insert(resource.name.clone(), resource.version.clone()).is_none() {
                    seen.answers.fetch_add(1, Ordering::Relaxed);
                }
            }
            let request = DeltaDiscoveryRequest { type_url: TYPE_URL.to_owned(), response_nonce: response.nonce, ..Default::default() };
            if requests.send(request).await.is_err() {
                break;
            }
        }
        seen.answers.fetch_sub(versions.len(), Ordering::Relaxed);
    }
}

fn start(folder: &Path, socket: &Path, api: SocketAddr, directory: u16) -> Child {
    let (config, kubeconfig) = (folder.join("controller.yaml"), folder.join("kubeconfig"));
    let text = format!(
        "sidecar: {{ image: x }}\ndirectory:\n  listen: 127.0.0.1:{directory}\n  sidecarsPerAddress: 1000000\n  profile: development\n  spiffeId: \"spiffe://{TRUST_DOMAIN}/ns/{{namespace}}/sa/{{serviceAccount}}\"\n  identity: {{ sources: [{{ workloadApi: {{ socket: \"unix://{}\" }} }}] }}\n",
        socket.display()
    );
    std::fs::write(&config, text).unwrap();
    std::fs::write(&kubeconfig, ApiServer::kubeconfig(api)).unwrap();
    let mut command = Command::new(controller());
    command.args(["run", "--log", "warn", "--config"]).arg(&config).env("KUBECONFIG", &kubeconfig).stdout(Stdio::null());
    command.spawn().unwrap()
}

fn memory(process: &Child) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")).unwrap();
    kib.trim().parse::<f64>().unwrap() / 1024.0
}

/// Seconds of a processor that it has used.
fn cpu(process: &Child) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    // Ticks of a hundredth: user and system.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn settle(seen: &Seen, streams: usize, since: Instant) -> f64 {
    let all = streams * 2 * WANTED as usize;
    while seen.answers.load(Ordering::Relaxed) < all {
        assert!(since.elapsed() < Duration::from_secs(300), "{} of {all} answers", seen.answers.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_millis(10));
    }
    since.elapsed().as_secs_f64()
}

fn material(identities: &Identities, runtime: &tokio::runtime::Runtime) -> Arc<Material> {
    let text = format!("sources: [{{ workloadApi: {{ socket: \"unix://{}\" }} }}]", identities.socket("web").display());
    let config = sidegate_config::typed("identity", &text).unwrap().0;
    runtime.block_on(async {
        let identity = Identity::start(&config, sidegate_config::schema::Profile::Development).unwrap();
        let mut state = identity.subscribe();
        state.wait_for(|state| state.material.is_some()).await.unwrap().material.clone().unwrap()
    })
}

fn main() {
    let streams: u32 = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(10_000);
    let identities = Identities::start(&["web", "controller"], Duration::from_secs(24 * 3600));
    let api_server = ApiServer::on(TcpListener::bind("127.0.0.1:0").unwrap());
    let api = api_server.address();
    for number in 0..SERVICES {
        api_server.set(service(number));
        api_server.set(slice(number, 8080));
        (0..PODS_OF_EACH).for_each(|n| api_server.set(pod(number, n)));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let controller_id = IdPattern::parse(&id("controller")).unwrap();
    let tls = CollectorTls { svid: true, spiffe_ids: vec![controller_id], ..CollectorTls::default() };
    let mut tls = (*CollectorConfig::new(tls, "bench").current(Some(material(&identities, &runtime))).unwrap()).clone();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tls = Arc::new(tls);

    let directory = free_port();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, directory));
    let begin = || start(identities.folder(), &identities.socket("controller"), api, directory);
    let mut controller = begin();
    let started = Instant::now();
    while std::net::TcpStream::connect(to).is_err() {
        assert!(started.elapsed() < Duration::from_secs(60), "the controller does not serve");
        std::thread::sleep(Duration::from_millis(10));
    }
    println!(
        "a list of {} pods until it is served:   {:.2} s, {:.0} MiB",
        SERVICES * PODS_OF_EACH,
        started.elapsed().as_secs_f64(),
        memory(&controller)
    );

    let seen = Arc::new(Seen::default());
    let since = Instant::now();
    for number in 0..streams {
        runtime.spawn(stream(number, to, tls.clone(), seen.clone()));
    }
    println!("{streams} streams at once, all answered:      {:.2} s", settle(&seen, streams as usize, since));
    println!("CPU of the controller since its start:   {:.2} s", cpu(&controller));
    println!("memory of the controller:                {:.0} MiB", memory(&controller));

    let mut latencies: Vec<f64> = Vec::new();
    let mut told = 0;
    let mut next = Instant::now();
    for change in 0..CHANGES {
        let service = change % SERVICES;
        seen.changes.lock().unwrap().insert(vip(service).to_string(), (Instant::now(), None, 0));
        api_server.set(slice(service, 8081 + change / SERVICES));
        next += Duration::from_secs(1) / CHANGES_A_SECOND;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    // The last ones on their way: nothing more comes.
    let mut quiet = 0;
    while quiet < 20 {
        std::thread::sleep(Duration::from_millis(50));
        let now: usize = seen.changes.lock().unwrap().values().map(|(_, _, count)| count).sum();
        quiet = if now == told { quiet + 1 } else { 0 };
        told = now;
    }
    for (at, last, _) in seen.changes.lock().unwrap().values() {
        latencies.extend(last.map(|last| last.duration_since(*at).as_secs_f64()));
    }
    latencies.sort_by(f64::total_cmp);
    let quantile = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize] * 1000.0;
    println!(
        "{CHANGES_A_SECOND} changes a second, to the last of {} streams: p50 {:.0} ms, p99 {:.0} ms, most {:.0} ms",
        told / latencies.len().max(1),
        quantile(0.5),
        quantile(0.99),
        quantile(1.0)
    );
    println!("memory of the controller:                {:.0} MiB", memory(&controller));

    controller.kill().unwrap();
    controller.wait().unwrap();
    let since = Instant::now();
    controller = begin();
    println!("killed, started again, all streams back: {:.2} s", settle(&seen, streams as usize, since));
    println!("CPU of the controller since its start:   {:.2} s", cpu(&controller));
    println!("memory of the controller:                {:.0} MiB", memory(&controller));
    runtime.shutdown_background();
    controller.kill().unwrap();
    controller.wait().unwrap();
}
