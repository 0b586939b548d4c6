//! Tunnels through real kernel rules: which addresses are a single pod's, and which lead elsewhere next time.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use sidegate_tests::{PodMesh, PodWorkload, Sidecar, exchange, id, require};

const PORT: u16 = 8080;

/// A mesh whose client uses tunnels as by default, whatever the tests are run with.
fn mesh() -> (PodMesh, PodWorkload, PodWorkload) {
    let mut mesh = PodMesh::new(&["web", "api"], Duration::from_secs(3600));
    let api = mesh.workload("api", &["web"], "");
    let outbound = format!(
        "workers: 1\noutbound: {{ destinations: [{{ name: mesh, cidrs: [10.77.0.0/24, \"fd77::/64\"], tunnel: auto, spiffeIds: [\"{}\"] }}] }}\n",
        id("api")
    );
    let web = mesh.workload("web", &[], &outbound);
    (mesh, api, web)
}

/// Three connections of web's application to `address`; how each used a session.
fn three(web: &PodWorkload, sidecar: &Sidecar, address: SocketAddr) -> Vec<String> {
    let before = sidecar.records().len();
    for n in 1..=3 {
        assert_eq!(web.pod.run(move || exchange(address, b"hello")).unwrap().unwrap(), b"hello", "{address}");
        sidecar.wait_records(before + n);
    }
    sidecar.records()[before..].iter().map(|r| r["tunnel"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_pods_own_address_shares_a_session() {
    if !require() {
        return;
    }
    let (_mesh, api, web) = mesh();
    let _server = api.echo((Ipv6Addr::UNSPECIFIED, PORT));
    let (api_sidecar, web_sidecar) = (api.start(), web.start());
    api_sidecar.wait_ready();
    web_sidecar.wait_ready();
    for address in [api.v4(PORT), api.v6(PORT)] {
        assert_eq!(three(&web, &web_sidecar, address), ["new", "reused", "reused"], "{address}");
    }
    let records = api_sidecar.wait_records(6);
    assert!(records.iter().all(|r| r["reason"] == "closed" && r["peerId"] == id("web")));
    assert_eq!(records.iter().filter(|r| r["tunnel"] == "reused").count(), 4);
}

/// As kube-proxy does for a ClusterIP: what is dialled is not where the pod is reached.
#[test]
fn a_services_virtual_address_does_not() {
    if !require() {
        return;
    }
    let (_mesh, api, web) = mesh();
    let _server = api.echo((Ipv6Addr::UNSPECIFIED, PORT));
    let (api_sidecar, web_sidecar) = (api.start(), web.start());
    api_sidecar.wait_ready();
    web_sidecar.wait_ready();
    let service = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 0, 200)), PORT);
    // After sidegate's own rules have had the application's packets.
    let rules = format!(
        "table ip service {{\nchain output {{\ntype nat hook output priority -50;\nip daddr {} tcp dport {PORT} dnat to {}\n}}\n}}\n",
        service.ip(),
        api.v4(PORT)
    );
    let mut nft = Command::new("nft");
    nft.arg(rules);
    assert!(web.pod.spawn_process(nft).unwrap().wait().unwrap().success());
    assert_eq!(three(&web, &web_sidecar, service), ["new", "new", "new"]);
    assert!(web_sidecar.records().iter().all(|r| r["originalDestination"] == service.to_string() && r["reason"] == "closed"));
    assert!(api_sidecar.wait_records(3).iter().all(|r| r["originalDestination"] == api.v4(PORT).to_string()));
}

/// The application may get the port that a session of its sidecar to the same place had before. What the kernel remembers of that
/// session must not swallow the new connection, also where the session was reset.
#[test]
fn the_port_of_a_session_that_was_reset_is_good_for_the_application_at_once() {
    if !require() {
        return;
    }
    let (_mesh, api, web) = mesh();
    let _server = api.echo((Ipv6Addr::UNSPECIFIED, PORT));
    let (api_sidecar, web_sidecar) = (api.start(), web.start());
    api_sidecar.wait_ready();
    web_sidecar.wait_ready();
    let to = api.v4(PORT);
    let port = web
        .pod
        .run(move || {
            let mut application = std::net::TcpStream::connect(to).unwrap();
            application.write_all(b"hello").unwrap();
            application.read_exact(&mut [0; 5]).unwrap();
            let own = application.local_addr().unwrap().port();
            // Both have the same remote address.
            let sockets = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
            let remote = |line: &str| line.split_ascii_whitespace().nth(2).is_some_and(|r| r.ends_with(&format!(":{PORT:04X}")));
            let local = |line: &str| u16::from_str_radix(line.split_ascii_whitespace().nth(1)?.rsplit(':').next()?, 16).ok();
            let port = sockets.lines().filter(|line| remote(line)).filter_map(local).find(|port| *port != own).unwrap();
            socket2::SockRef::from(&application).set_linger(Some(Duration::ZERO)).unwrap();
            port
        })
        .unwrap();
    web_sidecar.reason("downstream_reset");
    api_sidecar.reason("downstream_reset");
    let from = web.v4(port);
    web.pod
        .run(move || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&from.into()).unwrap();
            socket.connect_timeout(&to.into(), sidegate_tests::DEADLINE).unwrap();
        })
        .unwrap();
    for pod in [&web.pod, &api.pod] {
        let output = pod.run(|| Command::new("nft").args(["list", "counters", "table", "inet", "sidegate"]).output()).unwrap().unwrap();
        let counters = String::from_utf8(output.stdout).unwrap();
        let dropped: Vec<&str> = counters.lines().filter(|line| line.contains("packets") && !line.contains("packets 0 ")).collect();
        assert!(counters.contains("packets 0") && dropped.is_empty(), "{counters}");
    }
}
