//! What the Workload API says to a caller in a given state, faults and all: one function for each of its methods.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use prost_types::{ListValue, Struct, Value, value::Kind};
use sidegate_core::{SpiffeId, TrustDomain, parse_canonical};
use tokio::time::Instant;
use tonic::Status;

use super::attest::Caller;
use super::config::Entry;
use super::domain::Domain;
use super::fault::{Fault, garbage};
use super::jwt;
use super::state::AuthorityState;
use super::workload_api::{
    JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesResponse,
    X509svid, X509svidResponse,
};

/// A token lives no longer than this, since anyone who sees it can use it (JWT-SVID.md, section 7.1).
const MAX_TOKEN_TTL: Duration = Duration::from_secs(300);

/// The hints of one response, which the standard wants to be unique in it (SPIFFE_Workload_API.md, sections 5.2.1 and
/// 6.2.1): the first SVID keeps a hint that several entries have, since that is the one that clients would take.
#[derive(Default)]
struct Hints(BTreeSet<String>);

impl Hints {
    fn of(&mut self, entry: &Entry) -> String {
        entry.hint.clone().filter(|hint| self.0.insert(hint.clone())).unwrap_or_default()
    }
}

/// A full state and when it changes of itself.
pub(crate) type Update<T> = Result<(T, Option<Instant>), Status>;

/// `FetchX509SVID` (SPIFFE_Workload_API.md, section 5.2.1).
pub(crate) fn x509_svids(state: &mut AuthorityState, caller: &Caller) -> Update<X509svidResponse> {
    let mut due = state.tidy();
    let mut response = X509svidResponse::default();
    let (mut foreign, mut own) = (BTreeSet::new(), BTreeSet::new());
    let mut hints = Hints::default();
    state.identities(caller, |entry, domain, fault| {
        let (spiffe_id, hint) = (entry.plan.id.to_string(), hints.of(&entry.plan.entry));
        let svid = entry.svid(domain, fault)?;
        due = due.into_iter().chain([svid.due]).min();
        foreign.extend(domain.federates_with.iter().cloned());
        own.insert(domain.name.clone());
        response.svids.push(X509svid {
            spiffe_id,
            x509_svid: if *fault == Fault::Garbage { garbage() } else { svid.leaf.der.clone() },
            x509_svid_key: svid.leaf.key_der.clone(),
            bundle: domain.bundle_der(),
            hint,
        });
        Ok(())
    })?;
    if state.fault == Fault::Empty {
        return Ok((X509svidResponse::default(), due));
    }
    response.federated_bundles = bundles(state, &foreign, Domain::bundle_der);
    response.crl = lists(state, &(&own | &foreign));
    Ok((response, due))
}

/// `FetchX509Bundles` (section 5.2.2).
pub(crate) fn x509_bundles(state: &mut AuthorityState, caller: &Caller) -> Update<X509BundlesResponse> {
    let due = state.tidy();
    let bundles = visible_bundles(state, caller, Domain::bundle_der)?;
    let visible = visible_domains(state, caller)?;
    let crl = lists(state, &visible);
    Ok((X509BundlesResponse { bundles, crl }, due))
}

/// `FetchJWTBundles` (section 6.2.2).
pub(crate) fn jwt_bundles(state: &mut AuthorityState, caller: &Caller) -> Update<JwtBundlesResponse> {
    let due = state.tidy();
    let bundles = visible_bundles(state, caller, Domain::key_set)?;
    Ok((JwtBundlesResponse { bundles }, due))
}

