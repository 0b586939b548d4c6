//! What the whole log leaves unproved: records that are gone from its beginning, and records that nothing proves.

use super::{EPOCHS, Retired, Verifier};
use sidegate_audit::hex::hex;

impl Verifier<'_> {
    /// What comes before the first record was deleted by `retain`, or is missing.
    pub(super) fn beginning(&mut self, whole: bool) {
        let first = self.report.first_seq;
        if first <= 1 {
            return;
        }
        self.file = self.report.files.first().cloned().unwrap_or_default();
        let (last, hash) = (first - 1, hex(self.first_prev));
        let said = |r: &&Retired| r.last_seq == last && r.last_hash == hash;
        let unproven = self.report.unproven_records();
        let is_unproven = |seq: u64| unproven.iter().any(|records| records.contains(&seq));
        // Of more than one that says so, the one that is worth most.
        let by = self.retired.iter().filter(said).map(|r| r.seq).min_by_key(|seq| is_unproven(*seq));
        if let Some(seq) = by.filter(|seq| is_unproven(*seq)) {
            // A file is deleted when a signed checkpoint covers what says so.
            self.find(
                Some(first),
                format!(
                    "records 1 to {last} are missing; that they were deleted says only record {seq}, which no signed checkpoint of its run \
                     covers: anyone who could write to the file may have added it"
                ),
            );
        } else if by.is_some() {
            self.report.unproven.push(format!("records 1 to {last} were deleted, as `retain` says: nothing is known of what they said"));
        } else if whole {
            self.find(Some(first), format!("records 1 to {last} are missing, and no record says that they were deleted"));
        } else {
            self.report
                .unproven
                .push(format!("only this file was looked at: give the folder to have what comes before record {first} looked for"));
        }
    }

    pub(super) fn say_what_is_unproven(&mut self, trusts: bool) {
        let last = self.report.last_seq;
        let unproven = &mut self.report.unproven;
        unproven.extend(self.report.unvouched.iter().map(|records| {
            let (first, last) = (records.start(), records.end());
            format!(
                "records {first} to {last} were written by a run that ended without a signed checkpoint; anyone who could write to the file may \
                 have changed them, and the checkpoints of later runs do not vouch for them: an auditor's key with --identity, and the \
                 exported beginning of the run with --anchor, would"
            )
        }));
        if trusts {
            unproven.extend(self.report.unsigned_tail.as_ref().map(|tail| {
                let (first, last) = (tail.start(), tail.end());
                format!("records {first} to {last} come after the last checkpoint with a trusted signature: anyone who could write to the file may have changed them")
            }));
        } else {
            unproven.push(
                "who signed the checkpoints: give the trust bundle with --bundle and --signer, or the signer's key with --public-key"
                    .to_owned(),
            );
            let signed = self.checkpoints.keys().next_back().copied().unwrap_or(0);
            if signed < last {
                unproven.push(format!("records {} to {last} come after the last checkpoint", signed + 1));
            }
        }
        if self.given.keys.is_empty() {
            unproven.push("that nobody who took the process later has rewritten what came before: give an auditor's key with --identity to check the MACs".to_owned());
        } else if self.unauthenticated {
            unproven.push(format!(
                "the MACs of runs whose key was not sealed to `audit.auditors`, or is more than {EPOCHS} checkpoints away from where the log begins"
            ));
        } else if !self.beginnings.iter().all(|beginning| beginning.anchored) {
            // An auditor's public key is no secret: anyone who can sign can also begin a run, with a key that they know.
            unproven.push(
                "that each run began with the key that it has now: the exported beginnings of all runs, with --anchor, would prove it"
                    .to_owned(),
            );
        }
        if self.given.anchors.is_none() {
            unproven.push(format!("that nothing was cut off after record {last}, and that the log was not replaced as a whole: give exported checkpoints with --anchor"));
        } else if self.report.anchored < last {
            unproven
                .push(format!("that nothing was cut off after record {last}: the last exported record of it is {}", self.report.anchored));
        }
        if !self.closed {
            unproven.push(
                "that the log was closed: it is still written, or its process was killed, or had no key to sign the last checkpoint"
                    .to_owned(),
            );
        }
    }
}
