//! Instruments that a connection adds to without a lock.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sidegate_core::{ConnectionId, SpanId};

/// A sum that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `amount` more.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// How much it is.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A sum that grows and shrinks.
#[derive(Debug, Default)]
pub struct UpDownCounter(AtomicI64);

impl UpDownCounter {
    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How much it is.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The scale of all histograms: 8 buckets for each doubling, so that a value is known to 9 %.
pub(crate) const SCALE: u8 = 3;
const PER_DOUBLING: i32 = 1 << SCALE;
/// From about a microsecond to about twelve days. A value below counts as zero, a value above as the largest.
const LOWEST: i32 = -20;
const HIGHEST: i32 = 20;
#[allow(clippy::cast_sign_loss, reason = "HIGHEST is above LOWEST")]
const BUCKETS: usize = ((HIGHEST - LOWEST) * PER_DOUBLING) as usize;

/// A value up to this, 2 to the power of LOWEST, counts as zero.
pub(crate) const ZERO_THRESHOLD: f64 = 1.0 / 1_048_576.0;

/// 2 to the power of 1/8, 2/8 … 7/8.
const STEPS: [f64; 7] = [
    1.090_507_732_665_257_7,
    1.189_207_115_002_721,
    1.296_839_554_651_009_6,
    std::f64::consts::SQRT_2,
    1.542_210_825_407_940_7,
    1.681_792_830_507_429,
    1.834_008_086_409_342_4,
];

/// A distribution of durations in base-2 exponential buckets (OpenTelemetry data model, exponential histogram).
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    zero: AtomicU64,
    /// In nanoseconds a sum of long connections would overflow within days.
    microseconds: AtomicU64,
    /// The last example of each doubling. Only the telemetry thread writes them.
    exemplars: Mutex<Vec<Exemplar>>,
}

/// A trace that is an example of a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exemplar {
    pub(crate) trace_id: ConnectionId,
    pub(crate) span_id: SpanId,
    pub(crate) seconds: f64,
    pub(crate) time: SystemTime,
}

/// The state of a [`Histogram`] at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Distribution {
    /// 2 to this power buckets for each doubling.
    pub(crate) scale: u8,
    /// Index of the first bucket.
    pub(crate) offset: i32,
    /// Bucket i holds what is above base^(offset + i) and not above base^(offset + i + 1).
    pub(crate) counts: Vec<u64>,
    pub(crate) zero: u64,
    pub(crate) sum: f64,
    pub(crate) exemplars: Vec<Exemplar>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            zero: AtomicU64::new(0),
            microseconds: AtomicU64::new(0),
            exemplars: Mutex::default(),
        }
    }
}

/// The index of the bucket, above zero, that holds `seconds`.
fn index(seconds: f64) -> i32 {
    const MANTISSA: u64 = (1 << 52) - 1;
    const ONE: u64 = 1023 << 52;
    let bits = seconds.to_bits();
    let exponent = i32::try_from((bits >> 52) & 0x7ff).unwrap_or(0) - 1023;
    let mantissa = f64::from_bits((bits & MANTISSA) | ONE);
    // A bucket's upper bound belongs to it: a power of two is the end of the doubling below.
    let step = if mantissa > 1.0 { i32::try_from(STEPS.iter().filter(|s| mantissa > **s).count()).unwrap_or(0) } else { -1 };
    exponent * PER_DOUBLING + step
}

