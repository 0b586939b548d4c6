//! Brings identity, policy and names together into snapshots, on the control plane's runtime.

use std::sync::Arc;

use sidegate_audit::Event;
use sidegate_identity::{IdentityState, Material};
use sidegate_policy::Policy;
use sidegate_tls::revocation::Revocation;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::change::change;
use crate::control::Control;
use crate::directory_client::DirectoryClient;
use crate::loads::Subject;
use crate::policy::{PolicySource, follow_policy};
use crate::resolver::{self, Resolved};
use crate::revocation::RevocationSource;
use crate::snapshot::{Snapshot, Tls};

/// The tasks that publish snapshots. Dropping it ends them.
#[derive(Debug)]
pub struct Publisher {
    _tasks: JoinSet<()>,
}

impl Publisher {
    /// Starts publishing to `control` on the current runtime.
    #[must_use]
    pub fn start(
        control: &Arc<Control>,
        identity: watch::Receiver<Arc<IdentityState>>,
        policy: PolicySource,
        revocation: RevocationSource,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let (revocations, revocation_changes) = watch::channel(None);
        let loaded = Event::PolicyLoaded { rules: policy.first.len() as u64, files: policy.digests.clone() };
        control.audit.record(loaded);
        control.loads.loaded(Subject::Policy, policy.digests.clone());
        let (policies, policy_changes) = watch::channel(policy.first.clone());
        let (names, name_changes) = watch::channel(Arc::new(Resolved::default()));
        if !policy.paths.is_empty() {
            tasks.spawn(follow_policy(policy, policies, control.clone()));
        }
        if !control.settings.names.is_empty() {
            tasks.spawn(resolver::run(control.settings.names.clone(), names));
        }
        if let Some(client) = DirectoryClient::new(control, identity.clone()) {
            tasks.spawn(client.run());
        }
        tasks.spawn(revocation.follow(revocations, identity.clone(), control.clone()));
        tasks.spawn(publish(
            control.clone(),
            Sources { identity, policy: policy_changes, names: name_changes, revocation: revocation_changes },
        ));
        Self { _tasks: tasks }
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

async fn publish(control: Arc<Control>, sources: Sources) {
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
            None if is_known => Tls::new(&state, &control.settings, &revoked),
            None => None,
        };
        built = state.material.clone().zip(tls.clone()).map(|(material, tls)| (material, revoked.clone(), tls));
        generation += 1;
        let metrics = &control.telemetry.metrics;
        for (success, so_far) in [(true, state.rotations), (false, state.refused)] {
            let counter = metrics.rotations(success);
            counter.add(so_far.saturating_sub(counter.get()));
        }
        for source in &state.sources {
            if source.refuses {
                let is_news = control.loads.refused(Subject::Identity, &source.name, &source.message);
                if is_news {
                    control.audit.record(Event::IdentityRefused { source: source.name.clone(), why: source.message.clone() });
                }
            } else {
                control.loads.accepted(Subject::Identity, &source.name);
            }
        }
        let is_new = |material: &&Arc<Material>| last_material.as_ref().is_none_or(|last| !Arc::ptr_eq(last, *material));
        if let Some(material) = state.material.as_ref().filter(is_new) {
            last_material = Some(material.clone());
            control.loads.loaded(Subject::Identity, Vec::new());
        }
        if let Some(tls) = &tls {
            control.telemetry.resource.identify(tls.local_id.clone());
        }
        let policy_now = policy.borrow_and_update().clone();
        let renewed = !same_material || !Arc::ptr_eq(&policy_now, &last_policy);
        last_policy = policy_now.clone();
        control.snapshot.store(Arc::new(Snapshot {
            generation,
            policy: policy_now,
            identity: state,
            tls,
            revocation: revoked,
            resolved: names.borrow_and_update().clone(),
        }));
        if renewed {
            // After the snapshot, so that anyone who sees the count finds the new one.
            control.renewals.send_modify(|count| *count += 1);
        }
        tokio::select! {
            changed = identity.changed() => if changed.is_err() { return },
            () = change(&mut policy) => {}
            () = change(&mut names) => {}
            () = change(&mut revocation) => {}
        }
    }
}
