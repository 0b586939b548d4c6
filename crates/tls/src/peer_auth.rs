//! How a peer proves who it is, and which peers are expected.

use sidegate_core::{SpiffeId, SpiffeIdPattern, TrustDomain};

/// How a peer proves who it is, and which peers are expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAuth {
    /// By an X.509-SVID.
    Spiffe {
        /// The SPIFFE IDs that are expected; if empty, any of our own trust domain.
        ids: Vec<SpiffeIdPattern>,
    },
}

impl PeerAuth {
    /// By an X.509-SVID with one of these IDs; without any, with one of our own trust domain.
    #[must_use]
    pub fn spiffe(ids: impl IntoIterator<Item = SpiffeIdPattern>) -> Self {
        Self::Spiffe { ids: ids.into_iter().collect() }
    }

    /// Whether a peer with this identity is expected; `own` is our trust domain.
    #[must_use]
    pub fn expects(&self, peer: &SpiffeId, own: &TrustDomain) -> bool {
        match self {
            Self::Spiffe { ids } if ids.is_empty() => peer.trust_domain() == own,
            Self::Spiffe { ids } => ids.iter().any(|pattern| pattern.matches(peer)),
        }
    }

    /// Which peers are expected, as text.
    #[must_use]
    pub fn expected(&self, own: &TrustDomain) -> String {
        match self {
            Self::Spiffe { ids } if ids.is_empty() => format!("any workload of {own}"),
            Self::Spiffe { ids } => ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }
    }

    /// Whether it names the peers that are expected, whatever our own trust domain is.
    #[must_use]
    pub fn names_peers(&self) -> bool {
        match self {
            Self::Spiffe { ids } => !ids.is_empty(),
        }
    }
}
