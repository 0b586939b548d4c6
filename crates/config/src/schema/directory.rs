//! The directory of a cluster.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TunnelMode;
use crate::value::{HostPort, IdPattern, Span};

/// The directory of a cluster: who is expected to answer at an address that no destination covers. `sidegate-controller` serves it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Directory {
    /// Where it is served.
    pub to: HostPort,
    /// Who may serve it. Both ends prove who they are by their SVIDs.
    #[schemars(length(min = 1))]
    pub spiffe_ids: Vec<IdPattern>,
    /// Whether connections go through a tunnel where the peer is a sidegate. Default: auto.
    #[serde(default)]
    pub tunnel: TunnelMode,
    /// What becomes of a connection to an address that is not known while the directory does not answer. Default: refuse, also where
    /// `outbound.otherwise` is `passthrough`: anyone who slows the controller down shall not make traffic leave in plaintext.
    #[serde(default)]
    pub unavailable: Unavailable,
    /// How long a connection waits for what is said of an address that is not known yet. Default 2s. Where the directory can't be reached,
    /// a connection does not wait.
    #[serde(default = "wait")]
    pub wait: Span,
    /// Addresses that are known at most; beyond that, what was not needed for the longest is forgotten. Default 16384.
    #[serde(default = "addresses")]
    #[schemars(range(min = 1, max = 16_384))]
    pub addresses: u32,
}

/// What becomes of a connection to an address that is not known while the directory does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unavailable {
    /// It is reset, and the record says so.
    #[default]
    Refuse,
    /// As `outbound.otherwise` says.
    Otherwise,
}

fn wait() -> Span {
    Span::seconds(2)
}

const fn addresses() -> u32 {
    16_384
}
