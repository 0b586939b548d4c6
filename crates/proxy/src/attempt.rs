//! One connection from accept to close, which ends in exactly one record on whatever path it leaves.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sidegate_core::{ClientAddr, ConnectionRecord, Direction, Reason};
use sidegate_net::canonical;

use crate::failure::Failure;
use crate::registry::ConnectionHandle;
use crate::shared::Shared;

/// A connection under way. Dropping it, for whatever cause, hands its record over.
pub(crate) struct Attempt {
    /// What it leaves behind; none once that is handed over.
    record: Option<Box<ConnectionRecord>>,
    /// Its entry in the registry.
    handle: Arc<ConnectionHandle>,
    /// Where its record and its end are reported.
    shared: Arc<Shared>,
}

impl Attempt {
    fn begin(shared: &Arc<Shared>, direction: Direction, downstream: ClientAddr) -> Self {
        let downstream = canonical(*downstream).into();
        let record = Box::new(ConnectionRecord::new(direction, downstream));
        let handle = shared.registry.register(&record);
        shared.telemetry.metrics.open(direction).inc();
        Self { record: Some(record), handle, shared: shared.clone() }
    }

    /// The record; it is there until the drop.
    fn record(&mut self) -> &mut ConnectionRecord {
        self.record.get_or_insert_with(|| Box::new(ConnectionRecord::new(self.handle.direction, self.handle.downstream)))
    }
}

/// Runs the connection `serve` to its end, until it is cut, or until the task is dropped, and leaves one record.
///
/// Returns what `serve` does; nothing if it failed.
pub(crate) async fn attempt<F, T>(shared: Arc<Shared>, direction: Direction, downstream: ClientAddr, serve: F) -> Option<T>
where
    F: AsyncFnOnce(&Shared, &mut ConnectionRecord, &ConnectionHandle) -> Result<T, Failure>,
{
    // Registration comes first, so that no connection slips between a look at the limit and its entry.
    let mut attempt = Attempt::begin(&shared, direction, downstream);
    let full = shared.registry.open_in(direction) > shared.limits.connections;
    let result = if full && !(direction == Direction::Inbound && shared.limits.unidentified.make_room(downstream.ip())) {
        Err(Failure::new(Reason::ConnectionLimit))
    } else if shared.audit.is_blocked() {
        Err(Failure::new(Reason::AuditUnavailable))
    } else {
        let handle = attempt.handle.clone();
        // Biased, so that a relay that is cut can tell the peer why; everything else just ends.
        tokio::select! {
            biased;
            result = serve(&shared, attempt.record(), &handle) => result,
            cut = handle.cut_for() => Err(cut.into()),
        }
    };
    let record = attempt.record();
    match result {
        Ok(value) => {
            // Unless it has said how else.
            if record.reason == Reason::Cancelled {
                record.reason = Reason::Closed;
            }
            Some(value)
        }
        Err(failure) => {
            record.reason = failure.reason;
            record.detail = failure.detail;
            None
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.shared.registry.remove(&self.handle);
        self.shared.telemetry.metrics.open(self.handle.direction).dec();
        if let Some(mut record) = self.record.take() {
            if std::thread::panicking() {
                record.reason = Reason::Panicked;
            }
            record.stages.total = record.accepted.elapsed();
            record.bytes_up = self.handle.bytes_up.load(Ordering::Relaxed);
            record.bytes_down = self.handle.bytes_down.load(Ordering::Relaxed);
            let record = Arc::<ConnectionRecord>::from(record);
            self.shared.audit.end(&record, self.handle.admission().is_some());
            self.shared.telemetry.record(record);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use sidegate_config::Config;
    use sidegate_control::{Control, Settings};

    pub(crate) fn shared() -> Arc<Shared> {
        let config = Config::default();
        let options = sidegate_telemetry::TelemetryOptions::new(&config.telemetry);
        let (telemetry, _) = sidegate_telemetry::Telemetry::start(options).unwrap();
        Shared::new(Control::new(Settings::new(&config), Arc::new(telemetry), Arc::default()))
    }

    const FROM: ([u8; 4], u16) = ([127, 0, 0, 1], 1);

    /// One record with `reason`, and nothing left in the registry.
    fn expect(shared: &Shared, reason: Reason) {
        let scrape = shared.telemetry.scrape(sidegate_telemetry::ScrapeFormat::Text);
        let ended: Vec<&str> = scrape.lines().filter(|l| l.starts_with("sidegate_connections_total{")).collect();
        assert_eq!(
            ended,
            [format!("sidegate_connections_total{{sidegate_direction=\"inbound\",sidegate_reason=\"{}\"}} 1", reason.label())]
        );
        assert_eq!(shared.registry.open(), 0);
    }

    #[tokio::test]
    async fn an_end_in_order_is_one_record() {
        let shared = shared();
        attempt(shared.clone(), Direction::Inbound, FROM.into(), async |_, _, _| Ok(())).await;
        expect(&shared, Reason::Closed);
    }

    #[tokio::test]
    async fn a_panic_is_one_record_and_costs_only_its_connection() {
        let shared = shared();
        let task =
            tokio::spawn(attempt(shared.clone(), Direction::Inbound, FROM.into(), async |_, _, _| -> Result<(), _> { panic!("a defect") }));
        assert!(task.await.unwrap_err().is_panic());
        expect(&shared, Reason::Panicked);
    }

    #[tokio::test]
    async fn a_dropped_task_is_one_record() {
        let shared = shared();
        let task = tokio::spawn(attempt(shared.clone(), Direction::Inbound, FROM.into(), async |_, _, _| {
            std::future::pending::<Result<(), _>>().await
        }));
        tokio::task::yield_now().await;
        task.abort();
        let _ = task.await;
        expect(&shared, Reason::Cancelled);
    }

    #[tokio::test]
    async fn a_cut_is_one_record_with_the_first_reason() {
        let shared = shared();
        let task = tokio::spawn(attempt(shared.clone(), Direction::Inbound, FROM.into(), async |_, _, _| {
            std::future::pending::<Result<(), _>>().await
        }));
        tokio::task::yield_now().await;
        shared.registry.cut_all(Reason::Drained);
        shared.registry.cut_all(Reason::Cancelled);
        task.await.unwrap();
        expect(&shared, Reason::Drained);
    }
}
