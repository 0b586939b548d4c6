//! An entry at work: the SVID that its callers have in common.

use tokio::time::Instant;

use super::ca::Leaf;
use super::check::EntryPlan;
use super::domain::Domain;
use super::error::AuthorityError;
use super::fault::Fault;

/// An entry and what was last issued for it.
pub(crate) struct Enrolled {
    pub(crate) plan: EntryPlan,
    svid: Option<Svid>,
}

/// An X.509-SVID in use.
pub(crate) struct Svid {
    pub(crate) leaf: Leaf,
    signer: u64,
    /// When half of its life is over.
    pub(crate) due: Instant,
}

impl Enrolled {
    pub(crate) fn new(plan: EntryPlan) -> Enrolled {
        Enrolled { plan, svid: None }
    }

    /// Takes over the SVID of what it replaces, if that is the same entry.
    pub(crate) fn succeed(&mut self, old: &mut Enrolled) {
        if self.plan.entry == old.plan.entry {
            self.svid = old.svid.take();
        }
    }

    /// Makes the SVID old: the next to ask is given another.
    pub(crate) fn renew(&mut self) {
        self.svid = None;
    }

    /// The SVID; signed again where half of its life is over or newer keys sign.
    pub(crate) fn svid(&mut self, domain: &mut Domain, fault: &Fault) -> Result<&Svid, AuthorityError> {
        let now = Instant::now();
        let svid = match self.svid.take().filter(|old| old.signer == domain.signer() && old.due > now) {
            Some(svid) => svid,
            None => {
                let EntryPlan { entry, id, ttl } = &self.plan;
                let leaf = domain.issue(id, &entry.dns_names, *ttl, fault)?;
                Svid { leaf, signer: domain.signer(), due: now + *ttl / 2 }
            }
        };
        Ok(self.svid.insert(svid))
    }
}
