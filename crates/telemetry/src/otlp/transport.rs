//! One request to a collector and its answer, by gRPC or by HTTP.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut, Bytes};
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::ClientConfig;
use sidegate_config::schema::telemetry::{Compression, Protocol, Signal, Target};
use sidegate_config::value::Scheme;
use sidegate_core::{innermost, printable};
use sidegate_net::{HttpClient, read_body};
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{MetadataKey, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tonic_types::{StatusExt, pb};

use super::connect::{connect, port};

/// A collector's answer is a few bytes; one that sends more is none.
const LARGEST_ANSWER: usize = 64 * 1024;

/// Who exports (OTLP exporter specification, "User Agent").
const USER_AGENT_VALUE: &str = concat!("sidegate/", env!("CARGO_PKG_VERSION"), " OTel-OTLP-Exporter-Rust/", env!("CARGO_PKG_VERSION"));

const PROTOBUF: &str = "application/x-protobuf";

/// Makes the TLS configuration of new connections; what it gives is what holds now, after a rotation another.
pub type TlsSource = Arc<dyn Fn() -> Result<Arc<ClientConfig>, String> + Send + Sync>;

/// Why a request failed.
#[derive(Debug)]
pub(crate) struct DeliveryFailure {
    pub(crate) message: String,
    /// Whether the same may succeed later.
    pub(crate) retry: bool,
    /// How long the collector wants to be left alone.
    pub(crate) after: Option<Duration>,
    /// Whether the connection broke, so that the collector gave no answer.
    broken: bool,
}

impl DeliveryFailure {
    fn again(message: impl Into<String>) -> Self {
        Self { message: printable(&message.into()), retry: true, after: None, broken: false }
    }

    fn never(message: String) -> Self {
        Self { message, retry: false, after: None, broken: false }
    }

    /// The connection broke.
    fn broken(error: &dyn std::error::Error) -> Self {
        Self { broken: true, ..Self::again(innermost(error)) }
    }
}

/// The way of one signal to its collector. One request at a time.
pub(crate) struct CollectorTransport {
    signal: Signal,
    target: Target,
    mark: Option<u32>,
    tls: Option<TlsSource>,
    open: Option<Open>,
}

/// An open connection, and the TLS configuration that it was made with.
struct Open {
    client: CollectorClient,
    made_with: Option<Arc<ClientConfig>>,
}

enum CollectorClient {
    Grpc(Grpc<Channel>),
    Http(HttpClient),
}

impl CollectorTransport {
    pub(crate) fn new(signal: Signal, target: Target, mark: Option<u32>, tls: TlsSource) -> Self {
        let tls = (target.address.scheme == Scheme::Https).then_some(tls);
        Self { signal, target, mark, tls, open: None }
    }

    /// Sends `body`, an encoded request, and yields the encoded answer.
    pub(crate) async fn send(&mut self, body: Bytes) -> Result<Bytes, DeliveryFailure> {
        let deadline = self.target.timeout;
        let was_open = self.open.is_some();
        let tries = async {
            match self.exchange(body.clone()).await {
                // Collectors close connections that were idle, or old. That is no failure of theirs.
                Err(failure) if failure.broken && was_open => {
                    self.open = None;
                    self.exchange(body).await
                }
                result => result,
            }
        };
        let result = timeout(deadline, tries).await;
        // A connection that gave an answer, whatever it was, is good for the next request.
        if !matches!(&result, Ok(Ok(_)) | Ok(Err(DeliveryFailure { broken: false, .. }))) {
            self.open = None;
        }
        result.unwrap_or_else(|_| Err(DeliveryFailure::again(format!("no answer within {deadline:?}"))))
    }

    async fn exchange(&mut self, body: Bytes) -> Result<Bytes, DeliveryFailure> {
        let tls = self.tls.as_ref().map(|source| source().map_err(DeliveryFailure::again)).transpose()?;
        let fits = |open: &Open| open.made_with.as_ref().map(Arc::as_ptr) == tls.as_ref().map(Arc::as_ptr);
        // After a rotation the collector shall see the new certificate.
        let open = match self.open.take().filter(fits) {
            Some(open) => open,
            None => Open { client: self.connect(tls.clone()).await?, made_with: tls },
        };
        let open = self.open.insert(open);
        match &mut open.client {
            CollectorClient::Grpc(client) => grpc(client, self.signal, &self.target, body).await,
            CollectorClient::Http(client) => http(client, &self.target, body).await,
        }
    }

    async fn connect(&self, tls: Option<Arc<ClientConfig>>) -> Result<CollectorClient, DeliveryFailure> {
        let tls = tls.map(|config| {
            let mut config = (*config).clone();
            if self.target.protocol == Protocol::Grpc {
                config.alpn_protocols = vec![b"h2".to_vec()];
            }
            Arc::new(config)
        });
        let stream = connect(&self.target, self.mark, tls).await.map_err(|e| DeliveryFailure::again(e.to_string()))?;
        match self.target.protocol {
            Protocol::Grpc => {
                let mut stream = Some(TokioIo::new(stream));
                let scheme = if self.tls.is_some() { "https" } else { "http" };
                let origin =
                    format!("{scheme}://{}", host(&self.target)).parse::<Uri>().map_err(|e| DeliveryFailure::again(e.to_string()))?;
                // TLS is ours: to tonic the connection is a plain one, whatever the requests say.
                let endpoint = Endpoint::from_static("http://collector.invalid").origin(origin).user_agent(USER_AGENT_VALUE);
                let endpoint = endpoint.map_err(|e| DeliveryFailure::again(e.to_string()))?;
                // One stream, one connection: where it ends we connect again, with what holds then.
                let connector = tower::service_fn(move |_: Uri| {
                    let stream = stream.take();
                    async move { stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionAborted)) }
                });
                let channel = endpoint.connect_with_connector(connector).await.map_err(|e| DeliveryFailure::again(innermost(&e)))?;
                let client = Grpc::new(channel).max_decoding_message_size(LARGEST_ANSWER);
                Ok(CollectorClient::Grpc(match self.target.compression {
                    Compression::None => client,
                    // A collector that is sent gzip may answer so.
                    Compression::Gzip => client.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip),
                }))
            }
            Protocol::HttpProtobuf => {
                let client = HttpClient::new(stream).await.map_err(|e| DeliveryFailure::again(innermost(&e)))?;
                Ok(CollectorClient::Http(client))
            }
        }
    }
}

