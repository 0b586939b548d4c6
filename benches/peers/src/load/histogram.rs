//! Latencies, each kept to within a hundredth of itself.

use std::time::Duration;

/// Into how many equal parts each power of two is cut.
const PARTS: u64 = 128;
const BITS: u32 = PARTS.ilog2();
/// Longer than 2^40 ns, a quarter of an hour, counts as that.
const LARGEST: u32 = 40;

/// How often each latency was seen; linear within a power of two, so that the relative error is the same everywhere.
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// An empty one, with all the room that it will ever need.
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; place((1 << LARGEST) - 1) + 1], total: 0 }
    }

    /// Counts one.
    pub(crate) fn add(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).min((1 << LARGEST) - 1);
        self.counts[place(nanos)] += 1;
        self.total += 1;
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.total
    }

    /// The latency, in microseconds, that this share of them does not exceed; none if there are none.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank, and a human-readable result"
    )]
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let index = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some((lower(index) + lower(index + 1)) as f64 / 2.0 / 1000.0)
    }
}

fn place(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(BITS + 1);
    // Below the first power of two that has parts, each value has a place of its own.
    (u64::from(shift) * PARTS + (nanos >> shift)) as usize
}

/// The least latency of a place.
fn lower(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index / PARTS).saturating_sub(1);
    (index - shift * PARTS) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_kept_to_a_hundredth() {
        let mut last = 0;
        for nanos in (0..4_000).chain((12..40).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 12_345 % (1 << bits)])) {
            let index = place(nanos);
            assert!(lower(index) <= nanos && nanos < lower(index + 1), "{nanos} is not in place {index}");
            assert!(lower(index + 1) - lower(index) <= 1 + nanos / 100);
            last = last.max(index);
        }
        assert!(last < Histogram::new().counts.len());
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(0.5), None);
        for micros in 1..=100 {
            histogram.add(Duration::from_micros(micros));
        }
        for (share, micros) in [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            let found = histogram.quantile(share).unwrap();
            assert!((found - micros).abs() <= micros / 100.0, "{found} for {micros}");
        }
    }
}
