//! What the authority is told: sockets, trust domains, and who is who.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidegate_config::path_use::{FilePath, SocketPath};
use sidegate_config::value::Span;

use super::fault::Fault;

/// The configuration of an authority.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorityConfig {
    /// The Unix sockets on which the Workload API is served. Missing folders are made, a stale socket is replaced.
    #[schemars(with = "Vec<SocketPath>")]
    pub sockets: Vec<PathBuf>,
    /// The trust domains, each with keys of its own.
    pub trust_domains: Vec<TrustDomainConfig>,
    /// Which caller is which identity. A caller gets the SVIDs of all entries that match it, in this order; the
    /// first is its default one.
    #[serde(default)]
    pub entries: Vec<Entry>,
    /// A fault to start with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// A trust domain (SPIFFE-ID.md, section 2.1) that the authority is the root of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustDomainConfig {
    /// Its name, e.g. `example.org`.
    pub name: String,
    /// How long its SVIDs are valid, from `5s` to `365d`. They are rotated at half of it.
    #[serde(default = "one_hour")]
    pub ttl: Span,
    /// Trust domains of this authority whose bundles its workloads receive too (SPIFFE_Workload_API.md,
    /// section 4.6).
    #[serde(default)]
    pub federates_with: Vec<String>,
}

/// Gives an identity to callers. All selectors that are present (`uid`, `gid`, `path`, `socket`) must match; an
/// entry with none matches every caller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// The SPIFFE ID (SPIFFE-ID.md, section 2), with a path.
    pub spiffe_id: String,
    /// Selector: the caller's user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Selector: the caller's group id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Selector: the caller's binary, an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Selector: the socket of this authority that the caller uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<FilePath>")]
    pub socket: Option<PathBuf>,
    /// What the workload is told this identity is for (SPIFFE_Workload_API.md, section 5.2.1). A caller
    /// of several entries gets each hint once, with the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// DNS names that the X.509-SVID carries as well. The first is its common name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    /// How long this entry's SVIDs are valid, where it differs from the trust domain's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
}

impl TrustDomainConfig {
    /// A trust domain with the default TTL and no federation.
    pub fn new(name: impl Into<String>) -> TrustDomainConfig {
        TrustDomainConfig { name: name.into(), ttl: one_hour(), federates_with: Vec::new() }
    }
}

impl Entry {
    /// An entry for every caller; narrow it by its selectors.
    pub fn new(spiffe_id: impl Into<String>) -> Entry {
        Entry { spiffe_id: spiffe_id.into(), ..Entry::default() }
    }
}

fn one_hour() -> Span {
    Span(Duration::from_secs(3600))
}
