//! Invariants 1 and 2 through real kernel rules: nothing captured is ever seen in plaintext, whatever the sidecar does.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use sidegate_devkit::pods::{Pod, contains};
use sidegate_tests::{PodMesh, echo_bytes, eventually, exchange, require};

const MARKER: &[u8] = b"this-must-never-be-seen-on-the-wire";
const HOUR: Duration = Duration::from_secs(3600);

fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

#[test]
fn both_families_are_captured_wrapped_and_authorized() {
    if !require() {
        return;
    }
    let mut mesh = PodMesh::new(&["web", "api", "intruder"], HOUR);
    let api = mesh.workload("api", &["web"], "");
    let web = mesh.workload("web", &[], "");
    let intruder = mesh.workload("intruder", &[], "");
    let stranger = mesh.bare("stranger");
    let server = api.echo(any(8080));
    let (api_sidecar, web_sidecar, intruder_sidecar) = (api.start(), web.start(), intruder.start());
    api_sidecar.wait_ready();
    web_sidecar.wait_ready();
    intruder_sidecar.wait_ready();
    let capture = mesh.switch().capture().unwrap();

    for address in [api.v4(8080), api.v6(8080)] {
        let answer = web.pod.run(move || exchange(address, MARKER)).unwrap().unwrap();
        assert_eq!(answer, MARKER, "{address}");
    }
    let inbound = api_sidecar.record("web over IPv6", |r| r["originalDestination"] == api.v6(8080).to_string());
    assert_eq!(inbound["peerId"], "spiffe://test.sidegate/web");
    assert_eq!(inbound["localId"], "spiffe://test.sidegate/api");
    assert_eq!(inbound["tls"]["version"], "1.3");
    assert_eq!(inbound["tls"]["group"], "X25519MLKEM768");
    assert_eq!(inbound["decision"]["allowed"], true);
    assert!(inbound["decision"]["rule"].as_str().unwrap().contains("api.policy.yaml:2"), "{inbound}");
    assert_eq!(inbound["bytesUp"], MARKER.len());
    let outbound = web_sidecar.record("to api over IPv4", |r| r["originalDestination"] == api.v4(8080).to_string());
    assert_eq!(outbound["peerId"], "spiffe://test.sidegate/api");
    assert_eq!(outbound["reason"], "closed");

    let served = server.accepted.load(Ordering::Relaxed);
    let address = api.v4(8080);
    assert!(intruder.pod.run(move || exchange(address, MARKER)).unwrap().is_err());
    let denied = api_sidecar.reason("denied_by_default");
    assert_eq!(denied["peerId"], "spiffe://test.sidegate/intruder");
    assert!(stranger.run(move || exchange(address, b"GET / HTTP/1.1\r\n\r\n")).unwrap().is_err());
    api_sidecar.reason("plaintext_refused");
    assert_eq!(server.accepted.load(Ordering::Relaxed), served, "who is refused must not even be dialled for");

    let frames = capture.stop().unwrap();
    assert!(!frames.is_empty());
    assert!(!contains(&frames, MARKER), "plaintext on the wire");
}

/// Before it ever started, while it is killed, and after: the application gets nowhere, and nothing leaves.
#[test]
fn without_a_living_sidecar_nothing_leaves() {
    if !require() {
        return;
    }
    let mut mesh = PodMesh::new(&["web", "api"], HOUR);
    let api = mesh.workload("api", &["web"], "");
    let web = mesh.workload("web", &[], "");
    let _server = api.echo(any(8080));
    let api_sidecar = api.start();
    api_sidecar.wait_ready();
    let capture = mesh.switch().capture().unwrap();
    let address = api.v4(8080);
    let attempt_from = |pod: &sidegate_devkit::pods::Pod| {
        let pod = pod.clone();
        move || {
            pod.run(move || {
                let mut tcp = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
                tcp.set_read_timeout(Some(Duration::from_secs(3)))?;
                tcp.write_all(MARKER)?;
                tcp.read(&mut [0; 64])
            })
            .unwrap()
        }
    };
    let attempt = attempt_from(&web.pod);

    assert!(attempt().is_err(), "before the sidecar started");
    let mut sidecar = web.start();
    sidecar.wait_ready();
    assert!(attempt().is_ok());

    // Killed while the application connects again and again.
    let killer = {
        let attempt = attempt.clone();
        std::thread::spawn(move || (0..200).map(|_| attempt().is_ok()).collect::<Vec<_>>())
    };
    eventually("some connections", || (sidecar.records().len() > 20).then_some(()));
    sidecar.kill();
    let outcomes = killer.join().unwrap();
    assert!(outcomes.contains(&true) && outcomes.ends_with(&[false]), "it was killed in the midst of the connections");
    assert!(attempt().is_err(), "after the sidecar was killed");

    // And the other side: api's sidecar dies, plaintext and TLS alike find nobody.
    let mut sidecar = web.start();
    sidecar.wait_ready();
    drop(api_sidecar);
    assert!(attempt().is_err(), "api's sidecar is dead");
    let stranger = mesh.bare("stranger");
    assert!(attempt_from(&stranger)().is_err(), "past a dead sidecar");
    sidecar.kill();

    // The stranger's own packets may be seen, its connection must not come about; so its marker is not looked for.
    let frames = capture.stop().unwrap();
    assert!(!contains(&frames, MARKER), "plaintext on the wire");
}

