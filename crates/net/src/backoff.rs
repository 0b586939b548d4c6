//! Waits between tries that fail.

use std::time::Duration;

/// Doubles the wait from try to try, up to a bound.
///
/// Each wait is drawn between half of the current one and the whole, so that the sidecars of a node, which have lost the same server
/// at the same moment, do not come back at the same moment.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    current: Duration,
}

impl Backoff {
    /// A back-off that begins with `first`.
    #[must_use]
    pub const fn new(first: Duration) -> Self {
        Self { first, current: first }
    }

    /// The wait before the next try. The one after it is twice as long, but not longer than `most`.
    pub fn next(&mut self, most: Duration) -> Duration {
        let wait = self.current.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.current = (self.current * 2).min(most);
        wait
    }

    /// Begins again, after a success.
    pub fn reset(&mut self) {
        self.current = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_begin_again() {
        let (first, most) = (Duration::from_secs(1), Duration::from_secs(5));
        let mut backoff = Backoff::new(first);
        for whole in [1, 2, 4, 5, 5].map(Duration::from_secs) {
            let wait = backoff.next(most);
            assert!((whole / 2..=whole).contains(&wait), "{wait:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next(most) <= first);
    }
}
