//! What becomes of connections that are open while the world changes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::Span;

/// What becomes of connections that are open when policy, trust bundles, revocation or our SVID change, or when they get old.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LiveConnections {
    /// What happens to a connection that would no longer be allowed. Default: cut.
    pub on_change: OnChange,
    /// What happens to a connection whose peer's certificate expires while it is open. Default: keep, because the peer has a new
    /// one and uses it with its next handshake.
    pub on_peer_expiry: OnChange,
    /// With `drain`: a connection ends at a random moment within this time, so that clients do not reconnect all at once.
    /// Default 30s.
    pub drain_within: Span,
    /// At most this many connections are ended each second by all this; those whose peer is no longer trusted come first. Default 1000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub cuts_per_second: u32,
    /// How old a connection may get; up to a tenth less, at random. Default `0s`: no limit.
    pub max_age: Span,
}

impl Default for LiveConnections {
    fn default() -> Self {
        Self {
            on_change: OnChange::Cut,
            on_peer_expiry: OnChange::Keep,
            drain_within: Span::seconds(30),
            cuts_per_second: 1000,
            max_age: Span::seconds(0),
        }
    }
}

/// What becomes of a live connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnChange {
    /// It goes on.
    Keep,
    /// It ends within `drainWithin`.
    Drain,
    /// It ends at once.
    #[default]
    Cut,
}
