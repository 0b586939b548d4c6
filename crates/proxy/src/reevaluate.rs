//! Live connections are re-evaluated: when policy, trust or revocation change, and as they get old.
//!
//! A connection is admitted first and then looks whether the world has changed meanwhile; a change is published first, and
//! then looks at all that are admitted. So none slips between.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use sidegate_config::schema::{LiveConnections, OnChange};
use sidegate_core::{Reason, event};
use sidegate_identity::unix_now;
use sidegate_tls::{PeerIdentity, Role, verify_again};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use crate::authorize::{client_verdict, plaintext_verdict, server_verdict};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::registry::{AdmissionBasis, ConnectionHandle, Cut};
use crate::shared::{Phase, Shared};
use sidegate_control::{Snapshot, Tls};

/// How often old connections are looked for, and how often those are ended whose time has come.
const EVERY: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);
/// For how long connections are re-evaluated before others on this thread get their turn.
const TURN: Duration = Duration::from_millis(5);

/// Admits the connection as what its record says, which goes on record too. Not where that can't be and the configuration wants
/// it, nor if what has changed since it was authorized forbids it.
pub(crate) fn admit(connection: &Connection<'_>, basis: AdmissionBasis) -> Result<(), Failure> {
    let Connection { shared, handle, record, .. } = connection;
    shared.audit.admit(record).map_err(|_| Failure::new(Reason::AuditUnavailable))?;
    handle.admit(record, basis);
    fence(Ordering::SeqCst);
    let snapshot = shared.control.snapshot.load();
    if snapshot.generation == record.generation {
        return Ok(());
    }
    refusal(shared, &snapshot, handle).map_or(Ok(()), |cut| Err(cut.into()))
}

/// Why a connection that was admitted would not be by `snapshot`, if so.
fn refusal(shared: &Shared, snapshot: &Snapshot, handle: &ConnectionHandle) -> Option<Cut> {
    let (admission, to) = (handle.admission()?, handle.destination()?);
    let from = handle.downstream;
    let (peer, role) = match &admission.basis {
        AdmissionBasis::Client { peer, .. } => (Some(peer), Role::Client),
        AdmissionBasis::Server { peer, .. } => (Some(peer), Role::Server),
        AdmissionBasis::Plaintext | AdmissionBasis::Outside => (None, Role::Client),
    };
    if let Some(why) = peer.and_then(|peer| snapshot.revocation.denies(&peer.id, &peer.certificate)) {
        return Some(Cut { reason: Reason::NoLongerTrusted, detail: Some(why) });
    }
    // Without an SVID of our own nothing is known of others either, nor who we are: that is an outage and no verdict.
    let tls = snapshot.tls.as_ref()?;
    if let Some(cut) = peer.and_then(|peer| distrust(tls, peer, role)) {
        return Some(cut);
    }
    let verdict = match &admission.basis {
        AdmissionBasis::Client { peer, facts } => client_verdict(snapshot, shared.settings.port(to).mode, (peer, facts), from, to),
        AdmissionBasis::Plaintext => plaintext_verdict(snapshot, shared.settings.port(to).mode, from, to),
        AdmissionBasis::Server { peer, facts, destination } => match server_verdict(snapshot, destination, tls, (peer, facts), from, to) {
            Some(verdict) => verdict,
            None => return Some(no_longer_allowed(&destination.rule)),
        },
        AdmissionBasis::Outside => return None,
    };
    verdict.reason.map(|_| no_longer_allowed(&verdict.decision.rule))
}

fn no_longer_allowed(rule: &str) -> Cut {
    Cut { reason: Reason::NoLongerAllowed, detail: Some(format!("decided now by {rule}")) }
}

/// Why `peer` is not trusted any more, if so. That its certificate has expired meanwhile is another matter.
fn distrust(tls: &Tls, peer: &PeerIdentity, role: Role) -> Option<Cut> {
    let now = unix_now();
    let then = now.min(peer.certificate.not_after);
    let refused = verify_again(peer, role, tls.context.trust(), then).err()?;
    // After its time the CA that issued it may have gone in good order.
    if then < now && ![Reason::TrustDomainUnknown, Reason::CertificateRevoked].contains(&refused.reason) {
        return None;
    }
    Some(Cut { reason: Reason::NoLongerTrusted, detail: Some(format!("{}: {}", refused.reason, refused.detail)) })
}

/// Why a connection is too old, if it is, and what becomes of it.
fn aged(settings: &LiveConnections, handle: &ConnectionHandle) -> Option<(OnChange, Cut)> {
    let most = settings.max_age.duration();
    // Up to a tenth less, so that those that began together do not end together.
    let less = most / 1000 * u32::try_from(handle.key().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32).map_or(0, |hash| hash % 100);
    if !most.is_zero() && handle.accepted.elapsed() >= most - less {
        return Some((OnChange::Cut, Cut { reason: Reason::MaxAge, detail: None }));
    }
    let admission = handle.admission()?;
    let (AdmissionBasis::Client { peer, .. } | AdmissionBasis::Server { peer, .. }) = &admission.basis else { return None };
    let expired = settings.on_peer_expiry != OnChange::Keep && peer.certificate.not_after < unix_now();
    expired.then_some((settings.on_peer_expiry, Cut { reason: Reason::PeerExpired, detail: None }))
}

