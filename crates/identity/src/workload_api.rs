//! The SPIFFE Workload API as a source (SPIFFE Workload API §4 to §6).
//!
//! Each message is the full state. InvalidArgument and Unimplemented are final, so the source stops. PermissionDenied withdraws
//! the material after a grace period. After any other error the last material stays, and the source tries again with back-off. A
//! malformed message is dropped and fetched again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sidegate_config::schema::Select;
use sidegate_config::value::{Endpoint, EndpointSocket};
use sidegate_core::{SpiffeId, TrustDomain, innermost, parse_canonical};
use sidegate_net::Backoff;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Uri};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use x509_parser::asn1_rs::{Any, FromDer};

use crate::material::{Bundle, Material, MaterialError, Svid, at_most, unix_now};
use crate::source::{Effect, SourceRules, SourceState};
use crate::workload_message::{X509Svid, X509SvidRequest, X509SvidResponse};

/// An agent answers from memory; one that takes longer hangs.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
/// A message: SVIDs, bundles, and a long revocation list.
const LONGEST_MESSAGE: usize = 20 * 1024 * 1024;
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// Before the first SVID the workload waits, and an agent learns of a new registration entry within seconds.
const BACKOFF_MOST_AT_START: Duration = Duration::from_secs(2);

/// SVIDs of one message.
const MOST_SVIDS: usize = 100;
/// Revocation lists of one message, of all trust domains.
const MOST_LISTS: usize = 1024;

enum AgentFailure {
    /// Try again; the material stays.
    Retry(String),
    /// Its message can't be used: try again; the material stays.
    Unusable(String),
    /// Try again; the material goes after the grace.
    Denied(String),
    /// Final: another try can't help.
    Final(String),
}

/// Follows the Workload API until the task is dropped.
pub(crate) async fn run(endpoint: Endpoint, rules: SourceRules, sender: watch::Sender<SourceState>) {
    let mut backoff = Backoff::new(BACKOFF_FIRST);
    let mut denied_since: Option<Instant> = None;
    loop {
        let start = Instant::now();
        let before = sender.borrow().material.clone();
        let (served, trouble) = follow(&endpoint, &rules, &sender).await;
        if served {
            denied_since = None;
            // An agent that repeats the same message and closes the stream each time does not reset the back-off.
            let is_new = !before.zip(sender.borrow().material.clone()).is_some_and(|(old, new)| Arc::ptr_eq(&old, &new));
            if is_new || start.elapsed() >= BACKOFF_MOST {
                backoff.reset();
            }
        }
        match trouble {
            AgentFailure::Retry(message) => SourceState::trouble(&sender, &message, Effect::Keep),
            AgentFailure::Unusable(message) => {
                SourceState::trouble(&sender, &format!("its message can't be used: {message}"), Effect::Refuse);
            }
            AgentFailure::Denied(message) => {
                let since = *denied_since.get_or_insert_with(Instant::now);
                let over = since.elapsed() >= rules.grace;
                SourceState::trouble(&sender, &message, if over { Effect::Withdraw } else { Effect::Keep });
            }
            AgentFailure::Final(message) => {
                SourceState::trouble(&sender, &format!("{message}; not asked again"), Effect::Keep);
                return std::future::pending().await;
            }
        }
        let most = if sender.borrow().material.is_some() { BACKOFF_MOST } else { BACKOFF_MOST_AT_START };
        let mut wait = backoff.next(most);
        if let Some(since) = denied_since {
            // Not later than the end of the grace period, so that the withdrawal is on time.
            let left = rules.grace.saturating_sub(since.elapsed());
            if !left.is_zero() {
                wait = wait.min(left);
            }
        }
        if let Some(material) = &sender.borrow().material {
            // Short-lived SVIDs leave no time for long waits: the agent must be found again while ours is still good.
            wait = wait.min((material.svid.remaining(unix_now()) / 2).max(BACKOFF_MOST_AT_START));
        }
        tokio::time::sleep(wait).await;
    }
}

