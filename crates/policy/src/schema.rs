//! What a policy file holds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidegate_config::value::{Cidr, Domain, IdPattern, Ports};

/// A policy file.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyFile {
    /// The rules; their order does not matter.
    pub rules: Vec<Rule>,
}

/// One rule. It matches a connection if its `from` and its `to` do.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Its name, unique among all files; records show it.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Who connects. A rule without it matches everybody.
    #[serde(default)]
    pub from: From,
    /// What they connect to. A rule without it matches everything.
    #[serde(default)]
    pub to: To,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The connection may be, unless a deny rule matches too.
    Allow,
    /// The connection may not be, whatever else matches.
    Deny,
}

/// Who connects: any of `spiffeIds` or `trustDomains`, and from any of `cidrs`. An empty list asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct From {
    /// SPIFFE ID patterns.
    pub spiffe_ids: Vec<IdPattern>,
    /// Trust domains.
    pub trust_domains: Vec<Domain>,
    /// Address blocks that the peer connects from.
    pub cidrs: Vec<Cidr>,
}

/// What they connect to: any of `ports`, at any of `cidrs`, by any of `sni`. An empty list asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct To {
    /// Ports of the workload.
    pub ports: Vec<Ports>,
    /// Addresses of the workload.
    pub cidrs: Vec<Cidr>,
    /// Server names that the client asked for.
    pub sni: Vec<String>,
}
