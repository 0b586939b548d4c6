//! The authority as its owner holds it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sidegate_core::TrustDomain;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::ca::Leaf;
use super::check;
use super::config::{AuthorityConfig, Entry};
use super::connection;
use super::domain::Domain;
use super::error::AuthorityError;
use super::fault::Fault;
use super::feed::Shared;
use super::service::{RequireHeader, Service};
use super::socket::{self, SocketFile};
use super::state::AuthorityState;
use super::workload_api::spiffe_workload_api_server::SpiffeWorkloadApiServer;

/// A running authority. Dropping it ends all that it does and removes its sockets;
/// [`shutdown`](Authority::shutdown) also waits until that is done.
///
/// Every change shows at once on the streams that are open.
pub struct Authority {
    state: Shared,
    stop: CancellationToken,
    servers: JoinSet<()>,
    paths: Vec<PathBuf>,
    files: Vec<SocketFile>,
}

/// An X.509-SVID for a peer that reads files (X509-SVID.md, section 3.1). The chain is the leaf alone: the bundle's CA signed it.
#[derive(Clone, Default)]
pub struct Issued {
    /// The chain as PEM, leaf first.
    pub chain_pem: String,
    /// The private key as PEM, PKCS#8.
    pub key_pem: String,
    /// The chain as DER, one certificate each, leaf first.
    pub chain_der: Vec<Vec<u8>>,
    /// The private key as DER, PKCS#8.
    pub key_der: Vec<u8>,
}

impl Authority {
    /// Makes the keys of all trust domains and serves the Workload API.
    ///
    /// # Errors
    /// [`AuthorityError::Config`] names all problems of `config`; the others say what failed on the way.
    pub async fn start(config: AuthorityConfig) -> Result<Authority, AuthorityError> {
        let plan = check::config(&config)?;
        let paths = plan.sockets.clone();
        let stop = CancellationToken::new();
        let state = AuthorityState::new(plan, config.fault.unwrap_or_default(), stop.clone())?;
        let mut authority =
            Authority { state: Arc::new(watch::Sender::new(state)), stop, servers: JoinSet::new(), paths, files: Vec::new() };
        for path in authority.paths.clone() {
            authority.serve(path)?;
        }
        tracing::warn!(
            sockets = ?authority.paths,
            trust_domains = ?config.trust_domains.iter().map(|domain| &domain.name).collect::<Vec<_>>(),
            "FOR DEVELOPMENT ONLY: the embedded SPIFFE authority hands out identities; its keys live in plain \
             memory and end with it. Do not run it in production: use SPIRE or another real authority there"
        );
        Ok(authority)
    }

