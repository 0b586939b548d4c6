//! Folds repeated warnings and errors: logs the first few, then only their number.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use sidegate_core::{event, printable};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// At most this many events of one place in the code are logged …
const TOLD: u32 = 5;
/// … in this time.
const WINDOW: Duration = Duration::from_secs(10);

/// Actions of an operator are always logged, and each variable once.
const NEVER_FOLDED: [&str; 3] = [module_path!(), "sidegate_admin::api", "sidegate::variables"];

/// A layer that passes only a few repetitions of an event on to all other layers. No thread waits for its lock.
#[derive(Debug, Clone, Default)]
pub struct Fold(Arc<RepeatedEvents>);

/// Repetitions by place in the code, of which the number is fixed.
#[derive(Debug, Default)]
struct RepeatedEvents(Mutex<HashMap<Identifier, Repeated>>);

#[derive(Debug)]
struct Repeated {
    since: Instant,
    told: u32,
    left_out: u64,
    /// The first that was left out.
    example: Option<String>,
}

/// What happens to an event.
enum FoldDecision {
    Told,
    LeftOut,
    /// It is the first that is left out: its message becomes the example.
    Example,
}

impl RepeatedEvents {
    fn count_event(&self, place: Identifier) -> FoldDecision {
        let mut places = match self.0.try_lock() {
            Ok(places) => places,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Rather log one too many than lose the first of its kind.
            Err(TryLockError::WouldBlock) => return FoldDecision::Told,
        };
        let new = || Repeated { since: Instant::now(), told: 0, left_out: 0, example: None };
        let repeated = places.entry(place).or_insert_with(new);
        if repeated.since.elapsed() >= WINDOW {
            (repeated.since, repeated.told) = (Instant::now(), 0);
        }
        if repeated.told < TOLD {
            repeated.told += 1;
            return FoldDecision::Told;
        }
        repeated.left_out += 1;
        if repeated.example.is_none() { FoldDecision::Example } else { FoldDecision::LeftOut }
    }
}

impl<S: Subscriber> Layer<S> for Fold {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let meta = event.metadata();
        if *meta.level() > Level::WARN || NEVER_FOLDED.contains(&meta.target()) {
            return true;
        }
        match self.0.count_event(meta.callsite()) {
            FoldDecision::Told => true,
            FoldDecision::LeftOut => false,
            FoldDecision::Example => {
                // The message is formatted without the lock, since formatting may log an event itself.
                let mut text = String::new();
                event.record(&mut MessageText(&mut text));
                if let Ok(mut places) = self.0.0.try_lock()
                    && let Some(repeated) = places.get_mut(&meta.callsite())
                {
                    repeated.example = Some(text);
                }
                false
            }
        }
    }
}

impl Fold {
    /// Logs what was left out since the last call. Call it from time to time, and at the end.
    pub fn tell(&self) {
        let mut left_out = Vec::new();
        for repeated in self.0.0.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            if repeated.left_out > 0 {
                left_out.push((std::mem::take(&mut repeated.left_out), repeated.example.take().unwrap_or_default()));
            }
        }
        for (count, example) in left_out {
            tracing::warn!(event = event::REPEATED, count, "{count} warnings were left out, such as: {}", printable(&example));
        }
    }
}

struct MessageText<'a>(&'a mut String);

impl Visit for MessageText<'_> {
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
    struct SeenMessages(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for SeenMessages {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut text = String::new();
            event.record(&mut MessageText(&mut text));
            self.0.lock().unwrap().push(text);
        }
    }

    #[test]
    fn a_flood_becomes_a_few_lines_and_a_number() {
        let (fold, seen) = (Fold::default(), SeenMessages::default());
        let subscriber = tracing_subscriber::registry().with(fold.clone()).with(seen.clone());
        tracing::subscriber::with_default(subscriber, || {
            for i in 0..100 {
                tracing::warn!("flood {i}");
                tracing::info!("told {i}");
            }
            tracing::error!("something else");
            assert_eq!(seen.0.lock().unwrap().len(), 5 + 100 + 1);
            fold.tell();
            fold.tell();
        });
        let seen = seen.0.lock().unwrap();
        assert_eq!(seen.last().unwrap(), "95 warnings were left out, such as: flood 5");
        assert_eq!(seen.len(), 5 + 100 + 1 + 1);
        assert_eq!(seen.iter().filter(|s| s.starts_with("flood")).count(), 5);
    }
}