/// The application starts first: its connections wait for the sidecar's first SVID, and are then served.
#[test]
fn connections_wait_for_the_first_svid() {
    if !require() {
        return;
    }
    let mut mesh = PodMesh::new(&["web", "api"], HOUR);
    let api = mesh.workload("api", &["web"], "");
    let web = mesh.workload("web", &[], "");
    let _server = api.echo(any(8080));
    let api_sidecar = api.start();
    api_sidecar.wait_ready();
    mesh.identities.authority.set_fault(sidegate_devkit::authority::Fault::Unavailable);
    let sidecar = web.start();
    eventually("the admin port", || sidecar.ask("/livez"));
    let (status, why) = sidecar.ask("/readyz").unwrap();
    assert_eq!(status, 503);
    assert!(why.contains("no valid X.509-SVID"), "{why}");
    let address = api.v4(8080);
    let waiting = web.pod.spawn(move || echo_bytes(address, 1000, 1)).unwrap();
    // The kernel has taken the connection; nobody has accepted it.
    let pod = web.pod.clone();
    eventually("the waiting connection", || {
        let table = pod.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp")).unwrap().unwrap();
        table.contains(":3A99 ").then_some(())
    });
    assert!(!waiting.is_finished());
    mesh.identities.authority.set_fault(sidegate_devkit::authority::Fault::None);
    waiting.join().unwrap().unwrap();
}

