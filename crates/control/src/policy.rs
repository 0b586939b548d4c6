//! The policy from its files, and again when they change.

use std::path::PathBuf;
use std::sync::Arc;

use sidegate_audit::{Event, FileDigest};
use sidegate_config::document::Problems;
use sidegate_config::schema::Profile;
use sidegate_config::{FileWatch, aside};
use sidegate_core::{event, one_line};
use sidegate_policy::{Policy, Unreadable};
use tokio::sync::watch;

use crate::control::Control;
use crate::loads::Subject;

/// Policy files and directories of them, their first reading done.
#[derive(Debug)]
pub struct PolicySource {
    pub(crate) paths: Vec<PathBuf>,
    profile: Profile,
    pub(crate) first: Arc<Policy>,
    pub(crate) digests: Vec<FileDigest>,
}

impl PolicySource {
    /// Reads `paths`. At the start there is no good policy to go on with.
    ///
    /// # Errors
    /// What can't be read, and every mistake in what can.
    pub fn load(paths: Vec<PathBuf>, profile: Profile) -> Result<Self, PolicyError> {
        let (texts, unreadable) = sidegate_policy::read(&paths);
        match (unreadable.is_empty(), Policy::parse(&texts, profile)) {
            (true, Ok(first)) => Ok(Self { paths, profile, first: Arc::new(first), digests: digests(&texts) }),
            (_, parsed) => Err(PolicyError { unreadable, problems: parsed.err().unwrap_or_default() }),
        }
    }

    /// What the first reading found.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.first
    }

    /// How many files that was.
    #[must_use]
    pub fn files(&self) -> usize {
        self.digests.len()
    }
}

/// Why policy files can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.lines())]
pub struct PolicyError {
    /// What can't be read.
    pub unreadable: Vec<Unreadable>,
    /// Every mistake in what can.
    pub problems: Problems,
}

impl PolicyError {
    fn lines(&self) -> String {
        let mut lines: Vec<String> = self.unreadable.iter().map(ToString::to_string).collect();
        if !self.problems.0.is_empty() {
            lines.push(self.problems.to_string());
        }
        lines.join("\n")
    }
}

/// What names a policy in the audit log.
fn digests(texts: &[(String, String)]) -> Vec<FileDigest> {
    texts.iter().map(|(file, text)| FileDigest::new(file, text.as_bytes())).collect()
}

/// What was found in the policy files: what names them in the audit log, or why they can't be read.
type Found = Result<Vec<FileDigest>, String>;

/// Reads and compiles the policy; nothing if the files hold what was found in them `last`.
fn look(paths: &[PathBuf], profile: Profile, last: &Found) -> Option<(Found, Result<Arc<Policy>, String>)> {
    let (texts, unreadable) = sidegate_policy::read(paths);
    let texts = if unreadable.is_empty() { Ok(texts) } else { Err(PolicyError { unreadable, problems: Problems::default() }.lines()) };
    let found = texts.as_deref().map(digests).map_err(Clone::clone);
    if *last == found {
        return None;
    }
    let policy = texts.and_then(|texts| Policy::parse(&texts, profile).map_err(|problems| problems.to_string()));
    Some((found, policy.map(Arc::new)))
}

/// What of the policy is refused: what is in its files, or that these could not be looked at.
const FILES: &str = "policy files";
const THREAD: &str = "looking at policy files";

/// Reads the policy again when its files change, on a thread of its own: the file system may not answer, and to compile many rules
/// takes long. A bad file never replaces a good one.
pub(crate) async fn follow_policy(source: PolicySource, sender: watch::Sender<Arc<Policy>>, control: Arc<Control>) {
    let (mut watch, unwatched) = FileWatch::aside(source.paths.clone()).await;
    if let Some(why) = unwatched {
        tracing::warn!(event = event::FILES_UNWATCHED, "policy: {why}");
    }
    let refused = |source: &str, files: Vec<FileDigest>, why: &str| {
        control.telemetry.metrics.policy_reloads(false).inc();
        control.loads.refused(Subject::Policy, source, why);
        control.audit.record(Event::PolicyRefused { files, why: one_line(why) });
        tracing::error!(event = event::POLICY_REFUSED, "the policy was not reloaded, the last good one stays: {why}");
    };
    // A change while we started is found by the first look.
    let mut last: Found = Ok(source.digests.clone());
    loop {
        let (paths, profile, before) = (source.paths.clone(), source.profile, last.clone());
        let late = || tracing::warn!(event = event::POLICY_WARNING, "the policy files are not read yet; the file system may not answer");
        let looked = aside("policy", move || look(&paths, profile, &before), late).await;
        if looked.is_ok() {
            control.loads.accepted(Subject::Policy, THREAD);
        }
        match looked {
            Ok(None) => {}
            Ok(Some((found, Ok(policy)))) => {
                control.loads.accepted(Subject::Policy, FILES);
                control.telemetry.metrics.policy_reloads(true).inc();
                let files = found.clone().unwrap_or_default();
                control.loads.loaded(Subject::Policy, files.clone());
                control.audit.record(Event::PolicyLoaded { rules: policy.len() as u64, files });
                tracing::info!(event = event::POLICY_RELOADED, rules = policy.len(), "policy reloaded");
                policy.warnings.iter().for_each(|warning| tracing::warn!(event = event::POLICY_WARNING, "{warning}"));
                sender.send_replace(policy);
                last = found;
            }
            Ok(Some((found, Err(why)))) => {
                refused(FILES, found.clone().unwrap_or_default(), &why);
                last = found;
            }
            Err(error) => refused(THREAD, Vec::new(), &error.to_string()),
        }
        watch.changed().await;
    }
}
