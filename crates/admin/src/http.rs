//! HTTP probes, the metrics scrape and the status page.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use sidegate_config::schema::Probe;
use sidegate_core::{event, without_controls};
use sidegate_net::source;
use sidegate_proxy::{Readiness, Shared};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use crate::app_probes::AppProbes;
use crate::negotiate::negotiate;
use crate::response::text;
use crate::shared_bodies::{BodyKind, SharedBodies, compressed};
use crate::status_page::StatusPage;

/// Probes and a scraper need few connections. The data plane leaves descriptors for them (`RESERVED` in `proxy/src/limits.rs`).
const CONNECTIONS: usize = 64;
/// The timeout of a whole connection, beside the longest check of the application: a probe takes a moment, and a client that stays
/// longer opens another.
const DEADLINE: Duration = Duration::from_secs(30);
/// The timeout of a request's head, also on a kept connection.
const HEADER: Duration = Duration::from_secs(5);
/// A head is no longer than this: hyper refuses a longer one.
const LONGEST_HEADER: usize = 16 * 1024;
/// What the kernel holds while the control plane is busy; it caps this at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// The pause after accept has failed. A probe's client waits for a second.
const PAUSE: Duration = Duration::from_millis(100);

/// The admin address can't be bound.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {0} for admin.listen: {1}; is another sidegate running?")]
pub struct AdminError(SocketAddr, io::Error);

/// The admin listener, bound.
#[derive(Debug)]
pub struct ProbeServer {
    listener: StdListener,
    probes: AppProbes,
}

/// What answers are made of.
struct Answers {
    shared: Arc<Shared>,
    bodies: SharedBodies,
    probes: AppProbes,
    page: Option<StatusPage>,
}

