//! A trust domain: its keys, generation by generation, and the bundles that publish them.

use std::collections::BTreeSet;
use std::time::Duration;

use rcgen::CertificateRevocationList;
use sidegate_core::{SpiffeId, TrustDomain};
use tokio::time::Instant;

use super::ca::{Ca, Leaf, Validity};
use super::check::DomainPlan;
use super::error::AuthorityError;
use super::fault::Fault;
use super::jwt::{self, JwtKey};

/// How long new keys are only published before they sign, so that a peer knows a CA before it meets its first SVID.
const PUBLISHED_AHEAD: Duration = Duration::from_secs(1);

/// A CA and a JWT key that came together.
pub(crate) struct Generation {
    number: u64,
    ca: Ca,
    jwt: JwtKey,
    signs_from: Instant,
    signed_until: Instant,
}

impl Generation {
    fn new(domain: &TrustDomain, number: u64, signs_from: Instant) -> Result<Generation, AuthorityError> {
        let (ca, jwt) = (Ca::new(domain, number)?, JwtKey::new(domain)?);
        Ok(Generation { number, ca, jwt, signs_from, signed_until: signs_from })
    }
}

/// A trust domain of the authority.
pub(crate) struct Domain {
    pub(crate) name: TrustDomain,
    pub(crate) ttl: Duration,
    pub(crate) federates_with: BTreeSet<TrustDomain>,
    /// Published, not signing yet.
    next: Option<Generation>,
    /// What signs.
    current: Generation,
    /// What no longer signs, while something that it signed is still valid.
    retired: Vec<Generation>,
    issued: u64,
    /// Revocation lists that go with the bundle, DER.
    pub(crate) lists: Vec<Vec<u8>>,
}

impl Domain {
    pub(crate) fn new(plan: DomainPlan) -> Result<Domain, AuthorityError> {
        let current = Generation::new(&plan.name, 1, Instant::now())?;
        let DomainPlan { name, ttl, federates_with } = plan;
        Ok(Domain { name, ttl, federates_with, next: None, current, retired: Vec::new(), issued: 0, lists: Vec::new() })
    }

    /// Signs an X.509-SVID.
    pub(crate) fn issue(&mut self, id: &SpiffeId, dns_names: &[String], ttl: Duration, fault: &Fault) -> Result<Leaf, AuthorityError> {
        let leaf = self.current.ca.issue(id, dns_names, Validity::of(ttl, fault))?;
        self.signed_for(ttl);
        self.issued += 1;
        Ok(leaf)
    }

    /// Signs a JWT-SVID.
    pub(crate) fn sign(&mut self, id: &SpiffeId, audience: &[String], ttl: Duration, fault: &Fault) -> Result<String, AuthorityError> {
        let token = self.current.jwt.sign(id, audience, Validity::of(ttl, fault))?;
        self.signed_for(ttl);
        Ok(token)
    }

    /// Until what was signed has expired, the keys stay in the bundle.
    fn signed_for(&mut self, ttl: Duration) {
        self.current.signed_until = self.current.signed_until.max(Instant::now() + ttl);
    }

    /// Which generation signs now.
    pub(crate) fn signer(&self) -> u64 {
        self.current.number
    }

    /// How many X.509-SVIDs were signed.
    pub(crate) fn issued(&self) -> u64 {
        self.issued
    }

    /// Publishes new keys, which sign [a little later](PUBLISHED_AHEAD).
    pub(crate) fn rotate(&mut self) -> Result<(), AuthorityError> {
        let number = self.next.as_ref().map_or(self.current.number, |next| next.number) + 1;
        let new = Generation::new(&self.name, number, Instant::now() + PUBLISHED_AHEAD)?;
        self.promote();
        self.next = Some(new);
        Ok(())
    }

    /// Lets time do its work on the keys, and says when it will next.
    pub(crate) fn tidy(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if self.next.as_ref().is_some_and(|next| next.signs_from <= now) {
            self.promote();
        }
        self.retired.retain(|old| old.signed_until > now);
        let begins = self.next.iter().map(|next| next.signs_from);
        begins.chain(self.retired.iter().map(|old| old.signed_until)).min()
    }

    fn promote(&mut self) {
        if let Some(next) = self.next.take() {
            self.retired.push(std::mem::replace(&mut self.current, next));
        }
    }

    /// All that is published, newest first.
    fn generations(&self) -> impl Iterator<Item = &Generation> {
        let now = Instant::now();
        let retired = self.retired.iter().rev().filter(move |old| old.signed_until > now);
        self.next.iter().chain([&self.current]).chain(retired)
    }

    /// The X.509 bundle as the Workload API sends it: concatenated DER (SPIFFE_Workload_API.md, section 5.1).
    pub(crate) fn bundle_der(&self) -> Vec<u8> {
        self.generations().flat_map(|generation| generation.ca.der()).copied().collect()
    }

    pub(crate) fn bundle_pem(&self) -> String {
        self.generations().map(|generation| generation.ca.pem()).collect()
    }

    /// Revocation lists of all CAs that are published, each with all numbers: PEM.
    pub(crate) fn revocation_lists(&self, serials: &[Vec<u8>], valid: Duration) -> Result<String, AuthorityError> {
        let pem = |list: CertificateRevocationList| {
            list.pem().map_err(|source| AuthorityError::Certificate { subject: "a revocation list".to_owned(), source })
        };
        self.generations().map(|generation| generation.ca.revocation_list(serials, valid).and_then(pem)).collect()
    }

    /// Puts such lists beside the bundle, in the place of those that were there.
    pub(crate) fn publish_lists(&mut self, serials: &[Vec<u8>], valid: Duration) -> Result<(), AuthorityError> {
        let made = self.generations().map(|generation| generation.ca.revocation_list(serials, valid));
        self.lists = made.map(|list| list.map(|list| list.der().to_vec())).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// The JWT bundle: a JWK set of `jwt-svid` keys only (SPIFFE_Workload_API.md, section 6.2.2).
    pub(crate) fn key_set(&self) -> Vec<u8> {
        jwt::key_set(self.jwt_keys())
    }

    pub(crate) fn jwt_keys(&self) -> impl Iterator<Item = &JwtKey> {
        self.generations().map(|generation| &generation.jwt)
    }
}
