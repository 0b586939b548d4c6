//! Verifies the signatures of checkpoints.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use sidegate_audit::Signer;
use sidegate_config::file;
use sidegate_tls::{Role, TrustStore, verify_cached};
use webpki::{EndEntityCert, RawPublicKeyEntity};

/// The keys and identities that may sign checkpoints.
#[derive(Debug, Default)]
pub struct Trust {
    /// The bundles that an SVID's chain must lead to.
    pub bundles: Option<TrustStore>,
    /// The one configured key that may sign: SubjectPublicKeyInfo.
    pub public_key: Option<Vec<u8>>,
    /// The workload that must have signed.
    pub spiffe_id: Option<String>,
}

/// A public key is missing or malformed.
#[derive(Debug, thiserror::Error)]
#[error("{0} holds no PEM public key: {1}; make it of the private one with `openssl pkey -pubout`")]
pub struct PublicKeyError(String, String);

impl Trust {
    /// Reads a public key, as [`Trust::public_key`] has it.
    ///
    /// # Errors
    /// If the file holds none.
    pub fn public_key(path: &Path) -> Result<Vec<u8>, PublicKeyError> {
        let failed = |why: String| PublicKeyError(path.display().to_string(), why);
        let pem = file::read(path, file::SMALL).map_err(|e| failed(e.to_string()))?;
        SubjectPublicKeyInfoDer::from_pem_slice(&pem).map(|key| key.to_vec()).map_err(|e| failed(e.to_string()))
    }

    /// Whether any key or bundle was given.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.bundles.is_some() || self.public_key.is_some()
    }
}

/// The result of verifying a checkpoint's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SignatureVerdict {
    /// A trusted signer has signed it.
    Proven,
    /// It is signed, but no key or bundle was given to identify the signer.
    Somebody,
    /// The signature is wrong, or the signer is not trusted.
    Refused(String),
}

/// At most this many signers are refused one by one. A log may be forged from end to end, each checkpoint with a chain of its own
/// that takes some milliseconds to verify; the verdict is the same after the first.
const MOST_REFUSED: u32 = 256;

/// How many signers were refused in the log that is being verified.
#[derive(Debug, Default)]
pub(crate) struct Refused(u32);

/// Verifies a signature of `message`, made at `time` seconds since the epoch.
pub(crate) fn verify_signature(
    signer: &Signer,
    message: &[u8],
    signature: &[u8],
    time: i64,
    trust: &Trust,
    refused: &mut Refused,
) -> SignatureVerdict {
    if refused.0 >= MOST_REFUSED {
        return SignatureVerdict::Refused(format!("its signer is not looked at, since {MOST_REFUSED} before it were refused"));
    }
    match check(signer, message, signature, time, trust) {
        Ok(true) => SignatureVerdict::Proven,
        Ok(false) => SignatureVerdict::Somebody,
        Err(why) => {
            refused.0 += 1;
            SignatureVerdict::Refused(why)
        }
    }
}

fn check(signer: &Signer, message: &[u8], signature: &[u8], time: i64, trust: &Trust) -> Result<bool, String> {
    let decode = |text: &String| STANDARD.decode(text).map_err(|_| "its signer is not base64".to_owned());
    let algorithms = default_provider().signature_verification_algorithms;
    let scheme = SignatureScheme::from(signer.scheme);
    let (_, candidates) = algorithms
        .mapping
        .iter()
        .find(|(known, _)| *known == scheme)
        .ok_or_else(|| format!("its signature scheme {scheme:?} is unknown"))?;
    let bad = |_: webpki::Error| "its signature does not fit".to_owned();
    if let Some(key) = &signer.public_key {
        let der = SubjectPublicKeyInfoDer::from(decode(key)?);
        let entity = RawPublicKeyEntity::try_from(&der).map_err(|e| format!("its public key can't be read: {e}"))?;
        one_of(candidates, |algorithm| entity.verify_signature(algorithm, message, signature)).map_err(bad)?;
        return match &trust.public_key {
            Some(trusted) if **trusted == *der => Ok(true),
            Some(_) => Err("it is signed with another key than the given one".to_owned()),
            None if trust.bundles.is_some() => Err("it is signed with a bare key, not with an SVID".to_owned()),
            None => Ok(false),
        };
    }
    let chain = signer.chain.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let chain: Vec<CertificateDer<'_>> = chain.into_iter().map(CertificateDer::from).collect();
    let [leaf, intermediates @ ..] = chain.as_slice() else { return Err("its signer has neither key nor certificate".to_owned()) };
    let entity = EndEntityCert::try_from(leaf).map_err(|e| format!("its signer's certificate can't be read: {e}"))?;
    one_of(candidates, |algorithm| entity.verify_signature(algorithm, message, signature)).map_err(bad)?;
    let Some(bundles) = &trust.bundles else {
        return if trust.public_key.is_some() { Err("it is signed with an SVID, not with the given key".to_owned()) } else { Ok(false) };
    };
    let peer = verify_cached(leaf, intermediates, Role::Client, bundles, time)
        .map_err(|failure| format!("its signer is not trusted: {}: {}", failure.reason, failure.detail))?;
    if signer.spiffe_id.as_deref() != Some(&*peer.text) {
        return Err(format!("its signer is {}, not who it says", peer.text));
    }
    match &trust.spiffe_id {
        Some(expected) if *expected != *peer.text => Err(format!("its signer is {}, not {expected}", peer.text)),
        _ => Ok(true),
    }
}

/// The last error, unless one of the algorithms says yes: a scheme may stand for several, one a curve.
fn one_of<T: Copy>(candidates: &[T], try_one: impl Fn(T) -> Result<(), webpki::Error>) -> Result<(), webpki::Error> {
    let mut last = Err(webpki::Error::InvalidSignatureForPublicKey);
    for candidate in candidates {
        last = try_one(*candidate);
        if last.is_ok() {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A checkpoint as a forger signs it, with a certificate of his own.
    fn forged(message: &[u8]) -> (Signer, Vec<u8>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let signer = Signer {
            spiffe_id: Some("spiffe://a.b/web".to_owned()),
            chain: vec![STANDARD.encode(certificate.der())],
            public_key: None,
            scheme: SignatureScheme::ECDSA_NISTP256_SHA256.into(),
        };
        (signer, rcgen::SigningKey::sign(&key, message).unwrap())
    }

    #[test]
    fn a_log_of_forged_checkpoints_does_not_keep_the_auditor_busy() {
        let trust = Trust { bundles: Some(TrustStore::of(&BTreeMap::new())), ..Trust::default() };
        let mut refused = Refused::default();
        let mut untrusted = 0;
        for _ in 0..MOST_REFUSED + 100 {
            let (signer, signature) = forged(b"text");
            let SignatureVerdict::Refused(why) = verify_signature(&signer, b"text", &signature, 0, &trust, &mut refused) else {
                panic!("it passes")
            };
            untrusted += u32::from(why.starts_with("its signer is not trusted"));
        }
        assert_eq!(untrusted, MOST_REFUSED);
    }
}
