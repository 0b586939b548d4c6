//! What connections are judged by: immutable, replaced as a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sidegate_core::{CertificateFacts, ConnectionRecord, Reason, SpiffeId, TrustDomain, event};
use sidegate_identity::{IdentityState, unix_now};
use sidegate_policy::Policy;
use sidegate_tls::revocation::Revocation;
use sidegate_tls::{ServerChoice, TlsContext};

use crate::attempt::Failure;
use crate::resolver::Resolved;
use crate::settings::Settings;

/// One generation of everything that can change while sidegate runs.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up with each snapshot; records name it.
    pub generation: u64,
    /// The compiled policy.
    pub policy: Arc<Policy>,
    /// What the sources say.
    pub identity: Arc<IdentityState>,
    /// TLS configurations; none without material.
    pub(crate) tls: Option<Tls>,
    /// Who is revoked or denied.
    pub revocation: Arc<Revocation>,
    /// What the names of destinations resolve to.
    pub(crate) resolved: Arc<Resolved>,
}

/// The TLS side of one generation of identity material.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    pub(crate) local_id: Arc<str>,
    pub(crate) id: SpiffeId,
    pub(crate) local_certificate: Arc<CertificateFacts>,
    pub(crate) trust_domain: TrustDomain,
    not_before: i64,
    not_after: i64,
    /// By index of the port in [`Settings`].
    pub(crate) servers: Arc<[ServerChoice]>,
    /// Counts up with each material, and with each change of what is revoked.
    pub(crate) generation: u64,
    pub(crate) context: Arc<TlsContext>,
}

/// Whether new connections can be served, and if not what is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// They can.
    Ready,
    /// What is missing, a line each.
    NotReady(Vec<String>),
}

impl Tls {
    pub(crate) fn new(state: &IdentityState, settings: &Settings, revocation: &Arc<Revocation>) -> Option<Self> {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let material = state.material.as_ref()?;
        let context = match TlsContext::with(material, &settings.tls, revocation.clone()) {
            Ok(context) => context,
            Err(error) => {
                tracing::error!(
                    event = event::IDENTITY_UNUSABLE,
                    "no TLS configuration can be made of the SVID {}: {error}",
                    material.svid.id
                );
                return None;
            }
        };
        Some(Self {
            local_id: material.svid.id.to_string().into(),
            id: material.svid.id.clone(),
            local_certificate: Arc::new(material.svid.facts()),
            trust_domain: material.svid.id.trust_domain().clone(),
            not_before: material.svid.not_before,
            not_after: material.svid.not_after,
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
            servers: settings.ports.iter().map(|p| context.server(&p.alpn)).collect(),
            context: Arc::new(context),
        })
    }
}

impl Snapshot {
    /// The TLS configurations, while our own SVID is valid.
    pub(crate) fn valid_tls(&self) -> Option<&Tls> {
        self.tls.as_ref().filter(|tls| (tls.not_before..=tls.not_after).contains(&unix_now()))
    }

    /// The TLS configurations for a connection, whose record is told of our side of it.
    pub(crate) fn tls_for(&self, record: &mut ConnectionRecord) -> Result<&Tls, Failure> {
        let tls = self.valid_tls().ok_or(Failure::new(Reason::NotReady))?;
        record.local_id = Some(tls.local_id.clone());
        record.local_certificate = Some(tls.local_certificate.clone());
        Ok(tls)
    }

    /// What is missing for connections to be served, a line each.
    pub(crate) fn missing(&self) -> Vec<String> {
        if self.valid_tls().is_some() {
            return Vec::new();
        }
        let mut missing = vec!["no valid X.509-SVID".to_owned()];
        missing.extend(self.identity.sources.iter().map(|s| format!("{}: {}", s.name, s.message)));
        missing
    }
}
