//! What is in force of that which changes while sidegate runs, since when, and what was refused since.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use sidegate_audit::FileDigest;
use sidegate_core::one_line;

/// What can be loaded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The policy files.
    Policy,
    /// Revocation lists and deny lists.
    Revocation,
    /// Our SVID and the trust bundles.
    Identity,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Policy, Self::Revocation, Self::Identity];

    /// The stable name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Revocation => "revocation",
            Self::Identity => "identity",
        }
    }
}

/// What is in force of one subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// Since when; none if nothing is yet.
    pub since: Option<SystemTime>,
    /// What it was made of.
    pub files: Vec<FileDigest>,
    /// What was refused since, by its source: it would have replaced what is in force.
    pub refused: BTreeMap<String, Refusal>,
}

/// Something that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Since when it is refused.
    pub since: SystemTime,
    /// Why.
    pub why: String,
}

/// All of them. Only the control plane writes here, a few times an hour.
#[derive(Debug, Default)]
pub struct Loads([Mutex<Load>; 3]);

impl Loads {
    /// What is in force of `subject`.
    #[must_use]
    pub fn get(&self, subject: Subject) -> Load {
        self.0[subject as usize].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change<T>(&self, subject: Subject, change: impl FnOnce(&mut Load) -> T) -> T {
        change(&mut self.0[subject as usize].lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this is in force.
    pub fn loaded(&self, subject: Subject, files: Vec<FileDigest>) {
        self.change(subject, |load| (load.since, load.files) = (Some(SystemTime::now()), files));
    }

    /// What `source` offers is refused. Whether that is news.
    pub fn refused(&self, subject: Subject, source: &str, why: &str) -> bool {
        let why = one_line(why);
        self.change(subject, |load| {
            let before = load.refused.get(source);
            let is_news = before.is_none_or(|before| before.why != why);
            let since = before.map_or_else(SystemTime::now, |before| before.since);
            load.refused.insert(source.to_owned(), Refusal { since, why });
            is_news
        })
    }

    /// What `source` offers is of use again.
    pub fn accepted(&self, subject: Subject, source: &str) {
        self.change(subject, |load| drop(load.refused.remove(source)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_stays_until_its_source_is_of_use() {
        let loads = Loads::default();
        loads.loaded(Subject::Policy, Vec::new());
        assert!(loads.refused(Subject::Policy, "a", "line 1"));
        assert!(!loads.refused(Subject::Policy, "a", "line 1") && loads.refused(Subject::Policy, "a", "line 2"));
        let first = loads.get(Subject::Policy).refused["a"].since;
        loads.refused(Subject::Policy, "b", "gone");
        loads.accepted(Subject::Policy, "b");
        let now = loads.get(Subject::Policy);
        assert_eq!((now.refused.len(), &*now.refused["a"].why, now.refused["a"].since), (1, "line 2", first));
        assert_eq!(loads.get(Subject::Revocation), Load::default());
    }
}
