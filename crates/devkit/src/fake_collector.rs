//! A collector that lives in this process: for the demo, development and tests. It speaks OTLP by gRPC and by HTTP on one port, keeps what it
//! is given, and can [misbehave](Behaviour).
//!
//! ```text
//! exporter -- gRPC or HTTP, plain, TLS or Unix socket --> Behaviour: take, hang, refuse, be slow
//!                                                             |
//!                                          asked (all), received, spans, metrics, logs (what was taken)
//! ```
//!
//! ```
//! use sidegate_devkit::fake_collector::{Behaviour, FakeCollector, ListenOn};
//!
//! let collector = FakeCollector::start(ListenOn::Tcp("127.0.0.1:0".parse()?, None), 100)?;
//! // From now on exporters are told to come again.
//! collector.behave(Behaviour::Unavailable);
//! println!("telemetry: {{ otlp: {{ endpoint: \"http://{}\" }} }}", collector.address().ok_or("it has no address")?);
//! assert_eq!((collector.requests(), collector.spans().len()), (0, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it guarantees: it keeps the last requests only, as many as it is told to; every request is counted, whatever the answer; dropping it ends
//! its thread and closes all its connections.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener as StdTcp};
use std::os::unix::net::UnixListener as StdUnix;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression as Level;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

pub use opentelemetry_proto::tonic as otlp;

/// What bytes pass through, whatever it is.
trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// For the TLS handshake of a client.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After a failed accept, such as for want of descriptors, which does not go away by asking.
const PAUSE: Duration = Duration::from_millis(100);

/// What the collector says where it refuses a request.
pub const REFUSAL: &str = "the collector refuses it";

/// What a request held.
#[derive(Debug, Clone)]
pub enum Body {
    /// Spans.
    Traces(ExportTraceServiceRequest),
    /// Metrics.
    Metrics(ExportMetricsServiceRequest),
    /// Log records.
    Logs(ExportLogsServiceRequest),
}

/// A request that was taken.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// Its path.
    pub path: String,
    /// The leaf of the client's certificate.
    pub client: Option<Vec<u8>>,
    /// What it held.
    pub body: Body,
}

/// A request that came, whatever the answer.
#[derive(Debug, Clone)]
pub struct Asked {
    /// When it came.
    pub at: Instant,
    /// Its path.
    pub path: String,
    /// How it is answered.
    pub behaviour: Behaviour,
}

/// How the collector answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// As it should.
    #[default]
    Take,
    /// It takes everything unread and keeps nothing: for benchmarks.
    Discard,
    /// Never.
    Hang,
    /// As it should, but only after this long.
    Slow(Duration),
    /// Not now: try again.
    Unavailable,
    /// Not now: try again after this long. HTTP says it as a date, in whole seconds.
    Throttle(Duration),
    /// It is too large: gRPC's exhausted resource without a time to come again.
    TooLarge,
    /// Not ever: the request is wrong.
    Invalid,
    /// It takes all but this many items of each request.
    Reject(i64),
}

/// Where the collector listens.
#[derive(Debug)]
pub enum ListenOn {
    /// TCP; with TLS if there is a configuration.
    Tcp(SocketAddr, Option<Arc<ServerConfig>>),
    /// A Unix socket.
    Unix(PathBuf),
}

#[derive(Debug, Default)]
struct Kept {
    received: VecDeque<Received>,
    asked: VecDeque<Asked>,
    /// Spans, data points and log records of all requests that were taken, kept or not.
    items: [u64; 3],
    behaviour: Behaviour,
    /// How often somebody asked, whatever the answer.
    requests: u64,
}

