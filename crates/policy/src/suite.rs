//! What people expect of their policy: a YAML file of connections and what becomes of each.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidegate_config::document::{Location, Problem, Problems};
use sidegate_config::value::{Id, Moment, Target};
use sidegate_core::Direction;

use crate::compile::Policy;
use crate::decide::Verdict;
use crate::query::{KnownFacts, Query};

/// When a connection takes place of which nothing is said about that: Monday, 2024-01-01, noon. The same each day, so that a
/// suite does not fail at night.
const MONDAY_NOON: Duration = Duration::from_secs(1_704_110_400);

/// A file of expectations, for `sidegate policy test`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Suite {
    /// The expectations.
    #[schemars(length(min = 1, max = 100_000))]
    pub expectations: Vec<Expectation>,
}

/// A connection, and what should become of it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expectation {
    /// What it is about, in a few words.
    pub name: String,
    /// Who connects. Without it: a client in plaintext, on a port where that may pass.
    #[serde(default)]
    pub from: Option<Id>,
    /// The address that they connect from. Without it rules with `from.cidrs` do not match, unless for all addresses.
    #[serde(default)]
    pub from_address: Option<IpAddr>,
    /// Where they want to go: `:5432`, or with an address `10.0.0.7:5432`.
    pub to: Target,
    /// The server name that they ask for.
    #[serde(default)]
    pub sni: Option<String>,
    /// The configured destination, if the connection is from the workload.
    #[serde(default)]
    pub destination: Option<String>,
    /// Who answers, if the connection is from the workload.
    #[serde(default)]
    pub server: Option<Id>,
    /// When. Default: a Monday at noon, UTC.
    #[serde(default)]
    pub at: Option<Moment>,
    /// What should become of it.
    pub expect: Expected,
    /// The rule that should decide.
    #[serde(default)]
    pub rule: Option<String>,
}

/// What should become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    /// It may be.
    Allow,
    /// It may not be.
    Deny,
}

impl Expectation {
    /// The connection.
    #[must_use]
    pub fn query(&self) -> Query<'_> {
        let direction = if self.destination.is_some() { Direction::Outbound } else { Direction::Inbound };
        let client_address = self.from_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let time: SystemTime = self.at.as_ref().map_or(UNIX_EPOCH + MONDAY_NOON, |at| *at.get());
        Query {
            client: self.from.as_ref().map(Id::get),
            server: self.server.as_ref().map(Id::get),
            sni: self.sni.as_deref(),
            destination: self.destination.as_deref(),
            ..Query::new(KnownFacts { direction, client_address, to: *self.to.get(), time })
        }
    }
}

/// What became of an expectation.
#[derive(Debug)]
pub struct ExpectationResult {
    /// What was expected.
    pub expectation: Expectation,
    /// Where that stands.
    pub location: Location,
    /// What policy says.
    pub verdict: Verdict,
    /// What is not as expected, if anything.
    pub failure: Option<String>,
}

/// What a suite says of a policy.
#[derive(Debug)]
pub struct SuiteReport {
    /// Each expectation.
    pub outcomes: Vec<ExpectationResult>,
    /// Labels of the rules that decide no expectation, nor are remarked on by one.
    pub uncovered: Vec<String>,
}

impl Suite {
    /// Parses `text` and holds `policy` against it.
    ///
    /// # Errors
    /// Every mistake in it, also the name of a rule that the policy does not have.
    pub fn run(source: &str, text: &str, policy: &Policy) -> Result<SuiteReport, Problems> {
        let (suite, root) = sidegate_config::typed::<Self>(source, text)?;
        let mut problems = Problems::default();
        if suite.expectations.is_empty() {
            let location = root.nearest("expectations").location.clone();
            problems.0.push(Problem { location, path: "expectations".to_owned(), message: "there is none; write at least one".to_owned() });
        }
        let mut outcomes = Vec::with_capacity(suite.expectations.len());
        let mut covered = vec![false; policy.len()];
        for (at, expectation) in suite.expectations.into_iter().enumerate() {
            let path = format!("expectations[{at}]");
            let location = &root.nearest(&path).location;
            if let Some(name) = expectation.rule.as_ref().filter(|name| !policy.rules().any(|rule| rule.name == **name)) {
                let location = root.nearest(&format!("{path}.rule")).location.clone();
                problems.0.push(Problem { location, path: format!("{path}.rule"), message: format!("the policy has no rule `{name}`") });
            }
            if expectation.server.is_some() && expectation.destination.is_none() {
                let message = "only a connection from the workload has a `server`; name its `destination` too".to_owned();
                problems.0.push(Problem { location: location.clone(), path: path.clone(), message });
            }
            let verdict = policy.verdict(&expectation.query());
            for (rule, covered) in policy.rules().zip(&mut covered) {
                let remarked = verdict.decision.explanation.iter().flat_map(|e| &e.remarks).any(|remark| *remark.rule == *rule.label);
                *covered |= remarked || *verdict.decision.rule == *rule.label;
            }
            let failure = failure(&expectation, &verdict, policy);
            outcomes.push(ExpectationResult { expectation, location: location.clone(), verdict, failure });
        }
        let uncovered = policy.rules().zip(covered).filter(|(_, covered)| !covered).map(|(rule, _)| rule.label.to_owned()).collect();
        problems.or(SuiteReport { outcomes, uncovered })
    }
}

fn failure(expectation: &Expectation, verdict: &Verdict, policy: &Policy) -> Option<String> {
    let decision = &verdict.decision;
    let word = |allowed: bool| if allowed { "allowed" } else { "denied" };
    let wanted = expectation.expect == Expected::Allow;
    if decision.allowed != wanted {
        return Some(format!("expected to be {}, is {} by {}", word(wanted), word(decision.allowed), decision.rule));
    }
    let wanted = policy.rules().find(|rule| expectation.rule.as_deref() == Some(rule.name))?;
    (*decision.rule != *wanted.label).then(|| format!("expected to be decided by {}, is by {}", wanted.label, decision.rule))
}