/// One stream, until it ends. Whether it served anything, and how it ended.
async fn follow(endpoint: &Endpoint, rules: &SourceRules, sender: &watch::Sender<SourceState>) -> (bool, AgentFailure) {
    let channel = match connect(endpoint.get()).await {
        Ok(channel) => channel,
        Err(message) => return (false, AgentFailure::Retry(message)),
    };
    let mut stream = match timeout(FIRST_MESSAGE, fetch(channel)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(status)) => return (false, classify(&status)),
        Err(_) => return (false, AgentFailure::Retry(hangs())),
    };
    let mut served = false;
    let mut patience = FIRST_MESSAGE;
    loop {
        match timeout(patience, stream.message()).await {
            Ok(Ok(Some(message))) => match material(&message, rules) {
                Ok(material) => {
                    patience = overdue(&material);
                    served = true;
                    SourceState::publish(sender, Arc::new(material));
                }
                // The message is the full state: an identity that is not in it has been withdrawn.
                Err(error @ MaterialError::NotOffered(_)) => return (served, AgentFailure::Denied(error.to_string())),
                Err(error) => return (served, AgentFailure::Unusable(error.to_string())),
            },
            Ok(Err(status)) => return (served, classify(&status)),
            Ok(Ok(None)) => return (served, AgentFailure::Retry("it closed the stream".to_owned())),
            Err(_) if served => return (served, AgentFailure::Retry("it did not rotate the SVID in time".to_owned())),
            Err(_) => return (served, AgentFailure::Retry(hangs())),
        }
    }
}

fn hangs() -> String {
    format!("it did not answer within {} s", FIRST_MESSAGE.as_secs())
}

/// How long a silent stream is trusted. SPIRE rotates at half of an SVID's lifetime; at three quarters the source opens a new
/// stream. If that brings no new SVID either, it opens another after half of the remaining time, and so on, at most once a
/// second.
fn overdue(material: &Material) -> Duration {
    let svid = &material.svid;
    let lifetime = Duration::from_secs(u64::try_from(svid.not_after - svid.not_before).unwrap_or(0));
    let left = svid.remaining(unix_now());
    let quarter = lifetime / 4;
    let patience = if left > quarter { left - quarter } else { left / 2 };
    patience.max(Duration::from_secs(1))
}

async fn connect(socket: &EndpointSocket) -> Result<Channel, String> {
    let endpoint = tonic::transport::Endpoint::from_static("http://workload.invalid")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    let socket = socket.clone();
    let shown = socket.to_string();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move {
            Ok::<_, std::io::Error>(match socket {
                EndpointSocket::Unix(path) => TokioIo::new(AgentStream::Unix(UnixStream::connect(path).await?)),
                EndpointSocket::Tcp(address) => TokioIo::new(AgentStream::Tcp(TcpStream::connect(address).await?)),
            })
        }
    });
    match timeout(CONNECT, endpoint.connect_with_connector(connector)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(format!("{shown} can't be reached: {}", innermost(&error))),
        Err(_) => Err(format!("{shown} did not accept within {} s", CONNECT.as_secs())),
    }
}

/// Calls FetchX509SVID directly, since the `spiffe` crate leaves out revocation lists.
async fn fetch(channel: Channel) -> Result<Streaming<X509SvidResponse>, Status> {
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(LONGEST_MESSAGE);
    client.ready().await.map_err(|error| Status::unavailable(innermost(&error)))?;
    let mut request = Request::new(X509SvidRequest {});
    // SPIFFE Workload Endpoint §3.
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let path = PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchX509SVID");
    let codec = ProstCodec::<X509SvidRequest, X509SvidResponse>::default();
    client.server_streaming(request, path, codec).await.map(tonic::Response::into_inner)
}

fn classify(status: &Status) -> AgentFailure {
    match (status.code(), status.message()) {
        (Code::PermissionDenied, message) if message.contains("no identity issued") => {
            AgentFailure::Denied("it has no identity for this workload (no identity issued); is there a registration entry?".to_owned())
        }
        (Code::PermissionDenied, message) => AgentFailure::Denied(format!("it refuses this workload: {message}")),
        (code @ (Code::InvalidArgument | Code::Unimplemented), message) => {
            AgentFailure::Final(format!("it can't serve X.509-SVIDs: {code:?}: {message}"))
        }
        (code, message) => match std::error::Error::source(status) {
            Some(source) => AgentFailure::Retry(innermost(source)),
            None => AgentFailure::Retry(format!("{code:?}: {message}")),
        },
    }
}

