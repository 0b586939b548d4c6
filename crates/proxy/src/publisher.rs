//! Brings identity, policy and names together into snapshots, on the control plane's runtime.

use std::path::PathBuf;
use std::sync::Arc;

use sidegate_audit::{Event, FileDigest};
use sidegate_config::document::Problems;
use sidegate_config::schema::Profile;
use sidegate_config::{FileWatch, aside};
use sidegate_identity::{IdentityState, Material};
use sidegate_policy::{Policy, Unreadable};
use sidegate_tls::revocation::Revocation;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::loads::Subject;
use crate::rejudge;
use crate::resolver::{self, Resolved};
use crate::revocation::RevocationSource;
use crate::shared::{Phase, Shared};
use crate::snapshot::{Snapshot, Tls};
use sidegate_core::{event, one_line};

/// Policy files and directories of them, their first reading done.
#[derive(Debug)]
pub struct PolicySource {
    paths: Vec<PathBuf>,
    profile: Profile,
    first: Arc<Policy>,
    digests: Vec<FileDigest>,
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

/// The tasks that publish snapshots. Dropping it ends them.
#[derive(Debug)]
pub struct Publisher {
    _tasks: JoinSet<()>,
}

impl Publisher {
    /// Starts publishing to `shared` on the current runtime. Serving begins with the first valid SVID.
    #[must_use]
    pub fn start(
        shared: &Arc<Shared>,
        identity: watch::Receiver<Arc<IdentityState>>,
        policy: PolicySource,
        revocation: RevocationSource,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let (revocations, revocation_changes) = watch::channel(None);
        let loaded = Event::PolicyLoaded { rules: policy.first.len() as u64, files: policy.digests.clone() };
        shared.audit.record(loaded);
        shared.loads.loaded(Subject::Policy, policy.digests.clone());
        let (policies, policy_changes) = watch::channel(policy.first.clone());
        let (names, name_changes) = watch::channel(Arc::new(Resolved::default()));
        if !policy.paths.is_empty() {
            tasks.spawn(follow_policy(policy, policies, shared.clone()));
        }
        if !shared.settings.names.is_empty() {
            tasks.spawn(resolver::run(shared.settings.names.clone(), names));
        }
        tasks.spawn(revocation.follow(revocations, identity.clone(), shared.clone()));
        tasks.spawn(rejudge::run(shared.clone()));
        tasks.spawn(publish(
            shared.clone(),
            Sources { identity, policy: policy_changes, names: name_changes, revocation: revocation_changes },
        ));
        Self { _tasks: tasks }
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
async fn follow_policy(source: PolicySource, sender: watch::Sender<Arc<Policy>>, shared: Arc<Shared>) {
    let (mut watch, unwatched) = FileWatch::aside(source.paths.clone()).await;
    if let Some(why) = unwatched {
        tracing::warn!(event = event::FILES_UNWATCHED, "policy: {why}");
    }
    let refused = |source: &str, files: Vec<FileDigest>, why: &str| {
        shared.telemetry.metrics.policy_reloads(false).inc();
        shared.loads.refused(Subject::Policy, source, why);
        shared.audit.record(Event::PolicyRefused { files, why: one_line(why) });
        tracing::error!(event = event::POLICY_REFUSED, "the policy was not reloaded, the last good one stays: {why}");
    };
    // A change while we started is found by the first look.
    let mut last: Found = Ok(source.digests.clone());
    loop {
        let (paths, profile, before) = (source.paths.clone(), source.profile, last.clone());
        let late = || tracing::warn!(event = event::POLICY_WARNING, "the policy files are not read yet; the file system may not answer");
        let looked = aside("policy", move || look(&paths, profile, &before), late).await;
        if looked.is_ok() {
            shared.loads.accepted(Subject::Policy, THREAD);
        }
        match looked {
            Ok(None) => {}
            Ok(Some((found, Ok(policy)))) => {
                shared.loads.accepted(Subject::Policy, FILES);
                shared.telemetry.metrics.policy_reloads(true).inc();
                let files = found.clone().unwrap_or_default();
                shared.loads.loaded(Subject::Policy, files.clone());
                shared.audit.record(Event::PolicyLoaded { rules: policy.len() as u64, files });
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

/// What a snapshot is made of.
struct Sources {
    identity: watch::Receiver<Arc<IdentityState>>,
    policy: watch::Receiver<Arc<Policy>>,
    names: watch::Receiver<Arc<Resolved>>,
    /// None until it is known: nobody is served before.
    revocation: watch::Receiver<Option<Arc<Revocation>>>,
}

/// Waits for a change. The sender of a source that is not configured is gone; that is no change.
pub(crate) async fn change<T>(source: &mut watch::Receiver<T>) {
    if source.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn publish(shared: Arc<Shared>, sources: Sources) {
    let Sources { mut identity, mut policy, mut names, mut revocation } = sources;
    let mut generation = 0;
    let mut last_material: Option<Arc<Material>> = None;
    let mut last_policy = policy.borrow().clone();
    // TLS configurations are built once for each material, not for each snapshot.
    let mut built: Option<(Arc<Material>, Arc<Revocation>, Tls)> = None;
    loop {
        let state = identity.borrow_and_update().clone();
        let revoked = revocation.borrow_and_update().clone();
        let (is_known, revoked) = (revoked.is_some(), revoked.unwrap_or_default());
        let kept = built.as_ref().filter(|(material, revocation, _)| {
            state.material.as_ref().is_some_and(|m| Arc::ptr_eq(m, material)) && Arc::ptr_eq(revocation, &revoked)
        });
        let same_material = kept.is_some();
        let tls = match kept {
            Some((_, _, tls)) => Some(tls.clone()),
            None if is_known => Tls::new(&state, &shared.settings, &revoked),
            None => None,
        };
        built = state.material.clone().zip(tls.clone()).map(|(material, tls)| (material, revoked.clone(), tls));
        generation += 1;
        let metrics = &shared.telemetry.metrics;
        for (success, so_far) in [(true, state.rotations), (false, state.refused)] {
            let counter = metrics.rotations(success);
            counter.add(so_far.saturating_sub(counter.get()));
        }
        for source in &state.sources {
            if source.refuses {
                let is_news = shared.loads.refused(Subject::Identity, &source.name, &source.message);
                if is_news {
                    shared.audit.record(Event::IdentityRefused { source: source.name.clone(), why: source.message.clone() });
                }
            } else {
                shared.loads.accepted(Subject::Identity, &source.name);
            }
        }
        let is_new = |material: &&Arc<Material>| last_material.as_ref().is_none_or(|last| !Arc::ptr_eq(last, *material));
        if let Some(material) = state.material.as_ref().filter(is_new) {
            last_material = Some(material.clone());
            shared.loads.loaded(Subject::Identity, Vec::new());
        }
        if let Some(tls) = &tls {
            shared.telemetry.resource.identify(tls.local_id.clone());
        }
        let serve = tls.is_some();
        let policy_now = policy.borrow_and_update().clone();
        let renewed = !same_material || !Arc::ptr_eq(&policy_now, &last_policy);
        last_policy = policy_now.clone();
        shared.snapshot.store(Arc::new(Snapshot {
            generation,
            policy: policy_now,
            identity: state,
            tls,
            revocation: revoked,
            resolved: names.borrow_and_update().clone(),
        }));
        if renewed {
            // After the snapshot, so that who starts anew finds the new one.
            shared.renewals.send_modify(|count| *count += 1);
        }
        if serve {
            shared.advance(Phase::Serving);
        }
        tokio::select! {
            changed = identity.changed() => if changed.is_err() { return },
            () = change(&mut policy) => {}
            () = change(&mut names) => {}
            () = change(&mut revocation) => {}
        }
    }
}
