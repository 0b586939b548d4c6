//! The rules that capture, as text for nft, with a comment on each for reviewers.

use sidegate_config::value::PortRange;

use crate::plan::{Exempt, InboundCapture, OutboundCapture, Plan, UdpHandling};
use crate::set::{AddressField, outside, ports, set, within};
use crate::text::Text;

/// The mark (`ct mark`) on the connections of the sidecar and of the exempt users.
const SIDECAR_CONNECTION: u32 = 0x51de;
/// The mark on the connections that were redirected to the outbound port and that nobody has answered yet.
const REDIRECTED_CONNECTION: u32 = 0x51d0;
/// The mark on redirected connections, of both directions, that the sidecar has answered.
const ANSWERED_CONNECTION: u32 = 0x51d1;
/// The conntrack zone of the sidecar's own connections, apart from the workload's. Both use the same addresses and ports, and an
/// old entry of one must not affect the other.
const SIDECAR_ZONE: u16 = 0x51de;
/// The sets of the sidecar's connections that are being closed: name, type of address, key.
const CLOSING: [(&str, &str, &str); 2] = [
    ("closing4", "ipv4_addr", "ip saddr . tcp sport . ip daddr . tcp dport"),
    ("closing6", "ipv6_addr", "ip6 saddr . tcp sport . ip6 daddr . tcp dport"),
];
/// The owner that nft assumes for a packet without one.
const NOBODY: u32 = u32::MAX;

/// Writes all rules but the proof's.
pub(crate) fn capture(text: &mut Text, plan: &Plan) {
    for counter in counters(plan) {
        text.line(format_args!("counter {counter} {{ }}"));
    }
    if let Some(outbound) = &plan.outbound {
        outbound_zone(text, plan);
        outbound_exempt(text, plan, outbound);
        outbound_redirect(text, outbound);
    }
    // In this order: a chain must exist before a rule jumps to it.
    replies(text, plan);
    if plan.outbound.is_some() {
        outbound_filter(text, plan);
    }
    if let Some(inbound) = &plan.inbound {
        inbound_exempt(text, inbound);
        inbound_redirect(text, inbound);
        inbound_filter(text, plan, inbound);
    }
}

/// A counter must be declared before the rules that use it, and is declared only if one does.
fn counters(plan: &Plan) -> Vec<&'static str> {
    let dropping = plan.udp == UdpHandling::Drop;
    let (outbound, inbound) = (plan.outbound.is_some(), plan.inbound.is_some());
    let resolvers = outbound && !plan.dns_resolvers.is_empty();
    [
        ("dns_udp_allowed", resolvers),
        ("dns_tcp_allowed", resolvers),
        ("capture_port_taken_dropped", true),
        ("capture_port_unanswered_dropped", true),
        ("outbound_loop_dropped", outbound),
        ("outbound_invalid_dropped", outbound),
        ("outbound_tcp_dropped", outbound),
        ("outbound_udp_dropped", outbound && dropping),
        ("outbound_other_dropped", outbound && dropping),
        ("inbound_invalid_dropped", inbound),
        ("inbound_direct_dropped", inbound),
        ("inbound_tcp_dropped", inbound),
        ("inbound_udp_dropped", inbound && dropping),
        ("inbound_other_dropped", inbound && dropping),
    ]
    .into_iter()
    .filter_map(|(name, used)| used.then_some(name))
    .collect()
}

