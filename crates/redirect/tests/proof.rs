//! The rules prove themselves: only a sidecar with the same plan reaches itself through them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io;
use std::net::{Ipv4Addr, TcpListener};

use common::*;
use sidegate_devkit::pods::Pod;
use sidegate_redirect::{Exempt, Plan, Proof, UdpHandling};

/// Whether a connection to `address` arrives at the loopback listener.
fn leads_back(pod: &Pod, address: Ipv4Addr, who: As) -> bool {
    let listener = listen(pod, Ipv4Addr::LOCALHOST.into(), 0);
    let port = listener.local_addr().unwrap().port();
    match connect(pod, (address, port), who) {
        Ok(stream) => arrived(&listener, &stream),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{address}: {error}");
            false
        }
    }
}

fn arrived(listener: &TcpListener, stream: &std::net::TcpStream) -> bool {
    listener.accept().unwrap().1.port() == stream.local_addr().unwrap().port()
}

#[test]
fn only_the_sidecar_of_the_plan_reaches_itself() {
    let Some(Pair { network: _network, pod, peer: _peer }) = pair() else {
        return;
    };
    let mark = Plan { exempt: Exempt::Mark(0x77), ..plan() };
    for (plan, own, others) in [
        (plan(), As::Uid(SIDECAR), As::Uid(1000)),
        (plan_in(inbound()), As::Uid(SIDECAR), As::Uid(1000)),
        (plan_out(outbound()), As::Uid(SIDECAR), As::Uid(1000)),
        (Plan { udp: UdpHandling::Allow, ..mark.clone() }, As::Mark(0x77), As::App),
        (Plan { outbound: None, ..mark }, As::Mark(0x77), As::App),
    ] {
        capture(&pod, &plan);
        let proof = Proof::of(&plan).unwrap();
        for address in [Some(proof.any), Some(proof.rules), proof.inbound, proof.outbound].into_iter().flatten() {
            assert!(leads_back(&pod, address, own), "{address} of {plan:?}");
            assert!(!leads_back(&pod, address, others), "{address} of {plan:?}");
        }
        let udp = if plan.udp == UdpHandling::Drop { UdpHandling::Allow } else { UdpHandling::Drop };
        let other = Proof::of(&Plan { udp, ..plan.clone() }).unwrap();
        assert!(!leads_back(&pod, other.rules, own));
        if plan.outbound.is_some() {
            assert_eq!(counter(&pod, "outbound_loop_dropped"), 0);
        }
    }
    pod.run(sidegate_redirect::remove).unwrap().unwrap();
    let proof = Proof::of(&plan()).unwrap();
    assert!(!leads_back(&pod, proof.any, As::Uid(SIDECAR)) && !leads_back(&pod, proof.rules, As::Uid(SIDECAR)));
}
