//! Live connections are judged again: when policy, trust or revocation change, and as they get old.
//!
//! A connection is admitted first and then looks whether the world has changed meanwhile; a change is published first, and
//! then looks at all that are admitted. So none slips between.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use sidegate_config::schema::{LiveConnections, OnChange};
use sidegate_core::{ConnectionRecord, Reason, event};
use sidegate_identity::unix_now;
use sidegate_tls::{PeerIdentity, Role, verify_again};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use crate::attempt::Failure;
use crate::authorize::{judge_client, judge_plaintext, judge_server};
use crate::registry::{Cut, Judged, Live};
use crate::shared::Shared;
use crate::snapshot::{Snapshot, Tls};

/// How often old connections are looked for, and how often those are ended whose time has come.
const EVERY: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);
/// So long connections are judged before others on this thread get their turn.
const TURN: Duration = Duration::from_millis(5);

/// Lets the connection in as what `record` says, which goes on record too. Not where that can't be and the configuration wants
/// it, nor if what has changed since it was judged forbids it.
pub(crate) fn admit(shared: &Shared, live: &Live, record: &ConnectionRecord, judged: Judged) -> Result<(), Failure> {
    shared.audit.admit(record).map_err(|_| Failure::new(Reason::AuditUnavailable))?;
    live.admit(record, judged);
    fence(Ordering::SeqCst);
    let snapshot = shared.snapshot.load();
    if snapshot.generation == record.generation {
        return Ok(());
    }
    judge(shared, &snapshot, live).map_or(Ok(()), |cut| Err(cut.into()))
}

/// Why a connection that was let in would not be by `snapshot`, if so.
fn judge(shared: &Shared, snapshot: &Snapshot, live: &Live) -> Option<Cut> {
    let (admission, to) = (live.admission()?, live.destination()?);
    let from = live.downstream.ip();
    let (peer, role) = match &admission.judged {
        Judged::Client { peer, .. } => (Some(peer), Role::Client),
        Judged::Server { peer, .. } => (Some(peer), Role::Server),
        Judged::Plaintext | Judged::Outside => (None, Role::Client),
    };
    if let Some(why) = peer.and_then(|peer| snapshot.revocation.denies(&peer.id, &peer.certificate)) {
        return Some(Cut { reason: Reason::NoLongerTrusted, detail: Some(why) });
    }
    // Without an SVID of our own nothing is known of others either, nor who we are: that is an outage and no verdict.
    let tls = snapshot.tls.as_ref()?;
    if let Some(cut) = peer.and_then(|peer| distrust(tls, peer, role)) {
        return Some(cut);
    }
    let verdict = match &admission.judged {
        Judged::Client { peer, facts } => judge_client(snapshot, shared.settings.mode_of(to.port()), (peer, facts), from, to),
        Judged::Plaintext => judge_plaintext(snapshot, shared.settings.mode_of(to.port()), from, to),
        Judged::Server { peer, facts, destination } => {
            let destination = shared.settings.destinations.get(*destination)?;
            match judge_server(snapshot, destination, tls, (peer, facts), from, to) {
                Some(verdict) => verdict,
                None => return Some(no_longer_allowed(&destination.rule)),
            }
        }
        Judged::Outside => return None,
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
fn aged(settings: &LiveConnections, live: &Live) -> Option<(OnChange, Cut)> {
    let most = settings.max_age.duration();
    // Up to a tenth less, so that those that began together do not end together.
    let less = most / 1000 * u32::try_from(live.key().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32).map_or(0, |hash| hash % 100);
    if !most.is_zero() && live.accepted.elapsed() >= most - less {
        return Some((OnChange::Cut, Cut { reason: Reason::MaxAge, detail: None }));
    }
    let admission = live.admission()?;
    let (Judged::Client { peer, .. } | Judged::Server { peer, .. }) = &admission.judged else { return None };
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
fn fate(shared: &Shared, snapshot: &Snapshot, live: &Live, look: Look) -> Option<(OnChange, Cut)> {
    let settings = &shared.settings.live;
    let refused = (look == Look::Everything && settings.on_change != OnChange::Keep).then(|| judge(shared, snapshot, live)).flatten();
    match (refused.map(|cut| (settings.on_change, cut)), aged(settings, live)) {
        (Some((OnChange::Drain, _)), Some(aged @ (OnChange::Cut, _))) => Some(aged),
        (refused, aged) => refused.or(aged),
    }
}

/// A connection that is to end.
struct Doomed {
    live: Arc<Live>,
    due: Instant,
    /// Its peer is not trusted: these come first.
    distrusted: bool,
}

/// Ends connections, so many a second.
struct Ending {
    doomed: HashMap<u64, Doomed>,
    /// How many may be ended now.
    allowance: f64,
    since: Instant,
}

/// Judges the live connections whenever that may come out differently, until the task is dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    let settings = &shared.settings.live;
    let ages = !settings.max_age.duration().is_zero() || settings.on_peer_expiry != OnChange::Keep;
    let mut renewals = shared.renewals.subscribe();
    let mut ending = Ending { doomed: HashMap::new(), allowance: settings.cuts_per_second.into(), since: Instant::now() };
    let mut next_look = Instant::now() + EVERY;
    loop {
        let look = tokio::select! {
            changed = renewals.changed() => match changed {
                Ok(()) => Some(Look::Everything),
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
        let snapshot = shared.snapshot.load_full();
        fence(Ordering::SeqCst);
        let now = Instant::now();
        let (mut judged, mut found) = (0_usize, 0_usize);
        let mut turn = now;
        for live in shared.registry.all() {
            judged += 1;
            if turn.elapsed() >= TURN {
                yield_now().await;
                turn = Instant::now();
            }
            let Some((action, cut)) = fate(shared, &snapshot, &live, look) else { continue };
            let due = match action {
                OnChange::Keep => continue,
                OnChange::Cut => now,
                OnChange::Drain => now + shared.settings.live.drain_within.duration().mul_f64(fastrand::f64()),
            };
            let distrusted = cut.reason == Reason::NoLongerTrusted;
            found += 1;
            let doomed = self.doomed.entry(live.key()).or_insert(Doomed { live, due, distrusted });
            // Who drains keeps his moment, and who is to be cut at once is.
            if action == OnChange::Cut {
                doomed.due = now;
            }
            doomed.distrusted |= distrusted;
        }
        if found > 0 {
            tracing::info!(event = event::CONNECTIONS_REJUDGED, judged, ending = found, "live connections are ended by what holds now");
        }
    }

    /// Ends connections whose time has come, as many as may be at once. What has changed again meanwhile counts.
    fn end(&mut self, shared: &Shared) {
        let (now, snapshot) = (Instant::now(), shared.snapshot.load_full());
        let rate = f64::from(shared.settings.live.cuts_per_second);
        self.allowance = (self.allowance + now.duration_since(self.since).as_secs_f64() * rate).min(rate);
        self.since = now;
        // Nobody else holds a connection that has ended.
        self.doomed.retain(|_, doomed| Arc::strong_count(&doomed.live) > 1);
        let mut due: Vec<(bool, Instant, u64)> =
            self.doomed.iter().filter(|(_, d)| d.due <= now).map(|(key, d)| (!d.distrusted, d.due, *key)).collect();
        due.sort_unstable();
        for (_, _, key) in due {
            if self.allowance < 1.0 {
                return;
            }
            let Some(doomed) = self.doomed.remove(&key) else { continue };
            if let Some((_, cut)) = fate(shared, &snapshot, &doomed.live, Look::Everything) {
                doomed.live.cut_because(cut);
                self.allowance -= 1.0;
            }
        }
    }
}