fn outbound_zone(text: &mut Text, plan: &Plan) {
    let zone = format!("ct original zone set {SIDECAR_ZONE}");
    if let Exempt::Uid(_) = plan.exempt {
        for (set, address, _) in CLOSING {
            text.open(format_args!("set {set}"));
            text.note("The sidecar's connections that have sent FIN: what follows may have no owner any more.");
            text.line(format_args!("type {address} . inet_service . {address} . inet_service"));
            text.line("flags dynamic, timeout");
            text.line("size 65535");
            text.line("timeout 30s");
            text.close();
        }
        text.open("chain outbound_zone_own");
        // Its answers on the inbound port may be tracked in either zone.
        let dialled = plan.inbound.as_ref().map(|inbound| format!(" tcp sport != {}", inbound.port)).unwrap_or_default();
        for (set, _, key) in CLOSING {
            text.line(format_args!("tcp flags & fin == fin{dialled} add @{set} {{ {key} }}"));
        }
        text.line("accept");
        text.close();
        text.open("chain outbound_zone_others");
        text.note("Somebody else uses the ports of a connection that is over.");
        for (set, _, key) in CLOSING {
            text.line(format_args!("tcp flags & (syn | ack) == syn delete @{set} {{ {key} }}"));
        }
        text.line("accept");
        text.close();
    }
    text.open("chain outbound_zone");
    text.note("The kernel tracks what the sidecar sends in a zone of its own. Answers are found in either zone.");
    text.line("type filter hook output priority -300; policy accept;");
    text.line("oif lo accept");
    let own = own(plan);
    match plan.exempt {
        // This also matches a packet without an owner.
        Exempt::Mark(_) => text.line(format_args!("{own} {zone}")),
        Exempt::Uid(_) => {
            text.line(format_args!("{own} {zone} goto outbound_zone_own"));
            text.line(format_args!("meta skuid != {NOBODY} goto outbound_zone_others"));
            text.note("A closed socket has no owner any more. The sidecar closes none before its FIN is sent.");
            for (set, _, key) in CLOSING {
                text.line(format_args!("{key} @{set} {zone}"));
            }
        }
    }
    text.close();
}

fn outbound_exempt(text: &mut Text, plan: &Plan, outbound: &OutboundCapture) {
    text.open("chain outbound_exempt");
    text.note("What leaves uncaptured. Redirection and filter both ask here, so that they cannot disagree.");
    text.note("The sidecar's own packets; the mark makes the whole connection known as its own.");
    let own = own(plan);
    text.line(format_args!("{own} ct mark set {SIDECAR_CONNECTION:#x} accept"));
    if !plan.exempt_uids.is_empty() {
        text.note("Users that are never captured.");
        let uids = set(&plan.exempt_uids);
        text.line(format_args!("meta skuid {uids} ct mark set {SIDECAR_CONNECTION:#x} accept"));
    }
    text.note("The pod itself: loopback, its own addresses, and what has been redirected to the sidecar.");
    text.line("fib daddr type local accept");
    text.accept_any("Destinations that are excluded.", &within(AddressField::Destination, &outbound.exclude_cidrs));
    if !outbound.include_cidrs.is_empty() {
        text.accept_any("Destinations that are not included.", &outside(AddressField::Destination, &outbound.include_cidrs));
    }
    port_exemptions(text, &outbound.include_ports, &outbound.exclude_ports);
    let resolvers = resolvers(plan).into_iter().map(|address| format!("{address} meta l4proto {{ tcp, udp }} th dport 53"));
    text.accept_any("Questions to the resolvers.", &resolvers.collect::<Vec<_>>());
    text.note("The end of an exempt connection whose socket is closed: its last data, FIN and ACK have no owner any");
    text.note("more. A packet that has one is not exempt, or it had been accepted above: somebody took over the ports.");
    text.line(format_args!("ct mark {SIDECAR_CONNECTION:#x} meta skuid != {NOBODY} return"));
    text.line(format_args!("ct mark {SIDECAR_CONNECTION:#x} accept"));
    text.close();
}

fn outbound_redirect(text: &mut Text, outbound: &OutboundCapture) {
    text.open("chain outbound_redirect");
    text.note("Every new TCP connection that leaves goes to the sidecar (on 127.0.0.1 or ::1).");
    text.line("type nat hook output priority -100; policy accept;");
    text.line("jump outbound_exempt");
    let redirect = format!("ct mark set {REDIRECTED_CONNECTION:#x} redirect to :{}", outbound.port);
    text.line(format_args!("meta l4proto tcp meta skuid != {NOBODY} {redirect}"));
    text.note("Without an owner only what begins a connection; the rest is the end of one that the kernel has forgotten.");
    text.line(format_args!("tcp flags & (fin | syn | rst | ack) == syn {redirect}"));
    text.close();
}

