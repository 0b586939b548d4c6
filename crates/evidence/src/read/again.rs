//! Reads a verified log a second time. The files may have changed in between, so it checks that the lines are the same.

use sidegate_audit::hex::hex;
use sidegate_audit::key::Hash;
use sidegate_audit::line::LogLine;

/// Follows the chain of the lines that were verified.
///
/// Each line has the hash of the one before. So if the last line has the same hash, all lines are the same.
pub(super) struct Again {
    first_seq: u64,
    last_seq: u64,
    last_hash: String,
    /// The hash of the line before.
    before: Option<Hash>,
    /// Whether the last line has been read.
    is_done: bool,
    /// The file that is read.
    file: String,
    /// Where the first other line was found.
    other: Option<(String, u64)>,
}

impl Again {
    pub(super) fn new(first_seq: u64, last_seq: u64, last_hash: &str) -> Self {
        Self { first_seq, last_seq, last_hash: last_hash.to_owned(), before: None, is_done: false, file: String::new(), other: None }
    }

    /// Whether the last line has been read: what follows was not verified.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Looks at the next line, without its newline; nothing is one that can't be read.
    pub(super) fn line(&mut self, file: String, number: u64, text: Option<&[u8]>) {
        self.file = file;
        if !text.is_some_and(|text| self.follows(text)) && self.other.is_none() {
            self.other = Some((self.file.clone(), number));
        }
    }

    fn follows(&mut self, text: &[u8]) -> bool {
        let Ok((line, head)) = LogLine::parse(text) else { return false };
        let follows = match self.before {
            Some(before) => line.prev == before,
            None => head.seq == self.first_seq,
        };
        let (hash, last) = (line.hash(), head.seq.saturating_add(head.records - 1));
        self.before = Some(hash);
        self.is_done = last >= self.last_seq;
        follows && (!self.is_done || (last == self.last_seq && hex(hash) == self.last_hash))
    }

    /// Where the lines are not those that were verified: a file, and a line of it, or 0 at the end.
    pub(super) fn change(&self) -> Option<(String, u64)> {
        match &self.other {
            Some(other) => Some(other.clone()),
            None => (!self.is_done).then(|| (self.file.clone(), 0)),
        }
    }
}
