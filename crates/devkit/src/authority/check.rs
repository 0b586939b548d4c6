//! Checks a configuration as a whole, so that all its problems are named at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sidegate_core::{SpiffeId, TrustDomain, parse_canonical};

use super::config::{AuthorityConfig, Entry};
use super::error::{AuthorityError, AuthorityProblem};

/// Below this, half a lifetime is not enough to rotate in.
const MIN_TTL: Duration = Duration::from_secs(5);
/// Well within a CA's lifetime, so that no SVID outlives its CA.
const MAX_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// What `sun_path` holds, less its final zero.
const MAX_SOCKET_PATH: usize = 107;

/// A configuration that was found right.
pub(crate) struct AuthorityPlan {
    pub(crate) sockets: Vec<PathBuf>,
    pub(crate) domains: Vec<DomainPlan>,
    pub(crate) entries: Vec<EntryPlan>,
}

/// A trust domain to be.
pub(crate) struct DomainPlan {
    pub(crate) name: TrustDomain,
    pub(crate) ttl: Duration,
    pub(crate) federates_with: BTreeSet<TrustDomain>,
}

/// An entry with its texts understood.
pub(crate) struct EntryPlan {
    pub(crate) entry: Entry,
    pub(crate) id: SpiffeId,
    pub(crate) ttl: Duration,
}

/// The trust domains that there are, with their TTLs.
pub(crate) type Domains = BTreeMap<TrustDomain, Duration>;

/// Checks all of `config`.
pub(crate) fn config(config: &AuthorityConfig) -> Result<AuthorityPlan, AuthorityError> {
    let mut problems = AuthorityProblems::default();
    problems.sockets(&config.sockets);
    let domains = problems.domains(config);
    let known = domains.iter().map(|domain| (domain.name.clone(), domain.ttl)).collect();
    let entries = problems.entries(&config.entries, &known, &config.sockets);
    problems.or(AuthorityPlan { sockets: config.sockets.clone(), domains, entries })
}

/// Checks entries that are to replace the present ones.
pub(crate) fn entries(entries: &[Entry], domains: &Domains, sockets: &[PathBuf]) -> Result<Vec<EntryPlan>, AuthorityError> {
    let mut problems = AuthorityProblems::default();
    let plans = problems.entries(entries, domains, sockets);
    problems.or(plans)
}

/// Checks what a trust domain is to federate with.
pub(crate) fn federation(own: &TrustDomain, others: &[&str], domains: &Domains) -> Result<BTreeSet<TrustDomain>, AuthorityError> {
    let mut problems = AuthorityProblems::default();
    let known = domains.keys().map(TrustDomain::as_str).collect();
    let federates_with = problems.federation("federatesWith", own.as_str(), others, &known);
    problems.or(federates_with)
}

/// Checks the arguments of a single issuance.
pub(crate) fn issuance(spiffe_id: &str, ttl: Duration) -> Result<SpiffeId, AuthorityError> {
    let mut problems = AuthorityProblems::default();
    let id = problems.id("spiffeId", spiffe_id);
    problems.ttl("ttl", ttl);
    match id {
        Some(id) => problems.or(id),
        None => Err(AuthorityError::Config(problems.0)),
    }
}

#[derive(Default)]
struct AuthorityProblems(Vec<AuthorityProblem>);

impl AuthorityProblems {
    fn add(&mut self, at: impl Display, what: impl Display) {
        self.0.push(AuthorityProblem { at: at.to_string(), what: what.to_string() });
    }

    fn or<T>(self, value: T) -> Result<T, AuthorityError> {
        if self.0.is_empty() { Ok(value) } else { Err(AuthorityError::Config(self.0)) }
    }

    fn sockets(&mut self, sockets: &[PathBuf]) {
        if sockets.is_empty() {
            self.add("sockets", "there is none; name the path of at least one");
        }
        for (index, path) in sockets.iter().enumerate() {
            let at = format!("sockets[{index}]");
            let length = path.as_os_str().len();
            if length == 0 || length > MAX_SOCKET_PATH {
                self.add(&at, format!("a path of {length} bytes; a socket's has 1 to {MAX_SOCKET_PATH}"));
            }
            if sockets.iter().take(index).any(|other| other == path) {
                self.add(&at, format!("{path:?} is there twice; remove one"));
            }
        }
    }

