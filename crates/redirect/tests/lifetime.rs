//! The edges of a connection's life: older than the rules, left by its owner, or taken over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use common::*;
use sidegate_devkit::pods::contains;
use sidegate_redirect::{Exempt, OutboundCapture, Plan};

#[test]
fn connections_older_than_the_rules_end() {
    let Some(Pair { network, pod, peer }) = pair() else {
        return;
    };
    // Excluded first, so that the kernel tracks them.
    for address in addresses(&peer) {
        capture(&pod, &plan_out(OutboundCapture { exclude_cidrs: vec![address.into()], ..outbound() }));
        let service = listen(&peer, address, 8080);
        let mut app = connect(&pod, (address, 8080), As::App).unwrap();
        let mut far = service.accept().unwrap().0;
        app.write_all(b"before").unwrap();
        far.read_exact(&mut [0; 6]).unwrap();
        let wire = network.switch().capture().unwrap();
        capture(&pod, &plan());
        app.write_all(b"plaintext after").unwrap();
        eventually("the drop is counted", || counter(&pod, "outbound_tcp_dropped") > 0);
        assert!(!contains(&wire.stop().unwrap(), b"plaintext after"));
    }
}

#[test]
fn a_connection_that_the_kernel_did_not_track_yet_ends_too() {
    let Some(Pair { network, pod, peer }) = pair() else {
        return;
    };
    for address in addresses(&peer) {
        pod.run(sidegate_redirect::remove).unwrap().unwrap();
        let service = listen(&peer, address, 8080);
        let mut app = connect(&pod, (address, 8080), As::App).unwrap();
        let _far = service.accept().unwrap();
        let wire = network.switch().capture().unwrap();
        capture(&pod, &plan());
        app.write_all(b"plaintext after").unwrap();
        // It is redirected in mid-stream, to a sidecar that does not know it.
        app.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(app.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(!contains(&wire.stop().unwrap(), b"plaintext after"));
    }
}

#[test]
fn what_an_exempt_socket_left_behind_is_still_delivered() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    // A sidecar recognized by its user sends everything before it closes.
    for (exempt, who) in [(Exempt::Uid(SIDECAR), As::Uid(7)), (Exempt::Mark(0x77), As::Mark(0x77))] {
        capture(&pod, &Plan { exempt, exempt_uids: vec![7], ..plan() });
        for address in addresses(&peer) {
            let service = listen(&peer, address, 8080);
            let mut stream = connect(&pod, (address, 8080), who).unwrap();
            let mut far = service.accept().unwrap().0;
            // Writes until both buffers are full, so that data is left to send after the close.
            stream.set_nonblocking(true).unwrap();
            let (mut sent, block) = (0, [7; 16 << 10]);
            while let Ok(taken) = stream.write(&block) {
                sent += taken;
            }
            drop(stream);
            far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            assert_eq!(std::io::copy(&mut far, &mut std::io::sink()).unwrap(), sent as u64);
        }
        assert_eq!(counter(&pod, "outbound_tcp_dropped"), 0);
    }
}