/// Only the sidecar may answer on the capture ports, even if another process of the pod listens there.
fn replies(text: &mut Text, plan: &Plan) {
    text.open("chain capture_port_replies");
    text.note("Somebody else holds the sidecar's port, or did: not a byte of it goes to a client.");
    text.line(format_args!("meta skuid != {NOBODY} counter name capture_port_taken_dropped drop"));
    text.note("Without an owner: before the sidecar has accepted a connection, and after it has closed one.");
    text.line(format_args!("ct mark {ANSWERED_CONNECTION:#x} accept"));
    text.note("No data: nobody listens, or the kernel answers with a SYN cookie.");
    text.line("tcp flags & rst == rst accept");
    text.line("tcp flags & (syn | ack) == (syn | ack) accept");
    text.line("counter name capture_port_unanswered_dropped drop");
    text.close();

    text.open("chain replies");
    text.note("The sidecar's own answers; the mark says that it holds the port.");
    let own = own(plan);
    text.line(format_args!("{own} ct status dnat ct mark set {ANSWERED_CONNECTION:#x} accept"));
    let ports = [plan.inbound.as_ref().map(|inbound| inbound.port), plan.outbound.as_ref().map(|outbound| outbound.port)];
    let ports = set(ports.into_iter().flatten());
    text.line(format_args!("tcp sport {ports} ct status dnat goto capture_port_replies"));
    text.note("Other answers: the rules for what arrives have accepted the connection.");
    text.line("accept");
    text.close();

    if plan.outbound.is_none() {
        text.open("chain inbound_replies");
        text.line("type filter hook output priority 0; policy accept;");
        text.line("ct direction reply goto replies");
        text.close();
    }
}

fn outbound_filter(text: &mut Text, plan: &Plan) {
    text.open("chain outbound_own");
    text.note("The proof below. Nothing else on loopback is redirected.");
    text.line("ct original ip daddr 127.0.0.0/8 accept");
    text.note("The sidecar never leads to itself.");
    text.line("counter name outbound_loop_dropped drop");
    text.close();

    text.open("chain outbound_redirected");
    text.line(format_args!("{} goto outbound_own", own(plan)));
    text.line("accept");
    text.close();

    text.open("chain outbound_invalid");
    text.line(format_args!("meta skuid != {NOBODY} counter name outbound_invalid_dropped drop"));
    text.note("The kernel's own refusal of what comes for a socket that is gone.");
    text.line("tcp flags & rst == rst accept");
    text.line("counter name outbound_invalid_dropped drop");
    text.close();

    text.open("chain outbound_filter");
    text.note("Whatever should have been redirected and was not does not leave.");
    text.line("type filter hook output priority 0; policy accept;");
    text.note("Nearly every packet is one of these: of a connection that is known. A packet that the kernel tracks in no");
    text.note("connection has neither direction nor mark.");
    text.line("ct direction reply goto replies");
    text.note("Translated with its first packet, like all that follow: it ends at the sidecar.");
    text.line(format_args!("ct mark & {:#x} == {REDIRECTED_CONNECTION:#x} goto outbound_redirected", !1_u32));
    text.note("The sidecar's own.");
    text.line(format_args!("ct mark {SIDECAR_CONNECTION:#x} {} accept", own(plan)));
    text.note("Neighbour discovery, path MTU, and the like.");
    text.line("meta l4proto { icmp, ipv6-icmp } accept");
    text.note("The kernel does not translate these; they would show the sidecar's addresses and ports outside.");
    text.line("ct state invalid fib daddr type != local goto outbound_invalid");
    let resolvers = resolvers(plan);
    if !resolvers.is_empty() {
        text.note("Questions to the resolvers are counted here, and let through below.");
    }
    for address in resolvers {
        text.line(format_args!("{address} udp dport 53 counter name dns_udp_allowed"));
        text.line(format_args!("{address} tcp dport 53 counter name dns_tcp_allowed"));
    }
    text.line("jump outbound_exempt");
    text.note("What an exempt user left at the same ports: the application hears of it at once, and takes others.");
    text.line(format_args!(
        "ct mark {SIDECAR_CONNECTION:#x} tcp flags & (syn | ack) == syn counter name outbound_tcp_dropped reject with tcp reset"
    ));
    text.note("Also connections that are older than these rules.");
    text.line("meta l4proto tcp counter name outbound_tcp_dropped drop");
    if plan.udp == UdpHandling::Drop {
        text.note("Nothing walks past the sidecar on another protocol.");
        text.line("meta l4proto udp counter name outbound_udp_dropped drop");
        text.line("counter name outbound_other_dropped drop");
    }
    text.close();
}

