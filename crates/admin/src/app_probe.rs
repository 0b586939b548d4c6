//! One health check of the application over loopback, as a kubelet makes it: by HTTP, TCP or gRPC.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::http::uri::{Authority, PathAndQuery};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, PeerIncompatible, SignatureScheme};
use sidegate_config::schema::{GrpcProbe, HttpProbe, Probe, ProbeScheme};
use sidegate_config::value::Span;
use sidegate_net::{Dialing, HttpClient};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

/// Applications and their logs know a kubelet by `kube-probe/`.
const AGENT: &str = "kube-probe/sidegate";
/// How much of a body is read before the connection is closed, as by a kubelet. None of it is kept.
const LONGEST_BODY: usize = 10 * 1024;
/// An answer of the health checking protocol has two bytes.
const LONGEST_MESSAGE: usize = 1024;
/// Headers of an answer by gRPC.
const LONGEST_HEADERS: u32 = 16 * 1024;
/// The path of gRPC's health checking protocol.
const CHECK: &str = "/grpc.health.v1.Health/Check";
/// The status of a service that works.
const SERVING: i32 = 1;

/// A health check.
#[derive(Debug)]
pub(crate) struct AppProbe {
    check: Check,
    deadline: Duration,
}

#[derive(Debug)]
enum Check {
    Http(HttpProbe),
    Tcp(u16),
    Grpc(GrpcProbe),
}

/// Why the application counts as unhealthy. The words hold nothing of what the application has said but its status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeFailure {
    #[error("timed out after {}", Span(*.0))]
    TimedOut(Duration),
    #[error("no connection to port {0} of 127.0.0.1 or ::1: {1}")]
    Dial(u16, io::Error),
    #[error("the request can't be made: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("no TLS: {0}")]
    Tls(io::Error),
    #[error("no answer by HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("status {}", .0.as_u16())]
    Status(StatusCode),
    #[error("no connection by gRPC: {0}")]
    Grpc(#[from] tonic::transport::Error),
    #[error("gRPC status {0:?}")]
    GrpcStatus(tonic::Code),
    #[error("the service is {0}")]
    NotServing(&'static str),
}

impl AppProbe {
    /// The check that `probe`, which has been validated, describes.
    pub(crate) fn new(probe: &Probe) -> Option<Self> {
        let check = match (&probe.http, &probe.tcp, &probe.grpc) {
            (Some(http), None, None) => Check::Http(http.clone()),
            (None, Some(tcp), None) => Check::Tcp(tcp.port),
            (None, None, Some(grpc)) => Check::Grpc(grpc.clone()),
            _ => return None,
        };
        Some(Self { check, deadline: probe.deadline() })
    }

    /// How long it may take.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Makes the check, with `mark` as in [`Dialing::begin`]. Returns the status by which a healthy application answers.
    pub(crate) async fn run(&self, mark: Option<u32>) -> Result<StatusCode, ProbeFailure> {
        let check = async {
            match &self.check {
                Check::Http(http) => {
                    let tcp = dial(http.port, mark, self.deadline).await?;
                    match http.scheme {
                        ProbeScheme::Http => check_http(http, tcp).await,
                        ProbeScheme::Https => {
                            let tls = TlsConnector::from(Arc::new(unverified().map_err(io::Error::other).map_err(ProbeFailure::Tls)?));
                            let tls = tls.connect(server_name(http), tcp).await.map_err(ProbeFailure::Tls)?;
                            check_http(http, tls).await
                        }
                    }
                }
                Check::Tcp(port) => dial(*port, mark, self.deadline).await.map(|_| StatusCode::OK),
                Check::Grpc(grpc) => check_grpc(grpc, dial(grpc.port, mark, self.deadline).await?).await,
            }
        };
        timeout(self.deadline, check).await.unwrap_or(Err(ProbeFailure::TimedOut(self.deadline)))
    }
}

/// Connects to the application as the sidecar does, so that the kernel rules do not capture it.
async fn dial(port: u16, mark: Option<u32>, deadline: Duration) -> Result<TcpStream, ProbeFailure> {
    let connect =
        async |ip: IpAddr| -> io::Result<TcpStream> { Ok(Dialing::begin(SocketAddr::new(ip, port), mark)?.finish(deadline).await?) };
    match connect(Ipv4Addr::LOCALHOST.into()).await {
        Ok(tcp) => Ok(tcp),
        Err(first) => connect(Ipv6Addr::LOCALHOST.into()).await.map_err(|_| ProbeFailure::Dial(port, first)),
    }
}

async fn check_http(http: &HttpProbe, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<StatusCode, ProbeFailure> {
    let mut request = Request::get(&http.path).body(Bytes::new())?;
    *request.headers_mut() = headers(http)?;
    let mut client = HttpClient::new(stream).await?;
    let (head, body) = client.send(request).await?.into_parts();
    let read = read_body(body).await;
    if !(200..400).contains(&head.status.as_u16()) {
        return Err(ProbeFailure::Status(head.status));
    }
    read?;
    Ok(head.status)
}

/// The configured headers, and those that a kubelet adds.
fn headers(http: &HttpProbe) -> Result<HeaderMap, hyper::http::Error> {
    let mut headers = HeaderMap::new();
    for header in &http.headers {
        headers.append(HeaderName::try_from(&header.name)?, HeaderValue::try_from(header.value.expose())?);
    }
    let default = [(USER_AGENT, HeaderValue::from_static(AGENT)), (ACCEPT, HeaderValue::from_static("*/*"))];
    for (name, value) in default {
        headers.entry(name).or_insert(value);
    }
    headers.insert(HOST, HeaderValue::try_from(host(http))?);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

/// The value of the `Host` header.
fn host(http: &HttpProbe) -> String {
    let header = http.headers.iter().find(|header| header.name.eq_ignore_ascii_case(HOST.as_str()));
    let configured = header.map(|header| header.value.expose()).or(http.host.as_deref());
    configured.map_or_else(|| format!("127.0.0.1:{}", http.port), str::to_owned)
}

/// The server name that TLS asks for; an address is not sent.
fn server_name(http: &HttpProbe) -> ServerName<'static> {
    let authority: Option<Authority> = host(http).parse().ok();
    let name = authority.and_then(|authority| ServerName::try_from(authority.host().to_owned()).ok());
    name.unwrap_or(ServerName::IpAddress(Ipv4Addr::LOCALHOST.into()))
}

/// Reads a body, so that an application that still writes is not reset; at most [`LONGEST_BODY`] of it.
async fn read_body(mut body: Incoming) -> Result<(), hyper::Error> {
    let mut read = 0;
    while read <= LONGEST_BODY
        && let Some(frame) = body.frame().await
    {
        read += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(())
}

/// What is asked by gRPC's health checking protocol.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn check_grpc(grpc: &GrpcProbe, tcp: TcpStream) -> Result<StatusCode, ProbeFailure> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", grpc.port))?.user_agent(AGENT)?;
    let mut tcp = Some(TokioIo::new(tcp));
    let connector = tower::service_fn(move |_: Uri| {
        let tcp = tcp.take();
        async move { tcp.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted)) }
    });
    let channel = endpoint.http2_max_header_list_size(LONGEST_HEADERS).connect_with_connector(connector).await?;
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(LONGEST_MESSAGE);
    client.ready().await?;
    let request = tonic::Request::new(HealthCheckRequest { service: grpc.service.clone() });
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    // The message of a status is the application's own text: only its code is told.
    let answer = client.unary(request, PathAndQuery::from_static(CHECK), codec).await;
    match answer.map_err(|status| ProbeFailure::GrpcStatus(status.code()))?.into_inner().status {
        SERVING => Ok(StatusCode::OK),
        2 => Err(ProbeFailure::NotServing("NOT_SERVING")),
        3 => Err(ProbeFailure::NotServing("SERVICE_UNKNOWN")),
        _ => Err(ProbeFailure::NotServing("UNKNOWN")),
    }
}

