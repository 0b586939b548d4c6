//! What is to be captured.

use std::net::IpAddr;

use ipnet::IpNet;

/// What is to be captured, and what never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How the sidecar's own packets are known.
    pub exempt: Exempt,
    /// Further users whose packets are never captured.
    pub exempt_uids: Vec<u32>,
    /// What arrives; none: the rules leave it alone.
    pub inbound: Option<Inbound>,
    /// What leaves; none: the rules leave it alone.
    pub outbound: Option<Outbound>,
    /// What happens to that which cannot be redirected.
    pub udp: Udp,
    /// Where the workload may ask for names, over UDP and TCP port 53.
    pub dns_resolvers: Vec<IpAddr>,
}

/// How the sidecar's own packets are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exempt {
    /// By the user it runs as, who must run nothing else in the pod.
    Uid(u32),
    /// By the firewall mark on its sockets (`SO_MARK`), where there is only one user.
    Mark(u32),
}

/// What happens to UDP, and to every protocol but TCP and ICMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Udp {
    /// Dropped and counted, except to the resolvers: HTTP/3 would walk past the sidecar.
    Drop,
    /// Left alone.
    Allow,
}

/// The capture of what arrives.
///
/// The ports are the workload's own, of TCP and UDP alike. A connection from a peer straight to `port` is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// The sidecar's port for it, usually 15006.
    pub port: u16,
    /// The only ports that are captured; empty: all.
    pub include_ports: Vec<PortRange>,
    /// Ports that are not captured.
    pub exclude_ports: Vec<PortRange>,
    /// Peers whose connections are not captured.
    pub exclude_cidrs: Vec<IpNet>,
}

/// The capture of what leaves.
///
/// The ports are those of the destination, of TCP and UDP alike. What is left out is neither redirected nor dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
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

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortRange {
    /// Whether the port is in the range.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}