/// What is to be looked at in a pass over the live connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Only how old they are.
    Age,
    /// All of it.
    Everything,
}

/// What becomes of a connection, and why: what ends it soonest, and of two that do that what it may not do before what it is.
fn fate(shared: &Shared, snapshot: &Snapshot, handle: &ConnectionHandle, look: Look) -> Option<(OnChange, Cut)> {
    let settings = &shared.settings.live;
    let refused = (look == Look::Everything && settings.on_change != OnChange::Keep).then(|| refusal(shared, snapshot, handle)).flatten();
    match (refused.map(|cut| (settings.on_change, cut)), aged(settings, handle)) {
        (Some((OnChange::Drain, _)), Some(aged @ (OnChange::Cut, _))) => Some(aged),
        (refused, aged) => refused.or(aged),
    }
}

/// A connection that is to end.
struct Doomed {
    handle: Arc<ConnectionHandle>,
    due: Instant,
    /// Its peer is not trusted: these come first.
    distrusted: bool,
}

/// Ends connections, at most `cutsPerSecond` of them.
struct Ending {
    doomed: HashMap<u64, Doomed>,
    /// How many may be ended now.
    allowance: f64,
    since: Instant,
}

/// Follows the snapshots, until the task is dropped: the first that can serve begins [`Phase::Serving`], and after each the live
/// connections are re-evaluated.
pub async fn reevaluate(shared: Arc<Shared>) {
    let settings = &shared.settings.live;
    let ages = !settings.max_age.duration().is_zero() || settings.on_peer_expiry != OnChange::Keep;
    let mut renewals = shared.control.renewals.subscribe();
    // A snapshot may have come before this task ran.
    renewals.mark_changed();
    let mut ending = Ending { doomed: HashMap::new(), allowance: settings.cuts_per_second.into(), since: Instant::now() };
    let mut next_look = Instant::now() + EVERY;
    loop {
        let look = tokio::select! {
            changed = renewals.changed() => match changed {
                Ok(()) => {
                    if shared.control.snapshot.load().tls.is_some() {
                        shared.advance(Phase::Serving);
                    }
                    Some(Look::Everything)
                }
                Err(_) => return,
            },
            () = sleep_until(next_look), if ages => Some(Look::Age),
            () = sleep(TICK), if !ending.doomed.is_empty() => None,
        };
        if let Some(look) = look {
            ending.pass(&shared, look).await;
            next_look = Instant::now() + EVERY;
        }
        ending.end(&shared);
    }
}

impl Ending {
    /// Looks at every live connection, and notes those that are to end.
    async fn pass(&mut self, shared: &Shared, look: Look) {
        let snapshot = shared.control.snapshot.load_full();
        fence(Ordering::SeqCst);
        let now = Instant::now();
        let (mut seen, mut found) = (0_usize, 0_usize);
        let mut turn = now;
        for handle in shared.registry.all() {
            seen += 1;
            if turn.elapsed() >= TURN {
                yield_now().await;
                turn = Instant::now();
            }
            let Some((action, cut)) = fate(shared, &snapshot, &handle, look) else { continue };
            let due = match action {
                OnChange::Keep => continue,
                OnChange::Cut => now,
                OnChange::Drain => now + shared.settings.live.drain_within.duration().mul_f64(fastrand::f64()),
            };
            let distrusted = cut.reason == Reason::NoLongerTrusted;
            found += 1;
            let doomed = self.doomed.entry(handle.key()).or_insert(Doomed { handle, due, distrusted });
            // Who drains keeps his moment, and who is to be cut at once is.
            if action == OnChange::Cut {
                doomed.due = now;
            }
            doomed.distrusted |= distrusted;
        }
        if found > 0 {
            tracing::info!(
                event = event::CONNECTIONS_REJUDGED,
                judged = seen,
                ending = found,
                "live connections are ended by what holds now"
            );
        }
    }

    /// Ends connections whose time has come, as many as may be at once. What has changed again meanwhile counts.
    fn end(&mut self, shared: &Shared) {
        let (now, snapshot) = (Instant::now(), shared.control.snapshot.load_full());
        let rate = f64::from(shared.settings.live.cuts_per_second);
        self.allowance = (self.allowance + now.duration_since(self.since).as_secs_f64() * rate).min(rate);
        self.since = now;
        // Nobody else holds a connection that has ended.
        self.doomed.retain(|_, doomed| Arc::strong_count(&doomed.handle) > 1);
        let mut due: Vec<(bool, Instant, u64)> =
            self.doomed.iter().filter(|(_, d)| d.due <= now).map(|(key, d)| (!d.distrusted, d.due, *key)).collect();
        due.sort_unstable();
        for (_, _, key) in due {
            if self.allowance < 1.0 {
                return;
            }
            let Some(doomed) = self.doomed.remove(&key) else { continue };
            if let Some((_, cut)) = fate(shared, &snapshot, &doomed.handle, Look::Everything) {
                doomed.handle.cut_because(cut);
                self.allowance -= 1.0;
            }
        }
    }
}
