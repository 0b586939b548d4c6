//! Records changes of our own identity, as its sources publish them.

use std::collections::BTreeMap;
use std::sync::Arc;

use sidegate_identity::{IdentityState, Material, unix_now};
use tokio::sync::watch;

use crate::event::{Event, NewEvent, SvidFacts};
use crate::hex::sha256_hex;
use crate::log::Audit;

/// Records changes until the sources end.
pub async fn follow_identity(audit: Arc<Audit>, mut identity: watch::Receiver<Arc<IdentityState>>) {
    let mut before: Option<Arc<Material>> = None;
    loop {
        let state = identity.borrow_and_update().clone();
        for event in changes(before.as_deref(), state.material.as_deref(), unix_now()) {
            audit.record(event);
        }
        // After the loss of an SVID the next one is a first one again, but bundles are compared with the last.
        before = state.material.clone();
        if identity.changed().await.is_err() {
            return;
        }
    }
}

fn changes(before: Option<&Material>, after: Option<&Material>, now: i64) -> Vec<NewEvent> {
    let facts = |material: &Material| SvidFacts::new(material.svid.id.to_string(), &material.svid.facts());
    let mut events = Vec::new();
    let place = || "the identity source".to_owned();
    match (before, after) {
        (None, None) => {}
        (Some(old), None) => events.push(Event::IdentityLost { svid: facts(old), expired: !old.svid.is_valid_at(now) }),
        (None, Some(new)) => {
            events.push(Event::SecretAccessed { secret: format!("private key of {}", new.svid.id), place: place() });
            events.push(Event::IdentityReceived { svid: facts(new) });
        }
        (Some(old), Some(new)) if old.svid.certified_key.cert != new.svid.certified_key.cert => {
            events.push(Event::SecretAccessed { secret: format!("private key of {}", new.svid.id), place: place() });
            events.push(Event::IdentityRotated { svid: facts(new), previous_serial: old.svid.serial.clone() });
        }
        (Some(_), Some(_)) => {}
    }
    let (old, new) = (bundles(before), bundles(after));
    for (trust_domain, (authorities, sha256)) in &new {
        if old.get(trust_domain) != Some(&(*authorities, sha256.clone())) {
            let (trust_domain, sha256) = (trust_domain.clone(), Some(sha256.clone()));
            events.push(Event::BundleChanged { trust_domain, authorities: *authorities, sha256 });
        }
    }
    let gone = old.keys().filter(|trust_domain| !new.contains_key(*trust_domain));
    events.extend(gone.map(|trust_domain| Event::BundleChanged { trust_domain: trust_domain.clone(), authorities: 0, sha256: None }));
    events
}

/// Each trust domain's bundle: how many CA certificates, and their digest.
fn bundles(material: Option<&Material>) -> BTreeMap<String, (u64, String)> {
    let all = material.into_iter().flat_map(|material| &material.bundles);
    let digest = |bundle: &sidegate_identity::Bundle| {
        let der: Vec<u8> = bundle.authorities.iter().flat_map(|authority| authority.der.iter().copied()).collect();
        (bundle.authorities.len() as u64, sha256_hex(&der))
    };
    all.map(|(trust_domain, bundle)| (trust_domain.to_string(), digest(bundle))).collect()
}
