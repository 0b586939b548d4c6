//! `sidegate redirect`.

use anyhow::Result;
use sidegate_config::Config;
use sidegate_config::schema;
use sidegate_config::value::{Address, Ports};
use sidegate_core::counted;
use sidegate_redirect::{Exempt, Inbound, Outbound, Plan, PortRange, Udp};

use crate::check::unusable;
use crate::cli::{self, RedirectAction};
use crate::outcome::Outcome;
use crate::say::{say, say_lines};

/// The user that sidegate runs as where nothing else is said, as in other meshes.
const DEFAULT_UID: u32 = 1337;

/// Applies, shows, verifies or removes the rules.
pub(crate) fn redirect(arguments: &cli::Redirect) -> Result<Outcome> {
    if let RedirectAction::Remove = arguments.action {
        let there = sidegate_redirect::remove()?;
        err!("{}", if there { "removed" } else { "there were no rules" });
        return Ok(Outcome::Good);
    }
    let config = sidegate_config::load(&arguments.config.config).map_err(|problems| unusable(&problems))?;
    let plan = plan(&config);
    match arguments.action {
        RedirectAction::Show => say_lines(&sidegate_redirect::render(&plan)?)?,
        RedirectAction::Apply => {
            let is_new = sidegate_redirect::apply(&plan)?;
            err!("{}", if is_new { "applied" } else { "unchanged: the kernel had these rules already" });
        }
        RedirectAction::Verify => {
            if !sidegate_redirect::is_applied()? {
                err!("this network namespace has no kernel rules of sidegate; `sidegate redirect apply` puts them in place");
                return Ok(Outcome::Finding);
            }
            let differences = sidegate_redirect::verify(&plan)?;
            differences.iter().try_for_each(|difference| say(&difference.to_string()))?;
            if !differences.is_empty() {
                let lines = counted(differences.len() as u64, "line");
                err!("the kernel's rules differ from what is wanted in {lines}; `sidegate redirect apply` replaces them");
                return Ok(Outcome::Finding);
            }
            err!("the kernel has what is wanted");
        }
        RedirectAction::Remove => {}
    }
    Ok(Outcome::Good)
}

/// The user whom the rules exempt, where they exempt by user.
pub(crate) fn exempt_uid(config: &Config) -> u32 {
    config.redirect.exempt_uid.unwrap_or(DEFAULT_UID)
}

/// The rules that `config` asks for.
pub(crate) fn plan(config: &Config) -> Plan {
    let redirect = &config.redirect;
    let exempt = match redirect.exempt_mark {
        Some(mark) => Exempt::Mark(mark),
        None => Exempt::Uid(exempt_uid(config)),
    };
    let port = |address: &Address| address.0.port();
    // Probes and explicit listeners are sidegate's own, to be reached directly.
    let own = config.admin.listen.iter().filter(|a| !a.0.ip().is_loopback()).map(port);
    let own = own.chain(config.inbound.listeners.iter().map(|l| l.listen.0.port()));
    let own = own.map(|port| PortRange { first: port, last: port });
    Plan {
        exempt,
        exempt_uids: redirect.exclude_uids.clone(),
        inbound: config.inbound.listen.as_ref().map(|address| Inbound {
            port: port(address),
            include_ports: ranges(&redirect.inbound.include_ports),
            exclude_ports: ranges(&redirect.inbound.exclude_ports).into_iter().chain(own).collect(),
            exclude_cidrs: redirect.inbound.exclude_cidrs.iter().map(|c| *c.get()).collect(),
        }),
        // One port for both families: what only one of them has a listener for fails closed in the other.
        outbound: config.outbound.listen.as_ref().or(config.outbound.listen6.as_ref()).map(|address| Outbound {
            port: port(address),
            include_cidrs: redirect.outbound.include_cidrs.iter().map(|c| *c.get()).collect(),
            exclude_cidrs: redirect.outbound.exclude_cidrs.iter().map(|c| *c.get()).collect(),
            include_ports: ranges(&redirect.outbound.include_ports),
            exclude_ports: ranges(&redirect.outbound.exclude_ports),
        }),
        udp: match redirect.udp {
            schema::Udp::Drop => Udp::Drop,
            schema::Udp::Allow => Udp::Allow,
        },
        dns_resolvers: redirect.dns_resolvers.clone(),
    }
}

fn ranges(ports: &[Ports]) -> Vec<PortRange> {
    ports.iter().map(|p| PortRange { first: p.get().first, last: p.get().last }).collect()
}
