//! Which accesses are told of, and those that wait until somebody follows.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many accesses may wait: more than a configuration has secrets that are read at the start.
const WAITING: usize = 64;
/// Of how many secrets the last outcome is remembered. Of further ones each access is told.
const REMEMBERED: usize = 1024;

/// A secret file was opened, or could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// What for.
    pub purpose: String,
    /// The file.
    pub path: PathBuf,
    /// Why it could not be read; none if it was.
    pub error: Option<String>,
}

pub(crate) type Follower = Arc<dyn Fn(Access) + Send + Sync>;

/// What came of the last access to a secret.
#[derive(PartialEq, Eq)]
enum Outcome {
    /// It was read. The number tells other contents apart, in this process only: its key is random.
    Read(u64),
    /// It could not be read, for this reason.
    Failed(String),
}

#[derive(Default)]
pub(crate) struct Journal {
    follower: Option<Follower>,
    waiting: Vec<Access>,
    dropped: u64,
    last: HashMap<(String, PathBuf), Outcome>,
    numbers: RandomState,
}

impl Journal {
    /// Adds an access: to be told now if somebody follows. None if it is the same as the last time.
    pub(crate) fn add(&mut self, purpose: &str, path: &Path, outcome: Result<&[u8], &io::Error>) -> Option<(Follower, Access)> {
        let outcome = match outcome {
            Ok(bytes) => Outcome::Read(self.numbers.hash_one(bytes)),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        let secret = (purpose.to_owned(), path.to_owned());
        if self.last.get(&secret) == Some(&outcome) {
            return None;
        }
        let error = if let Outcome::Failed(why) = &outcome { Some(why.clone()) } else { None };
        if self.last.len() < REMEMBERED || self.last.contains_key(&secret) {
            self.last.insert(secret, outcome);
        }
        let access = Access { purpose: purpose.to_owned(), path: path.to_owned(), error };
        if let Some(follower) = &self.follower {
            return Some((follower.clone(), access));
        }
        if self.waiting.len() < WAITING {
            self.waiting.push(access);
        } else {
            self.dropped += 1;
        }
        None
    }

    /// Sets who is told. Returns what that is to be told first, and how much is lost.
    pub(crate) fn follow(&mut self, follower: impl Fn(Access) + Send + Sync + 'static) -> (Follower, Vec<Access>, u64) {
        let follower: Follower = Arc::new(follower);
        self.follower = Some(follower.clone());
        (follower, std::mem::take(&mut self.waiting), std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> io::Error {
        io::Error::other(text.to_owned())
    }

    /// What is told of these accesses to one secret.
    fn told(journal: &mut Journal, outcomes: &[Result<&[u8], &io::Error>]) -> Vec<Option<String>> {
        let told = outcomes.iter().filter_map(|outcome| journal.add("key", Path::new("/k"), *outcome));
        told.map(|(_, access)| access.error).collect()
    }

    #[test]
    fn the_same_again_is_told_once() {
        let mut journal = Journal::default();
        journal.follow(|_| {});
        let (gone, denied) = (error("gone"), error("denied"));
        let outcomes = [Ok(&b"one"[..]), Ok(b"one"), Ok(b"two"), Err(&gone), Err(&gone), Err(&denied), Ok(b"two"), Ok(b"two")];
        let why = |why: &str| Some(why.to_owned());
        assert_eq!(told(&mut journal, &outcomes), [None, None, why("gone"), why("denied"), None]);
        // For something else, or from somewhere else, it is another access.
        assert!(journal.add("other", Path::new("/k"), Ok(b"two")).is_some());
        assert!(journal.add("key", Path::new("/l"), Ok(b"two")).is_some());
    }

    #[test]
    fn what_happens_before_somebody_follows_waits_within_bounds() {
        let mut journal = Journal::default();
        for i in 0..WAITING + 3 {
            assert!(journal.add(&format!("key {i}"), Path::new("/k"), Ok(b"x")).is_none());
        }
        let (_, before, dropped) = journal.follow(|_| {});
        assert_eq!((before.len(), before[0].purpose.as_str(), dropped), (WAITING, "key 0", 3));
        let (_, before, dropped) = journal.follow(|_| {});
        assert_eq!((before.len(), dropped), (0, 0));
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut journal = Journal::default();
        journal.follow(|_| {});
        for i in 0..REMEMBERED + 10 {
            journal.add(&format!("key {i}"), Path::new("/k"), Ok(b"x"));
        }
        assert_eq!(journal.last.len(), REMEMBERED);
        assert!(journal.add("key 0", Path::new("/k"), Ok(b"x")).is_none(), "it is remembered");
        assert!(journal.add("key 1030", Path::new("/k"), Ok(b"x")).is_some(), "it is not, so it is told of again");
    }
}
