//! Health checks of an application on strict ports: a kubelet, which has no SVID, asks the sidecar, and the sidecar the application.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sidegate_devkit::pods::Pod;
use sidegate_tests::{DEADLINE, Identities, PodMesh, Sidecar, eventually, free_port, get, require};
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

const HOUR: Duration = Duration::from_secs(3600);
const ADMIN: u16 = 15020;
/// How many ask at the same time.
const AT_ONCE: usize = 20;

const ADMIN_SECTION: &str = "admin:
  listen: \"0.0.0.0:15020\"
  socket: null
  probes:
    - { path: /probe/http, http: { port: 8080, path: '/ready?deep=1', host: app.example, headers: [{ name: X-Probe, value: yes-please }] }, timeout: 30s }
    - { path: /probe/slow, http: { port: 8080 }, timeout: 300ms }
    - { path: /probe/https, http: { port: 8443, scheme: https } }
    - { path: /probe/no-tls, http: { port: 9090, scheme: https } }
    - { path: /probe/tcp, tcp: { port: 8080 } }
    - { path: /probe/v6, tcp: { port: 8081 } }
    - { path: /probe/gone, tcp: { port: 8082 } }
    - { path: /probe/grpc, grpc: { port: 9090 } }
    - { path: /probe/orders, grpc: { port: 9090, service: orders } }
    - { path: /probe/unknown, grpc: { port: 9090, service: unknown } }
    - { path: /probe/no-grpc, grpc: { port: 8080 } }
";

/// An application that answers by HTTP as it is told to.
#[derive(Default)]
struct App {
    status: AtomicU16,
    /// It answers nobody meanwhile.
    holds: AtomicBool,
    /// Requests that it works on, and the most that it ever had.
    now: AtomicUsize,
    most: AtomicUsize,
    heads: Mutex<Vec<String>>,
}

impl App {
    fn new() -> Arc<Self> {
        Arc::new(Self { status: 200.into(), ..Self::default() })
    }

    /// Serves connections of `listener` until the test's process ends.
    fn serve(self: &Arc<Self>, listener: TcpListener, tls: Option<Arc<ServerConfig>>) {
        let app = self.clone();
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (app, tls) = (app.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    Some(tls) => app.answer(StreamOwned::new(ServerConnection::new(tls).unwrap(), tcp)),
                    None => app.answer(tcp),
                });
            }
        });
    }

    fn answer(&self, mut stream: impl Read + Write) {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(1) = stream.read(&mut byte) else { return };
            head.push(byte[0]);
        }
        self.heads.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let end = Instant::now() + DEADLINE;
        while self.holds.load(Ordering::SeqCst) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.now.fetch_sub(1, Ordering::SeqCst);
        let status = self.status.load(Ordering::SeqCst);
        let body = if status == 204 { "" } else { "Content-Length: 6\r\n\r\nsecret" };
        let _ = stream.write_all(format!("HTTP/1.1 {status} Whatever\r\nLocation: http://203.0.113.1/\r\n{body}").as_bytes());
        if status == 204 {
            let _ = stream.write_all(b"\r\n");
        }
        let _ = stream.flush();
    }
}

