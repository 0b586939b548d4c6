//! A short poll before a worker sleeps.
//!
//! To wake a sleeping thread takes longer than a byte takes through both sidecars of a node. Where the next event comes
//! within the configured window, it is cheaper in time, though not in CPU, to look for it than to sleep. So a worker polls
//! only while recent events came that close together, and only while its core is idle otherwise.

use std::cell::Cell;
use std::fs;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::yield_now;

/// How many events in a row have to come within the window before it is worth to spin.
const HIT_THRESHOLD: u8 = 4;
/// What an event that comes later takes off the count of hits.
const MISS_PENALTY: u8 = 2;
/// A thread that waits for its core for longer than this part of the time takes it from somebody when it polls.
const CONTENDED: u32 = 50;
/// So many looks long it then leaves the core alone.
const PAUSE: u8 = 10;

thread_local! {
    static WORKER: Rc<Worker> = Rc::default();
}

#[derive(Default)]
struct Worker {
    window: Cell<Duration>,
    last: Cell<Option<Instant>>,
    hits: Cell<u8>,
    /// For so many more looks the core is left to others.
    pause: Cell<u8>,
    /// Time that this thread has waited for a core, and when that was looked at.
    waited: Cell<Option<(Duration, Instant)>>,
    wake: Notify,
}

/// Keeps the current worker's runtime from sleeping for up to `window` after each event; never, if that is zero.
pub(crate) async fn keep_awake(window: Duration) {
    let worker = WORKER.with(Rc::clone);
    worker.window.set(window);
    loop {
        worker.wake.notified().await;
        while worker.last.get().is_some_and(|last| last.elapsed() < window) {
            yield_now().await;
        }
    }
}

/// Tells that bytes have moved on the current worker.
pub(crate) fn event(now: Instant) {
    WORKER.with(|worker| {
        if !worker.window.get().is_zero() && worker.expects_more(now) {
            worker.wake.notify_one();
        }
    });
}

/// Looks whether others want this worker's core; once a second is enough.
pub(crate) fn look_for_others() {
    WORKER.with(|worker| {
        if worker.window.get().is_zero() {
            return;
        }
        let now = Instant::now();
        let waited = fs::read_to_string("/proc/thread-self/schedstat").ok().and_then(|text| waited(&text));
        if let (Some((before, since)), Some(waited)) = (worker.waited.get(), waited) {
            let contended = waited.saturating_sub(before) * CONTENDED > now.duration_since(since);
            worker.pause.set(if contended { PAUSE } else { worker.pause.get().saturating_sub(1) });
        }
        worker.waited.set(waited.map(|waited| (waited, now)));
    });
}

/// The time on the run queue: the second number, in nanoseconds (Linux, sched-stats.rst).
fn waited(schedstat: &str) -> Option<Duration> {
    schedstat.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

impl Worker {
    /// Notes an event; whether the next one is likely to come within the window.
    fn expects_more(&self, now: Instant) -> bool {
        let close = self.last.replace(Some(now)).is_some_and(|last| now.duration_since(last) < self.window.get());
        let hits = self.hits.get();
        self.hits.set(if close { (hits + 1).min(2 * HIT_THRESHOLD) } else { hits.saturating_sub(MISS_PENALTY) });
        self.hits.get() >= HIT_THRESHOLD && self.pause.get() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> Worker {
        Worker { window: Cell::new(Duration::from_micros(50)), ..Worker::default() }
    }

    #[test]
    fn only_events_close_together_are_waited_for() {
        let worker = worker();
        let mut now = Instant::now();
        let mut after = |micros| {
            now += Duration::from_micros(micros);
            worker.expects_more(now)
        };
        assert_eq!([0, 10, 10, 10, 10, 10].map(&mut after), [false, false, false, false, true, true]);
        assert_eq!([1000, 10, 10, 1000, 1000].map(&mut after), [false, true, true, false, false]);
        assert_eq!([60; 8].map(&mut after), [false; 8]);
    }

    #[test]
    fn nobody_is_robbed_of_a_core() {
        let worker = worker();
        worker.pause.set(1);
        let now = Instant::now();
        assert!((0..20).all(|micros| !worker.expects_more(now + Duration::from_micros(micros))));
        assert_eq!(waited("1200 34000 5\n"), Some(Duration::from_micros(34)));
        assert_eq!(waited("?"), None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_runtime_stays_awake_for_the_window_and_no_longer() {
        let window = Duration::from_millis(5);
        let turns = Rc::new(Cell::new(0));
        let mut poll = Box::pin(keep_awake(window));
        let counted = turns.clone();
        let counting = std::future::poll_fn(move |cx| {
            counted.set(counted.get() + 1);
            poll.as_mut().poll(cx)
        });
        let events = async {
            yield_now().await;
            let start = Instant::now();
            (0..=HIT_THRESHOLD).for_each(|_| event(start));
            tokio::time::sleep(2 * window).await;
            let within = turns.get();
            tokio::time::sleep(window).await;
            (within, turns.get())
        };
        let (within, after) = tokio::select! {
            () = counting => unreachable!("it ends with the worker"),
            turns = events => turns,
        };
        // Each turn of the runtime asks both; without the poll that is a handful.
        assert!(within > 50, "{within}");
        assert!(after - within < 5, "{within} then {after}");
    }
}
