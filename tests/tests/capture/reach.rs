//! Who can reach what: sidegate never relays to itself, to the pod's localhost, or to third parties.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use sidegate_devkit::pods::Pod;
use sidegate_tests::{PodMesh, echo_bytes, require};

const HOUR: Duration = Duration::from_secs(3600);

/// Whether anything comes back from `address`.
fn answers(pod: &Pod, address: SocketAddr) -> bool {
    pod.run(move || {
        let Ok(mut tcp) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) else { return false };
        tcp.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        tcp.write_all(b"anybody?").is_ok() && tcp.read(&mut [0; 8]).is_ok_and(|n| n > 0)
    })
    .unwrap()
}

#[test]
fn nobody_reaches_what_is_not_theirs() {
    if !require() {
        return;
    }
    let mut mesh = PodMesh::new(&["web", "api"], HOUR);
    let api = mesh.workload("api", &["web"], "");
    let web = mesh.workload("web", &["api"], "");
    let third = mesh.bare("third");
    let private = api.echo((Ipv4Addr::LOCALHOST, 9000));
    let public = api.echo((Ipv6Addr::UNSPECIFIED, 8080));
    let _theirs = {
        let listener = third.run(|| std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080))).unwrap().unwrap();
        sidegate_tests::Echo::on(listener)
    };
    let (api_sidecar, web_sidecar) = (api.start(), web.start());
    api_sidecar.wait_ready();
    web_sidecar.wait_ready();
    let address = api.v4(8080);
    web.pod.run(move || echo_bytes(address, 1000, 1)).unwrap().unwrap();

    // What listens on localhost only stays private: inbound dials the original address.
    assert!(!answers(&web.pod, api.v4(9000)));
    assert_eq!(private.accepted.load(std::sync::atomic::Ordering::Relaxed), 0);
    api_sidecar.reason("dial_refused");

    // The application talks to itself as if there were no sidecar: on localhost, and on its own address.
    let records = api_sidecar.records().len();
    assert!(answers(&api.pod, private.address));
    assert!(answers(&api.pod, api.v4(8080)));
    assert!(answers(&api.pod, api.v6(8080)));
    assert_eq!(api_sidecar.records().len(), records, "none of that is captured");

    // sidegate's own ports, from inside, from a peer and from outside.
    for port in [15001, 15006] {
        assert!(!answers(&api.pod, (Ipv4Addr::LOCALHOST, port).into()), "{port} on localhost");
        assert!(!answers(&api.pod, api.v4(port)), "{port} on our own address");
        assert!(!answers(&web.pod, api.v4(port)), "{port} from a peer");
        assert!(!answers(&third, api.v4(port)), "{port} from outside");
    }
    api_sidecar.reason("own_port");
    assert!(!answers(&third, api.v4(15020)), "admin listens on localhost only");

    // A neighbour who routes its packets for a third party through the pod gets nowhere.
    let (via, to) = (api.pod.ipv4(), third.ipv4());
    let routed = mesh.bare("routed");
    let route = format!("ip route add {to}/32 via {via}");
    routed.run(move || assert!(std::process::Command::new("sh").args(["-c", &route]).status().unwrap().success())).unwrap();
    api.pod
        .run(|| {
            std::fs::write("/proc/thread-self/net/../../sys/net/ipv4/ip_forward", "1")
                .or_else(|_| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))
        })
        .unwrap()
        .unwrap();
    assert!(!answers(&routed, (to, 8080).into()), "an open relay");
    assert_eq!(public.accepted.load(std::sync::atomic::Ordering::Relaxed), 3);

    // Outbound: what no destination covers is refused, with a reason.
    assert!(!answers(&web.pod, (Ipv4Addr::new(203, 0, 113, 1), 443).into()));
    web_sidecar.reason("not_in_mesh");
    // A destination in the mesh that speaks no TLS: refused, and told apart.
    let _greeter = third
        .run(|| {
            let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 25)).unwrap();
            // Inside, for as long as the test's process; it serves one connection.
            std::thread::spawn(move || {
                listener.accept().map(|(mut tcp, _)| tcp.write_all(b"220 hello\r\n").map(|()| tcp.read(&mut [0; 4096])))
            })
        })
        .unwrap();
    assert!(!answers(&web.pod, (third.ipv4(), 25).into()));
    web_sidecar.reason("not_tls");
    // Nobody there at all.
    assert!(!answers(&web.pod, (third.ipv4(), 81).into()));
    let refused = web_sidecar.record("port 81", |r| r["originalDestination"] == format!("{}:81", third.ipv4()));
    assert_eq!(refused["reason"], "dial_refused");
    assert!(refused["detail"].as_str().unwrap().contains("refused"), "{refused}");
}

/// The server proves another identity than the destination's: nothing is sent to it.
#[test]
fn an_unexpected_server_gets_nothing() {
    if !require() {
        return;
    }
    let mut mesh = PodMesh::new(&["web", "api"], HOUR);
    let api = mesh.workload("api", &["web"], "");
    let expects = "outbound:\n  destinations: [{ name: mesh, cidrs: [10.77.0.0/24], spiffeIds: [\"spiffe://test.sidegate/billing\"] }]\n";
    let web = mesh.workload("web", &[], expects);
    let server = api.echo((Ipv6Addr::UNSPECIFIED, 8080));
    let (api_sidecar, web_sidecar) = (api.start(), web.start());
    api_sidecar.wait_ready();
    web_sidecar.wait_ready();
    assert!(!answers(&web.pod, api.v4(8080)));
    let record = web_sidecar.reason("unexpected_peer");
    assert_eq!(record["peerId"], "spiffe://test.sidegate/api");
    assert_eq!(record["detail"], "expected spiffe://test.sidegate/billing");
    assert_eq!(record["bytesUp"], 0);
    api_sidecar.record("the server's side", |r| r["bytesUp"] == 0);
    drop(server);
}