/// TLS with a certificate that nobody trusts, for another name.
fn tls() -> Arc<ServerConfig> {
    let signed = rcgen::generate_simple_self_signed(["other.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der()));
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(vec![signed.cert.der().clone()], key).unwrap())
}

/// A gRPC server with another implementation of the health checking protocol.
fn grpc(runtime: &tokio::runtime::Runtime, listener: TcpListener) -> HealthReporter {
    let (reporter, service) = health_reporter();
    listener.set_nonblocking(true).unwrap();
    runtime.spawn(async move {
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
    });
    reporter
}

fn listen(pod: &Pod, address: impl Into<SocketAddr>) -> TcpListener {
    let address = address.into();
    pod.run(move || TcpListener::bind(address)).unwrap().unwrap()
}

/// What the rules of `pod` have dropped.
fn dropped(pod: &Pod) -> Vec<String> {
    let list = || Command::new("nft").args(["list", "counters", "table", "inet", "sidegate"]).output();
    let counters = String::from_utf8(pod.run(list).unwrap().unwrap().stdout).unwrap();
    assert!(counters.contains("packets"), "{counters}");
    counters.lines().filter(|line| line.contains("packets") && !line.contains("packets 0 ")).map(str::to_owned).collect()
}

#[test]
fn a_kubelet_asks_the_sidecar_for_the_health_of_strict_ports() {
    if !require() {
        return;
    }
    let mut mesh = PodMesh::new(&["web", "api"], HOUR);
    let api = mesh.workload("api", &["web"], ADMIN_SECTION);
    let kubelet = mesh.bare("kubelet");
    let app = App::new();
    app.serve(listen(&api.pod, (Ipv6Addr::UNSPECIFIED, 8080)), None);
    app.serve(listen(&api.pod, (Ipv4Addr::LOCALHOST, 8443)), Some(tls()));
    let _v6 = listen(&api.pod, (Ipv6Addr::LOCALHOST, 8081));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let reporter = grpc(&runtime, listen(&api.pod, (Ipv4Addr::UNSPECIFIED, 9090)));
    let set = |service: &'static str, status| runtime.block_on(reporter.set_service_status(service, status));
    let sidecar = api.start();
    sidecar.wait_ready();

    let admin = api.v4(ADMIN);
    let ask = |path: &'static str| kubelet.run(move || get(admin, path)).unwrap().unwrap_or_else(|| panic!("{path} is not answered"));
    let assert_healthy = |path: &'static str| assert_eq!(ask(path), (200, "ok\n".to_owned()), "{path}\n{}", sidecar.log());
    let assert_unhealthy = |path: &'static str, why: &str| {
        let (status, said) = ask(path);
        assert!(status == 503 && said.contains(why) && said.lines().count() == 1, "{path}: {status} {said}");
        assert!(!said.contains("secret"), "{said}");
    };

    // HTTP: what is asked is what is configured, and only the status comes back.
    assert_healthy("/probe/http");
    let head = app.heads.lock().unwrap().pop().unwrap().to_lowercase();
    for line in ["get /ready?deep=1 http/1.1", "host: app.example", "user-agent: kube-probe/sidegate", "x-probe: yes-please"] {
        assert!(head.lines().any(|other| other == line), "{line}: {head}");
    }
    for status in [204, 302, 399] {
        app.status.store(status, Ordering::SeqCst);
        assert_eq!(ask("/probe/http"), (status, String::new()));
    }
    for status in [400, 500, 503] {
        app.status.store(status, Ordering::SeqCst);
        assert_unhealthy("/probe/http", &format!("status {status}"));
        assert_unhealthy("/probe/https", &format!("status {status}"));
    }
    app.status.store(200, Ordering::SeqCst);
    assert_healthy("/probe/https");
    assert_unhealthy("/probe/no-tls", "no TLS");

    // TCP, also to an application that has IPv6 only.
    assert_healthy("/probe/tcp");
    assert_healthy("/probe/v6");
    assert_unhealthy("/probe/gone", "no connection to port 8082 of 127.0.0.1 or ::1: Connection refused");

    // gRPC, for the server and for a service.
    assert_healthy("/probe/grpc");
    assert_unhealthy("/probe/unknown", "gRPC status NotFound");
    assert_unhealthy("/probe/orders", "gRPC status NotFound");
    set("orders", ServingStatus::Serving);
    assert_healthy("/probe/orders");
    set("orders", ServingStatus::NotServing);
    assert_unhealthy("/probe/orders", "the service is NOT_SERVING");
    assert_healthy("/probe/grpc");
    let (status, _) = ask("/probe/no-grpc");
    assert_eq!(status, 503);

    // What is not configured is not asked.
    let asked = app.heads.lock().unwrap().len();
    for path in ["/probe/", "/probe/http/", "/probe/other", "/ready"] {
        assert_eq!(ask(path).0, 404, "{path}");
    }
    assert_eq!(app.heads.lock().unwrap().len(), asked);

    // Too slow.
    app.holds.store(true, Ordering::SeqCst);
    let start = Instant::now();
    assert_unhealthy("/probe/slow", "timed out after 300ms");
    assert!((300..5000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    app.holds.store(false, Ordering::SeqCst);
    eventually("the application to be idle", || (app.now.load(Ordering::SeqCst) == 0).then_some(()));

    // None of that was captured or dropped, and it is counted and told of.
    assert_eq!(dropped(&api.pod), Vec::<String>::new());
    assert_eq!(sidecar.records().len(), 0, "{:#?}", sidecar.records());
    assert!(sidecar.metric("sidegate_probes_total{sidegate_outcome=\"success\"}") > 5.0);
    assert!(sidecar.metric("sidegate_probes_total{sidegate_outcome=\"failure\"}") > 5.0);
    assert!(sidecar.log().contains("sidegate.probe.failed"), "{}", sidecar.log());

    // Strangers who ask at the same time share one check with the kubelet, and have no part in those of other endpoints.
    app.most.store(0, Ordering::SeqCst);
    app.holds.store(true, Ordering::SeqCst);
    let (asked, (sender, answers)) = (app.heads.lock().unwrap().len(), mpsc::sync_channel(AT_ONCE));
    for _ in 0..AT_ONCE {
        let sender = sender.clone();
        drop(kubelet.spawn(move || sender.send(get(admin, "/probe/http").unwrap())).unwrap());
    }
    let next = || answers.recv_timeout(DEADLINE).unwrap();
    eventually("the check", || (app.now.load(Ordering::SeqCst) == 1).then_some(()));
    assert_healthy("/probe/tcp");
    app.holds.store(false, Ordering::SeqCst);
    for _ in 0..AT_ONCE {
        assert_eq!(next().0, 200);
    }
    assert_eq!(app.most.load(Ordering::SeqCst), 1);
    assert!(app.heads.lock().unwrap().len() <= asked + AT_ONCE / 2, "they did not share a check");

    // Without mutual TLS nobody reaches the port itself.
    let asked = app.heads.lock().unwrap().len();
    let strict = api.v4(8080);
    assert_eq!(kubelet.run(move || get(strict, "/ready")).unwrap(), None);
    sidecar.reason("plaintext_refused");
    assert_eq!(app.heads.lock().unwrap().len(), asked);
}

/// It is the application's health, not the sidecar's.
#[test]
fn the_application_is_asked_while_the_sidecar_is_not_ready_and_while_it_drains() {
    let identities = Identities::start(&["api"], HOUR);
    let (app, port) = (App::new(), free_port());
    app.serve(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap(), None);
    let sidecar = Sidecar::start(
        identities.folder(),
        "api",
        &format!(
            "profile: development
identity: {{ sources: [{{ workloadApi: {{ socket: 'unix://{{folder}}/nobody.sock' }} }}] }}
inbound: {{ listen: null, listeners: [{{ listen: '127.0.0.1:{}', to: '127.0.0.1:{port}' }}] }}
outbound: {{ listen: null, listen6: null }}
drain: {{ settle: 20s, deadline: 60s }}
admin: {{ listen: '127.0.0.1:{{admin}}', socket: null, probes: [{{ path: /probe/app, http: {{ port: {port} }} }}] }}
",
            free_port()
        ),
    );
    let asked = || sidecar.ask("/probe/app").map(|(status, _)| status);
    assert_eq!(eventually("an answer", asked), 200);
    assert_eq!(sidecar.ask("/readyz").unwrap().0, 503);
    sidecar.signal(Signal::SIGTERM);
    eventually("the drain", || sidecar.log().contains("sidegate.lifecycle.draining").then_some(()));
    assert_eq!(asked(), Some(200));
    app.status.store(500, Ordering::SeqCst);
    assert_eq!(asked(), Some(503));
}
