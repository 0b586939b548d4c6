//! HTTP probes and the metrics scrape.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use sidegate_core::event;
use sidegate_proxy::{Phase, Readiness, Shared};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Probes and a scraper need few connections; more are refused, so that nobody takes the control plane's descriptors.
const CONNECTIONS: usize = 64;
/// For a whole connection: a probe is done in a moment, and whoever keeps one open may open it anew.
const DEADLINE: Duration = Duration::from_secs(30);
const HEADER: Duration = Duration::from_secs(5);

/// The admin address can't be had.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {0} for admin.listen: {1}; is another sidegate running?")]
pub struct AdminError(SocketAddr, std::io::Error);

/// The admin listener, bound.
#[derive(Debug)]
pub struct Admin(StdListener);

impl Admin {
    /// Binds `address`.
    ///
    /// # Errors
    /// If the address can't be had.
    pub fn bind(address: SocketAddr) -> Result<Self, AdminError> {
        let listener = StdListener::bind(address).and_then(|l| l.set_nonblocking(true).map(|()| l));
        listener.map(Self).map_err(|e| AdminError(address, e))
    }

    /// Serves until dropped.
    pub async fn serve(self, shared: Arc<Shared>) {
        let listener = match TcpListener::from_std(self.0) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(event = event::ADMIN_UNAVAILABLE, "the admin port can't be served: {error}"),
        };
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            match listener.accept().await {
                Ok((tcp, _)) => {
                    while connections.try_join_next().is_some() {}
                    if let Ok(place) = places.clone().try_acquire_owned() {
                        let shared = shared.clone();
                        connections.spawn(async move {
                            let _ = timeout(DEADLINE, converse(tcp, shared)).await;
                            drop(place);
                        });
                    }
                }
                Err(error) => {
                    tracing::warn!(event = event::ACCEPT_FAILED, "accept on the admin port failed, trying again: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

async fn converse(tcp: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &shared);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER).max_buf_size(16 * 1024);
    // Whoever breaks off has only itself to tell.
    let _ = http.serve_connection(TokioIo::new(tcp), service).await;
}

fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    let phase = *shared.phase.borrow();
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/startupz" if phase >= Phase::Serving => text(StatusCode::OK, "ok\n"),
        "/startupz" | "/readyz" => match shared.readiness() {
            Readiness::Ready => text(StatusCode::OK, "ok\n"),
            Readiness::NotReady(lines) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", lines.join("\n"))),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, shared.telemetry.scrape());
            let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz, /startupz and /metrics\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
