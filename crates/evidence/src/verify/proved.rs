//! Which records are proved: run by run, since the signature of a later run does not say who wrote the end of an earlier one.

use std::ops::RangeInclusive;

use super::{OpenTail, Verifier};

impl Verifier<'_> {
    /// A trusted signature or an exported record proves the run of record `seq` up to it.
    pub(super) fn mark(&mut self, seq: u64) {
        if let Some(run) = self.beginnings.iter_mut().rev().find(|run| run.seq <= seq) {
            run.mark = run.mark.max(seq);
        }
    }

    /// Divides the records into those that are proved and those that are not.
    pub(super) fn divide(&mut self) {
        let last = self.report.last_seq;
        let ends = self.beginnings.iter().skip(1).map(|next| next.seq.saturating_sub(1)).chain([last]);
        for (run, end) in self.beginnings.iter().zip(ends) {
            // MACs prove what the run wrote where its key is known to be its own: anyone else can begin a run with a key of their own.
            let has_its_key = run.anchored || run.mark > 0;
            let until = if has_its_key && !self.given.keys.is_empty() && run.unchecked <= run.mark { end } else { run.mark };
            if until >= run.seq {
                add(&mut self.report.proved, run.seq..=until);
            }
            if until < end {
                add(&mut self.report.unproved, until.saturating_add(1).max(run.seq)..=end);
            }
        }
        let begun = self.beginnings.last().map_or(0, |run| run.seq);
        let tail = self.report.unproved.as_slice();
        let [tail] = tail else { return };
        if !self.closed && *tail.end() == last && *tail.start() >= begun {
            let since = self.times.get(tail.start()).cloned().unwrap_or_default();
            self.report.open_tail = Some(OpenTail { first: *tail.start(), last, since });
        }
    }
}

/// Adds what follows.
fn add(all: &mut Vec<RangeInclusive<u64>>, records: RangeInclusive<u64>) {
    match all.last_mut().filter(|last| last.end().saturating_add(1) == *records.start()) {
        Some(last) => *last = *last.start()..=*records.end(),
        None => all.push(records),
    }
}