/// `FetchJWTSVID` (section 6.2.1).
pub(crate) fn jwt_svids(state: &mut AuthorityState, caller: &Caller, request: &JwtsvidRequest) -> Result<JwtsvidResponse, Status> {
    if request.audience.iter().all(String::is_empty) {
        return Err(Status::invalid_argument("the audience is missing; say which service the token is for"));
    }
    let wanted = match request.spiffe_id.as_str() {
        "" => None,
        text => Some(parse_canonical(text).map_err(|error| Status::invalid_argument(format!("spiffe_id: {error}")))?),
    };
    state.tidy();
    let mut svids = Vec::new();
    let mut hints = Hints::default();
    state.identities(caller, |entry, domain, fault| {
        let plan = &entry.plan;
        if wanted.as_ref().is_none_or(|wanted| *wanted == plan.id) {
            let svid = match fault {
                Fault::Garbage => String::from_utf8_lossy(&garbage()).into_owned(),
                _ => domain.sign(&plan.id, &request.audience, plan.ttl.min(MAX_TOKEN_TTL), fault)?,
            };
            let (spiffe_id, hint) = (plan.id.to_string(), hints.of(&plan.entry));
            svids.push(Jwtsvid { spiffe_id, svid, hint });
        }
        Ok(())
    })?;
    if svids.is_empty() {
        return Err(Status::permission_denied("no identity issued"));
    }
    if state.fault == Fault::Empty {
        svids.clear();
    }
    Ok(JwtsvidResponse { svids })
}

/// `ValidateJWTSVID` (section 6.2.3).
pub(crate) fn validate(
    state: &mut AuthorityState,
    caller: &Caller,
    request: &ValidateJwtsvidRequest,
) -> Result<ValidateJwtsvidResponse, Status> {
    let visible = visible_domains(state, caller)?;
    match state.fault {
        Fault::Empty => return Ok(ValidateJwtsvidResponse::default()),
        Fault::Garbage => {
            let spiffe_id = String::from_utf8_lossy(&garbage()).into_owned();
            return Ok(ValidateJwtsvidResponse { spiffe_id, claims: None });
        }
        _ => {}
    }
    if request.audience.is_empty() {
        return Err(Status::invalid_argument("the audience is missing; say which service the token has to be for"));
    }
    state.tidy();
    let check = || -> Result<(SpiffeId, Struct), String> {
        let id = jwt::claimed_subject(&request.svid)?;
        let domain = visible.get(id.trust_domain()).and_then(|name| state.domains.get(name));
        let domain = domain.ok_or_else(|| format!("the trust domain `{}` is not trusted", id.trust_domain()))?;
        let claims = jwt::verify(&request.svid, &request.audience, domain.jwt_keys())?;
        Ok((id, structure(claims)))
    };
    let (id, claims) = check().map_err(Status::invalid_argument)?;
    Ok(ValidateJwtsvidResponse { spiffe_id: id.to_string(), claims: Some(claims) })
}

/// The trust domains whose bundles a caller is given: its own, and what those federate with.
fn visible_domains(state: &mut AuthorityState, caller: &Caller) -> Result<BTreeSet<TrustDomain>, Status> {
    let mut visible = BTreeSet::new();
    state.identities(caller, |_, domain, _| {
        visible.insert(domain.name.clone());
        visible.extend(domain.federates_with.iter().cloned());
        Ok(())
    })?;
    Ok(visible)
}

fn visible_bundles(
    state: &mut AuthorityState,
    caller: &Caller,
    bundle: fn(&Domain) -> Vec<u8>,
) -> Result<HashMap<String, Vec<u8>>, Status> {
    let visible = visible_domains(state, caller)?;
    Ok(match state.fault {
        Fault::Empty => HashMap::new(),
        Fault::Garbage => bundles(state, &visible, |_| garbage()),
        _ => bundles(state, &visible, bundle),
    })
}

/// Bundles by the SPIFFE ID of their trust domain.
fn bundles(state: &AuthorityState, names: &BTreeSet<TrustDomain>, bundle: fn(&Domain) -> Vec<u8>) -> HashMap<String, Vec<u8>> {
    let domains = names.iter().filter_map(|name| state.domains.get(name));
    domains.map(|domain| (domain.name.id_string(), bundle(domain))).collect()
}

/// Revocation lists of these trust domains.
fn lists(state: &AuthorityState, names: &BTreeSet<TrustDomain>) -> Vec<Vec<u8>> {
    names.iter().filter_map(|name| state.domains.get(name)).flat_map(|domain| &domain.lists).cloned().collect()
}

/// JSON as protobuf has it.
fn structure(claims: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: claims.into_iter().map(|(name, claim)| (name, value(claim))).collect() }
}

fn value(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(yes) => Kind::BoolValue(yes),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(items) => Kind::ListValue(ListValue { values: items.into_iter().map(value).collect() }),
        Json::Object(fields) => Kind::StructValue(structure(fields)),
    };
    Value { kind: Some(kind) }
}
