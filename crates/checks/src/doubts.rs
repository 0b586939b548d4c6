//! What a configuration allows, but is worth a look.

use std::collections::BTreeSet;

use sidegate_config::Config;
use sidegate_config::schema::{Mode, Otherwise};
use sidegate_policy::Policy;
use sidegate_redirect::exempt_uid;

/// The names of the destinations of a configuration. None if a directory knows others, which are not known here.
#[must_use]
pub fn destinations(config: &Config) -> Option<BTreeSet<String>> {
    let outbound = &config.outbound;
    let names = outbound.destinations.iter().map(|d| &d.name).chain(outbound.listeners.iter().map(|l| &l.name));
    outbound.directory.is_none().then(|| names.cloned().collect())
}

/// What is allowed, but worth a look.
pub fn doubts(config: &Config) -> impl Iterator<Item = &'static str> {
    let by_name = config.outbound.destinations.iter().any(|d| !d.dns.is_empty());
    let may_leak = (by_name && config.outbound.otherwise == Otherwise::Passthrough).then_some(
        "with `otherwise: passthrough` an address that the application learns of before sidegate does goes out in plaintext, though it is a destination's by `dns`; name its `cidrs` too",
    );
    let may_be_late = (config.outbound.directory.is_some() && config.outbound.otherwise == Otherwise::Passthrough).then_some(
        "with `otherwise: passthrough` connections to a pod that the directory does not know yet go out in plaintext; set `otherwise: refuse` as soon as all that is called is in the mesh",
    );
    let on_loopback = config.admin.listen.as_ref().is_some_and(|address| address.0.ip().is_loopback());
    let unasked = (on_loopback && !config.admin.probes.is_empty()).then_some(
        "a kubelet can't ask for `admin.probes`: `admin.listen` is on loopback; write for example 0.0.0.0:15020 and let a network policy leave it to the kubelet and Prometheus",
    );
    may_leak.into_iter().chain(may_be_late).chain(unasked)
}

/// Notes: what errs on the safe side, and what comes from outside of the configuration.
pub fn notes(config: &Config, policy: &Policy) -> impl Iterator<Item = &'static str> {
    let denies_all = (policy.is_empty() && config.inbound.is_served()).then_some("there is no policy rule: every peer will be denied");
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let walks_past = (config.is_redirected() && may_send_raw(&status)).then_some(
        "this process has CAP_NET_RAW, which container runtimes give by default: a workload that has it too can send past the kernel's rules (raw packets, and since Linux 5.17 marked ones); take it from every container of the pod: `capabilities: { drop: [ALL] }`",
    );
    denies_all.into_iter().chain(walks_past)
}

/// Whether CAP_NET_RAW is among the effective capabilities of a process's `status`.
fn may_send_raw(status: &str) -> bool {
    const CAP_NET_RAW: u32 = 13;
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    effective.is_some_and(|capabilities| capabilities & (1 << CAP_NET_RAW) != 0)
}

/// What the configuration allows to pass without protection, and why.
#[must_use]
pub fn in_plaintext(config: &Config) -> Vec<String> {
    let (inbound, outbound) = (&config.inbound, &config.outbound);
    let because = |reason: &Option<String>| reason.as_deref().unwrap_or("no reason is written").to_owned();
    let name = |mode| match mode {
        Mode::Strict => None,
        Mode::Permissive => Some("TLS or plaintext (permissive)"),
        Mode::Plaintext => Some("plaintext"),
    };
    let mut all = Vec::new();
    if inbound.is_served() {
        let ports = inbound.ports.iter().filter_map(|port| Some((format!("port {}", port.port), name(port.mode)?, &port.reason)));
        let others = name(inbound.default_mode).map(|mode| ("every other port".to_owned(), mode, &inbound.reason));
        all.extend(ports.chain(others).map(|(port, mode, reason)| format!("inbound, {port} takes {mode}: {}", because(reason))));
    }
    if outbound.is_served() && outbound.otherwise == Otherwise::Passthrough {
        all.push(format!("outbound, what no destination covers leaves in plaintext: {}", because(&outbound.reason)));
    }
    all
}

/// The kernel's rules exempt one user. As another, `uid`, sidegate's own connections would be captured, by itself.
#[must_use]
pub fn wrong_user(config: &Config, uid: u32) -> Option<String> {
    let exempt = exempt_uid(config);
    if !config.outbound.is_redirected() || config.redirect.exempt_mark.is_some() || uid == exempt {
        return None;
    }
    Some(format!(
        "sidegate runs as user {uid}, but `redirect.exemptUid` is {exempt}: its own connections would be captured again; run it as {exempt}, or correct the key"
    ))
}

#[cfg(test)]
mod tests {
    use super::{doubts, may_send_raw};

    #[test]
    fn probes_that_no_kubelet_can_ask_for_are_seen() {
        let told = |listen: &str, probes: &str| {
            let text = format!("admin: {{ listen: '{listen}:15020', probes: [{probes}] }}\n");
            doubts(&sidegate_config::parse("f.yaml", &text).unwrap()).count()
        };
        let probe = "{ path: /probe/a, tcp: { port: 80 } }";
        assert_eq!((told("127.0.0.1", probe), told("127.0.0.1", ""), told("0.0.0.0", probe)), (1, 0, 0));
    }

    #[test]
    fn the_capability_is_seen() {
        let status = |effective: &str| format!("Name:\tsidegate\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\nCapBnd:\t0\n");
        assert!(may_send_raw(&status("000001ffffffffff")) && may_send_raw(&status("0000000000002000")));
        assert!(!may_send_raw(&status("000001ffffffdfff")) && !may_send_raw(&status("0000000000000000")) && !may_send_raw(""));
    }
}
