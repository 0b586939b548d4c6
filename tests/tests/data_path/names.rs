//! Destinations by DNS name, and what is not in the mesh.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sidegate_tests::{Echo, Pair, PodMesh, Sidecar, client_config, echo_bytes, eventually, exchange, free_port, require};

const HOUR: Duration = Duration::from_secs(3600);

/// Answers every question for an IPv4 address with `address`, to be kept for a second; IPv6 has none.
fn dns(socket: UdpSocket, address: Arc<AtomicU32>) {
    let mut query = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut query) {
        // RFC 1035 §4.1: a header of 12 bytes, the name, its type and class.
        let name_end = 12 + query[12..length].iter().position(|b| *b == 0).unwrap() + 1;
        let question = &query[12..name_end + 4];
        let is_a = question[question.len() - 3] == 1;
        let mut answer = vec![query[0], query[1], 0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0];
        answer.extend_from_slice(question);
        if is_a {
            answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            answer.extend_from_slice(&address.load(Ordering::Relaxed).to_be_bytes());
        }
        socket.send_to(&answer, from).unwrap();
    }
}

/// A name is resolved by the pod's resolver and followed when it moves.
#[test]
fn a_destination_by_name_is_followed_when_it_moves() {
    if !require() {
        return;
    }
    let mut mesh = PodMesh::new(&["web", "api", "spare"], HOUR);
    let resolver = mesh.bare("dns");
    let port_53 = resolver.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53))).unwrap().unwrap();
    let api = mesh.workload("api", &["web"], "");
    let spare = mesh.workload("spare", &["web"], "");
    let address = Arc::new(AtomicU32::new(api.pod.ipv4().into()));
    {
        let address = address.clone();
        std::thread::spawn(move || dns(port_53, address));
    }
    let config = "outbound:\n  destinations: [{ name: api, dns: [api.test], ports: [8080] }]\n";
    let web = mesh.workload("web", &[], config);
    let resolv_conf = mesh.identities.folder().join("resolv.conf");
    std::fs::write(&resolv_conf, format!("nameserver {}\noptions ndots:0\n", resolver.ipv4())).unwrap();
    let (api_sidecar, spare_sidecar) = (api.start(), spare.start());
    let web_sidecar = web.start_with_mount(Some((resolv_conf.to_str().unwrap(), "/etc/resolv.conf")));
    let servers = [api.echo((Ipv6Addr::UNSPECIFIED, 8080)), spare.echo((Ipv6Addr::UNSPECIFIED, 8080))];
    for sidecar in [&api_sidecar, &spare_sidecar, &web_sidecar] {
        sidecar.wait_ready();
    }
    let call = |to: SocketAddr| web.pod.run(move || echo_bytes(to, 1000, 1)).unwrap();
    eventually("the name's first address", || call(api.v4(8080)).ok());
    assert!(call(spare.v4(8080)).is_err(), "not in the mesh yet");
    web_sidecar.reason("not_in_mesh");
    address.store(spare.pod.ipv4().into(), Ordering::Relaxed);
    eventually("the name's next address", || call(spare.v4(8080)).ok());
    call(api.v4(8080)).expect("an application may hold the old address for longer than its TTL");
    drop(servers);
}

/// A name that is in the hosts file is resolved without any server.
#[test]
fn an_explicit_listener_leads_to_a_name() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let entry: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let config = client_config(&pair.identities, entry, pair.port)
        .replace(&format!("to: \"{}\"", pair.port), &format!("to: \"localhost:{}\"", pair.port.port()));
    let sidecar = Sidecar::start(pair.identities.folder(), "named", &config);
    sidecar.wait_ready();
    // localhost may also be ::1, where nobody listens.
    eventually("the name", || echo_bytes(entry, 1000, 1).ok());
}

/// Passthrough is plaintext, counted and warned of; while a name is unknown nothing passes, for it might be that name's.
#[test]
fn passthrough_waits_until_every_name_is_known() {
    if !require() {
        return;
    }
    let mut mesh = PodMesh::new(&["web", "lost"], HOUR);
    let third = mesh.bare("third");
    let server = Echo::on(third.run(|| std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80))).unwrap().unwrap());
    let address: SocketAddr = (third.ipv4(), 80).into();
    let web = mesh.workload("web", &[], "outbound: { otherwise: passthrough }\n");
    let sidecar = web.start();
    sidecar.wait_ready();
    assert_eq!(web.pod.run(move || exchange(address, b"in the clear")).unwrap().unwrap(), b"in the clear");
    let record = sidecar.reason("closed");
    assert_eq!((&record["transport"], &record["decision"]["rule"]), (&"plaintext".into(), &"outbound.otherwise: passthrough".into()));
    assert_eq!(sidecar.metric("sidegate_plaintext_connections_total{sidegate_direction=\"outbound\"}"), 1.0);
    assert!(sidecar.log().contains("leaves in plaintext"));

    let lost = mesh.workload("lost", &[], "outbound: { otherwise: passthrough, destinations: [{ name: x, dns: [nowhere.invalid] }] }\n");
    let sidecar = lost.start();
    sidecar.wait_ready();
    assert!(lost.pod.run(move || exchange(address, b"in the clear")).unwrap().is_err());
    let record = sidecar.reason("not_ready");
    assert!(record["detail"].as_str().unwrap().contains("`nowhere.invalid` has not been resolved yet"), "{record}");
    drop(server);
}
