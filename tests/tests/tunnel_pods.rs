//! Tunnels through real kernel rules: which addresses are a single pod's, and which lead elsewhere next time.

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