/// TLS that takes any certificate.
///
/// A kubelet does not verify the application's certificate either: it asks an address, for which there seldom is one. Here the other end
/// is on loopback, nothing but the configured headers is sent, and the answer decides nothing but the application's health. Nothing
/// else may use this.
fn unverified() -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_protocol_versions(&[&TLS13])?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate)).with_no_client_auth())
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use sidegate_config::schema::ProbeHeader;
    use sidegate_core::Secret;

    use super::*;

    fn probe(host: Option<&str>, with: &[(&str, &str)]) -> HttpProbe {
        let header = |(name, value): &(&str, &str)| ProbeHeader { name: (*name).to_owned(), value: Secret::new((*value).to_owned()) };
        HttpProbe {
            port: 8080,
            path: "/".to_owned(),
            scheme: ProbeScheme::Https,
            host: host.map(str::to_owned),
            headers: with.iter().map(header).collect(),
        }
    }

    #[test]
    fn headers_are_those_of_a_kubelet_but_for_what_is_configured() {
        let all = |http: &HttpProbe| headers(http).unwrap();
        let plain = all(&probe(None, &[]));
        assert_eq!([&plain[HOST], &plain[USER_AGENT], &plain[ACCEPT]], ["127.0.0.1:8080", AGENT, "*/*"]);
        let own = all(&probe(Some("a.example"), &[("host", "b.example"), ("User-Agent", "me"), ("X", "1"), ("x", "2")]));
        assert_eq!([&own[HOST], &own[USER_AGENT]], ["b.example", "me"]);
        assert_eq!(own.get_all("x").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(own.get_all(HOST).iter().count(), 1);
        assert_eq!(all(&probe(Some("a.example"), &[]))[HOST], "a.example");
    }

    #[test]
    fn a_host_that_is_a_name_is_the_name_of_the_server() {
        let of = |host: Option<&str>| server_name(&probe(host, &[])).to_str().into_owned();
        assert_eq!(of(Some("web.example:8443")), "web.example");
        assert_eq!((of(None), of(Some("[::1]:8443"))), ("127.0.0.1".to_owned(), "127.0.0.1".to_owned()));
    }
}
