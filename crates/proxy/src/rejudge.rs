//! Live connections are judged again: when policy, trust or revocation change, and as they get old.
//!
//! A connection is admitted first and then looks whether the world has changed meanwhile; a change is published first, and
//! then looks at all that are admitted. So none slips between.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, SystemTime};

use sidegate_config::schema::{LiveConnections, OnChange};
use sidegate_core::{ConnectionRecord, Reason, event};
use sidegate_identity::unix_now;
use sidegate_policy::Verdict;
use sidegate_tls::{PeerIdentity, Role};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use crate::attempt::Failure;
use crate::authorize::{judge_client, judge_plaintext, judge_server};
use crate::registry::{Cut, Judged, Live};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// How often old connections are looked for, and how often those are ended whose time has come.
const EVERY: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);
/// So many are judged before others on this thread get their turn.
const AT_ONCE: usize = 64;

/// Lets the connection in as what `record` says, which goes on record too. Not where that can't be and the configuration wants
/// it, nor if what has changed since it was judged forbids it.
pub(crate) fn admit(shared: &Shared, live: &Live, record: &ConnectionRecord, judged: Judged) -> Result<(), Failure> {
    shared.audit.admit(record).map_err(|_| Failure::new(Reason::AuditUnavailable))?;
    live.admit(record, judged);
    fence(Ordering::SeqCst);
    let snapshot = shared.snapshot.load();
    if snapshot.generation == record.generation || shared.settings.live.on_change == OnChange::Keep {
        return Ok(());
    }
    judge(shared, &snapshot, live).map_or(Ok(()), |cut| Err(cut.into()))
}

/// Why a connection that was let in would not be by `snapshot`, if so.
fn judge(shared: &Shared, snapshot: &Snapshot, live: &Live) -> Option<Cut> {
    let (admission, to) = (live.admission()?, live.destination()?);
    match &admission.judged {
        Judged::Client { peer, facts } => {
            distrust(snapshot, peer, Role::Client).or_else(|| refused(&judge_client(snapshot, peer, facts, live.downstream.ip(), to)))
        }
        Judged::Plaintext => refused(&judge_plaintext(snapshot, live.downstream.ip(), to, "plaintext")),
        Judged::Server { peer, facts, destination } => distrust(snapshot, peer, Role::Server).or_else(|| {
            let tls = snapshot.tls.as_ref()?;
            let destination = shared.settings.destinations.get(*destination)?;
            match judge_server(snapshot, destination, tls, (peer, facts), live.downstream.ip(), to) {
                Some(verdict) => refused(&verdict),
                None => Some(no_longer_allowed(&destination.rule)),
            }
        }),
        Judged::Outside => None,
    }
}

fn refused(verdict: &Verdict) -> Option<Cut> {
    verdict.reason.map(|_| no_longer_allowed(&verdict.decision.rule))
}

fn no_longer_allowed(rule: &str) -> Cut {
    Cut { reason: Reason::NoLongerAllowed, detail: Some(format!("decided now by {rule}")) }
}

/// Why `peer` is not trusted any more, if so. That its certificate has expired meanwhile is another matter.
fn distrust(snapshot: &Snapshot, peer: &PeerIdentity, role: Role) -> Option<Cut> {
    // Without an SVID of our own nothing is known of others either; that is an outage and no verdict.
    let trust = snapshot.tls.as_ref()?.context.trust();
    let no_longer_trusted = |detail| Some(Cut { reason: Reason::NoLongerTrusted, detail: Some(detail) });
    if let Some(why) = trust.denies(peer) {
        return no_longer_trusted(why);
    }
    let now = unix_now();
    if peer.certificate.not_after < now {
        return None;
    }
    let refused = trust.judge_again(peer, role, now).err()?;
    no_longer_trusted(format!("{}: {}", refused.reason, refused.detail))
}

/// Why a connection is too old, if it is, and what becomes of it.
fn aged(settings: &LiveConnections, live: &Live) -> Option<(OnChange, Cut)> {
    let most = settings.max_age.duration();
    // Up to a tenth less, so that those that began together do not end together.
    let less = most / 1000 * u32::try_from(live.key().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32).map_or(0, |hash| hash % 100);
    if !most.is_zero() && SystemTime::now().duration_since(live.since).is_ok_and(|age| age >= most - less) {
        return Some((OnChange::Cut, Cut { reason: Reason::MaxAge, detail: None }));
    }
    let (Judged::Client { peer, .. } | Judged::Server { peer, .. }) = &live.admission()?.judged else { return None };
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

/// Connections that are to end, by their key, and when.
type Doomed = HashMap<u64, (Instant, Arc<Live>)>;

/// Judges the live connections whenever that may come out differently, until the task is dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    let settings = &shared.settings.live;
    let ages = !settings.max_age.duration().is_zero() || settings.on_peer_expiry != OnChange::Keep;
    let mut renewals = shared.renewals.subscribe();
    let mut doomed = Doomed::new();
    let mut next_look = Instant::now() + EVERY;
    loop {
        let look = tokio::select! {
            changed = renewals.changed() => match changed {
                Ok(()) => Some(Look::Everything),
                Err(_) => return,
            },
            () = sleep_until(next_look), if ages => Some(Look::Age),
            () = sleep(TICK), if !doomed.is_empty() => None,
        };
        if let Some(look) = look {
            pass(&shared, look, &mut doomed).await;
            next_look = Instant::now() + EVERY;
        }
        end(&shared, &mut doomed);
    }
}

/// Looks at every live connection, and notes those that are to end.
async fn pass(shared: &Shared, look: Look, doomed: &mut Doomed) {
    let settings = &shared.settings.live;
    let snapshot = shared.snapshot.load_full();
    fence(Ordering::SeqCst);
    let now = Instant::now();
    let (mut judged, mut found) = (0_usize, 0_usize);
    for live in shared.registry.all() {
        judged += 1;
        if judged.is_multiple_of(AT_ONCE) {
            yield_now().await;
        }
        if doomed.contains_key(&live.key()) {
            continue;
        }
        let refused = || (look == Look::Everything).then(|| judge(shared, &snapshot, &live)).flatten();
        let Some(action) = aged(settings, &live).map(|(action, _)| action).or_else(|| refused().map(|_| settings.on_change)) else {
            continue;
        };
        let due = match action {
            OnChange::Keep => continue,
            OnChange::Cut => now,
            OnChange::Drain => now + settings.drain_within.duration().mul_f64(fastrand::f64()),
        };
        found += 1;
        doomed.insert(live.key(), (due, live));
    }
    if found > 0 {
        tracing::info!(event = event::CONNECTIONS_REJUDGED, judged, ending = found, "live connections are ended by what holds now");
    }
}

/// Ends connections whose time has come, as many as may be at once. What has changed again meanwhile counts.
fn end(shared: &Shared, doomed: &mut Doomed) {
    let settings = &shared.settings.live;
    let (now, snapshot) = (Instant::now(), shared.snapshot.load_full());
    let budget = usize::try_from(settings.cuts_per_second / 10).unwrap_or(usize::MAX).max(1);
    let due: Vec<u64> = doomed.iter().filter(|(_, (due, _))| *due <= now).map(|(key, _)| *key).take(budget).collect();
    for key in due {
        if let Some((_, live)) = doomed.remove(&key)
            && let Some(cut) = aged(settings, &live).map(|(_, cut)| cut).or_else(|| judge(shared, &snapshot, &live))
        {
            live.cut_because(cut);
        }
    }
}