impl Histogram {
    /// Adds a value.
    pub fn record(&self, value: Duration) {
        let micros = u64::try_from(value.as_nanos().saturating_add(500) / 1000).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(micros, Ordering::Relaxed);
        let seconds = value.as_secs_f64();
        let Ok(place) = usize::try_from(if seconds > ZERO_THRESHOLD { index(seconds) - LOWEST * PER_DOUBLING } else { -1 }) else {
            self.zero.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.buckets[place.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// Remembers a trace as an example of its value.
    pub(crate) fn exemplify(&self, exemplar: Exemplar) {
        let doubling = |e: &Exemplar| index(e.seconds).div_euclid(PER_DOUBLING);
        let mut exemplars = self.exemplars.lock().unwrap_or_else(PoisonError::into_inner);
        match exemplars.iter_mut().find(|e| doubling(e) == doubling(&exemplar)) {
            Some(old) => *old = exemplar,
            None => exemplars.push(exemplar),
        }
    }

    /// How many values there were, and their sum.
    pub(crate) fn totals(&self) -> (u64, Duration) {
        let count: u64 = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).sum();
        (self.zero.load(Ordering::Relaxed) + count, Duration::from_micros(self.microseconds.load(Ordering::Relaxed)))
    }

    pub(crate) fn distribution(&self) -> Distribution {
        let all: Vec<u64> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        let first = all.iter().position(|n| *n > 0).unwrap_or(0);
        let last = all.iter().rposition(|n| *n > 0).map_or(first, |last| last + 1);
        Distribution {
            scale: SCALE,
            offset: LOWEST * PER_DOUBLING + i32::try_from(first).unwrap_or(0),
            counts: all[first..last].to_vec(),
            zero: self.zero.load(Ordering::Relaxed),
            sum: Duration::from_micros(self.microseconds.load(Ordering::Relaxed)).as_secs_f64(),
            exemplars: self.exemplars.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl Distribution {
    pub(crate) fn count(&self) -> u64 {
        self.zero + self.counts.iter().sum::<u64>()
    }

    /// How many values are not above 2 to the power of `exponent`.
    pub(crate) fn up_to(&self, exponent: i32) -> u64 {
        let end = exponent * (1 << self.scale) - self.offset;
        let end = usize::try_from(end).unwrap_or(0).min(self.counts.len());
        self.zero + self.counts[..end].iter().sum::<u64>()
    }

    /// The same values in fewer, wider buckets.
    #[must_use]
    pub(crate) fn at_scale(mut self, scale: u8) -> Self {
        while self.scale > scale {
            let offset = self.offset.div_euclid(2);
            let mut counts = vec![0; self.counts.len() / 2 + 1];
            for (i, count) in self.counts.iter().enumerate() {
                let old = self.offset + i32::try_from(i).unwrap_or(0);
                if let Some(place) = usize::try_from(old.div_euclid(2) - offset).ok().and_then(|p| counts.get_mut(p)) {
                    *place += count;
                }
            }
            while counts.last() == Some(&0) {
                counts.pop();
            }
            (self.offset, self.counts, self.scale) = (offset, counts, self.scale - 1);
        }
        self
    }

    /// Adds `other`, which has the same scale.
    pub(crate) fn add(&mut self, other: &Self) {
        self.combine(other, u64::saturating_add);
        self.sum += other.sum;
        self.exemplars.extend(other.exemplars.iter().cloned());
    }

    /// Takes away `earlier`, a former state of the same histogram.
    pub(crate) fn since(&mut self, earlier: &Self) {
        self.combine(earlier, u64::saturating_sub);
        self.sum -= earlier.sum;
    }

    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64) {
        self.zero = with(self.zero, other.zero);
        if other.counts.is_empty() {
            return;
        }
        if self.counts.is_empty() {
            self.offset = other.offset;
        }
        let end = |d: &Self| d.offset + i32::try_from(d.counts.len()).unwrap_or(0);
        let (start, end) = (self.offset.min(other.offset), end(self).max(end(other)));
        let at = |d: &Self, i: i32| usize::try_from(i - d.offset).ok().and_then(|p| d.counts.get(p)).copied().unwrap_or(0);
        self.counts = (start..end).map(|i| with(at(self, i), at(other, i))).collect();
        self.offset = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_between_the_bounds_of_its_bucket() {
        let base = 2f64.powf(1.0 / f64::from(PER_DOUBLING));
        for nanos in [1_000u64, 1_024, 999_999, 1_000_000, 123_456_789, 1_000_000_000, 4_000_000_000, 3_600_000_000_000] {
            let seconds = Duration::from_nanos(nanos).as_secs_f64();
            let i = index(seconds);
            assert!(base.powi(i) < seconds * (1.0 + 1e-12) && seconds <= base.powi(i + 1) * (1.0 + 1e-12), "{nanos}: {i}");
        }
        // An upper bound belongs to its bucket.
        assert_eq!((index(1.0), index(1.000_001), index(2.0)), (-1, 0, 7));
    }

    #[test]
    fn wider_buckets_hold_the_same_values() {
        let histogram = Histogram::default();
        for millis in 1..=1000 {
            histogram.record(Duration::from_millis(millis));
        }
        histogram.record(Duration::ZERO);
        let fine = histogram.distribution();
        assert_eq!((fine.count(), fine.zero), (1001, 1));
        assert!((fine.sum - 500.5).abs() < 1e-6);
        for scale in (0..=2).rev() {
            let wide = fine.clone().at_scale(scale);
            assert_eq!(wide.count(), 1001);
            for exponent in -12..=2 {
                assert_eq!(wide.up_to(exponent), fine.up_to(exponent), "{scale} {exponent}");
            }
        }
        // 250 ms is a power of two and the upper bound of its bucket.
        assert_eq!(fine.up_to(-2), 251);
        assert_eq!(fine.up_to(0), 1001);
    }

    #[test]
    fn a_difference_is_what_came_in_between() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(3));
        let before = histogram.distribution();
        histogram.record(Duration::from_micros(10));
        histogram.record(Duration::from_secs(9));
        let mut now = histogram.distribution();
        now.since(&before);
        assert_eq!((now.count(), now.up_to(-10), now.up_to(4)), (2, 1, 2));
        assert!((now.sum - 9.000_01).abs() < 1e-6);
        now.add(&before);
        assert_eq!(now.count(), 3);
    }

    #[test]
    fn what_is_out_of_range_counts_at_its_end() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_nanos(1));
        histogram.record(Duration::from_secs(100_000_000));
        assert_eq!(histogram.distribution().count(), 2);
    }
}
