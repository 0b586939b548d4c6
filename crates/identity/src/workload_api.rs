//! The SPIFFE Workload API as a source (SPIFFE Workload API §4 to §6).
//!
//! Each message is the full state. What each error means: InvalidArgument and Unimplemented will not go away by asking
//! again, so we stop; PermissionDenied withdraws the material after a grace; everything else keeps the last material
//! and is tried again with back-off. A message that makes no sense is dropped and fetched anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sidegate_config::schema::Select;
use sidegate_config::value::{Endpoint, EndpointSocket};
use sidegate_core::innermost;
use spiffe::transport::{GrpcStatusCode, TransportError};
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Context};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Uri};

use crate::manager::{Effect, Rules, SourceState};
use crate::material::{Bundle, Material, MaterialError, Svid, unix_now};

/// An agent answers from memory; one that takes longer hangs.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// Before the first SVID somebody waits for us: an agent learns of a new registration entry within seconds.
const BACKOFF_MOST_AT_START: Duration = Duration::from_secs(2);

enum Trouble {
    /// Try again; the material stays.
    Retry(String),
    /// What it offers is of no use: try again; the material stays.
    Unusable(String),
    /// Try again; the material goes after the grace.
    Denied(String),
    /// Asking again can't help.
    Final(String),
}

/// Follows the Workload API until the task is dropped.
pub(crate) async fn run(endpoint: Endpoint, rules: Rules, sender: watch::Sender<SourceState>) {
    let mut backoff = BACKOFF_FIRST;
    let mut denied_since: Option<Instant> = None;
    loop {
        let start = Instant::now();
        let before = sender.borrow().material.clone();
        let (served, trouble) = follow(&endpoint, &rules, &sender).await;
        if served {
            denied_since = None;
            // An agent that gives the same again and again and hangs up each time is no reason to ask sooner.
            let is_new = !before.zip(sender.borrow().material.clone()).is_some_and(|(old, new)| Arc::ptr_eq(&old, &new));
            if is_new || start.elapsed() >= BACKOFF_MOST {
                backoff = BACKOFF_FIRST;
            }
        }
        match trouble {
            Trouble::Retry(message) => SourceState::trouble(&sender, &message, Effect::Keep),
            Trouble::Unusable(message) => {
                SourceState::trouble(&sender, &format!("its message can't be used: {message}"), Effect::Refuse);
            }
            Trouble::Denied(message) => {
                let since = *denied_since.get_or_insert_with(Instant::now);
                let over = since.elapsed() >= rules.grace;
                SourceState::trouble(&sender, &message, if over { Effect::Withdraw } else { Effect::Keep });
            }
            Trouble::Final(message) => {
                SourceState::trouble(&sender, &format!("{message}; not asked again"), Effect::Keep);
                return std::future::pending().await;
            }
        }
        let mut wait = jittered(backoff);
        if let Some(since) = denied_since {
            // Not later than the grace's end, so that it is kept to the moment.
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
        let most = if sender.borrow().material.is_some() { BACKOFF_MOST } else { BACKOFF_MOST_AT_START };
        backoff = (backoff * 2).min(most);
    }
}

/// Between half of `wait` and the whole, so that a node's sidecars do not come back in one moment.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// One stream, until it ends. Whether it served anything, and how it ended.
async fn follow(endpoint: &Endpoint, rules: &Rules, sender: &watch::Sender<SourceState>) -> (bool, Trouble) {
    let channel = match connect(endpoint.get()).await {
        Ok(channel) => channel,
        Err(message) => return (false, Trouble::Retry(message)),
    };
    // The client only carries this for its own information.
    let Ok(named) = spiffe::transport::Endpoint::parse(&endpoint.to_string()) else {
        return (false, Trouble::Final(format!("{endpoint} is not an endpoint")));
    };
    let client = WorkloadApiClient::new_with_channel(named, channel);
    let mut stream = match timeout(FIRST_MESSAGE, client.stream_x509_contexts()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return (false, classify(&error)),
        Err(_) => return (false, Trouble::Retry(hangs())),
    };
    let mut served = false;
    let mut patience = FIRST_MESSAGE;
    loop {
        match timeout(patience, stream.next()).await {
            Ok(Some(Ok(context))) => match material(&context, rules) {
                Ok(material) => {
                    patience = overdue(&material);
                    served = true;
                    SourceState::publish(sender, Arc::new(material));
                }
                // The message is the full state: an identity that is not in it has been withdrawn.
                Err(error @ MaterialError::NotOffered(_)) => return (served, Trouble::Denied(error.to_string())),
                Err(error) => return (served, Trouble::Unusable(error.to_string())),
            },
            Ok(Some(Err(error))) => return (served, classify(&error)),
            Ok(None) => return (served, Trouble::Retry("it closed the stream".to_owned())),
            Err(_) if served => return (served, Trouble::Retry("it did not rotate the SVID in time".to_owned())),
            Err(_) => return (served, Trouble::Retry(hangs())),
        }
    }
}

fn hangs() -> String {
    format!("it did not answer within {} s", FIRST_MESSAGE.as_secs())
}

/// How long to believe in a silent stream. SPIRE rotates at half of the lifetime; at three quarters we ask anew. If even
/// then there is no other SVID we ask again after half of what is left, and so on: ever sooner, but never in a hurry.
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
                EndpointSocket::Unix(path) => TokioIo::new(Either::Unix(UnixStream::connect(path).await?)),
                EndpointSocket::Tcp(address) => TokioIo::new(Either::Tcp(TcpStream::connect(address).await?)),
            })
        }
    });
    match timeout(CONNECT, endpoint.connect_with_connector(connector)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(format!("{shown} can't be reached: {}", innermost(&error))),
        Err(_) => Err(format!("{shown} did not accept within {} s", CONNECT.as_secs())),
    }
}

