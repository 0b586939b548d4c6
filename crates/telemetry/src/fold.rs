//! Warnings and errors that repeat are folded: the first few are told, then only how many there were.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use sidegate_core::{event, printable};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// So many of one place in the code are told …
const TOLD: u32 = 5;
/// … in this time.
const WINDOW: Duration = Duration::from_secs(10);

/// A layer that lets no more than a few repetitions pass, to any other layer.
#[derive(Debug, Clone, Default)]
pub struct Fold(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// By place in the code: their number is fixed.
    places: Mutex<HashMap<Identifier, Repeated>>,
    /// Left out since two came at the same moment: nobody waits for the lock.
    crowded: AtomicU64,
}

#[derive(Debug)]
struct Repeated {
    since: Instant,
    told: u32,
    left_out: u64,
    last: String,
}

impl<S: Subscriber> Layer<S> for Fold {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let meta = event.metadata();
        if *meta.level() > Level::WARN || meta.target() == module_path!() {
            return true;
        }
        let mut places = match self.0.places.try_lock() {
            Ok(places) => places,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.0.crowded.fetch_add(1, Ordering::Relaxed);
                return false;
            }
        };
        let repeated =
            places.entry(meta.callsite()).or_insert_with(|| Repeated { since: Instant::now(), told: 0, left_out: 0, last: String::new() });
        if repeated.left_out == 0 && repeated.since.elapsed() >= WINDOW {
            repeated.since = Instant::now();
            repeated.told = 0;
        }
        let tell = repeated.told < TOLD;
        if tell {
            repeated.told += 1;
        } else {
            repeated.left_out += 1;
            repeated.last.clear();
            event.record(&mut Message(&mut repeated.last));
        }
        tell
    }
}

impl Fold {
    /// Tells what was left out in windows that are over; to be called from time to time, and at the end with `all`.
    pub fn tell(&self, all: bool) {
        let mut over = Vec::new();
        let crowded = self.0.crowded.swap(0, Ordering::Relaxed);
        if crowded > 0 {
            over.push((crowded, "they came at the same moment as others".to_owned()));
        }
        for repeated in self.0.places.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            if repeated.left_out > 0 && (all || repeated.since.elapsed() >= WINDOW) {
                over.push((repeated.left_out, std::mem::take(&mut repeated.last)));
                (repeated.left_out, repeated.told, repeated.since) = (0, 0, Instant::now());
            }
        }
        for (count, last) in over {
            tracing::warn!(event = event::REPEATED, count, "{count} more like this were left out: {}", printable(&last));
        }
    }
}

struct Message<'a>(&'a mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            *self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    /// Keeps every event's message.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut text = String::new();
            event.record(&mut Message(&mut text));
            self.0.lock().unwrap().push(text);
        }
    }

    #[test]
    fn a_flood_becomes_a_few_lines_and_a_number() {
        let (fold, seen) = (Fold::default(), Seen::default());
        let subscriber = tracing_subscriber::registry().with(fold.clone()).with(seen.clone());
        tracing::subscriber::with_default(subscriber, || {
            for i in 0..100 {
                tracing::warn!("flood {i}");
                tracing::info!("told {i}");
            }
            tracing::error!("something else");
            fold.tell(false);
            assert_eq!(seen.0.lock().unwrap().len(), 5 + 100 + 1, "the window is not over");
            fold.tell(true);
        });
        let seen = seen.0.lock().unwrap();
        assert_eq!(seen.last().unwrap(), "95 more like this were left out: flood 99");
        assert_eq!(seen.iter().filter(|s| s.starts_with("flood")).count(), 5);
    }
}
