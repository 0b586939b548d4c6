//! Outbound traffic of the pod: redirected, exempt, or dropped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use common::*;
use sidegate_config::value::PortRange;
use sidegate_devkit::pods::contains;
use sidegate_redirect::{Exempt, OutboundCapture, Plan, UdpHandling};
use socket2::{Domain, Protocol, Socket, Type};

#[test]
fn a_connection_arrives_at_the_sidecar_with_its_true_destination() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    for address in addresses(&peer) {
        let sidecar = listen_as(&pod, loopback(address), OUTBOUND, As::Uid(SIDECAR));
        let mut app = connect(&pod, (address, 8080), As::App).unwrap();
        let (mut captured, original) = accept(&sidecar);
        assert_eq!(original, SocketAddr::new(address, 8080));
        // Both ways, and the application sees the peer it asked for.
        assert_eq!(app.peer_addr().unwrap(), original);
        captured.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        app.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    }
}

#[test]
fn the_sidecar_and_exempt_users_pass_by_uid() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &Plan { exempt_uids: vec![7, 8], ..plan() });
    for address in addresses(&peer) {
        let service = listen(&peer, address, 8080);
        for uid in [SIDECAR, 7, 8] {
            connect(&pod, (address, 8080), As::Uid(uid)).unwrap();
            service.accept().unwrap();
        }
        assert_eq!(connect(&pod, (address, 8080), As::Uid(9)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn the_sidecar_passes_by_mark() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &Plan { exempt: Exempt::Mark(0x77), ..plan() });
    for address in addresses(&peer) {
        let service = listen(&peer, address, 8080);
        connect(&pod, (address, 8080), As::Mark(0x77)).unwrap();
        service.accept().unwrap();
        for other in [As::App, As::Mark(0x78), As::Uid(SIDECAR)] {
            assert_eq!(connect(&pod, (address, 8080), other).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    }
}

#[test]
fn local_addresses_are_left_alone() {
    let Some(Pair { network: _network, pod, peer: _peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    let [v4, v6] = addresses(&pod);
    for address in [v4, v6, Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), Ipv4Addr::new(127, 9, 9, 9).into()] {
        let app = listen(&pod, address, 8080);
        connect(&pod, (address, 8080), As::App).unwrap();
        app.accept().unwrap();
        let (a, b) = (udp(&pod, address, 5000), udp(&pod, address, 5001));
        a.send_to(b"local", (address, 5001)).unwrap();
        assert_eq!(b.recv(&mut [0; 16]).unwrap(), 5);
    }
}

#[test]
fn without_a_sidecar_a_connection_is_refused_and_nothing_is_on_the_wire() {
    let Some(Pair { network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    for address in addresses(&peer) {
        let _service = listen(&peer, address, 8080);
        let wire = network.switch().capture().unwrap();
        assert_eq!(connect(&pod, (address, 8080), As::App).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(!contains(&wire.stop().unwrap(), &header(&pod, &peer, address)));
    }
}

#[test]
fn without_the_redirection_the_filter_drops() {
    let Some(Pair { network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    nft(&pod, "flush chain inet sidegate outbound_redirect");
    for (n, address) in (1..).zip(addresses(&peer)) {
        let _service = listen(&peer, address, 8080);
        let wire = network.switch().capture().unwrap();
        let _app = knock(&pod, (address, 8080));
        eventually("the drop is counted", || counter(&pod, "outbound_tcp_dropped") >= n);
        assert!(!contains(&wire.stop().unwrap(), &header(&pod, &peer, address)));
        // The sidecar's own connections do not depend on it.
        connect(&pod, (address, 8080), As::Uid(SIDECAR)).unwrap();
    }
}

#[test]
fn excluded_destinations_and_ports_pass() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    let [v4, v6] = addresses(&peer);
    let ports = vec![PortRange { first: 9000, last: 9010 }, 9005.into()];
    for excluded in [
        OutboundCapture { exclude_ports: ports, ..outbound() },
        OutboundCapture { exclude_cidrs: vec![v4.into(), "10.77.0.0/30".parse().unwrap(), v6.into()], ..outbound() },
        OutboundCapture { include_ports: vec![80.into()], ..outbound() },
        OutboundCapture { include_cidrs: vec!["192.0.2.0/24".parse().unwrap()], ..outbound() },
    ] {
        capture(&pod, &plan_out(excluded));
        for address in [v4, v6] {
            let service = listen(&peer, address, 9005);
            connect(&pod, (address, 9005), As::App).unwrap();
            service.accept().unwrap();
            let (a, b) = (udp(&pod, addresses(&pod)[usize::from(address.is_ipv6())], 5000), udp(&peer, address, 9005));
            a.send_to(b"as the TCP port", (address, 9005)).unwrap();
            assert_eq!(b.recv(&mut [0; 16]).unwrap(), 15);
        }
    }
}

#[test]
fn what_is_included_is_captured() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    let [v4, v6] = addresses(&peer);
    let _services = [listen(&peer, v4, 80), listen(&peer, v6, 80)];
    capture(&pod, &plan_out(OutboundCapture { include_cidrs: vec![v4.into()], include_ports: vec![80.into()], ..outbound() }));
    assert_eq!(connect(&pod, (v4, 80), As::App).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    connect(&pod, (v6, 80), As::App).expect("IPv6 is not included");
    capture(&pod, &plan_out(OutboundCapture { include_cidrs: vec!["::/0".parse().unwrap()], ..outbound() }));
    connect(&pod, (v4, 80), As::App).expect("IPv4 is not included");
    assert_eq!(connect(&pod, (v6, 80), As::App).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn udp_is_dropped_except_to_the_resolvers() {
    let Some(Pair { network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &Plan { dns_resolvers: addresses(&peer).to_vec(), ..plan() });
    for (n, address) in (1..).zip(addresses(&peer)) {
        let own = addresses(&pod)[usize::from(address.is_ipv6())];
        let (app, quic, dns) = (udp(&pod, own, 5000), udp(&peer, address, 443), udp(&peer, address, 53));
        let wire = network.switch().capture().unwrap();
        assert_eq!(app.send_to(b"http/3", (address, 443)).unwrap_err().kind(), ErrorKind::PermissionDenied);
        app.send_to(b"question", (address, 53)).unwrap();
        let (_, asker) = dns.recv_from(&mut [0; 16]).unwrap();
        dns.send_to(b"answer", asker).unwrap();
        assert_eq!(app.recv(&mut [0; 16]).unwrap(), 6);
        let frames = wire.stop().unwrap();
        assert!(contains(&frames, b"question") && !contains(&frames, b"http/3"));
        drop(quic);

        let over_tcp = listen(&peer, address, 53);
        connect(&pod, (address, 53), As::App).unwrap();
        over_tcp.accept().unwrap();
        assert_eq!((counter(&pod, "dns_udp_allowed"), counter(&pod, "outbound_udp_dropped")), (n, n));
        assert!(counter(&pod, "dns_tcp_allowed") > 0);
    }
}

#[test]
fn other_protocols_are_dropped() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    let send = move |protocol: i32| {
        let to = SocketAddr::from((peer.ipv4(), 0));
        let sent = move || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(protocol))).unwrap();
            socket.send_to(b"\x08\x00 some other protocol", &to.into())
        };
        pod.run(sent).unwrap().map_err(|error| error.kind()).map(|_| pod.clone())
    };
    let pod = send(253).expect("nothing is applied yet");
    capture(&pod, &plan());
    assert_eq!(send(253).err(), Some(ErrorKind::PermissionDenied));
    assert_eq!(send(132).err(), Some(ErrorKind::PermissionDenied), "SCTP");
    assert_eq!(counter(&pod, "outbound_other_dropped"), 1);
    assert_eq!(counter(&pod, "outbound_invalid_dropped"), 1, "it was no SCTP that conntrack would take");
    send(1).expect("ICMP");
}

#[test]
fn udp_may_be_allowed() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &Plan { udp: UdpHandling::Allow, ..plan() });
    let (app, service) = (udp(&pod, pod.ipv4().into(), 5000), udp(&peer, peer.ipv4().into(), 443));
    app.send_to(b"out", (peer.ipv4(), 443)).unwrap();
    assert_eq!(service.recv(&mut [0; 16]).unwrap(), 3);
    service.send_to(b"in", (pod.ipv4(), 5000)).unwrap();
    assert_eq!(app.recv(&mut [0; 16]).unwrap(), 2);
}

/// Another process of the pod that listens on the sidecar's port gets none of the workload's connections.
#[test]
fn nobody_else_answers_on_the_capture_port() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    for exempt in [Exempt::Uid(SIDECAR), Exempt::Mark(0x77)] {
        capture(&pod, &Plan { exempt, ..plan() });
        for (n, address) in (1..).zip(addresses(&peer)) {
            let squatter = listen(&pod, loopback(address), OUTBOUND);
            let _app = knock(&pod, (address, 8080));
            eventually("the drop is counted", || counter(&pod, "capture_port_taken_dropped") >= n);
            assert!(nobody_came(&squatter));
        }
    }
}

/// Rules that exempt another user than the sidecar's would redirect the sidecar to itself.
#[test]
fn the_sidecars_packets_are_never_redirected() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    // The exemption has been removed.
    nft(&pod, "flush chain inet sidegate outbound_exempt; flush chain inet sidegate outbound_zone");
    for (n, address) in (1..).zip(addresses(&peer)) {
        let sidecar = listen_as(&pod, loopback(address), OUTBOUND, As::Uid(SIDECAR));
        let to = SocketAddr::from((address, 8080));
        let own = socket(&pod, to, As::Uid(SIDECAR));
        own.set_nonblocking(true).unwrap();
        let _ = own.connect(&to.into());
        eventually("the drop is counted", || counter(&pod, "outbound_loop_dropped") >= n);
        assert!(nobody_came(&sidecar));
    }
}
