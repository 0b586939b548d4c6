//! The chains that are tried, and what is to become of them. One list for all judges: the verifier itself, real
//! handshakes, and the oracle.

mod keys;
mod leaf;
mod names;
mod path;
mod roots;

use std::sync::Arc;

use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::sign::SigningKey;
use sidegate_core::Reason;
use sidegate_tls::Role;

use crate::pki::{ID, Spec, World, signing_key};

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// What signs the handshake. It fits the leaf wherever the chain is to be accepted.
    pub(crate) key: Arc<dyn SigningKey>,
    pub(crate) verdict: Verdict,
    /// In which role only; in both if there is none.
    pub(crate) role: Option<Role>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The peer is this.
    Accepted(String),
    /// For this reason, and this is what the peer claimed to be.
    Refused(Reason, Option<String>),
}

impl Case {
    pub(crate) fn roles(&self) -> Vec<Role> {
        self.role.map_or(vec![Role::Server, Role::Client], |role| vec![role])
    }
}

/// Every case. Their names are distinct.
pub(crate) fn all(world: &World) -> Vec<Case> {
    let mut cases = Cases { world, list: Vec::new() };
    names::add(&mut cases);
    leaf::add(&mut cases);
    path::add(&mut cases);
    roots::add(&mut cases);
    keys::add(&mut cases);
    let mut names: Vec<_> = cases.list.iter().map(|case| &case.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|two| two[0] != two[1]));
    cases.list
}

pub(crate) struct Cases<'w> {
    world: &'w World,
    list: Vec<Case>,
}

impl Cases<'_> {
    fn add(&mut self, name: &str, chain: Vec<CertificateDer<'static>>, verdict: Verdict) -> &mut Case {
        self.list.push(Case { name: name.to_owned(), chain, key: signing_key(&self.world.leaf_key), verdict, role: None });
        self.list.last_mut().unwrap()
    }

    /// The chain of somebody who is [`ID`].
    fn accepts(&mut self, name: &str, chain: Vec<CertificateDer<'static>>) -> &mut Case {
        self.add(name, chain, Verdict::Accepted(ID.to_owned()))
    }

    /// The chain of somebody who claims to be [`ID`].
    fn refuses(&mut self, name: &str, chain: Vec<CertificateDer<'static>>, reason: Reason) -> &mut Case {
        self.refuses_claiming(name, chain, reason, Some(ID))
    }

    fn refuses_claiming(&mut self, name: &str, chain: Vec<CertificateDer<'static>>, reason: Reason, claim: Option<&str>) -> &mut Case {
        self.add(name, chain, Verdict::Refused(reason, claim.map(str::to_owned)))
    }

    /// `spec` signed by our own root.
    fn ours(&self, spec: &Spec) -> Vec<CertificateDer<'static>> {
        vec![spec.signed_by(&self.world.ours, &self.world.leaf_key)]
    }

    /// The same with a key of its own.
    fn ours_with_key(&self, spec: &Spec, key: &KeyPair) -> Vec<CertificateDer<'static>> {
        vec![spec.signed_by(&self.world.ours, key)]
    }
}
