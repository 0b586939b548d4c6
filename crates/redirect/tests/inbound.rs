//! Inbound traffic of the pod: redirected, exempt, or dropped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

use common::*;
use sidegate_redirect::{Exempt, InboundCapture, Plan, UdpHandling};
use socket2::{Domain, Protocol, Socket, Type};

#[test]
fn a_connection_arrives_at_the_sidecar_with_its_true_destination() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    for (address, any) in addresses(&pod).into_iter().zip([Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]) {
        let app = listen(&pod, address, 8080);
        let sidecar = listen_as(&pod, any, INBOUND, As::Uid(SIDECAR));
        let mut client = connect(&peer, (address, 8080), As::App).unwrap();
        let (mut captured, original) = accept(&sidecar);
        assert_eq!(original, SocketAddr::new(address, 8080));
        captured.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        assert!(nobody_came(&app));
    }
}

#[test]
fn without_a_sidecar_a_connection_is_refused() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    for address in addresses(&pod) {
        let app = listen(&pod, address, 8080);
        assert_eq!(connect(&peer, (address, 8080), As::App).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(nobody_came(&app));
    }
}

#[test]
fn without_the_redirection_the_filter_drops() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    nft(&pod, "flush chain inet sidegate inbound_redirect");
    for (n, address) in (1..).zip(addresses(&pod)) {
        let app = listen(&pod, address, 8080);
        let _client = knock(&peer, (address, 8080));
        eventually("the drop is counted", || counter(&pod, "inbound_tcp_dropped") >= n);
        assert!(nobody_came(&app));
    }
}

#[test]
fn the_pod_itself_is_left_alone() {
    let Some(Pair { network: _network, pod, peer: _peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    for address in addresses(&pod) {
        let app = listen(&pod, address, 8080);
        for who in [As::App, As::Uid(SIDECAR)] {
            connect(&pod, (address, 8080), who).unwrap();
            app.accept().unwrap();
        }
    }
}

#[test]
fn the_sidecars_port_cannot_be_reached_directly() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    // Any second address: a redirection to the first one would look like a captured connection.
    for address in ["10.77.0.200/24", "fd77::200/64"] {
        let add = move || {
            Command::new("ip").args(["addr", "add", address, "dev", "eth0"]).args(address.contains(':').then_some("nodad")).status()
        };
        assert!(pod.run(add).unwrap().unwrap().success());
    }
    let [v4, v6] = addresses(&pod);
    let second = ["10.77.0.200".parse().unwrap(), "fd77::200".parse().unwrap()];
    for inbound in
        [inbound(), InboundCapture { include_ports: vec![80.into()], exclude_cidrs: vec!["10.77.0.0/24".parse().unwrap()], ..inbound() }]
    {
        capture(&pod, &plan_in(inbound));
        for (n, address) in (1..).zip([v4, v6].into_iter().chain(second)) {
            let sidecar = listen_as(&pod, address, INBOUND, As::Uid(SIDECAR));
            let _client = knock(&peer, (address, INBOUND));
            eventually("the drop is counted", || counter(&pod, "inbound_direct_dropped") >= n);
            assert!(nobody_came(&sidecar));
        }
    }
}

#[test]
fn excluded_ports_and_peers_pass() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    let peers = addresses(&peer).map(Into::into).to_vec();
    for excluded in [
        InboundCapture { exclude_ports: vec![9000.into()], ..inbound() },
        InboundCapture { exclude_cidrs: peers, ..inbound() },
        InboundCapture { include_ports: vec![80.into()], ..inbound() },
    ] {
        // With outbound capture too: the answers belong to the inbound connection.
        capture(&pod, &Plan { inbound: Some(excluded), ..plan() });
        for address in addresses(&pod) {
            let app = listen(&pod, address, 9000);
            let mut client = connect(&peer, (address, 9000), As::App).unwrap();
            app.accept().unwrap().0.write_all(b"answer").unwrap();
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).unwrap();
            assert_eq!(heard, b"answer");
        }
    }
    let _app = listen(&pod, pod.ipv4().into(), 80);
    let included = connect(&peer, (pod.ipv4(), 80), As::App);
    assert_eq!(included.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn udp_is_dropped_unless_allowed() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    for (address, from) in addresses(&pod).into_iter().zip(addresses(&peer)) {
        capture(&pod, &plan());
        let (app, client) = (udp(&pod, address, 5353), udp(&peer, from, 5000));
        client.send_to(b"dropped", (address, 5353)).unwrap();
        eventually("the drop is counted", || counter(&pod, "inbound_udp_dropped") > 0);
        capture(&pod, &Plan { udp: UdpHandling::Allow, ..plan() });
        client.send_to(b"in", (address, 5353)).unwrap();
        assert_eq!(app.recv(&mut [0; 16]).unwrap(), 2, "the first one has not come");
    }
}

