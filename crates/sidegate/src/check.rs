//! `sidegate check`.

use anyhow::{Result, anyhow};
use sidegate_config::Config;
use sidegate_policy::Policy;

use crate::{cli, yaml};

/// What to say of a policy without rules.
pub(crate) fn denies_all(config: &Config, rules: usize) -> Option<&'static str> {
    (rules == 0 && config.inbound.is_served()).then_some("there is no policy rule: every peer will be denied")
}

/// Checks the configuration and the policy files that it names.
pub(crate) fn check(arguments: &cli::Check) -> Result<()> {
    let file = &arguments.config.config;
    let config = sidegate_config::load(file).map_err(|problems| anyhow!("the configuration can't be used:\n{problems}"))?;
    if arguments.print_config {
        print!("{}", yaml::to_yaml(&serde_json::to_value(&config)?));
    }
    let policy = Policy::load(&config.policy.files, config.profile).map_err(|e| anyhow!("the policy can't be used:\n{e}"))?;
    for warning in policy.warnings.iter().map(String::as_str).chain(denies_all(&config, policy.len())) {
        eprintln!("warning: {warning}");
    }
    let profile = format!("{:?}", config.profile).to_lowercase();
    eprintln!("{}: good for profile {profile}; {} policy rules in {} files", file.display(), policy.len(), config.policy.files.len());
    Ok(())
}
