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
    /// How long a connection waits for what is said of an address that is not known yet. Default 2s. Where the directory can't be reached,
    /// a connection does not wait.
    #[serde(default = "wait")]
    pub wait: Span,
    /// Addresses that are known at most; beyond that, what was not needed for the longest is forgotten. Default 16384.
    #[serde(default = "addresses")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub addresses: u32,
}

fn wait() -> Span {
    Span::seconds(2)
}

const fn addresses() -> u32 {
    16_384
}
