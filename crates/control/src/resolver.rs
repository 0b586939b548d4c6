//! DNS names of destinations, resolved and refreshed as their TTL says.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use sidegate_core::event;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What is known of each name.
pub type Resolved = HashMap<String, Addresses>;

/// The addresses of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Those of the last answer; these are dialled.
    pub current: Vec<IpAddr>,
    /// Those of any answer of the last hour, with the time of the last one. An application may hold an address for longer
    /// than its TTL, and a large name shows a part of its addresses in each answer: all of them are the name's.
    seen: Vec<(IpAddr, Instant)>,
}

/// A TTL of 0 would be a busy loop.
const SOONEST: Duration = Duration::from_secs(2);
/// However long the TTL: a wrong answer shall not stay for a day.
const LATEST: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(10);
const REMEMBERED: Duration = Duration::from_secs(3600);
const MOST_REMEMBERED: usize = 1024;
/// Addresses of one answer that are used.
const MOST_CURRENT: usize = 1024;

impl Addresses {
    /// Whether `ip` is, or was within the last hour, an address of the name.
    #[must_use]
    pub fn covers(&self, ip: IpAddr) -> bool {
        self.seen.iter().any(|(seen, _)| *seen == ip)
    }

    /// After an answer at `now`.
    #[must_use]
    pub fn with(&self, mut current: Vec<IpAddr>, now: Instant) -> Self {
        current.sort_unstable();
        current.truncate(MOST_CURRENT);
        let mut seen: Vec<(IpAddr, Instant)> = current.iter().map(|ip| (*ip, now)).collect();
        let past = self.seen.iter().filter(|(ip, at)| !current.contains(ip) && now.duration_since(*at) < REMEMBERED);
        seen.extend(past.copied().take(MOST_REMEMBERED));
        Self { current, seen }
    }
}

/// Keeps `names` resolved until dropped. A name that fails keeps its last addresses.
pub(crate) async fn run(names: Vec<String>, sender: watch::Sender<Arc<Resolved>>) {
    let resolver = loop {
        match TokioResolver::builder_tokio().and_then(hickory_resolver::ResolverBuilder::build) {
            Ok(resolver) => break resolver,
            Err(error) => {
                tracing::error!(
                    event = event::RESOLVER_UNUSABLE,
                    "names of destinations can't be resolved, the system's resolver configuration is of no use: {error}"
                );
                tokio::time::sleep(LATEST).await;
            }
        }
    };
    // A task for each, so that a dead name keeps no other waiting; they end with this one.
    let mut tasks = JoinSet::new();
    for name in names {
        tasks.spawn(follow(resolver.clone(), name, sender.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

async fn follow(resolver: TokioResolver, name: String, sender: watch::Sender<Arc<Resolved>>) {
    let mut last_error = None;
    loop {
        let answer = match timeout(DEADLINE, resolver.lookup_ip(name.as_str())).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
        };
        let wait = match answer {
            Ok(found) => {
                last_error = None;
                let now = Instant::now();
                sender.send_if_modified(|resolved| {
                    let before = resolved.get(&name);
                    let after = before.unwrap_or(&Addresses::default()).with(found.iter().collect(), now);
                    let changed = before.is_none_or(|b| b.current != after.current);
                    Arc::make_mut(resolved).insert(name.clone(), after);
                    changed
                });
                found.valid_until().saturating_duration_since(now).clamp(SOONEST, LATEST)
            }
            Err(error) => {
                if last_error.as_ref() != Some(&error) {
                    tracing::warn!(event = event::NAME_UNRESOLVED, "`{name}` can't be resolved, its last addresses stay: {error}");
                    last_error = Some(error);
                }
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_name_are_bounded() {
        let answer = |from: u32| (from..from + 5000).map(|n| IpAddr::V4(n.into())).collect::<Vec<_>>();
        let start = Instant::now();
        let mut addresses = Addresses::default();
        for n in 0..5 {
            addresses = addresses.with(answer(n * 5000), start);
            assert_eq!(addresses.current.len(), MOST_CURRENT);
            assert!(addresses.seen.len() <= MOST_CURRENT + MOST_REMEMBERED);
        }
    }

    #[test]
    fn an_address_is_remembered_for_an_hour() {
        let (a, b): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let start = Instant::now();
        let first = Addresses::default().with(vec![a], start);
        let second = first.with(vec![b], start + REMEMBERED / 2);
        assert!(second.covers(a) && second.covers(b) && second.current == [b]);
        let third = second.with(vec![b], start + REMEMBERED);
        assert!(!third.covers(a) && third.covers(b));
    }
}