impl ProbeServer {
    /// Binds `address`. `probes` are the checks of the application that may be asked for.
    ///
    /// # Errors
    /// If the address can't be bound.
    pub fn bind(address: SocketAddr, probes: &[Probe]) -> Result<Self, AdminError> {
        let bind = || -> io::Result<StdListener> {
            let listener = StdListener::bind(address)?;
            // Again, since the standard library's backlog is 128: a burst of strangers would fill it, and a probe wait a second.
            SockRef::from(&listener).listen(BACKLOG)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        match bind() {
            Ok(listener) => Ok(Self { listener, probes: AppProbes::new(probes) }),
            Err(error) => Err(AdminError(address, error)),
        }
    }

    /// Serves until dropped, with the status page if there is one.
    pub async fn serve(self, shared: Arc<Shared>, page: Option<StatusPage>) {
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(event = event::ADMIN_UNAVAILABLE, "the admin port can't be served: {error}"),
        };
        let deadline = DEADLINE + self.probes.longest();
        let answers = Arc::new(Answers { shared: shared.clone(), bodies: SharedBodies::default(), probes: self.probes, page });
        let mut open = OpenConnections::default();
        // They end with this task.
        let mut tasks = JoinSet::new();
        loop {
            match listener.accept().await {
                Ok((tcp, from)) => {
                    while tasks.try_join_next().is_some() {}
                    if open.make_room() {
                        shared.telemetry.metrics.admin_evicted().inc();
                    }
                    let heard = open.next();
                    let conversation = converse(tcp, from.ip(), answers.clone(), heard.clone());
                    let task = tasks.spawn(async move {
                        let _ = timeout(deadline, conversation).await;
                    });
                    open.connections.push(OpenConnection { from: source(from.ip()), heard: heard.at, task });
                    // Each has its turn before the next is accepted: a request that came with its connection is answered whatever
                    // comes after it, and an evicted connection's descriptor is free.
                    yield_now().await;
                }
                Err(error) => {
                    tracing::warn!(event = event::ACCEPT_FAILED, "accept on the admin port failed, trying again: {error}");
                    // Most likely there are no descriptors: the longest silent connection has one.
                    if open.evict() {
                        shared.telemetry.metrics.admin_evicted().inc();
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// The open connections, up to the bound.
#[derive(Default)]
struct OpenConnections {
    connections: Vec<OpenConnection>,
    /// A logical clock that counts connections and requests.
    clock: Arc<AtomicU64>,
}

struct OpenConnection {
    from: IpAddr,
    /// The time of its last request, or of its accept, by the logical clock.
    heard: Arc<AtomicU64>,
    task: AbortHandle,
}

/// Marks the time of a connection's last request.
#[derive(Clone)]
struct ActivityMark {
    clock: Arc<AtomicU64>,
    at: Arc<AtomicU64>,
}

impl ActivityMark {
    fn now(&self) {
        self.at.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl OpenConnections {
    fn next(&self) -> ActivityMark {
        let heard = ActivityMark { clock: self.clock.clone(), at: Arc::default() };
        heard.now();
        heard
    }

    /// Makes room for a connection. Returns whether another one was closed for that.
    fn make_room(&mut self) -> bool {
        self.connections.retain(|connection| !connection.task.is_finished());
        self.connections.len() >= CONNECTIONS && self.evict()
    }

    /// Closes the longest silent connection of the source that holds the most, so that a source that opens many connections only
    /// displaces its own.
    fn evict(&mut self) -> bool {
        let held = |from: IpAddr| self.connections.iter().filter(|connection| connection.from == from).count();
        let most = |c: &OpenConnection| (held(c.from), std::cmp::Reverse(c.heard.load(Ordering::Relaxed)));
        let victim = (0..self.connections.len()).max_by_key(|index| most(&self.connections[*index]));
        if let Some(victim) = victim {
            self.connections.swap_remove(victim).task.abort();
        }
        victim.is_some()
    }
}

async fn converse(tcp: TcpStream, from: IpAddr, answers: Arc<Answers>, heard: ActivityMark) {
    let service = service_fn(move |request: Request<Incoming>| {
        heard.now();
        let answers = answers.clone();
        async move {
            let mut response = answer(&request, from, &answers).await;
            if !asks_to_keep(request.headers()) {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER).max_buf_size(LONGEST_HEADER);
    // A client that disconnects gets no answer.
    let _ = http.serve_connection(TokioIo::new(tcp), service).await;
}

/// HTTP/1.1 keeps a connection unless told otherwise; here it has to be asked for, since places are few.
fn asks_to_keep(headers: &HeaderMap) -> bool {
    let words = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    words.map(str::trim).any(|word| word.eq_ignore_ascii_case("keep-alive"))
}

async fn answer(request: &Request<Incoming>, from: IpAddr, answers: &Answers) -> Response<Full<Bytes>> {
    let Answers { shared, bodies, probes, page } = answers;
    let page = page.as_ref().filter(|page| page.is_for(from));
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    if let Some(page) = page
        && let Some(response) = page.answer(request, bodies).await
    {
        return response;
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/startupz" if shared.has_started() => text(StatusCode::OK, "ok\n"),
        "/startupz" | "/readyz" => match shared.readiness() {
            Readiness::Ready => text(StatusCode::OK, "ok\n"),
            Readiness::NotReady(lines) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready\n{}\n", lines.iter().map(|line| without_controls(line)).collect::<Vec<_>>().join("\n")),
            ),
        },
        "/metrics" => {
            let (form, content_type) = negotiate(request.headers());
            let make = || {
                let text = shared.telemetry.scrape(form.format);
                Ok(Bytes::from(if form.gzip { compressed(&text)? } else { text.into_bytes() }))
            };
            let Ok(body) = bodies.body(BodyKind::Scrape(form), make).await else {
                return text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be compressed\n");
            };
            let mut response = text(StatusCode::OK, body);
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
            if form.gzip {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            response
        }
        path => match probes.answer(path, shared).await {
            Some((status, said)) => text(status, said),
            None if page.is_some() => {
                text(StatusCode::NOT_FOUND, "there are /livez, /readyz, /startupz, /metrics, /status and the paths in admin.probes\n")
            }
            None => text(StatusCode::NOT_FOUND, "there are /livez, /readyz, /startupz, /metrics and the paths in admin.probes\n"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_kept_only_for_who_asks() {
        let keeps = |value: &'static str| asks_to_keep(&HeaderMap::from_iter([(CONNECTION, HeaderValue::from_static(value))]));
        assert!(keeps("keep-alive") && keeps("TE, Keep-Alive"));
        assert!(!keeps("close") && !asks_to_keep(&HeaderMap::new()));
    }

    /// A scraper with one connection keeps it while another source opens more connections than the bound.
    #[tokio::test]
    async fn who_holds_the_most_gives_way_the_longest_silent_first() {
        let mut open = OpenConnections::default();
        let mut tasks = JoinSet::new();
        let mut add = |open: &mut OpenConnections, from: u8| {
            let heard = open.next();
            let task = tasks.spawn(std::future::pending::<()>());
            open.connections.push(OpenConnection { from: IpAddr::from([10, 0, 0, from]), heard: heard.at.clone(), task });
            heard
        };
        let scraper = add(&mut open, 1);
        let first = add(&mut open, 2);
        for _ in 2..CONNECTIONS {
            add(&mut open, 2);
        }
        first.now();
        let silent = open.connections[2].heard.clone();
        for _ in 0..1000 {
            assert!(open.make_room());
            add(&mut open, 2);
            assert_eq!(open.connections.len(), CONNECTIONS);
        }
        let has = |at: &Arc<AtomicU64>| open.connections.iter().any(|c| Arc::ptr_eq(&c.heard, at));
        assert!(has(&scraper.at) && !has(&silent) && !has(&first.at));
    }
}
