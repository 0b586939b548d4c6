//! A bound on what it costs to verify one chain.
//!
//! A client chooses the chain that we verify, and the keys in it. webpki's own budget counts signatures, however slow
//! their keys are; this one counts their time. Signatures on chains, and on revocation lists, are checked here only.

use std::cell::Cell;
use std::sync::LazyLock;

use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};
use webpki::{ALL_VERIFICATION_ALGS, Error};
use x509_parser::asn1_rs::{Any, FromDer};

/// What all signatures of one verification may take together, microseconds by [`price`]: six by the slowest keys that anybody
/// uses, fifty by the usual ones.
const BUDGET: u32 = 4000;

/// All certificates of a chain together, bytes.
pub(crate) const LONGEST_CHAIN: usize = 32 * 1024;

/// What the signatures of one verification took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Signatures that were checked.
    pub signatures: u32,
    /// Signatures that were refused unchecked, since nothing was left of the budget.
    pub refused: u32,
    /// What is left of the budget.
    left: u32,
}

thread_local! {
    static WORK: Cell<Option<Work>> = const { Cell::new(None) };
}

/// Calls `verify`, in which all signatures together have one budget. What they took.
pub(crate) fn bounded<T>(verify: impl FnOnce() -> T) -> (T, Work) {
    let outer = WORK.replace(Some(Work { left: BUDGET, ..Work::default() }));
    let verified = verify();
    (verified, WORK.replace(outer).unwrap_or_default())
}

/// Whether signatures were refused since the present verification has used up its budget.
pub(crate) fn is_used_up() -> bool {
    WORK.get().is_some_and(|work| work.refused > 0)
}

/// The algorithms by which signatures on certificates and lists may be made, each of which pays for what it checks.
pub(crate) fn algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    static PRICED: LazyLock<Vec<Priced>> = LazyLock::new(|| ALL_VERIFICATION_ALGS.iter().map(|algorithm| Priced(*algorithm)).collect());
    static ALL: LazyLock<Vec<&dyn SignatureVerificationAlgorithm>> = LazyLock::new(|| PRICED.iter().map(|priced| priced as _).collect());
    &ALL
}

#[derive(Debug)]
struct Priced(&'static dyn SignatureVerificationAlgorithm);

impl SignatureVerificationAlgorithm for Priced {
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        if let Some(mut work) = WORK.get() {
            match work.left.checked_sub(price(self.0.public_key_alg_id(), public_key, message)) {
                Some(left) => (work.left, work.signatures) = (left, work.signatures + 1),
                None => work.refused += 1,
            }
            WORK.set(Some(work));
            if work.refused > 0 {
                return Err(InvalidSignature);
            }
        }
        self.0.verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

/// About how many microseconds a signature takes on a slow core: by its key, and by what is hashed.
fn price(key: AlgorithmIdentifier, public_key: &[u8], message: &[u8]) -> u32 {
    let of_key = match key {
        alg_id::ECDSA_P256 | alg_id::ED25519 => 80,
        alg_id::ECDSA_P384 => 350,
        alg_id::ECDSA_P521 => 600,
        // RSA: by the square of its length, with the largest exponent that is accepted.
        _ => public_key.len().pow(2) / 1000,
    };
    // What is longer than any chain is a revocation list, which no peer chooses.
    u32::try_from(of_key + message.len().min(LONGEST_CHAIN) / 300).unwrap_or(u32::MAX)
}

/// What is signed, in DER: a certificate or a revocation list (RFC 5280 §4.1, §5.1).
#[derive(Debug)]
pub(crate) struct Signed<'a> {
    message: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    /// None if it is nothing of that form.
    pub(crate) fn read(der: &'a [u8]) -> Option<Self> {
        let (_, outer) = Any::from_der(der).ok()?;
        let (rest, _) = Any::from_der(outer.data).ok()?;
        let message = &outer.data[..outer.data.len() - rest.len()];
        let (rest, algorithm) = Any::from_der(rest).ok()?;
        let (_, signature) = Any::from_der(rest).ok()?;
        let signature = signature.data.strip_prefix(&[0])?;
        Some(Self { message, algorithm: algorithm.data, signature })
    }

    /// Whether a key has signed it, which `check` asks with an algorithm, what was signed, and the signature.
    ///
    /// # Errors
    /// webpki's, of the last algorithm that was tried.
    pub(crate) fn is_by(
        &self,
        check: impl Fn(&'static dyn SignatureVerificationAlgorithm, &[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let named = algorithms().iter().filter(|algorithm| algorithm.signature_alg_id().as_ref() == self.algorithm);
        let mut last = Err(Error::InvalidSignatureForPublicKey);
        for algorithm in named {
            last = check(*algorithm, self.message, self.signature);
            // A name may stand for several, one for each kind of key.
            if !matches!(last, Err(Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_))) {
                break;
            }
        }
        last
    }
}