    fn domains(&mut self, config: &AuthorityConfig) -> Vec<DomainPlan> {
        let names: Vec<&str> = config.trust_domains.iter().map(|domain| domain.name.as_str()).collect();
        let known = names.iter().copied().collect();
        if names.is_empty() {
            self.add("trustDomains", "there is none; name at least one");
        }
        let mut plans = Vec::new();
        for (index, domain) in config.trust_domains.iter().enumerate() {
            let at = format!("trustDomains[{index}]");
            let name = self.domain(format!("{at}.name"), &domain.name);
            if names.iter().take(index).any(|other| *other == domain.name) {
                self.add(format!("{at}.name"), format!("`{}` is there twice; remove one", domain.name));
            }
            self.ttl(format!("{at}.ttl"), domain.ttl.0);
            let federates_with = self.federation(&format!("{at}.federatesWith"), &domain.name, &domain.federates_with, &known);
            plans.extend(name.map(|name| DomainPlan { name, ttl: domain.ttl.0, federates_with }));
        }
        plans
    }

    fn federation(&mut self, at: &str, own: &str, others: &[impl AsRef<str>], known: &BTreeSet<&str>) -> BTreeSet<TrustDomain> {
        let mut found = BTreeSet::new();
        for (index, other) in others.iter().map(AsRef::as_ref).enumerate() {
            let at = format!("{at}[{index}]");
            if other == own {
                self.add(at, "a trust domain cannot federate with itself; remove it");
            } else if !known.contains(other) {
                self.add(at, format!("{other:?} is not configured; add it to trustDomains or remove it here"));
            } else {
                // What is wrong with the name itself is said where it is configured.
                found.extend(TrustDomain::new(other).ok());
            }
        }
        found
    }

    fn entries(&mut self, entries: &[Entry], domains: &Domains, sockets: &[PathBuf]) -> Vec<EntryPlan> {
        let mut plans = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let at = format!("entries[{index}]");
            let id = self.id(format!("{at}.spiffeId"), &entry.spiffe_id);
            let domain = id.as_ref().map(SpiffeId::trust_domain);
            if let Some(domain) = domain.filter(|domain| !domains.contains_key(domain)) {
                let what = format!("the trust domain `{}` is not configured; add it to trustDomains", domain.as_str());
                self.add(format!("{at}.spiffeId"), what);
            }
            if let Some(ttl) = &entry.ttl {
                self.ttl(format!("{at}.ttl"), ttl.0);
            }
            if entry.path.as_deref().is_some_and(Path::is_relative) {
                self.add(format!("{at}.path"), "a relative path; write it from the root");
            }
            if let Some(socket) = entry.socket.as_ref().filter(|socket| !sockets.contains(socket)) {
                self.add(format!("{at}.socket"), format!("{socket:?} is not served; add it to sockets"));
            }
            for (number, name) in entry.dns_names.iter().enumerate().filter(|(_, name)| !is_dns_name(name)) {
                self.add(format!("{at}.dnsNames[{number}]"), format!("{name:?} is not a DNS name; write one in ASCII"));
            }
            if entries.iter().take(index).any(|other| other == entry) {
                self.add(&at, "the same entry is there twice; remove one");
            }
            let ttl = entry.ttl.as_ref().map(|ttl| ttl.0).or_else(|| domains.get(domain?).copied());
            plans.extend(id.zip(ttl).map(|(id, ttl)| EntryPlan { entry: entry.clone(), id, ttl }));
        }
        plans
    }

    /// SPIFFE-ID.md, section 2.1: what a trust domain is called.
    fn domain(&mut self, at: impl Display, text: &str) -> Option<TrustDomain> {
        match TrustDomain::new(text) {
            Ok(domain) if domain.as_str() == text => Some(domain),
            Ok(domain) => {
                self.add(at, format!("`{text}` is not written as it is compared; write `{}`", domain.as_str()));
                None
            }
            Err(error) => {
                self.add(at, format!("{text:?} is not a trust domain: {error}; write one such as example.org"));
                None
            }
        }
    }

    /// X509-SVID.md, section 3.1: the SPIFFE ID of a leaf has a path.
    fn id(&mut self, at: impl Display, text: &str) -> Option<SpiffeId> {
        match parse_canonical(text) {
            Ok(id) if id.path().is_empty() => {
                self.add(at, format!("{text:?} has no path; a workload's SPIFFE ID needs one, e.g. {text}/web"));
                None
            }
            Ok(id) => Some(id),
            Err(error) => {
                self.add(at, format!("{text:?} is not a SPIFFE ID: {error}; write one such as spiffe://example.org/web"));
                None
            }
        }
    }

    fn ttl(&mut self, at: impl Display, ttl: Duration) {
        if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
            self.add(at, format!("{ttl:?} cannot be rotated in time; write 5s to 365d"));
        }
    }
}

/// RFC 1123 names, and a leading `*.` as certificates allow it.
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}
