//! Chains that this worker has verified, so that a peer's next handshake costs a digest instead of signatures.
//!
//! Known by the digest of the whole chain, the role, and the generation of trust bundles; never longer than the path that
//! was found is valid. That the peer holds the key is proved in every full handshake, remembered chain or not.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::CertificateDer;
use sidegate_core::{Reason, RevocationStatus};

use crate::verify::{PeerIdentity, Role, TrustStore, VerifyFailure, verify};

/// Peers of one workload; beyond that they are forgotten and verified again.
const REMEMBERED: usize = 1024;

/// Longer chains are verified each time: who presents a chain has not proved yet that it holds the key, and may add to it what
/// it likes.
const LONGEST: usize = 8 * 1024;

type Digest = [u8; 32];

thread_local! {
    static VERIFIED: RefCell<HashMap<Digest, Arc<PeerIdentity>>> = RefCell::new(HashMap::new());
}

/// As [`verify`], but a chain that this thread has verified before is not verified again while it is valid.
///
/// # Errors
/// As [`verify`]; failures are not remembered.
pub fn verify_cached(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    role: Role,
    trust: &TrustStore,
    now: i64,
) -> Result<Arc<PeerIdentity>, VerifyFailure> {
    let digest = digest(leaf, intermediates, role);
    let known = VERIFIED.with_borrow(|known| known.get(&digest).filter(|peer| peer.holds(trust, now)).cloned());
    if let Some(peer) = known {
        return Ok(peer);
    }
    let peer = Arc::new(verify(leaf, intermediates, role, trust, now)?);
    if leaf.len() + intermediates.iter().map(|certificate| certificate.len()).sum::<usize>() > LONGEST {
        return Ok(peer);
    }
    VERIFIED.with_borrow_mut(|known| {
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(digest, peer.clone());
    });
    Ok(peer)
}

/// Verifies again a peer that was verified before, perhaps by another generation of trust bundles. Returns what is known of its
/// revocation now.
///
/// # Errors
/// As [`verify`].
pub fn verify_again(peer: &PeerIdentity, role: Role, trust: &TrustStore, now: i64) -> Result<RevocationStatus, VerifyFailure> {
    if peer.holds(trust, now) {
        return Ok(peer.revocation);
    }
    match peer.chain.split_first() {
        Some((leaf, intermediates)) => verify_cached(leaf, intermediates, role, trust, now).map(|peer| peer.revocation),
        None => Err(VerifyFailure { reason: Reason::NoPeerCertificate, detail: String::new(), claimed_id: None, certificate: None }),
    }
}

fn digest(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], role: Role) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(&[role as u8]);
    for certificate in std::iter::once(leaf).chain(intermediates) {
        // With its length, so that two chains never look alike.
        context.update(&certificate.len().to_be_bytes());
        context.update(certificate);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