fn material(message: &X509SvidResponse, rules: &SourceRules) -> Result<Material, MaterialError> {
    at_most("SVIDs", message.svids.len(), MOST_SVIDS)?;
    at_most("revocation lists", message.crl.len(), MOST_LISTS)?;
    let selected = select(&message.svids, &rules.select)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(&*selected.x509_svid_key));
    let svid = Svid::new(certificates(&selected.x509_svid).map_err(MaterialError::Malformed)?, &key)?;
    if svid.id != id(selected)? {
        return Err(MaterialError::NotAnSvid(format!("it is of {}, though offered as {}", svid.id, selected.spiffe_id)));
    }
    let mut left_out = Vec::new();
    let mut bundles = BTreeMap::new();
    let of_federated = message.federated_bundles.iter().map(|(name, der)| (TrustDomain::new(name), der));
    let own = message.svids.iter().map(|svid| Ok((id(svid)?.trust_domain().clone(), &svid.bundle)));
    let federated = of_federated.map(|(name, der)| Ok((name.map_err(|e| MaterialError::Malformed(e.to_string()))?, der)));
    for bundle in federated.chain(own) {
        let (trust_domain, der) = bundle?;
        let certificates = certificates(der).map_err(|why| MaterialError::Malformed(format!("bundle of {trust_domain}: {why}")))?;
        let bundle = Bundle::new(&trust_domain, certificates, &mut left_out);
        bundles.insert(trust_domain, bundle);
    }
    let mut material = Material::new(svid, bundles, left_out, rules.refuse_development)?;
    material.lists.clone_from(&message.crl);
    Ok(material)
}

fn id(svid: &X509Svid) -> Result<SpiffeId, MaterialError> {
    parse_canonical(&svid.spiffe_id).map_err(|e| MaterialError::NotAnSvid(format!("`{}` is no SPIFFE ID: {e}", svid.spiffe_id)))
}

/// Parses concatenated certificates, the format of the Workload API.
fn certificates(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, _) = Any::from_der(der).map_err(|e| format!("it holds something else than certificates: {e}"))?;
        found.push(der[..der.len() - rest.len()].to_vec().into());
        der = rest;
    }
    Ok(found)
}

/// The SVID that the configuration asks for; by default the first (Workload API §5.2.1).
fn select<'a>(svids: &'a [X509Svid], select: &Select) -> Result<&'a X509Svid, MaterialError> {
    if svids.is_empty() {
        return Err(MaterialError::NoCertificate);
    }
    let wanted = svids.iter().find(|svid| match (&select.spiffe_id, &select.hint) {
        (Some(id), _) => svid.spiffe_id == id.get().to_string(),
        (None, Some(hint)) => svid.hint == *hint,
        (None, None) => true,
    });
    let offered = || svids.iter().map(|svid| format!("{} (hint `{}`)", svid.spiffe_id, svid.hint)).collect::<Vec<_>>().join(", ");
    wanted.ok_or_else(|| MaterialError::NotOffered(offered()))
}

/// A connection to an agent.
enum AgentStream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            AgentStream::Unix($stream) => $call,
            AgentStream::Tcp($stream) => $call,
        }
    };
}

impl tokio::io::AsyncRead for AgentStream {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        delegate!(self, s => std::pin::Pin::new(s).poll_read(cx, buf))
    }
}

impl tokio::io::AsyncWrite for AgentStream {
    fn poll_write(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>, buf: &[u8]) -> std::task::Poll<std::io::Result<usize>> {
        delegate!(self, s => std::pin::Pin::new(s).poll_write(cx, buf))
    }
    fn poll_flush(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        delegate!(self, s => std::pin::Pin::new(s).poll_flush(cx))
    }
    fn poll_shutdown(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        delegate!(self, s => std::pin::Pin::new(s).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_revocation_lists_is_bounded() {
        let rules = SourceRules { select: Select::default(), grace: Duration::ZERO, refuse_development: false };
        let said = |lists| {
            let message = X509SvidResponse { crl: vec![Vec::new(); lists], ..X509SvidResponse::default() };
            material(&message, &rules).map(drop).unwrap_err().to_string()
        };
        assert_eq!(said(MOST_LISTS + 1), "revocation lists: 1025, 1024 are the most");
        assert_ne!(said(MOST_LISTS), said(MOST_LISTS + 1));
    }
}
