//! What connections are verified and authorized by: immutable, replaced as a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sidegate_core::{CertificateFacts, SpiffeId, TrustDomain, event};
use sidegate_identity::{IdentityState, unix_now};
use sidegate_policy::Policy;
use sidegate_tls::revocation::Revocation;
use sidegate_tls::{ServerChoice, TlsContext};

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
    pub tls: Option<Tls>,
    /// Who is revoked or denied.
    pub revocation: Arc<Revocation>,
    /// What the names of destinations resolve to.
    pub resolved: Arc<Resolved>,
}

/// The TLS side of one generation of identity material.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Our SPIFFE ID as text, shared with every record.
    pub local_id: Arc<str>,
    /// Our SPIFFE ID.
    pub id: SpiffeId,
    /// Our certificate.
    pub local_certificate: Arc<CertificateFacts>,
    /// Our trust domain.
    pub trust_domain: TrustDomain,
    not_before: i64,
    not_after: i64,
    /// By index of the port in [`Settings`].
    pub servers: Arc<[ServerChoice]>,
    /// Counts up with each material, and with each change of what is revoked.
    pub generation: u64,
    /// What configurations towards peers are made of.
    pub context: Arc<TlsContext>,
}

impl Tls {
    /// Builds them. None without material, or if rustls makes no configuration of it; that is an event.
    #[must_use]
    pub fn new(state: &IdentityState, settings: &Settings, revocation: &Arc<Revocation>) -> Option<Self> {
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
    #[must_use]
    pub fn valid_tls(&self) -> Option<&Tls> {
        self.tls.as_ref().filter(|tls| (tls.not_before..=tls.not_after).contains(&unix_now()))
    }

    /// What is missing for connections to be served, a line each.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        if self.valid_tls().is_some() {
            return Vec::new();
        }
        let mut missing = vec!["no valid X.509-SVID".to_owned()];
        missing.extend(self.identity.sources.iter().map(|s| format!("{}: {}", s.name, s.message)));
        missing
    }
}
