//! The plan of a capture.

use std::net::IpAddr;

use ipnet::IpNet;
use sidegate_config::value::PortRange;

/// What the rules capture, and what they exempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How the rules recognize the sidecar's own packets.
    pub exempt: Exempt,
    /// Further users whose packets are never captured.
    pub exempt_uids: Vec<u32>,
    /// The capture of inbound traffic; none leaves it alone.
    pub inbound: Option<InboundCapture>,
    /// The capture of outbound traffic; none leaves it alone.
    pub outbound: Option<OutboundCapture>,
    /// What happens to traffic that can't be redirected.
    pub udp: UdpHandling,
    /// The resolvers that the workload may use, over UDP and TCP port 53.
    pub dns_resolvers: Vec<IpAddr>,
}

/// How the rules recognize the sidecar's own packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exempt {
    /// By its user, which must run nothing else in the pod.
    Uid(u32),
    /// By the firewall mark on its sockets (`SO_MARK`), for pods with only one user.
    Mark(u32),
}

/// What happens to UDP, and to every protocol but TCP and ICMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdpHandling {
    /// It is dropped and counted, except to the resolvers: HTTP/3 would bypass the sidecar.
    Drop,
    /// It is left alone.
    Allow,
}

/// The capture of inbound traffic.
///
/// The ports are the workload's own, of TCP and UDP alike. A connection from a peer directly to `port` is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundCapture {
    /// The sidecar's port for it, usually 15006.
    pub port: u16,
    /// The only ports that are captured; empty: all.
    pub include_ports: Vec<PortRange>,
    /// Ports that are not captured.
    pub exclude_ports: Vec<PortRange>,
    /// Peers whose connections are not captured.
    pub exclude_cidrs: Vec<IpNet>,
}

/// The capture of outbound traffic.
///
/// The ports are those of the destination, of TCP and UDP alike. Excluded traffic is neither redirected nor dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundCapture {
    /// The sidecar's port for it, usually 15001. A listener on loopback is enough.
    pub port: u16,
    /// The only destinations that are captured; empty: all.
    pub include_cidrs: Vec<IpNet>,
    /// Destinations that are not captured.
    pub exclude_cidrs: Vec<IpNet>,
    /// The only ports that are captured; empty: all.
    pub include_ports: Vec<PortRange>,
    /// Ports that are not captured.
    pub exclude_ports: Vec<PortRange>,
}