fn inbound_exempt(text: &mut Text, inbound: &InboundCapture) {
    text.open("chain inbound_exempt");
    text.note("What arrives uncaptured. Redirection and filter both ask here, so that they cannot disagree.");
    text.note("The pod itself.");
    text.line("iif lo accept");
    text.accept_any("Peers that are excluded.", &within(AddressField::Source, &inbound.exclude_cidrs));
    port_exemptions(text, &inbound.include_ports, &inbound.exclude_ports);
    text.close();
}

fn inbound_redirect(text: &mut Text, inbound: &InboundCapture) {
    text.open("chain inbound_redirect");
    text.note("Every new TCP connection that arrives goes to the sidecar, except one straight to its port: the filter");
    text.note("knows that one by its not having been translated.");
    text.line("type nat hook prerouting priority -100; policy accept;");
    text.line("jump inbound_exempt");
    text.line(format_args!("tcp dport != {0} redirect to :{0}", inbound.port));
    text.close();
}

fn inbound_filter(text: &mut Text, plan: &Plan, inbound: &InboundCapture) {
    let port = inbound.port;
    text.open("chain inbound_filter");
    text.note("Whatever should have been redirected and was not does not arrive.");
    text.line("type filter hook input priority 0; policy accept;");
    text.note("Nearly every packet is one of these. A packet that the kernel tracks in no connection has neither direction");
    text.note("nor status.");
    text.note("The pod itself.");
    text.line("iif lo accept");
    text.note("Answers: the connection was let out by the rules for what leaves.");
    text.line("ct direction reply accept");
    text.note("What was redirected.");
    text.line(format_args!("tcp dport {port} ct status dnat accept"));
    text.note("Neighbour discovery, path MTU, and the like.");
    text.line("meta l4proto { icmp, ipv6-icmp } accept");
    text.note("The kernel does not translate these, so they would reach the application past the sidecar.");
    text.line("ct state invalid counter name inbound_invalid_dropped drop");
    text.note("What claims to have been redirected.");
    text.line(format_args!("tcp dport {port} counter name inbound_direct_dropped drop"));
    text.line("jump inbound_exempt");
    text.note("Also connections that are older than these rules.");
    text.line("meta l4proto tcp counter name inbound_tcp_dropped drop");
    if plan.udp == UdpHandling::Drop {
        text.note("Nothing walks past the sidecar on another protocol.");
        text.line("meta l4proto udp counter name inbound_udp_dropped drop");
        text.line("counter name inbound_other_dropped drop");
    }
    text.close();
}

/// The condition that a packet is the sidecar's.
pub(crate) fn own(plan: &Plan) -> String {
    match plan.exempt {
        Exempt::Uid(uid) => format!("meta skuid {uid}"),
        Exempt::Mark(mark) => format!("meta mark {mark:#x}"),
    }
}

fn port_exemptions(text: &mut Text, include: &[PortRange], exclude: &[PortRange]) {
    if !exclude.is_empty() {
        text.accept_any("Ports that are excluded.", &[ports("", exclude)]);
    }
    if !include.is_empty() {
        text.accept_any("Ports that are not included.", &[ports("!= ", include)]);
    }
}

fn resolvers(plan: &Plan) -> Vec<String> {
    let networks = plan.dns_resolvers.iter().map(|address| (*address).into()).collect::<Vec<_>>();
    within(AddressField::Destination, &networks)
}