/// A running collector. Dropping it closes all its connections.
#[derive(Debug)]
pub struct FakeCollector {
    kept: Arc<Mutex<Kept>>,
    address: Option<SocketAddr>,
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

enum Listener {
    Tcp(TcpListener, Option<TlsAcceptor>),
    Unix(UnixListener),
}

impl FakeCollector {
    /// Starts a collector that keeps the last `keep` requests.
    ///
    /// # Errors
    /// If nobody can listen there, or the system gives no thread.
    pub fn start(on: ListenOn, keep: usize) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (listener, address) = {
            let _entered = runtime.enter();
            match on {
                ListenOn::Tcp(address, tls) => {
                    let listener = StdTcp::bind(address)?;
                    listener.set_nonblocking(true)?;
                    let address = listener.local_addr()?;
                    (Listener::Tcp(TcpListener::from_std(listener)?, tls.map(TlsAcceptor::from)), Some(address))
                }
                ListenOn::Unix(path) => {
                    let listener = StdUnix::bind(path)?;
                    listener.set_nonblocking(true)?;
                    (Listener::Unix(UnixListener::from_std(listener)?), None)
                }
            }
        };
        let kept = Arc::new(Mutex::new(Kept::default()));
        let (stop, mut stopped) = watch::channel(());
        let shared = kept.clone();
        let thread = std::thread::Builder::new().name("fake-collector".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! { () = accept(listener, shared, keep) => {} _ = stopped.changed() => {} }
            });
        })?;
        Ok(Self { kept, address, stop: Some(stop), thread: Some(thread) })
    }

    /// Its address, if it has one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }

    /// Answers like this from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.kept().behaviour = behaviour;
    }

    /// The requests that it keeps.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.kept().received.iter().cloned().collect()
    }

    /// The last requests that came, as many as it keeps.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.kept().asked.iter().cloned().collect()
    }

    /// How many spans, data points and log records it has taken.
    #[must_use]
    pub fn items(&self) -> [u64; 3] {
        self.kept().items
    }

    /// How often it was asked, whatever it answered.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.kept().requests
    }

    /// The spans that it keeps.
    #[must_use]
    pub fn spans(&self) -> Vec<otlp::trace::v1::Span> {
        let traces = self.received().into_iter().filter_map(|r| if let Body::Traces(traces) = r.body { Some(traces) } else { None });
        traces.flat_map(|t| t.resource_spans).flat_map(|r| r.scope_spans).flat_map(|s| s.spans).collect()
    }

    /// The log records that it keeps.
    #[must_use]
    pub fn logs(&self) -> Vec<otlp::logs::v1::LogRecord> {
        let logs = self.received().into_iter().filter_map(|r| if let Body::Logs(logs) = r.body { Some(logs) } else { None });
        logs.flat_map(|l| l.resource_logs).flat_map(|r| r.scope_logs).flat_map(|s| s.log_records).collect()
    }

    /// The metrics of the last request that had some.
    #[must_use]
    pub fn metrics(&self) -> Vec<otlp::metrics::v1::Metric> {
        let metrics = self.received().into_iter().rev().find_map(|r| if let Body::Metrics(m) = r.body { Some(m) } else { None });
        metrics.into_iter().flat_map(|m| m.resource_metrics).flat_map(|r| r.scope_metrics).flat_map(|s| s.metrics).collect()
    }
}

impl Drop for FakeCollector {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: Listener, kept: Arc<Mutex<Kept>>, keep: usize) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let kept = kept.clone();
        match &listener {
            Listener::Tcp(listener, tls) => {
                let Ok((tcp, _)) = listener.accept().await else {
                    sleep(PAUSE).await;
                    continue;
                };
                let tls = tls.clone();
                connections.spawn(async move {
                    let Some(tls) = tls else { return converse(Box::new(tcp), None, kept, keep).await };
                    let Ok(Ok(stream)) = timeout(HANDSHAKE, tls.accept(tcp)).await else { return };
                    let client = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
                    converse(Box::new(stream), client, kept, keep).await;
                });
            }
            Listener::Unix(listener) => {
                let Ok((unix, _)) = listener.accept().await else {
                    sleep(PAUSE).await;
                    continue;
                };
                connections.spawn(converse(Box::new(unix), None, kept, keep));
            }
        }
    }
}

async fn converse(stream: Box<dyn ByteStream>, client: Option<Vec<u8>>, kept: Arc<Mutex<Kept>>, keep: usize) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (kept, client) = (kept.clone(), client.clone());
        async move { Ok::<_, Infallible>(answer(request, client, &kept, keep).await) }
    });
    // A client that breaks off gets no answer.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

