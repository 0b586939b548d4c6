//! Whether the kernel sends the pod's traffic here.

use std::sync::Arc;
use std::time::SystemTime;

use sidegate_redirect::Proof;

/// Whether the kernel sends the pod's traffic here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capture {
    /// Nothing is redirected to this sidecar, or the configuration says that others see to it.
    NotProved,
    /// The rules of this configuration are in place.
    Proven {
        /// Since when.
        since: SystemTime,
    },
    /// They are not.
    Missing {
        /// Which, and what to do.
        why: Arc<str>,
        /// Whether they have been in place before.
        was_proven: bool,
    },
}

impl Capture {
    /// At the start: `proof` is what to prove, if anything.
    #[must_use]
    pub fn new(proof: Option<&Proof>) -> Self {
        match proof {
            None => Self::NotProved,
            Some(_) => Self::Missing { why: "the kernel rules have not been looked at yet".into(), was_proven: false },
        }
    }

    /// What is missing, if anything is.
    #[must_use]
    pub fn missing(&self) -> Option<&str> {
        match self {
            Self::Missing { why, .. } => Some(why),
            Self::NotProved | Self::Proven { .. } => None,
        }
    }

    /// Whether the rules have never been in place.
    pub(crate) fn is_new(&self) -> bool {
        matches!(self, Self::Missing { was_proven: false, .. })
    }
}