#[test]
fn what_is_left_of_a_sidecars_connection_decides_nothing_for_the_workload() {
    let Some(Pair { network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    for address in addresses(&peer) {
        // The end of a connection is lost before conntrack sees it, so conntrack keeps it as alive.
        nft(
            &pod,
            "add table inet lost; add chain inet lost rst { type filter hook output priority -300; }; \
             add rule inet lost rst tcp flags rst drop",
        );
        let own = SocketAddr::new(addresses(&pod)[usize::from(address.is_ipv6())], 7000);
        let (service, to) = (listen(&peer, address, 8080), SocketAddr::new(address, 8080));
        let sidecar = socket(&pod, to, As::Uid(SIDECAR));
        insist(|| sidecar.bind(&own.into()));
        sidecar.connect(&to.into()).unwrap();
        let _far = service.accept().unwrap();
        sidecar.set_linger(Some(Duration::ZERO)).unwrap();
        drop(sidecar);

        nft(&pod, "delete table inet lost");
        let wire = network.switch().capture().unwrap();
        let app = socket(&pod, to, As::App);
        insist(|| app.bind(&own.into()));
        // It is redirected to a port without a listener, neither treated as the sidecar's nor dropped.
        assert_eq!(app.connect(&to.into()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(counter(&pod, "outbound_tcp_dropped"), 0);
        assert!(!contains(&wire.stop().unwrap(), &header(&pod, &peer, address)));
    }
}

/// The reverse: the sidecar gets a local port that the workload used a moment ago with the same peer.
#[test]
fn what_is_left_of_the_workloads_connection_decides_nothing_for_the_sidecar() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    for (exempt, who) in [(Exempt::Uid(SIDECAR), As::Uid(SIDECAR)), (Exempt::Mark(0x77), As::Mark(0x77))] {
        capture(&pod, &Plan { exempt, ..plan() });
        for address in addresses(&peer) {
            let own = SocketAddr::new(addresses(&pod)[usize::from(address.is_ipv6())], 7000);
            let (service, to) = (listen(&peer, address, 8080), SocketAddr::new(address, 8080));
            // Refused by the capture port, which has no listener: the conntrack entry stays for ten seconds.
            let app = socket(&pod, to, As::App);
            insist(|| app.bind(&own.into()));
            assert_eq!(app.connect(&to.into()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            drop(app);
            let sidecar = socket(&pod, to, who);
            insist(|| sidecar.bind(&own.into()));
            sidecar.connect_timeout(&to.into(), Duration::from_secs(5)).unwrap();
            service.accept().unwrap();
            sidecar.set_linger(Some(Duration::ZERO)).unwrap();
        }
        for dropped in ["outbound_tcp_dropped", "outbound_invalid_dropped", "outbound_loop_dropped"] {
            assert_eq!(counter(&pod, dropped), 0, "{dropped}");
        }
    }
}

/// A server may close long after us: then the kernel answers its FIN without a socket.
#[test]
fn the_end_of_a_connection_that_the_sidecar_closed_first_is_answered() {
    let Some(Pair { network: _network, pod, peer }) = pair() else {
        return;
    };
    for (exempt, who) in [(Exempt::Uid(SIDECAR), As::Uid(SIDECAR)), (Exempt::Mark(0x77), As::Mark(0x77))] {
        capture(&pod, &Plan { exempt, ..plan() });
        for address in addresses(&peer) {
            let (service, to) = (listen(&peer, address, 8080), SocketAddr::new(address, 8080));
            drop(connect(&pod, to, who).unwrap());
            let far = service.accept().unwrap().0;
            assert_eq!((&far).read(&mut [0]).unwrap(), 0);
            let port = far.peer_addr().unwrap().port();
            drop((far, service));
            // Without an answer it would stay in LAST-ACK for minutes.
            let table = if address.is_ipv4() { "/proc/thread-self/net/tcp" } else { "/proc/thread-self/net/tcp6" };
            eventually("the server's socket is gone", || {
                let sockets = peer.run(move || std::fs::read_to_string(table)).unwrap().unwrap();
                !sockets.contains(&format!(":{port:04X} "))
            });
        }
        assert_eq!((counter(&pod, "outbound_tcp_dropped"), counter(&pod, "outbound_invalid_dropped")), (0, 0));
    }
}

/// An application can't pass for the sidecar by what it sets on its socket: its remaining packets are treated as the workload's.
#[test]
fn what_an_application_leaves_behind_reaches_the_sidecar() {
    let Some(Pair { network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    for (address, priority) in addresses(&peer).into_iter().zip([4, 6]) {
        // The sidecar had a connection from the same port to the same peer before.
        let own = SocketAddr::new(addresses(&pod)[usize::from(address.is_ipv6())], 7100);
        let (service, to) = (listen(&peer, address, 8080), SocketAddr::new(address, 8080));
        let before = socket(&pod, to, As::Uid(SIDECAR));
        insist(|| before.bind(&own.into()));
        before.connect(&to.into()).unwrap();
        let _far = service.accept().unwrap();
        before.set_linger(Some(Duration::ZERO)).unwrap();
        drop(before);

        let wire = network.switch().capture().unwrap();
        let sidecar = listen_as(&pod, loopback(address), OUTBOUND, As::Uid(SIDECAR));
        let app = socket(&pod, to, As::App);
        insist(|| app.bind(&own.into()));
        app.set_priority(priority).unwrap();
        app.connect_timeout(&to.into(), Duration::from_secs(5)).unwrap();
        let (mut captured, _) = accept(&sidecar);
        app.set_nonblocking(true).unwrap();
        let (mut sent, block) = (0, [b'S'; 16 << 10]);
        while let Ok(taken) = (&app).write(&block) {
            sent += taken;
        }
        drop(app);
        captured.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(std::io::copy(&mut captured, &mut std::io::sink()).unwrap(), sent as u64);
        assert!(!contains(&wire.stop().unwrap(), &block[..64]));
    }
    assert_eq!((counter(&pod, "outbound_tcp_dropped"), counter(&pod, "outbound_invalid_dropped")), (0, 0));
}