type CollectorAnswer = Response<BoxBody<Bytes, Infallible>>;

async fn answer(request: Request<Incoming>, client: Option<Vec<u8>>, kept: &Mutex<Kept>, keep: usize) -> CollectorAnswer {
    let path = request.uri().path().to_owned();
    let behaviour = {
        let mut kept = lock(kept);
        kept.requests += 1;
        let behaviour = kept.behaviour;
        push(&mut kept.asked, Asked { at: Instant::now(), path: path.clone(), behaviour }, keep);
        behaviour
    };
    match behaviour {
        Behaviour::Hang => std::future::pending().await,
        Behaviour::Slow(time) => sleep(time).await,
        _ => {}
    }
    let headers = request.headers().iter().filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned()))).collect();
    let is_grpc = request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let gzipped = request.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip");
    let speaks_gzip = request.headers().get("grpc-encoding").is_some_and(|encoding| encoding == "gzip");
    let respond = |result| if is_grpc { grpc(result, speaks_gzip) } else { http(result) };
    if let Some(refusal) = refusal(behaviour) {
        return respond(Err(refusal));
    }
    let Ok(body) = request.into_body().collect().await.map(http_body_util::Collected::to_bytes) else {
        return respond(Err(FakeRefusal::new(Code::Internal, StatusCode::BAD_REQUEST)));
    };
    if behaviour == Behaviour::Discard {
        return respond(Ok(Vec::new()));
    }
    let Some(body) = plain(&body, is_grpc, gzipped).and_then(|plain| parse(&path, plain)) else {
        return respond(Err(FakeRefusal::new(Code::InvalidArgument, StatusCode::BAD_REQUEST)));
    };
    let rejected = if let Behaviour::Reject(count) = behaviour { count } else { 0 };
    let (which, count, response) = take(&body, rejected);
    let mut kept = lock(kept);
    kept.items[which] += count - u64::try_from(rejected).unwrap_or(0).min(count);
    push(&mut kept.received, Received { headers, path, client, body }, keep);
    respond(Ok(response))
}

/// Adds to the last `keep`.
fn push<T>(last: &mut VecDeque<T>, new: T, keep: usize) {
    last.push_back(new);
    while last.len() > keep {
        last.pop_front();
    }
}

/// An answer that is no success, by either protocol.
struct FakeRefusal {
    code: Code,
    status: StatusCode,
    after: Option<Duration>,
}

impl FakeRefusal {
    fn new(code: Code, status: StatusCode) -> Self {
        Self { code, status, after: None }
    }

    /// The same as gRPC says it.
    fn grpc(&self) -> Status {
        let mut details = ErrorDetails::new();
        if self.after.is_some() {
            details.set_retry_info(self.after);
        }
        Status::with_error_details(self.code, REFUSAL, details)
    }
}

/// How `behaviour` refuses a request, if it does.
fn refusal(behaviour: Behaviour) -> Option<FakeRefusal> {
    match behaviour {
        Behaviour::Unavailable => Some(FakeRefusal::new(Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE)),
        Behaviour::Throttle(after) => {
            Some(FakeRefusal { after: Some(after), ..FakeRefusal::new(Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS) })
        }
        Behaviour::TooLarge => Some(FakeRefusal::new(Code::ResourceExhausted, StatusCode::PAYLOAD_TOO_LARGE)),
        Behaviour::Invalid => Some(FakeRefusal::new(Code::InvalidArgument, StatusCode::BAD_REQUEST)),
        _ => None,
    }
}

/// The message of a request's body, unpacked.
fn plain(body: &[u8], is_grpc: bool, gzipped: bool) -> Option<Vec<u8>> {
    // A gRPC message: a flag, four bytes of length, the message.
    let (packed, message) = if is_grpc { (body.first() == Some(&1), body.get(5..)?) } else { (gzipped, body) };
    if !packed {
        return Some(message.to_vec());
    }
    let mut plain = Vec::new();
    GzDecoder::new(message).read_to_end(&mut plain).ok()?;
    Some(plain)
}

