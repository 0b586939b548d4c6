//! How the sidecar proves, without privilege, that the kernel has its rules.
//!
//! Only root may read nftables. So the rules translate some loopback addresses, for the sidecar alone, to 127.0.0.1: a connection
//! of the sidecar to one of them reaches its own listener there only if the rules are in place. All addresses but one are digests
//! of the rules, so that the rules of another configuration prove nothing.

use std::net::Ipv4Addr;

use aws_lc_rs::digest::{SHA256, digest};

use crate::capture::capture;
use crate::error::RedirectError;
use crate::plan::Plan;
use crate::text::Text;

/// The addresses that the rules of a plan translate to 127.0.0.1, port unchanged, when the sidecar connects to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Proves that there are rules of sidegate, of any plan.
    pub any: Ipv4Addr,
    /// Proves exactly the plan's rules.
    pub rules: Ipv4Addr,
    /// Proves the plan's inbound rules, if it has any.
    pub inbound: Option<Ipv4Addr>,
    /// Proves the plan's outbound rules, if it has any.
    pub outbound: Option<Ipv4Addr>,
}

impl Proof {
    /// The proof of a plan's rules.
    ///
    /// # Errors
    /// If the plan has no rules.
    pub fn of(plan: &Plan) -> Result<Self, RedirectError> {
        crate::check::check(plan)?;
        Ok(Self::of_checked(plan))
    }

    pub(crate) fn of_checked(plan: &Plan) -> Self {
        let alone = |plan: &Plan| {
            let [first, second, ..] = sha256(plan);
            (first, second)
        };
        let inbound = plan.inbound.is_some().then(|| alone(&Plan { outbound: None, ..plan.clone() }));
        let outbound = plan.outbound.is_some().then(|| alone(&Plan { inbound: None, ..plan.clone() }));
        let [first, second, third, ..] = sha256(plan);
        Self {
            any: Ipv4Addr::new(127, 83, 0, 1),
            rules: Ipv4Addr::new(127, 128 | first, second, third),
            inbound: inbound.map(|(first, second)| Ipv4Addr::new(127, 84, first, second)),
            outbound: outbound.map(|(first, second)| Ipv4Addr::new(127, 85, first, second)),
        }
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        [Some(self.any), self.inbound, self.outbound, Some(self.rules)].into_iter().flatten()
    }
}

/// A digest of the rules without their comments, which do not change a rule.
fn sha256(plan: &Plan) -> [u8; 32] {
    let mut rules = Text::default();
    capture(&mut rules, plan);
    let rules: Vec<String> =
        rules.text.lines().map(str::trim).filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, rules.concat().as_bytes()).as_ref());
    sha256
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Exempt, InboundCapture, OutboundCapture, UdpHandling};

    #[test]
    fn other_rules_have_another_proof() {
        let outbound = OutboundCapture {
            port: 15001,
            include_cidrs: Vec::new(),
            exclude_cidrs: Vec::new(),
            include_ports: Vec::new(),
            exclude_ports: Vec::new(),
        };
        let inbound = InboundCapture { port: 15006, include_ports: Vec::new(), exclude_ports: Vec::new(), exclude_cidrs: Vec::new() };
        let plan = Plan {
            exempt: Exempt::Uid(1337),
            exempt_uids: Vec::new(),
            inbound: Some(inbound),
            outbound: Some(outbound),
            udp: UdpHandling::Drop,
            dns_resolvers: Vec::new(),
        };
        let proof = Proof::of(&plan).unwrap();
        assert_eq!(Proof::of(&plan).unwrap(), proof);
        let mut other = plan.clone();
        other.inbound.as_mut().unwrap().exclude_ports.push(22.into());
        let changed = Proof::of(&other).unwrap();
        assert!(changed.rules != proof.rules && changed.inbound != proof.inbound);
        assert!(changed.outbound == proof.outbound && changed.any == proof.any);
        let changed = Proof::of(&Plan { exempt: Exempt::Uid(1338), ..plan.clone() }).unwrap();
        assert!(changed.inbound != proof.inbound && changed.outbound != proof.outbound && changed.rules != proof.rules);
        assert_eq!(Proof::of(&Plan { inbound: None, ..plan }).unwrap().inbound, None);
    }
}
