//! Makes the plan of a configuration.

use sidegate_config::value::{Address, PortRange, Ports};
use sidegate_config::{Config, schema};

use crate::plan::{Exempt, InboundCapture, OutboundCapture, Plan, UdpHandling};

/// The user that sidegate runs as by default, as in other meshes.
const DEFAULT_UID: u32 = 1337;

/// The user that the rules exempt, if they exempt by user.
#[must_use]
pub fn exempt_uid(config: &Config) -> u32 {
    config.redirect.exempt_uid.unwrap_or(DEFAULT_UID)
}

impl Plan {
    /// The plan of `config`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let redirect = &config.redirect;
        let exempt = match redirect.exempt_mark {
            Some(mark) => Exempt::Mark(mark),
            None => Exempt::Uid(exempt_uid(config)),
        };
        let port = |address: &Address| address.0.port();
        // Probes and explicit listeners belong to sidegate and are reached directly.
        let own = config.admin.listen.iter().filter(|a| !a.0.ip().is_loopback()).map(port);
        let own = own.chain(config.inbound.listeners.iter().map(|l| l.listen.0.port()));
        let own = own.map(PortRange::from);
        Self {
            exempt,
            exempt_uids: redirect.exclude_uids.clone(),
            inbound: config.inbound.listen.as_ref().map(|address| InboundCapture {
                port: port(address),
                include_ports: ranges(&redirect.inbound.include_ports),
                exclude_ports: ranges(&redirect.inbound.exclude_ports).into_iter().chain(own).collect(),
                exclude_cidrs: redirect.inbound.exclude_cidrs.iter().map(|c| *c.get()).collect(),
            }),
            // One port serves both families. If only one family has a listener, traffic of the other fails closed.
            outbound: config.outbound.listen.as_ref().or(config.outbound.listen6.as_ref()).map(|address| OutboundCapture {
                port: port(address),
                include_cidrs: redirect.outbound.include_cidrs.iter().map(|c| *c.get()).collect(),
                exclude_cidrs: redirect.outbound.exclude_cidrs.iter().map(|c| *c.get()).collect(),
                include_ports: ranges(&redirect.outbound.include_ports),
                exclude_ports: ranges(&redirect.outbound.exclude_ports),
            }),
            udp: match redirect.udp {
                schema::Udp::Drop => UdpHandling::Drop,
                schema::Udp::Allow => UdpHandling::Allow,
            },
            dns_resolvers: redirect.dns_resolvers.clone(),
        }
    }
}

fn ranges(ports: &[Ports]) -> Vec<PortRange> {
    ports.iter().map(|ports| *ports.get()).collect()
}