#[allow(clippy::needless_pass_by_value, reason = "decoded where it is")]
fn parse(path: &str, message: Vec<u8>) -> Option<Body> {
    let message = message.as_slice();
    if path.contains("TraceService") || path.ends_with("/traces") {
        ExportTraceServiceRequest::decode(message).ok().map(Body::Traces)
    } else if path.contains("MetricsService") || path.ends_with("/metrics") {
        ExportMetricsServiceRequest::decode(message).ok().map(Body::Metrics)
    } else {
        ExportLogsServiceRequest::decode(message).ok().map(Body::Logs)
    }
}

/// Which signal it is, how many items it has, and the answer.
fn take(body: &Body, rejected: i64) -> (usize, u64, Vec<u8>) {
    let because = || "the collector was told to".to_owned();
    match body {
        Body::Traces(request) => {
            let scopes = request.resource_spans.iter().flat_map(|r| &r.scope_spans);
            let partial = ExportTracePartialSuccess { rejected_spans: rejected, error_message: because() };
            let partial_success = (rejected > 0).then_some(partial);
            (0, scopes.map(|s| s.spans.len() as u64).sum(), ExportTraceServiceResponse { partial_success }.encode_to_vec())
        }
        Body::Metrics(request) => {
            let metrics = request.resource_metrics.iter().flat_map(|r| &r.scope_metrics).flat_map(|s| &s.metrics);
            let partial = ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message: because() };
            let partial_success = (rejected > 0).then_some(partial);
            (1, metrics.map(points).sum(), ExportMetricsServiceResponse { partial_success }.encode_to_vec())
        }
        Body::Logs(request) => {
            let scopes = request.resource_logs.iter().flat_map(|r| &r.scope_logs);
            let partial = ExportLogsPartialSuccess { rejected_log_records: rejected, error_message: because() };
            let partial_success = (rejected > 0).then_some(partial);
            (2, scopes.map(|s| s.log_records.len() as u64).sum(), ExportLogsServiceResponse { partial_success }.encode_to_vec())
        }
    }
}

fn points(metric: &otlp::metrics::v1::Metric) -> u64 {
    use otlp::metrics::v1::metric::Data;
    let points = match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        Some(Data::ExponentialHistogram(histogram)) => histogram.data_points.len(),
        _ => 0,
    };
    points as u64
}

/// Answers as it was spoken to, as collectors do.
fn grpc(result: Result<Vec<u8>, FakeRefusal>, gzip: bool) -> CollectorAnswer {
    let (status, body) = match result {
        Ok(mut message) => {
            if gzip {
                let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
                let packed = encoder.write_all(&message).and_then(|()| encoder.finish());
                message = packed.unwrap_or_default();
            }
            let mut framed = BytesMut::with_capacity(message.len() + 5);
            framed.put_u8(u8::from(gzip));
            framed.put_u32(u32::try_from(message.len()).unwrap_or(0));
            framed.put_slice(&message);
            (Status::new(Code::Ok, ""), framed.freeze())
        }
        Err(refusal) => (refusal.grpc(), Bytes::new()),
    };
    let mut trailers = HeaderMap::new();
    // All that we say is fit for a header.
    let _ = status.add_header(&mut trailers);
    let body = Full::new(body).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(BoxBody::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if gzip {
        response.headers_mut().insert("grpc-encoding", HeaderValue::from_static("gzip"));
    }
    response
}

fn http(result: Result<Vec<u8>, FakeRefusal>) -> CollectorAnswer {
    let (status, after, body) = match result {
        Ok(message) => (StatusCode::OK, None, message.into()),
        // The details of a status are itself as a message.
        Err(refusal) => (refusal.status, refusal.after, Bytes::copy_from_slice(refusal.grpc().details())),
    };
    let mut response = Response::new(BoxBody::new(Full::new(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    let date = after.map(|after| httpdate::fmt_http_date(SystemTime::now() + after));
    if let Some(date) = date.and_then(|date| HeaderValue::from_str(&date).ok()) {
        response.headers_mut().insert(RETRY_AFTER, date);
    }
    response
}