#[test]
fn a_direction_that_is_not_planned_is_left_alone() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    for (address, far) in addresses(&pod).into_iter().zip(addresses(&peer)) {
        let (app, service) = (listen(&pod, address, 8080), listen(&peer, far, 8080));
        capture(&pod, &plan_out(outbound()));
        let mut client = connect(&peer, (address, 8080), As::App).unwrap();
        app.accept().unwrap().0.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        capture(&pod, &plan_in(inbound()));
        let mut client = connect(&pod, (far, 8080), As::App).unwrap();
        service.accept().unwrap().0.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn other_protocols_are_dropped() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    let to = SocketAddr::from((pod.ipv4(), 0));
    let send = |protocol| {
        let sent = move || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(protocol)));
            socket.unwrap().send_to(&[0; 40], &to.into())
        };
        peer.run(sent).unwrap().unwrap();
    };
    send(253);
    eventually("it is counted", || counter(&pod, "inbound_other_dropped") == 1);
    // A header of zeros, which conntrack does not accept as TCP.
    send(6);
    eventually("it is counted", || counter(&pod, "inbound_invalid_dropped") == 1);
}

/// While the sidecar is down, any process in the pod may listen on its port. It neither sends nor receives a byte.
#[test]
fn nobody_else_answers_on_the_capture_port() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    for exempt in [Exempt::Uid(SIDECAR), Exempt::Mark(0x77)] {
        for plan in [Plan { exempt, ..plan() }, Plan { exempt, ..plan_in(inbound()) }] {
            capture(&pod, &plan);
            for (n, address) in (1..).zip(addresses(&pod)) {
                let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let squatter = listen(&pod, any, INBOUND);
                let client = knock(&peer, (address, 8080));
                eventually("the drop is counted", || counter(&pod, "capture_port_taken_dropped") >= n);
                assert!(nobody_came(&squatter), "there is no connection, so nothing comes either");
                // The client's retransmissions are dropped too.
                drop(client);
            }
        }
    }
}

/// The same, if the squatter got the connection while the kernel answered with SYN cookies.
#[test]
fn nobody_else_answers_behind_a_syn_cookie() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    // Every SYN is answered with a cookie, and that packet has no owner.
    pod.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2")).unwrap().unwrap();
    capture(&pod, &plan());
    let address = IpAddr::from(pod.ipv4());
    let squatter = listen(&pod, Ipv4Addr::UNSPECIFIED.into(), INBOUND);
    let mut client = connect(&peer, (address, 8080), As::App).unwrap();
    let mut taken = squatter.accept().unwrap().0;
    taken.write_all(b"plaintext").unwrap();
    eventually("the drop is counted", || counter(&pod, "capture_port_taken_dropped") > 0);
    // The kernel retransmits its queue after the owner has gone.
    drop(taken);
    eventually("the drop is counted", || counter(&pod, "capture_port_unanswered_dropped") > 0);
    client.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    assert_eq!(client.read(&mut [0; 16]).unwrap_err().kind(), ErrorKind::WouldBlock);

    // A sidecar still works after that.
    drop(squatter);
    let sidecar = listen_as(&pod, Ipv4Addr::UNSPECIFIED.into(), INBOUND, As::Uid(SIDECAR));
    let mut client = connect(&peer, (address, 8080), As::App).unwrap();
    client.write_all(b"hello").unwrap();
    let (mut captured, _) = accept(&sidecar);
    captured.read_exact(&mut [0; 5]).unwrap();
    // Data in flight after the socket's owner has gone.
    captured.write_all(&[7; 200_000]).unwrap();
    drop(captured);
    let mut heard = Vec::new();
    let _ = client.read_to_end(&mut heard);
    assert_eq!(heard.len(), 200_000);
}
