//! Counters by a key that peers choose: the most frequent keys have series of their own, all others share one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::instruments::Counter;

/// The name of the shared series.
pub(crate) const OTHER: &str = "other";

/// `K` counters for each of a bounded number of keys.
#[derive(Debug)]
pub(crate) struct Bounded<const K: usize> {
    limit: usize,
    named: Mutex<NamedSeries<K>>,
    other: [Counter; K],
}

#[derive(Debug)]
struct NamedSeries<const K: usize> {
    series: HashMap<Arc<str>, OwnCounts<K>>,
    /// How many series there have been.
    generations: u64,
    /// Counts of series that were given up.
    retired: [u64; K],
    /// Keys without a series that have come often of late (Misra and Gries): each count is a lower bound.
    candidates: HashMap<Arc<str>, u64>,
}

/// A key's own counters.
#[derive(Debug)]
struct OwnCounts<const K: usize> {
    counts: [u64; K],
    start: SystemTime,
    generation: u64,
    /// How often it has come since the last rebalance.
    of_late: u64,
}

/// What counters belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Series {
    /// All keys without a series of their own.
    Shared,
    /// One key, since it has a series of its own; a later series of the same key has another generation.
    Own { start: SystemTime, generation: u64 },
    /// Keys that had one.
    Retired,
}

/// The counters of one key.
pub(crate) struct Counted<const K: usize> {
    pub(crate) key: Arc<str>,
    pub(crate) counts: [u64; K],
    pub(crate) series: Series,
}

impl<const K: usize> Bounded<K> {
    pub(crate) fn new(limit: usize) -> Self {
        let named = Mutex::new(NamedSeries { series: HashMap::new(), candidates: HashMap::new(), generations: 0, retired: [0; K] });
        Self { limit, named, other: std::array::from_fn(|_| Counter::default()) }
    }

    /// Counts `key`, none for one that is not known.
    pub(crate) fn count(&self, key: Option<&Arc<str>>, which: usize) {
        let Some(key) = key else { return self.count_other(which) };
        let mut guard = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let named = &mut *guard;
        if let Some(series) = named.series.get_mut(key) {
            series.counts[which] += 1;
            series.of_late += 1;
        } else if named.series.len() < self.limit {
            let entry = named.begin(key.clone());
            entry.counts[which] = 1;
            entry.of_late = 1;
        } else {
            self.count_other(which);
            if let Some(count) = named.candidates.get_mut(key) {
                *count += 1;
            } else if named.candidates.len() < self.limit {
                named.candidates.insert(key.clone(), 1);
            } else {
                named.candidates.retain(|_, count| {
                    *count -= 1;
                    *count > 0
                });
            }
        }
    }

    /// Counts in the shared series, without a lock.
    pub(crate) fn count_other(&self, which: usize) {
        self.other[which].inc();
    }

    /// Gives the series of keys that have become rare to others that have become frequent; to be called from time to time.
    /// A key takes the series of another only if it comes more than twice as often, and only a few change at a time, so that series last.
    pub(crate) fn rebalance(&self) {
        let mut guard = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let named = &mut *guard;
        let mut candidates: Vec<(Arc<str>, u64)> = named.candidates.drain().collect();
        candidates.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        candidates.truncate(self.limit / 10 + 1);
        let mut rare: Vec<(u64, Arc<str>)> = named.series.iter().map(|(key, series)| (series.of_late, key.clone())).collect();
        rare.sort();
        for ((newcomer, count), (of_late, key)) in candidates.into_iter().zip(rare) {
            if count > 2 * of_late.max(1) {
                let gone = named.series.remove(&key).map_or([0; K], |entry| entry.counts);
                named.retired.iter_mut().zip(gone).for_each(|(sum, count)| *sum += count);
                named.begin(newcomer);
            }
        }
        named.series.values_mut().for_each(|series| series.of_late = 0);
    }

    pub(crate) fn all(&self) -> Vec<Counted<K>> {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = |(key, entry): (&Arc<str>, &OwnCounts<K>)| Counted {
            key: key.clone(),
            counts: entry.counts,
            series: Series::Own { start: entry.start, generation: entry.generation },
        };
        let mut all: Vec<Counted<K>> = named.series.iter().map(counted).collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all.push(Counted { key: OTHER.into(), counts: self.other.each_ref().map(Counter::get), series: Series::Shared });
        all.push(Counted { key: OTHER.into(), counts: named.retired, series: Series::Retired });
        all
    }
}

impl<const K: usize> NamedSeries<K> {
    fn begin(&mut self, key: Arc<str>) -> &mut OwnCounts<K> {
        self.generations += 1;
        let new = OwnCounts { counts: [0; K], start: SystemTime::now(), generation: self.generations, of_late: 0 };
        self.series.entry(key).insert_entry(new).into_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bounded: &Bounded<1>) -> impl Iterator<Item = Counted<1>> {
        bounded.all().into_iter().filter(|c| c.series != Series::Retired)
    }

    fn keys(bounded: &Bounded<1>) -> Vec<String> {
        all(bounded).map(|c| c.key.to_string()).collect()
    }

    #[test]
    fn the_rest_is_other_and_nothing_is_lost() {
        let bounded = Bounded::<1>::new(2);
        for key in ["a", "b", "c", "a", "d", "e"] {
            bounded.count(Some(&key.into()), 0);
        }
        bounded.count(None, 0);
        assert_eq!(keys(&bounded), ["a", "b", OTHER]);
        assert_eq!(all(&bounded).map(|c| c.counts[0]).collect::<Vec<_>>(), [2, 1, 4]);
    }

    #[test]
    fn who_becomes_frequent_gets_a_series() {
        let bounded = Bounded::<1>::new(2);
        for _ in 0..10 {
            bounded.count(Some(&"a".into()), 0);
        }
        bounded.count(Some(&"b".into()), 0);
        for i in 0..100 {
            bounded.count(Some(&"c".into()), 0);
            bounded.count(Some(&format!("random {i}").into()), 0);
        }
        bounded.rebalance();
        assert_eq!(keys(&bounded), ["a", "c", OTHER]);
        // Nothing is lost: what was counted for b is on record, though no longer under its name.
        assert_eq!(bounded.all().iter().map(|c| c.counts[0]).sum::<u64>(), 10 + 1 + 200);
    }

    #[test]
    fn strangers_who_come_once_push_nobody_out() {
        let bounded = Bounded::<1>::new(3);
        for key in ["a", "b", "c"] {
            bounded.count(Some(&key.into()), 0);
        }
        for i in 0..1000 {
            bounded.count(Some(&format!("random {i}").into()), 0);
        }
        bounded.rebalance();
        assert_eq!(keys(&bounded), ["a", "b", "c", OTHER]);
    }

    #[test]
    fn none_may_be_named() {
        let bounded = Bounded::<1>::new(0);
        bounded.count(Some(&"a".into()), 0);
        bounded.rebalance();
        assert_eq!(keys(&bounded), [OTHER]);
    }
}