/// Host and port; always the port, for OTLP's are not those of HTTP.
fn host(target: &Target) -> String {
    let address = &target.address;
    if address.scheme == Scheme::Unix {
        return "localhost".to_owned();
    }
    let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
    format!("{host}:{}", port(target))
}

async fn grpc(client: &mut Grpc<Channel>, signal: Signal, target: &Target, body: Bytes) -> Result<Bytes, DeliveryFailure> {
    let path = match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    };
    let mut request = tonic::Request::new(body);
    for (name, value) in &target.headers {
        let (Ok(name), Ok(mut value)) = (MetadataKey::from_bytes(name.as_bytes()), MetadataValue::try_from(value.expose())) else {
            return Err(DeliveryFailure::never(format!("`{name}` is no header")));
        };
        value.set_sensitive(true);
        request.metadata_mut().insert(name, value);
    }
    client.ready().await.map_err(|e| DeliveryFailure::broken(&e))?;
    let path = hyper::http::uri::PathAndQuery::from_static(path);
    client.unary(request, path, Raw).await.map(tonic::Response::into_inner).map_err(|status| refused(&status))
}

/// Which answers invite another try: OTLP specification, "Failures" (gRPC). An exhausted resource does only where the
/// collector says when to come again (RetryInfo): without that it stands for a message that is too large.
fn refused(status: &Status) -> DeliveryFailure {
    let after = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let retry = match status.code() {
        Code::Cancelled | Code::DeadlineExceeded | Code::Aborted | Code::OutOfRange | Code::Unavailable | Code::DataLoss => true,
        Code::ResourceExhausted => after.is_some(),
        _ => false,
    };
    // With a cause it is the connection's end, put as a status; without one it is the collector's own word.
    let cause = std::error::Error::source(status);
    let why = cause.map_or_else(|| status.message().to_owned(), innermost);
    DeliveryFailure {
        message: printable(&format!("{:?}: {why}", status.code())),
        retry: retry || cause.is_some(),
        after,
        broken: cause.is_some(),
    }
}

