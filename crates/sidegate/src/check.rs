//! `sidegate check`.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, anyhow};
use sidegate_config::schema::{ADMIN_SOCKET, Otherwise};
use sidegate_config::{Config, Draft, NamedPath, PathUse, Problems};
use sidegate_control::{PolicySource, RevocationError, RevocationSource};
use sidegate_core::counted;
use sidegate_policy::Policy;
use sidegate_redirect::{Plan, Proof};

use crate::exit_status::ExitStatus;
use crate::output::say_lines;
use crate::{cli, variables, yaml};

/// A configuration that the sidecar can start with, and what it names.
pub(crate) struct Examined {
    pub(crate) config: Config,
    /// What is wrong with variables that are ignored.
    pub(crate) warnings: Problems,
    pub(crate) policy: PolicySource,
    pub(crate) revocation: RevocationSource,
}

/// Reads a configuration and the files that it names.
///
/// # Errors
/// Everything that keeps the sidecar from starting, at once.
pub(crate) fn examine(file: &Path) -> Result<Examined> {
    let mut draft = Draft::read(file);
    let Some(config) = draft.config.clone() else { return Err(unusable(&draft.problems)) };
    let policy = policy_of(&mut draft, &config);
    let revocation = match RevocationSource::load(config.revocation.clone()) {
        Ok(revocation) => Some(revocation),
        Err(wrong) => {
            for (key, error) in wrong {
                match error {
                    // It has places of its own.
                    RevocationError::DenyList(_, mut problems) => draft.problems.0.append(&mut problems.0),
                    error => draft.push(&key, error.to_string()),
                }
            }
            None
        }
    };
    for (key, message) in sidegate_telemetry::unknown_attributes(&config.telemetry.metrics) {
        draft.push(&key, message);
    }
    on_this_host(&mut draft, &config);
    match (policy, revocation) {
        (Some(policy), Some(revocation)) if draft.problems.0.is_empty() => {
            Ok(Examined { config, warnings: draft.warnings, policy, revocation })
        }
        _ => Err(unusable(&draft.problems)),
    }
}

/// The policy of a configuration; its mistakes are added to the others.
pub(crate) fn policy_of(draft: &mut Draft, config: &Config) -> Option<PolicySource> {
    match PolicySource::load(config.policy.files.clone(), config.profile) {
        Ok(policy) => Some(policy),
        Err(mut error) => {
            for unreadable in error.unreadable {
                draft.push(&format!("policy.files[{}]", unreadable.index), unreadable.to_string());
            }
            draft.problems.0.append(&mut error.problems.0);
            None
        }
    }
}

pub(crate) fn unusable(problems: &Problems) -> anyhow::Error {
    anyhow!("the configuration can't be used:\n{problems}")
}

/// What the sidecar opens or makes when it starts, as far as it can be told without doing so.
fn on_this_host(draft: &mut Draft, config: &Config) {
    if let Some(key) = &config.audit.checkpoint.key
        && let Err(error) = sidegate_audit::check_key(key)
    {
        draft.push("audit.checkpoint.key", error.to_string());
    }
    if config.is_redirected()
        && config.redirect.without_proof.is_none()
        && let Err(error) = Proof::of(&Plan::new(config))
    {
        draft.push("redirect", error.to_string());
    }
    for named in config.paths() {
        if let Some(problem) = missing_folder(&named) {
            draft.push(&named.key, problem);
        }
    }
}

/// Why what is to be made at a path can't be: there is no folder that could have it.
fn missing_folder(named: &NamedPath) -> Option<String> {
    let parent = named.path.parent().unwrap_or(Path::new("/"));
    let needed = match named.path_use {
        // The default one is done without where it can't be made.
        PathUse::BindSocket if named.path == Path::new(ADMIN_SOCKET) => return None,
        // The last folder is made if it is not there.
        PathUse::BindSocket => parent.parent().filter(|_| !parent.exists()).unwrap_or(parent),
        // All of it is made.
        PathUse::KeepFolder => {
            let other = named.path.ancestors().find(|folder| folder.exists()).filter(|folder| !folder.is_dir())?;
            return Some(format!("{} is no folder; name another, or move that file away", other.display()));
        }
        // They may come later: what needs them tries again.
        PathUse::Read | PathUse::ReadSecret | PathUse::ReadFileOrFolder | PathUse::Append | PathUse::ConnectSocket => return None,
    };
    (!needed.is_dir()).then(|| format!("there is no folder {}; make it, or name another", needed.display()))
}

/// The names of the destinations of a configuration.
pub(crate) fn destinations(config: &Config) -> BTreeSet<String> {
    let outbound = &config.outbound;
    outbound.destinations.iter().map(|d| &d.name).chain(outbound.listeners.iter().map(|l| &l.name)).cloned().collect()
}

/// What is allowed, but worth a look.
pub(crate) fn doubts(config: &Config) -> impl Iterator<Item = &'static str> {
    let by_name = config.outbound.destinations.iter().any(|d| !d.dns.is_empty());
    let may_leak = (by_name && config.outbound.otherwise == Otherwise::Passthrough).then_some(
        "with `otherwise: passthrough` an address that the application learns of before sidegate does goes out in plaintext, though it is a destination's by `dns`; name its `cidrs` too",
    );
    may_leak.into_iter()
}

/// Notes: what errs on the safe side, and what comes from outside of the configuration.
pub(crate) fn notes(config: &Config, policy: &Policy) -> impl Iterator<Item = &'static str> {
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

/// Checks the configuration and the files that it names.
pub(crate) fn check(arguments: &cli::CheckArgs) -> Result<ExitStatus> {
    let file = &arguments.config.config;
    let Examined { config, warnings, policy: source, .. } = examine(file)?;
    if arguments.print_config {
        say_lines(&yaml::to_yaml(&serde_json::to_value(&config)?))?;
    }
    let policy = source.policy();
    let mut found = 0;
    let of_policy = policy.findings(Some(&destinations(&config)));
    let of_config = doubts(&config).map(|doubt| format!("{}: {doubt}", file.display()));
    for finding in of_policy.iter().map(ToString::to_string).chain(of_config) {
        found += 1;
        err!("warning: {finding}");
    }
    // Not counted: the variables are the environment's, and the sidecar does as if they were not set.
    variables::print(&warnings);
    notes(&config, policy).for_each(|note| err!("note: {note}"));
    let profile = config.profile.label();
    let (rules, files) = (counted(policy.len() as u64, "rule"), counted(source.files() as u64, "policy file"));
    let of_variables = match warnings.0.len() {
        0 => String::new(),
        some => format!("; {} about variables of the environment", counted(some as u64, "warning")),
    };
    let (verdict, what) = match found {
        0 => ("good for", "nothing to object to".to_owned()),
        some => ("can be used with", counted(some, "finding")),
    };
    err!("{}: {verdict} profile {profile}; {rules} in {files}, {what}{of_variables}", file.display());
    Ok(ExitStatus::finding_if(found > 0))
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
