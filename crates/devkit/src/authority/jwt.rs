//! JWT: a trust domain's token key, the tokens that it signs, and their verification.

use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};
use sidegate_core::{SpiffeId, TrustDomain};

use super::ca::Validity;
use super::error::AuthorityError;

/// Seconds by which a token's expiry may have passed: clocks differ a little.
const LEEWAY: u64 = 5;

/// The claims that JWT-SVID.md, section 3, requires, and when the token was made.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    aud: Vec<String>,
    iat: i64,
    exp: i64,
}

/// An ES256 key.
pub(crate) struct JwtKey {
    private: EncodingKey,
    public: Jwk,
    id: String,
}

impl JwtKey {
    /// A new key. Its id is its RFC 7638 thumbprint, which no two keys share.
    pub(crate) fn new(domain: &TrustDomain) -> Result<JwtKey, AuthorityError> {
        let subject = domain.id_string();
        let pair = KeyPair::generate().map_err(|source| AuthorityError::Certificate { subject: subject.clone(), source })?;
        let private = EncodingKey::from_ec_der(pair.serialized_der());
        let make = || -> Result<(Jwk, String), jsonwebtoken::errors::Error> {
            let mut public = Jwk::from_encoding_key(&private, Algorithm::ES256)?;
            let id = public.thumbprint(ThumbprintHash::SHA256)?;
            public.common.key_id = Some(id.clone());
            // SPIFFE_Trust_Domain_and_Bundle.md, section 4.2: no parameters but those that the standard names.
            public.common.key_algorithm = None;
            public.common.public_key_use = Some(PublicKeyUse::Other("jwt-svid".to_owned()));
            Ok((public, id))
        };
        let (public, id) = make().map_err(|source| AuthorityError::Jwt { subject, source })?;
        Ok(JwtKey { private, public, id })
    }

    /// Signs a JWT-SVID (JWT-SVID.md, sections 2 to 4).
    pub(crate) fn sign(&self, id: &SpiffeId, audience: &[String], validity: Validity) -> Result<String, AuthorityError> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.clone());
        let claims = Claims {
            sub: id.to_string(),
            aud: audience.to_vec(),
            iat: validity.from.unix_timestamp(),
            exp: validity.until.unix_timestamp(),
        };
        jsonwebtoken::encode(&header, &claims, &self.private).map_err(|source| AuthorityError::Jwt { subject: claims.sub.clone(), source })
    }

    /// The key as a bundle shows it (JWT-SVID.md, section 6.1).
    pub(crate) fn public(&self) -> &Jwk {
        &self.public
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}

/// A bundle's JWK set as JSON.
pub(crate) fn key_set<'a>(keys: impl Iterator<Item = &'a JwtKey>) -> Vec<u8> {
    let set = JwkSet { keys: keys.map(|key| key.public().clone()).collect() };
    // Plain strings: serializing cannot fail. An empty set verifies nothing.
    serde_json::to_vec(&set).unwrap_or_else(|_| br#"{"keys":[]}"#.to_vec())
}

/// The subject that a token claims, before anything of it is verified: it says which bundle has to verify the token.
pub(crate) fn claimed_subject(token: &str) -> Result<SpiffeId, String> {
    let claims: serde_json::Value =
        jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|error| format!("the token cannot be read: {error}"))?;
    let subject = claims.get("sub").and_then(serde_json::Value::as_str).unwrap_or_default();
    SpiffeId::new(subject).map_err(|error| format!("the token's sub {subject:?} is no SPIFFE ID: {error}"))
}

/// Verifies a token by the keys of its trust domain (JWT-SVID.md, section 4) and returns its claims. The standard
/// lets a token name no key; those of this authority always do.
pub(crate) fn verify<'a>(
    token: &str,
    audience: &str,
    keys: impl Iterator<Item = &'a JwtKey>,
) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    let header = jsonwebtoken::decode_header(token).map_err(|error| format!("the token's header: {error}"))?;
    if header.typ.as_deref().is_some_and(|typ| typ != "JWT" && typ != "JOSE") {
        return Err("the token's typ is neither JWT nor JOSE".to_owned());
    }
    let kid = header.kid.ok_or("the token names no key: kid is missing")?;
    let key = keys
        .into_iter()
        .find(|key| key.id() == kid)
        .ok_or_else(|| format!("the token's key {kid:?} is not in its trust domain's bundle"))?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.leeway = LEEWAY;
    validation.validate_nbf = true;
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "aud", "sub"]);
    DecodingKey::from_jwk(key.public())
        .and_then(|key| jsonwebtoken::decode(token, &key, &validation))
        .map(|token| token.claims)
        .map_err(|error| format!("the token is refused: {error}"))
}