/// When to come again: seconds, or a date (RFC 9110 §10.2.3).
fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

async fn http(client: &mut HttpClient, target: &Target, body: Bytes) -> Result<Bytes, DeliveryFailure> {
    let bad = |what: &str| DeliveryFailure::never(format!("{what} is not fit for an HTTP request"));
    let mut request = Request::post(&target.path).header(HOST, host(target)).header(CONTENT_TYPE, PROTOBUF);
    if !target.headers.contains_key(USER_AGENT.as_str()) {
        request = request.header(USER_AGENT, USER_AGENT_VALUE);
    }
    for (name, value) in &target.headers {
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_| bad(name))?;
        value.set_sensitive(true);
        request = request.header(HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(name))?, value);
    }
    let body = match target.compression {
        Compression::None => body,
        Compression::Gzip => {
            request = request.header(CONTENT_ENCODING, "gzip");
            let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
            encoder.write_all(&body).and_then(|()| encoder.finish()).map_err(|e| DeliveryFailure::again(e.to_string()))?.into()
        }
    };
    let request = request.body(body).map_err(|_| bad("the endpoint's path"))?;
    let response = client.send(request).await.map_err(|e| DeliveryFailure::broken(&e))?;
    let status = response.status();
    let after = response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value, SystemTime::now()));
    let is_protobuf = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(PROTOBUF.as_bytes()));
    let answer = read_body(response.into_body(), LARGEST_ANSWER).await;
    if status.is_success() {
        return answer.map_err(|e| DeliveryFailure { broken: true, ..DeliveryFailure::again(e) });
    }
    // OTLP specification, "Retryable Response Codes" (HTTP).
    let retry = [StatusCode::TOO_MANY_REQUESTS, StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT]
        .contains(&status);
    // The body of a failure is a Status (OTLP specification, "OTLP/HTTP Response", Failures).
    let said = answer.as_ref().ok().filter(|_| is_protobuf).and_then(|body| pb::Status::decode(body.clone()).ok());
    let said = said.map(|status| status.message).filter(|message| !message.is_empty());
    let said = said.map_or_else(String::new, |message| format!(": {message}"));
    Err(DeliveryFailure { message: printable(&format!("it answered {status}{said}")), retry, after, broken: answer.is_err() })
}

/// Messages that are encoded already: one way for all signals and both protocols.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;
    use tonic_types::ErrorDetails;

    #[test]
    fn a_collector_says_when_to_come_again() {
        let wait = Duration::from_secs(7);
        let status = |code, details: Option<ErrorDetails>| match details {
            Some(details) => Status::with_error_details(code, "full", details),
            None => Status::new(code, "full"),
        };
        for (code, details, retry, after) in [
            (Code::Unavailable, Some(ErrorDetails::with_retry_info(Some(wait))), true, Some(wait)),
            (Code::Unavailable, None, true, None),
            (Code::ResourceExhausted, Some(ErrorDetails::with_retry_info(Some(wait))), true, Some(wait)),
            (Code::ResourceExhausted, Some(ErrorDetails::with_debug_info(Vec::<String>::new(), "x")), false, None),
            (Code::ResourceExhausted, None, false, None),
            (Code::InvalidArgument, None, false, None),
        ] {
            let failure = refused(&status(code, details));
            assert_eq!((failure.retry, failure.after), (retry, after), "{code:?}");
        }
    }

    #[test]
    fn a_date_is_as_good_as_seconds() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, after) in [
            ("120", Some(120)),
            (" 0", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:49:38 GMT", Some(1)),
            ("Sun, 06 Nov 1994 08:49:36 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(retry_after(&HeaderValue::from_static(value), now), after.map(Duration::from_secs), "{value}");
        }
    }
}
