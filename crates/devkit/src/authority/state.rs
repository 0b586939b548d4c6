//! Everything that changes while the authority runs. It lives in a `watch` channel: a change
//! notifies every open stream.

use std::collections::BTreeMap;

use sidegate_core::TrustDomain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::attest::Caller;
use super::check::{AuthorityPlan, Domains, EntryPlan};
use super::domain::Domain;
use super::enrolled::Enrolled;
use super::error::AuthorityError;
use super::fault::Fault;

/// The state of the authority.
pub(crate) struct AuthorityState {
    pub(crate) domains: BTreeMap<TrustDomain, Domain>,
    entries: Vec<Enrolled>,
    pub(crate) fault: Fault,
    /// Raised where streams are to send their state again although it is the same.
    pub(crate) epoch: u64,
    /// Cut when the authority ends.
    stop: CancellationToken,
    /// Cuts the present connections.
    pub(crate) connections: CancellationToken,
}

impl AuthorityState {
    pub(crate) fn new(plan: AuthorityPlan, fault: Fault, stop: CancellationToken) -> Result<AuthorityState, AuthorityError> {
        let mut domains = BTreeMap::new();
        for domain in plan.domains {
            domains.insert(domain.name.clone(), Domain::new(domain)?);
        }
        let entries = plan.entries.into_iter().map(Enrolled::new).collect();
        let connections = stop.child_token();
        Ok(AuthorityState { domains, entries, fault, epoch: 0, stop, connections })
    }

    /// The trust domains and their TTLs, for checks.
    pub(crate) fn known(&self) -> Domains {
        self.domains.values().map(|domain| (domain.name.clone(), domain.ttl)).collect()
    }

    /// A trust domain by its name.
    pub(crate) fn domain(&mut self, name: &str) -> Result<&mut Domain, AuthorityError> {
        let known = self.domains.keys().map(TrustDomain::as_str).collect::<Vec<_>>().join(", ");
        let domain = TrustDomain::new(name).ok().and_then(|name| self.domains.get_mut(&name));
        domain.ok_or_else(|| AuthorityError::UnknownTrustDomain { name: name.to_owned(), known })
    }

    /// Replaces the entries. One that stays keeps its SVID.
    pub(crate) fn enrol(&mut self, plans: Vec<EntryPlan>) {
        let mut old = std::mem::replace(&mut self.entries, plans.into_iter().map(Enrolled::new).collect());
        for entry in &mut self.entries {
            old.iter_mut().for_each(|old| entry.succeed(old));
        }
    }

    /// Begins or ends to misbehave.
    pub(crate) fn misbehave(&mut self, fault: Fault) {
        if fault == Fault::Reset {
            self.connections.cancel();
            self.connections = self.stop.child_token();
        }
        self.fault = fault;
        self.renew();
    }

    /// Makes the present SVIDs old: each workload that has one gets another.
    pub(crate) fn renew(&mut self) {
        self.epoch += 1;
        self.entries.iter_mut().for_each(Enrolled::renew);
    }

    /// Lets time do its work on all keys, and says when it will next.
    pub(crate) fn tidy(&mut self) -> Option<Instant> {
        self.domains.values_mut().filter_map(Domain::tidy).min()
    }

    /// Visits the identities of a caller in their order. One with none is refused as the standard wants it
    /// (SPIFFE_Workload_Endpoint.md, section 6).
    pub(crate) fn identities(
        &mut self,
        caller: &Caller,
        mut visit: impl FnMut(&mut Enrolled, &mut Domain, &Fault) -> Result<(), AuthorityError>,
    ) -> Result<(), Status> {
        let mut refused = true;
        for entry in self.entries.iter_mut().filter(|entry| caller.matches(&entry.plan.entry)) {
            // Checks saw to it that every entry has its trust domain.
            if let Some(domain) = self.domains.get_mut(entry.plan.id.trust_domain()) {
                refused = false;
                visit(entry, domain, &self.fault).map_err(|error| Status::internal(error.to_string()))?;
            }
        }
        if refused { Err(Status::permission_denied("no identity issued")) } else { Ok(()) }
    }
}
