//! Passes events to the collector, through a layer of `tracing` that never waits.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc::{self, error::TrySendError};
use tracing::field::{Field as Key, Visit};
use tracing::{Event as Reported, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::instruments::Counter;
use crate::logs::{Field, LoggedEvent};

/// Events are few: repeated ones are folded before this queue.
const QUEUE: usize = 1024;
/// What carries the exports must not be reported by them, or one export would lead to the next.
/// `log` is what events of the `log` crate come under, rustls' among them.
const OWN_TRANSPORT: [&str; 6] = ["h2", "hyper", "tonic", "tower", "rustls", "log"];

/// The layer that queues events for export.
#[derive(Debug)]
pub struct EventLayer {
    sender: mpsc::Sender<Box<LoggedEvent>>,
    dropped: Arc<Counter>,
}

/// The receiving end, for the telemetry thread.
#[derive(Debug)]
pub struct Events(pub(crate) mpsc::Receiver<Box<LoggedEvent>>, pub(crate) Arc<Counter>);

/// A layer and its receiving end.
#[must_use]
pub fn events() -> (EventLayer, Events) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let dropped = Arc::new(Counter::default());
    (EventLayer { sender, dropped: dropped.clone() }, Events(receiver, dropped))
}

impl<S: Subscriber> Layer<S> for EventLayer {
    fn on_event(&self, reported: &Reported<'_>, _: Context<'_, S>) {
        let meta = reported.metadata();
        let root = meta.target().split("::").next().unwrap_or_default();
        let is_part = |own: &&str| root.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
        if OWN_TRANSPORT.iter().any(is_part) {
            return;
        }
        let mut event = LoggedEvent {
            time: SystemTime::now(),
            level: *meta.level(),
            target: meta.target(),
            name: None,
            message: String::new(),
            fields: Vec::new(),
        };
        reported.record(&mut Fields(&mut event));
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Box::new(event)) {
            self.dropped.inc();
        }
    }
}

struct Fields<'a>(&'a mut LoggedEvent);

impl Fields<'_> {
    fn take(&mut self, key: &Key, field: Field) {
        match (key.name(), field) {
            ("message", Field::Text(text)) => self.0.message = text,
            ("event", Field::Text(text)) => self.0.name = Some(text),
            (name, field) => self.0.fields.push((name, field)),
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, key: &Key, value: &dyn fmt::Debug) {
        self.take(key, Field::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, key: &Key, value: &str) {
        self.take(key, Field::Text(value.to_owned()));
    }

    fn record_bool(&mut self, key: &Key, value: bool) {
        self.take(key, Field::Boolean(value));
    }

    fn record_i64(&mut self, key: &Key, value: i64) {
        self.take(key, Field::Number(value));
    }

    fn record_u64(&mut self, key: &Key, value: u64) {
        self.take(key, Field::Number(i64::try_from(value).unwrap_or(i64::MAX)));
    }
}