    fn serve(&mut self, path: PathBuf) -> Result<(), AuthorityError> {
        let (listener, file) = socket::bind(&path)?;
        self.files.push(file);
        let incoming = connection::incoming(listener, path.as_path().into(), self.state.clone());
        let service = Service { state: self.state.clone() };
        let service = SpiffeWorkloadApiServer::with_interceptor(service, RequireHeader);
        let stopped = self.stop.clone().cancelled_owned();
        self.servers.spawn(async move {
            let served = Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, stopped).await;
            if let Err(error) = served {
                tracing::error!(socket = ?path, %error, "the Workload API is no longer served; restart the authority");
            }
        });
        Ok(())
    }

    /// Misbehaves from now on as `fault` says; [`Fault::None`] ends it. Streams that are still open get the fault's
    /// message or status at once, and the right full state when it ends.
    pub fn set_fault(&self, fault: Fault) {
        tracing::info!(?fault, "the authority's fault is switched");
        self.state.send_modify(|state| state.misbehave(fault));
    }

    /// Rotates all SVIDs now, as half of their lifetime would.
    pub fn rotate_now(&self) {
        self.state.send_modify(AuthorityState::renew);
    }

    /// Gives a trust domain a new CA and JWT key. They are first published beside the old ones, and sign one second
    /// later. The old ones are withdrawn when the last SVID that they signed has expired (SPIFFE_Federation.md,
    /// section 4.1: keys are published before they are used, and withdrawn after).
    ///
    /// # Errors
    /// [`AuthorityError::UnknownTrustDomain`], or the keys could not be made.
    pub fn rotate_ca(&self, trust_domain: &str) -> Result<(), AuthorityError> {
        self.change(|state| state.domain(trust_domain)?.rotate())
    }

    /// Replaces all entries. An identity that is absent is withdrawn (SPIFFE_Workload_API.md, section 4.4); one that
    /// stays keeps its SVID.
    ///
    /// # Errors
    /// [`AuthorityError::Config`] names all problems; nothing has changed then.
    pub fn set_entries(&self, entries: &[Entry]) -> Result<(), AuthorityError> {
        self.change(|state| {
            let plans = check::entries(entries, &state.known(), &self.paths)?;
            state.enrol(plans);
            Ok(())
        })
    }

    /// Replaces what a trust domain federates with (SPIFFE_Workload_API.md, section 4.6). A bundle that is absent is
    /// withdrawn (section 4.4).
    ///
    /// # Errors
    /// [`AuthorityError::UnknownTrustDomain`] or [`AuthorityError::Config`]; nothing has changed then.
    pub fn set_federation(&self, trust_domain: &str, federates_with: &[&str]) -> Result<(), AuthorityError> {
        self.change(|state| {
            let known = state.known();
            let domain = state.domain(trust_domain)?;
            domain.federates_with = check::federation(&domain.name, federates_with, &known)?;
            Ok(())
        })
    }

    /// The X.509 bundle of a trust domain as PEM: the CA bundle of X509-SVID.md, section 5.1.
    pub fn bundle_pem(&self, trust_domain: &str) -> Option<String> {
        let name = TrustDomain::new(trust_domain).ok()?;
        self.state.borrow().domains.get(&name).map(Domain::bundle_pem)
    }

    /// Signs revocation lists (RFC 5280, section 5), one by each CA of a trust domain's bundle, that name the certificates with
    /// these serial numbers (big-endian) and hold for `valid`: PEM.
    ///
    /// # Errors
    /// [`AuthorityError::UnknownTrustDomain`], or a list could not be made.
    pub fn revocation_lists_pem(&self, trust_domain: &str, serials: &[Vec<u8>], valid: Duration) -> Result<String, AuthorityError> {
        let mut lists = String::new();
        self.change(|state| {
            lists = state.domain(trust_domain)?.revocation_lists(serials, valid)?;
            Ok(())
        })?;
        Ok(lists)
    }

    /// Signs such lists and serves them with the bundles (SPIFFE_Workload_API.md, section 5.2.1), in the place of those before.
    ///
    /// # Errors
    /// As [`Authority::revocation_lists_pem`].
    pub fn publish_revocation_lists(&self, trust_domain: &str, serials: &[Vec<u8>], valid: Duration) -> Result<(), AuthorityError> {
        self.change(|state| state.domain(trust_domain)?.publish_lists(serials, valid))
    }

    /// Signs an X.509-SVID for a peer that reads files (X509-SVID.md, section 3.1). It needs no entry, and no fault shows on it.
    ///
    /// # Errors
    /// [`AuthorityError::Config`] where an argument is wrong, [`AuthorityError::UnknownTrustDomain`], or the
    /// certificate could not be made.
    pub fn issue(&self, spiffe_id: &str, ttl: Duration) -> Result<Issued, AuthorityError> {
        let id = check::issuance(spiffe_id, ttl)?;
        let mut issued = Issued::default();
        self.change(|state| {
            state.tidy();
            let leaf = state.domain(id.trust_domain().as_str())?.issue(&id, &[], ttl, &Fault::None)?;
            let Leaf { der, pem, key_der, key_pem } = leaf;
            issued = Issued { chain_pem: pem, key_pem, chain_der: vec![der], key_der };
            Ok(())
        })?;
        Ok(issued)
    }

    /// How many X.509-SVIDs were signed so far.
    pub fn issued_count(&self) -> u64 {
        self.state.borrow().domains.values().map(Domain::issued).sum()
    }

    /// Ends all streams and connections, waits for it, and removes the sockets.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        while self.servers.join_next().await.is_some() {}
    }

    /// Changes the state and tells all streams, unless it failed.
    fn change(&self, change: impl FnOnce(&mut AuthorityState) -> Result<(), AuthorityError>) -> Result<(), AuthorityError> {
        let mut result = Ok(());
        self.state.send_if_modified(|state| {
            result = change(state);
            result.is_ok()
        });
        result
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        // Cuts every connection, which ends the tasks that serve it.
        self.stop.cancel();
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("sockets", &self.paths).finish_non_exhaustive()
    }
}

/// Says nothing of the key.
impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("chain_pem", &self.chain_pem).finish_non_exhaustive()
    }
}
