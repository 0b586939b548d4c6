//! What a sidecar needs to start: its configuration, the files that this names, and what it opens or makes on this host.

use std::path::Path;

use sidegate_config::schema::ADMIN_SOCKET;
use sidegate_config::{Config, Draft, NamedPath, PathUse, Problems};
use sidegate_control::{PolicySource, RevocationError, RevocationSource};
use sidegate_redirect::{Plan, Proof};

use crate::unusable::Unusable;

/// A configuration that the sidecar can start with, and what it names.
#[derive(Debug)]
pub struct Examined {
    /// The configuration.
    pub config: Config,
    /// What is wrong with variables that are ignored.
    pub warnings: Problems,
    /// The policy files.
    pub policy: PolicySource,
    /// The revocation lists and deny lists.
    pub revocation: RevocationSource,
    /// What proves that the kernel sends the pod's traffic here, if it has to and nothing else sees to that.
    pub proof: Option<Proof>,
}

/// Reads a configuration and the files that it names.
///
/// # Errors
/// Everything that keeps the sidecar from starting, at once.
pub fn examine(file: &Path) -> Result<Examined, Unusable> {
    let mut draft = Draft::read(file);
    let Some(config) = draft.config.clone() else { return Err(Unusable(draft.problems)) };
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
    let proof = on_this_host(&mut draft, &config);
    match (policy, revocation) {
        (Some(policy), Some(revocation)) if draft.problems.0.is_empty() => {
            Ok(Examined { config, warnings: draft.warnings, policy, revocation, proof })
        }
        _ => Err(Unusable(draft.problems)),
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

/// The proof of the kernel's rules, where it is wanted; why there is none is added to the problems.
fn proof_of(draft: &mut Draft, config: &Config) -> Option<Proof> {
    if !config.is_redirected() || config.redirect.without_proof.is_some() {
        return None;
    }
    Proof::of(&Plan::new(config)).inspect_err(|error| draft.push("redirect", error.to_string())).ok()
}

/// What the sidecar opens or makes when it starts, as far as it can be told without doing so. Gives
/// the proof of the kernel's rules.
fn on_this_host(draft: &mut Draft, config: &Config) -> Option<Proof> {
    if let Some(key) = &config.audit.checkpoint.key
        && let Err(error) = sidegate_audit::check_key(key)
    {
        draft.push("audit.checkpoint.key", error.to_string());
    }
    let proof = proof_of(draft, config);
    for named in config.paths() {
        if let Some(problem) = missing_folder(&named) {
            draft.push(&named.key, problem);
        }
    }
    proof
}

/// Why sidegate can't make a file, folder or socket at this path: the folder for it is missing. None if it can.
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
