//! What a policy file holds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidegate_config::value::{Cidr, Domain, IdPattern, Ports};

/// A policy file.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyFile {
    /// Whether all rules of the file are in a dry run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dry_run: bool,
    /// The rules; their order does not matter.
    #[schemars(length(max = 100_000))]
    pub rules: Vec<Rule>,
}

/// One rule. It matches a connection if its `from`, its `to` and its `when` do.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Its name, unique among all files; records show it.
    #[schemars(length(max = 256))]
    pub name: String,
    /// What it does.
    pub action: Action,
    /// In a dry run it decides nothing; records say what it would do.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dry_run: bool,
    /// Who connects. A rule without it matches everybody.
    #[serde(default, skip_serializing_if = "is_default")]
    pub from: From,
    /// What they connect to. A rule without it matches every connection to the workload.
    #[serde(default, skip_serializing_if = "is_default")]
    pub to: To,
    /// A condition in CEL, for what patterns can't say, such as `time.hour >= 8`. docs/reference/policy.md lists what it may use.
    #[serde(default, skip_serializing_if = "is_default")]
    pub when: Option<String>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The connection may be, unless a deny rule matches too.
    Allow,
    /// The connection may not be, whatever else matches.
    Deny,
    /// The match is recorded; it decides nothing.
    Audit,
}

impl Action {
    /// The word in the file.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
        }
    }
}

/// Who connects: any of `spiffeIds` or `trustDomains`, from any of `cidrs`, and nobody of `not`. An empty list asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct From {
    /// SPIFFE ID patterns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spiffe_ids: Vec<IdPattern>,
    /// Trust domains.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trust_domains: Vec<Domain>,
    /// Address blocks that the client connects from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<Cidr>,
    /// Who is meant in no case.
    #[serde(skip_serializing_if = "is_default")]
    pub not: Not,
}

impl From {
    /// Whether it asks for an identity at all.
    #[must_use]
    pub fn asks_identity(&self) -> bool {
        !self.spiffe_ids.is_empty() || !self.trust_domains.is_empty()
    }
}

/// Who is left out of `from`: anyone who is in any of these.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Not {
    /// SPIFFE ID patterns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spiffe_ids: Vec<IdPattern>,
    /// Trust domains.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trust_domains: Vec<Domain>,
    /// Address blocks that the client connects from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<Cidr>,
}

/// What they connect to: any of `ports`, at any of `cidrs`, by any of `sni`. An empty list asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct To {
    /// Ports that are connected to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Ports>,
    /// Addresses that are connected to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<Cidr>,
    /// Server names that the client asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sni: Vec<String>,
    /// Names of destinations or outbound listeners of the configuration. A rule with this is about connections from the
    /// workload, a rule without it about connections to the workload.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
