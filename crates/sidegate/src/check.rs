//! `sidegate check`.

use anyhow::{Result, anyhow};
use sidegate_config::Config;
use sidegate_config::schema::Otherwise;
use sidegate_policy::Policy;
use sidegate_proxy::RevocationSource;

use crate::say::say_lines;
use crate::{cli, yaml};

/// What is allowed, but a person should know.
pub(crate) fn warnings(config: &Config, rules: usize) -> impl Iterator<Item = &'static str> {
    let denies_all = (rules == 0 && config.inbound.is_served()).then_some("there is no policy rule: every peer will be denied");
    let by_name = config.outbound.destinations.iter().any(|d| !d.dns.is_empty());
    let may_leak = (by_name && config.outbound.otherwise == Otherwise::Passthrough).then_some(
        "with `otherwise: passthrough` an address that the application learns of before sidegate does goes out in plaintext, though it is a destination's by `dns`; name its `cidrs` too",
    );
    let captures = config.inbound.listen.is_some() || config.outbound.listen.is_some() || config.outbound.listen6.is_some();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let walks_past = (captures && may_send_raw(&status)).then_some(
        "this process has CAP_NET_RAW, which container runtimes give by default: a workload that has it too can send past the kernel's rules (raw packets, and since Linux 5.17 marked ones); take it from every container of the pod: `capabilities: { drop: [ALL] }`",
    );
    denies_all.into_iter().chain(may_leak).chain(walks_past)
}

/// Whether CAP_NET_RAW is among the effective capabilities of a process's `status`.
fn may_send_raw(status: &str) -> bool {
    const CAP_NET_RAW: u32 = 13;
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    effective.is_some_and(|capabilities| capabilities & (1 << CAP_NET_RAW) != 0)
}

/// Checks the configuration and the policy files that it names.
pub(crate) fn check(arguments: &cli::Check) -> Result<()> {
    let file = &arguments.config.config;
    let config = sidegate_config::load(file).map_err(|problems| anyhow!("the configuration can't be used:\n{problems}"))?;
    if arguments.print_config {
        say_lines(&yaml::to_yaml(&serde_json::to_value(&config)?))?;
    }
    let policy = Policy::load(&config.policy.files, config.profile).map_err(|e| anyhow!("the policy can't be used:\n{e}"))?;
    RevocationSource::load(config.revocation.clone()).map_err(|e| anyhow!("revocation can't be checked:\n{e}"))?;
    policy.warnings.iter().for_each(|warning| err!("warning: {warning}"));
    warnings(&config, policy.len()).for_each(|warning| err!("warning: {warning}"));
    let profile = format!("{:?}", config.profile).to_lowercase();
    err!("{}: good for profile {profile}; {} policy rules in {} files", file.display(), policy.len(), config.policy.files.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::may_send_raw;

    #[test]
    fn the_capability_is_seen() {
        let status = |effective: &str| format!("Name:\tsidegate\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\nCapBnd:\t0\n");
        assert!(may_send_raw(&status("000001ffffffffff")) && may_send_raw(&status("0000000000002000")));
        assert!(!may_send_raw(&status("000001ffffffdfff")) && !may_send_raw(&status("0000000000000000")) && !may_send_raw(""));
    }
}
