//! The admission webhook: an HTTPS server for the API server.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use sidegate_core::event;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::certificate::Certificate;
use crate::config::{ControllerConfig, SidecarConfig, Webhook};
use crate::review::review;

/// The path that reviews are posted to.
const INJECT_PATH: &str = "/inject";
/// An object in etcd has at most 1.5 MiB, and its review little more.
const LONGEST_REVIEW: usize = 4 * 1024 * 1024;
/// API servers keep connections and use each for many reviews.
const CONNECTIONS: usize = 256;
/// Reviews that are read or answered at once: each may have [`LONGEST_REVIEW`].
const REVIEWS: usize = 8;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The timeout of a request's head, also on a kept connection: an API server opens another.
const HEADER: Duration = Duration::from_secs(5);
/// The timeout of a whole connection, also of one whose client reads nothing.
const DEADLINE: Duration = Duration::from_secs(60);
/// The API server waits for ten seconds if nothing else is configured.
const BODY: Duration = Duration::from_secs(10);
/// How long reviews that have begun are answered when the controller ends.
pub const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// The pause after accept has failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Why the webhook can't be served.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Its address can't be bound.
    #[error("can't listen on {0} for webhook.listen: {1}; is another controller running?")]
    Bind(SocketAddr, io::Error),
    /// Its certificate can't be used.
    #[error("the webhook's certificate can't be used: {0}")]
    Certificate(String),
    /// TLS can't be configured.
    #[error("TLS can't be configured: {0}")]
    Tls(#[from] rustls::Error),
    /// There is no section for it.
    #[error("the configuration has no `webhook`; name its certificate and key there")]
    NotConfigured,
}

/// The webhook, bound, with its certificate.
#[derive(Debug)]
pub struct WebhookServer {
    listener: StdListener,
    certificate: Arc<Certificate>,
    tls: Arc<ServerConfig>,
    /// Where the certificate comes from.
    files: Webhook,
    sidecar: Arc<SidecarConfig>,
}

impl WebhookServer {
    /// Binds the address of `config`, and reads the certificate.
    ///
    /// # Errors
    /// If the address can't be bound, or the certificate can't be used.
    pub fn bind(config: ControllerConfig) -> Result<Self, WebhookError> {
        let files = config.webhook.ok_or(WebhookError::NotConfigured)?;
        let certificate = Certificate::load(&files).map_err(|error| WebhookError::Certificate(error.to_string()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let tls = Arc::new(tls.with_no_client_auth().with_cert_resolver(certificate.clone()));
        let address = files.listen.0;
        let bind = || {
            let listener = StdListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = bind().map_err(|error| WebhookError::Bind(address, error))?;
        Ok(Self { listener, certificate, tls, files, sidecar: Arc::new(config.sidecar) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` ends, and then answers the reviews that have begun, for at most [`LAST_ANSWERS`].
    ///
    /// # Errors
    /// If the listener can't be used on this runtime.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let acceptor = TlsAcceptor::from(self.tls);
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        // All end with this task.
        let mut files = JoinSet::new();
        files.spawn(self.certificate.follow(self.files));
        let mut tasks = JoinSet::new();
        let stopping = watch::Sender::new(false);
        tokio::pin!(stop);
        loop {
            let next = async {
                // Further clients wait in the kernel's queue.
                let permit = room.clone().acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = &mut stop => break,
                next = next => next,
            };
            match accepted {
                Ok((tcp, _)) => {
                    while tasks.try_join_next().is_some() {}
                    let (acceptor, sidecar, stopped) = (acceptor.clone(), self.sidecar.clone(), stopping.subscribe());
                    tasks.spawn(async move {
                        serve_connection(tcp, acceptor, sidecar, stopped).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::error!(event = event::ACCEPT_FAILED, "accept failed, trying again: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
        drop(listener);
        stopping.send_replace(true);
        let _ = timeout(LAST_ANSWERS, async { while tasks.join_next().await.is_some() {} }).await;
        Ok(())
    }
}

async fn serve_connection(tcp: TcpStream, acceptor: TlsAcceptor, sidecar: Arc<SidecarConfig>, mut stopped: watch::Receiver<bool>) {
    let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(tcp)).await else { return };
    let service = service_fn(move |request| answer(request, sidecar.clone()));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = async {
        tokio::select! {
            result = connection.as_mut() => result,
            () = async { drop(stopped.wait_for(|stopped| *stopped).await) } => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Ok(Err(error)) = timeout(DEADLINE, served).await {
        tracing::debug!(event = event::WEBHOOK_CONNECTION, "a connection to the webhook ended: {error}");
    }
}

async fn answer(request: Request<Incoming>, sidecar: Arc<SidecarConfig>) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = |status, text: &'static str| response(status, "text/plain; charset=utf-8", text.into());
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
        (&Method::POST, INJECT_PATH) => {
            static REVIEWING: Semaphore = Semaphore::const_new(REVIEWS);
            const TOO_LONG: &str = "the review can't be read, or is longer than 4 MiB\n";
            if request.body().size_hint().lower() > LONGEST_REVIEW as u64 {
                return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, TOO_LONG));
            }
            let Ok(Ok(_permit)) = timeout(BODY, REVIEWING.acquire()).await else {
                return Ok(text(StatusCode::SERVICE_UNAVAILABLE, "too many reviews at once\n"));
            };
            let body = match timeout(BODY, Limited::new(request.into_body(), LONGEST_REVIEW).collect()).await {
                Ok(Ok(body)) => body.to_bytes(),
                Ok(Err(_)) => return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, TOO_LONG)),
                Err(_) => return Ok(text(StatusCode::REQUEST_TIMEOUT, "the review did not come in time\n")),
            };
            let answer = serde_json::from_slice(&body).ok().and_then(|body| review(&body, &sidecar));
            match answer {
                Some(answer) => response(StatusCode::OK, "application/json", answer.to_string().into()),
                None => text(StatusCode::BAD_REQUEST, "this is no AdmissionReview of admission.k8s.io/v1\n"),
            }
        }
        (_, INJECT_PATH | "/healthz") => text(StatusCode::METHOD_NOT_ALLOWED, "POST /inject, GET /healthz\n"),
        _ => text(StatusCode::NOT_FOUND, "there are /inject and /healthz\n"),
    })
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}
