//! Checks a plan for contradictions.

use sidegate_config::value::PortRange;

use crate::error::RedirectError;
use crate::plan::{Exempt, Plan};

/// Names every problem, not only the first.
pub(crate) fn check(plan: &Plan) -> Result<(), RedirectError> {
    let mut wrong = Vec::new();
    if plan.inbound.is_none() && plan.outbound.is_none() {
        wrong.push("neither inbound nor outbound is captured".to_owned());
    }
    match plan.exempt {
        Exempt::Mark(0) => {
            wrong.push("the exempt mark is 0, which every unmarked packet has".to_owned());
        }
        Exempt::Uid(u32::MAX) => wrong.push(no_user("exempt uid")),
        Exempt::Uid(_) | Exempt::Mark(_) => {}
    }
    if plan.exempt_uids.contains(&u32::MAX) {
        wrong.push(no_user("exempt_uids"));
    }
    if let Some(inbound) = &plan.inbound {
        port("inbound.port", inbound.port, &mut wrong);
        ranges("inbound.include_ports", &inbound.include_ports, &mut wrong);
        ranges("inbound.exclude_ports", &inbound.exclude_ports, &mut wrong);
        if inbound.exclude_ports.iter().any(|range| range.contains(inbound.port)) {
            wrong.push(format!("inbound.exclude_ports has the sidecar's own port {}", inbound.port));
        }
    }
    if let Some(outbound) = &plan.outbound {
        port("outbound.port", outbound.port, &mut wrong);
        ranges("outbound.include_ports", &outbound.include_ports, &mut wrong);
        ranges("outbound.exclude_ports", &outbound.exclude_ports, &mut wrong);
    }
    if let (Some(inbound), Some(outbound)) = (&plan.inbound, &plan.outbound)
        && inbound.port == outbound.port
    {
        wrong.push(format!("inbound.port and outbound.port are both {}", inbound.port));
    }
    if wrong.is_empty() { Ok(()) } else { Err(RedirectError::BadPlan { wrong }) }
}

fn no_user(place: &str) -> String {
    format!("{place} is {}, which is no user", u32::MAX)
}

fn port(place: &str, port: u16, wrong: &mut Vec<String>) {
    if port == 0 {
        wrong.push(format!("{place} is 0"));
    }
}

fn ranges(place: &str, ranges: &[PortRange], wrong: &mut Vec<String>) {
    for PortRange { first, last } in ranges {
        if *first == 0 {
            wrong.push(format!("{place} has port 0 in {first}-{last}"));
        }
        if first > last {
            wrong.push(format!("{place} has {first}-{last}, which ends before it begins"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{InboundCapture, OutboundCapture, UdpHandling};

    #[test]
    fn everything_wrong_is_listed() {
        let backwards = PortRange { first: 9, last: 8 };
        let plan = Plan {
            exempt: Exempt::Mark(0),
            exempt_uids: vec![u32::MAX],
            inbound: Some(InboundCapture {
                port: 15001,
                include_ports: vec![backwards],
                exclude_ports: vec![PortRange { first: 15000, last: 15010 }],
                exclude_cidrs: vec![],
            }),
            outbound: Some(OutboundCapture {
                port: 15001,
                include_cidrs: vec![],
                exclude_cidrs: vec![],
                include_ports: vec![],
                exclude_ports: vec![0.into()],
            }),
            udp: UdpHandling::Drop,
            dns_resolvers: vec![],
        };
        let Err(RedirectError::BadPlan { wrong }) = check(&plan) else { panic!("accepted") };
        assert_eq!(wrong.len(), 6, "{wrong:#?}");
    }
}