/// Others in the pod may listen where the sidecar should: before it starts, while it drains, after it was killed. They get no
/// connection, neither from outside nor of the workload, and nobody outside hears a word of them.
#[test]
fn who_else_listens_on_the_capture_ports_gets_nothing() {
    if !require() {
        return;
    }
    let mut mesh = PodMesh::new(&["web", "api"], HOUR);
    let api = mesh.workload("api", &["web"], "drain: { deadline: 600s, settle: 0s }\n");
    let web = mesh.workload("web", &[], "");
    let stranger = mesh.bare("stranger");
    let _app = api.echo(any(8080));
    let squat = |port: u16| {
        let addresses = if port == 15006 { vec![any(port)] } else { vec![any(port), (Ipv4Addr::LOCALHOST, port).into()] };
        let bind = move || {
            let bound = addresses.iter().find_map(|address| TcpListener::bind(address).ok())?;
            bound.set_nonblocking(true).unwrap();
            Some(bound)
        };
        let pod = api.pod.clone();
        eventually("the port", || pod.run(bind.clone()).unwrap())
    };
    let counter = |name: &str| {
        let list = || std::process::Command::new("nft").args(["list", "counters", "table", "inet", "sidegate"]).output();
        let counters = String::from_utf8(api.pod.run(list).unwrap().unwrap().stdout).unwrap();
        let rest = counters.split_once(&format!("counter {name} ")).unwrap().1;
        rest.split("packets ").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    // A connection that somebody in `pod` begins is dropped, and `squatter` does not see it.
    let gets_nothing = |squatter: &TcpListener, pod: &Pod, to: SocketAddr| {
        let before = counter("capture_port_taken_dropped");
        let client = pod
            .run(move || {
                let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&to.into());
                socket
            })
            .unwrap();
        eventually("the drop", || (counter("capture_port_taken_dropped") > before).then_some(()));
        assert_eq!(squatter.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        drop(client);
    };
    let squatters_get_nothing = |ports: &[u16]| {
        for port in ports {
            let squatter = squat(*port);
            for address in [api.v4(8080), api.v6(8080)] {
                if *port == 15006 {
                    gets_nothing(&squatter, &stranger, address);
                    gets_nothing(&squatter, &web.pod, address);
                } else if address.is_ipv4() || squatter.local_addr().unwrap().is_ipv6() {
                    let outside = if address.is_ipv4() { web.v4(8080) } else { web.v6(8080) };
                    gets_nothing(&squatter, &api.pod, outside);
                }
            }
        }
    };

    // Before the start: the sidecar says who is in its place.
    squatters_get_nothing(&[15006, 15001]);
    let squatter = squat(15006);
    let mut refused = api.start();
    assert!(!refused.wait_end().success());
    assert!(refused.log().contains("a process of user 0 listens there"), "{}", refused.log());
    drop(squatter);

    let (api_sidecar, web_sidecar) = (api.start(), web.start());
    api_sidecar.wait_ready();
    web_sidecar.wait_ready();
    let address = api.v4(8080);
    let mut open = web.pod.run(move || TcpStream::connect(address)).unwrap().unwrap();
    open.write_all(b"before").unwrap();
    open.read_exact(&mut [0; 6]).unwrap();

    // During a drain nobody accepts inbound connections; what is open goes on.
    api_sidecar.signal(nix::sys::signal::Signal::SIGTERM);
    squatters_get_nothing(&[15006]);
    open.write_all(b"during").unwrap();
    open.read_exact(&mut [0; 6]).unwrap();

    let mut api_sidecar = api_sidecar;
    api_sidecar.kill();
    squatters_get_nothing(&[15006, 15001]);
    assert_eq!(open.read(&mut [0]).map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
}

/// A sidecar to which the kernel sends nothing is not ready, and says what is missing; it sees when the rules come, go and change.
#[test]
fn without_the_rules_a_sidecar_is_not_ready() {
    if !require() {
        return;
    }
    let mut mesh = PodMesh::new(&["web"], HOUR);
    let web = mesh.workload("web", &[], "");
    web.redirect("remove");
    let sidecar = web.start();
    let not_ready = |what: &str| {
        eventually(what, || sidecar.ask("/readyz").filter(|(status, why)| *status == 503 && why.contains(what)));
        assert_eq!(sidecar.metric("sidegate_capture_proven"), 0.0);
    };
    let ready = || {
        sidecar.wait_ready();
        assert_eq!(sidecar.metric("sidegate_capture_proven"), 1.0);
    };
    not_ready("this network namespace has no kernel rules of sidegate");
    eventually("the first SVID", || sidecar.log().contains("sidegate.identity.received").then_some(()));
    assert_eq!(sidecar.ask("/startupz").unwrap().0, 503, "the application would start without protection");
    web.redirect("apply");
    ready();
    assert_eq!(sidecar.ask("/startupz").unwrap().0, 200);
    let exempt = "exemptUid:";
    for (part, with) in [
        ("for what arrives are not those of this configuration", "inbound: { excludePorts: [22] }, exemptUid:"),
        ("for what leaves are not those of this configuration", "outbound: { excludePorts: [22] }, exemptUid:"),
        ("those of another configuration", "udp: allow, exemptUid:"),
    ] {
        web.redirect_differently("apply", exempt, with);
        not_ready(part);
        assert_eq!(sidecar.ask("/startupz").unwrap().0, 200, "it has started");
        web.redirect("apply");
        ready();
    }
    // Rules for another user exempt this sidecar from nothing, so its own packets would come back to it.
    web.redirect_differently("apply", "exemptUid: 6", "exemptUid: 1");
    not_ready("or they exempt another user or mark");
    let log = sidecar.log();
    let told = |event: &str| log.matches(&format!("\"event\":\"{event}\"")).count();
    assert_eq!((told("sidegate.capture.missing"), told("sidegate.capture.proven")), (5, 4), "{log}");
    assert!(!log.contains("outbound_loop"));
}

/// Who redirects by other means says so, in writing.
#[test]
fn the_proof_can_be_done_without() {
    if !require() {
        return;
    }
    let mut mesh = PodMesh::new(&["web"], HOUR);
    let web = mesh.workload("web", &[], "");
    web.redirect("remove");
    let sidecar = web.start_differently("exemptUid:", "withoutProof: \"the CNI plugin of the platform redirects\", exemptUid:");
    sidecar.wait_ready();
    assert!(sidecar.log().contains("the CNI plugin of the platform redirects"), "{}", sidecar.log());
    let (_, metrics) = sidecar.ask("/metrics").unwrap();
    assert!(!metrics.contains("sidegate_capture_proven"));
}

/// Each action says in a line what it has found or done.
#[test]
fn redirect_says_what_it_did() {
    if !require() {
        return;
    }
    let mut mesh = PodMesh::new(&["web"], HOUR);
    let web = mesh.workload("web", &[], "");
    let said = |action: &str| web.redirect(action);
    let good = |text: &str| (Some(0), format!("{text}\n"));
    assert_eq!(said("verify"), good("the kernel has what is wanted"));
    assert_eq!(said("apply"), good("unchanged: the kernel had these rules already"));
    assert_eq!(said("remove"), good("removed"));
    assert_eq!(said("remove"), good("there were no rules"));
    let nothing = "this network namespace has no kernel rules of sidegate; `sidegate redirect apply` puts them in place\n";
    assert_eq!(said("verify"), (Some(1), nothing.to_owned()));
    web.redirect_differently("apply", "exemptUid:", "udp: allow, exemptUid:");
    let (status, differs) = said("verify");
    assert!(
        status == Some(1) && differs.contains("outbound_udp_dropped") && differs.contains("differ from what is wanted in"),
        "{differs}"
    );
    assert_eq!(said("apply"), good("applied"));
}