fn classify(error: &WorkloadApiError) -> Trouble {
    match error {
        WorkloadApiError::NoIdentityIssued => {
            Trouble::Denied("it has no identity for this workload (no identity issued); is there a registration entry?".to_owned())
        }
        WorkloadApiError::PermissionDenied(message) => Trouble::Denied(format!("it refuses this workload: {message}")),
        WorkloadApiError::Transport(TransportError::Status(status))
            if matches!(status.code(), GrpcStatusCode::InvalidArgument | GrpcStatusCode::Unimplemented) =>
        {
            Trouble::Final(format!("it can't serve X.509-SVIDs: {:?}: {}", status.code(), status.message()))
        }
        WorkloadApiError::Transport(TransportError::Status(status)) => Trouble::Retry(format!("{:?}: {}", status.code(), status.message())),
        WorkloadApiError::Transport(other) => Trouble::Retry(innermost(other)),
        malformed => Trouble::Unusable(malformed.to_string()),
    }
}

fn material(context: &X509Context, rules: &Rules) -> Result<Material, MaterialError> {
    let svid = select(context, &rules.select)?;
    let chain = svid.cert_chain().iter().map(|c| CertificateDer::from(c.as_bytes().to_vec())).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.private_key().as_bytes()));
    let svid = Svid::new(chain, &key)?;
    let mut left_out = Vec::new();
    let mut bundles = BTreeMap::new();
    for (trust_domain, bundle) in context.bundle_set().iter() {
        let certificates = bundle.authorities().iter().map(|c| CertificateDer::from(c.as_bytes().to_vec())).collect();
        bundles.insert(trust_domain.clone(), Bundle::new(trust_domain, certificates, &mut left_out));
    }
    Material::new(svid, bundles, left_out, rules.refuse_development)
}

/// The SVID that the configuration asks for; by default the first (Workload API §5.2.1).
fn select<'a>(context: &'a X509Context, select: &Select) -> Result<&'a spiffe::X509Svid, MaterialError> {
    let wanted = context.svids().iter().find(|svid| match (&select.spiffe_id, &select.hint) {
        (Some(id), _) => svid.spiffe_id() == id.get(),
        (None, Some(hint)) => svid.hint() == Some(hint),
        (None, None) => true,
    });
    let offered =
        || context.svids().iter().map(|s| format!("{} (hint `{}`)", s.spiffe_id(), s.hint().unwrap_or(""))).collect::<Vec<_>>().join(", ");
    wanted.map(AsRef::as_ref).ok_or_else(|| MaterialError::NotOffered(offered()))
}

/// A connection of either kind.
enum Either {
    Unix(UnixStream),
    Tcp(TcpStream),
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Either::Unix($stream) => $call,
            Either::Tcp($stream) => $call,
        }
    };
}

impl tokio::io::AsyncRead for Either {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        delegate!(self, s => std::pin::Pin::new(s).poll_read(cx, buf))
    }
}

impl tokio::io::AsyncWrite for Either {
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
