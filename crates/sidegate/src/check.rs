//! `sidegate check`.

use anyhow::{Result, anyhow};
use sidegate_policy::Policy;

use crate::{cli, yaml};

/// Checks the configuration and the policy files that it names.
pub(crate) fn check(arguments: &cli::Check) -> Result<()> {
    let file = &arguments.config.config;
    let config = sidegate_config::load(file).map_err(|problems| anyhow!("the configuration can't be used:\n{problems}"))?;
    if arguments.print_config {
        print!("{}", yaml::to_yaml(&serde_json::to_value(&config)?));
    }
    let policy = Policy::load(&config.policy.files, config.profile).map_err(|e| anyhow!("the policy can't be used:\n{e}"))?;
    for warning in &policy.warnings {
        eprintln!("warning: {warning}");
    }
    let profile = format!("{:?}", config.profile).to_lowercase();
    eprintln!("{}: good for profile {profile}; {} policy rules in {} files", file.display(), policy.len(), config.policy.files.len());
    Ok(())
}
