//! DNS names of destinations, resolved and refreshed as their TTL says.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use tokio::sync::watch;
use tokio::time::timeout;

/// Addresses by name.
pub(crate) type Resolved = HashMap<String, Vec<IpAddr>>;

/// A TTL of 0 would be a busy loop.
const SOONEST: Duration = Duration::from_secs(2);
/// However long the TTL: a wrong answer shall not stay for a day.
const LATEST: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(10);

/// Keeps `names` resolved until dropped. A name that fails keeps its last addresses.
pub(crate) async fn run(names: Vec<String>, sender: watch::Sender<Arc<Resolved>>) {
    let resolver = loop {
        match TokioResolver::builder_tokio().and_then(hickory_resolver::ResolverBuilder::build) {
            Ok(resolver) => break resolver,
            Err(error) => {
                tracing::error!("names of destinations can't be resolved, the system's resolver configuration is of no use: {error}");
                tokio::time::sleep(LATEST).await;
            }
        }
    };
    let mut due: Vec<(Instant, String)> = names.into_iter().map(|name| (Instant::now(), name)).collect();
    let mut failing: HashMap<String, String> = HashMap::new();
    loop {
        let now = Instant::now();
        for (at, name) in due.iter_mut().filter(|(at, _)| *at <= now) {
            let answer = match timeout(DEADLINE, resolver.lookup_ip(name.as_str())).await {
                Ok(Ok(found)) => Ok(found),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
            };
            match answer {
                Ok(found) => {
                    failing.remove(name);
                    let wait = found.valid_until().saturating_duration_since(Instant::now()).clamp(SOONEST, LATEST);
                    *at = Instant::now() + wait;
                    let mut addresses: Vec<IpAddr> = found.iter().collect();
                    addresses.sort_unstable();
                    sender.send_if_modified(|resolved| {
                        if resolved.get(name.as_str()) == Some(&addresses) {
                            return false;
                        }
                        Arc::make_mut(resolved).insert(name.clone(), addresses);
                        true
                    });
                }
                Err(error) => {
                    *at = Instant::now() + RETRY;
                    if failing.insert(name.clone(), error.clone()).as_ref() != Some(&error) {
                        tracing::warn!("`{name}` can't be resolved, its last addresses stay: {error}");
                    }
                }
            }
        }
        let next = due.iter().map(|(at, _)| *at).min().unwrap_or(now + LATEST);
        tokio::time::sleep_until(next.into()).await;
    }
}
