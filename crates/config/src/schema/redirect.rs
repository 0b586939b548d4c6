//! What the kernel sends to the sidecar.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::{Cidr, Ports};

/// The kernel rules that `sidegate redirect` makes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Redirect {
    /// sidegate's own packets are those of this user. Default 1337, unless `exemptMark` is set.
    pub exempt_uid: Option<u32>,
    /// sidegate's own packets carry this fwmark, and it sets it: for namespaces that have a single user.
    #[schemars(range(min = 1))]
    pub exempt_mark: Option<u32>,
    /// Further users who are never captured.
    pub exclude_uids: Vec<u32>,
    /// What is captured towards the workload.
    pub inbound: Captured,
    /// What is captured from the workload.
    pub outbound: Captured,
    /// UDP is dropped except to the resolvers, because HTTP/3 would bypass every check. Default: drop.
    pub udp: Udp,
    /// DNS servers that UDP and TCP port 53 may go to.
    pub dns_resolvers: Vec<std::net::IpAddr>,
    /// Why sidegate does not prove that these rules are in place: say what else redirects the traffic. Without it sidegate is ready
    /// only while the kernel has exactly the rules of this configuration.
    #[schemars(length(min = 1))]
    pub without_proof: Option<String>,
}

/// What is captured in one direction.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Captured {
    /// Only these ports; default all.
    pub include_ports: Vec<Ports>,
    /// Not these ports: they pass uncaptured and unprotected.
    pub exclude_ports: Vec<Ports>,
    /// Only these addresses (outbound); default all.
    pub include_cidrs: Vec<Cidr>,
    /// Not these addresses: they pass uncaptured and unprotected.
    pub exclude_cidrs: Vec<Cidr>,
}

/// What becomes of UDP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Udp {
    /// Dropped and counted, but DNS to the configured resolvers.
    #[default]
    Drop,
    /// Passed.
    Allow,
}
