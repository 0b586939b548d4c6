//! The edges of a connection's life: older than the rules, left by its owner, or taken over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use common::*;
use sidegate_pods::contains;
use sidegate_redirect::{Exempt, Outbound, Plan};

#[test]
fn connections_older_than_the_rules_end() {
    let Some(Pair { network, pod, peer }) = pair() else {
        return;
    };
    // Excluded at first, so that the kernel tracks them.
    for address in addresses(&peer) {
        capture(&pod, &plan_out(Outbound { exclude_cidrs: vec![address.into()], ..outbound() }));
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
        // It is redirected in mid-stream, to a sidecar that knows nothing of it.
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
    for (exempt, who) in
        [(Exempt::Uid(SIDECAR), As::Uid(SIDECAR)), (Exempt::Uid(SIDECAR), As::Uid(7)), (Exempt::Mark(0x77), As::Mark(0x77))]
    {
        capture(&pod, &Plan { exempt, exempt_uids: vec![7], ..plan() });
        for address in addresses(&peer) {
            let service = listen(&peer, address, 8080);
            let mut stream = connect(&pod, (address, 8080), who).unwrap();
            let mut far = service.accept().unwrap().0;
            // Until neither side takes more, so that much is left to send after the close.
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
fn nobody_inherits_the_connection_of_a_sidecar_that_is_gone() {
    let Some(Pair { network, pod, peer }) = pair() else {
        return;
    };
    capture(&pod, &plan());
    // What ends a connection gets lost before the kernel's tracking sees it, which so takes it for alive.
    nft(
        &pod,
        "add table inet lost; add chain inet lost rst { type filter hook output priority -300; }; \
         add rule inet lost rst tcp flags rst drop",
    );
    for (n, address) in (1..).zip(addresses(&peer)) {
        let own = SocketAddr::new(addresses(&pod)[usize::from(address.is_ipv6())], 7000);
        let (service, to) = (listen(&peer, address, 8080), SocketAddr::new(address, 8080));
        let sidecar = socket(&pod, to, As::Uid(SIDECAR));
        insist(|| sidecar.bind(&own.into()));
        sidecar.connect(&to.into()).unwrap();
        let _far = service.accept().unwrap();
        sidecar.set_linger(Some(Duration::ZERO)).unwrap();
        drop(sidecar);

        let wire = network.switch().capture().unwrap();
        let app = socket(&pod, to, As::App);
        insist(|| app.bind(&own.into()));
        app.set_nonblocking(true).unwrap();
        let _ = app.connect(&to.into());
        eventually("the drop is counted", || counter(&pod, "outbound_tcp_dropped") >= n);
        assert!(!contains(&wire.stop().unwrap(), &header(&pod, &peer, address)));
    }
}
