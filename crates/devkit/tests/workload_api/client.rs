//! An authority under test, and the generated client with which tests talk to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sidegate_config::value::Span;
use sidegate_devkit::authority::workload_api::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use sidegate_devkit::authority::workload_api::{SECURITY_HEADER, X509svidRequest, X509svidResponse};
use sidegate_devkit::authority::{Authority, AuthorityConfig, Entry, TrustDomainConfig};
use tempfile::TempDir;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

/// An authority with a socket `a`, and a client there.
pub(crate) struct Bench {
    pub(crate) authority: Authority,
    pub(crate) folder: TempDir,
}

pub(crate) type Client = SpiffeWorkloadApiClient<InterceptedService<Channel, Header>>;

/// Says that the call is meant.
#[derive(Clone, Copy)]
pub(crate) struct Header;

impl Interceptor for Header {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
        Ok(request)
    }
}

impl Bench {
    /// Serves `spiffe://a.test/web` to everybody.
    pub(crate) async fn simple() -> Bench {
        Bench::with(|config| config.entries.push(Entry::new("spiffe://a.test/web"))).await
    }

    /// Serves what `adjust` makes of a configuration with the trust domains `a.test` and `b.test` and no entries.
    pub(crate) async fn with(adjust: impl FnOnce(&mut AuthorityConfig)) -> Bench {
        let folder = TempDir::new().unwrap();
        let mut config = config(folder.path());
        adjust(&mut config);
        Bench { authority: Authority::start(config).await.unwrap(), folder }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("a")
    }

    pub(crate) async fn client(&self) -> Client {
        client(&self.socket()).await
    }
}

pub(crate) fn config(folder: &Path) -> AuthorityConfig {
    AuthorityConfig {
        sockets: vec![folder.join("a")],
        trust_domains: vec![TrustDomainConfig::new("a.test"), TrustDomainConfig::new("b.test")],
        ..AuthorityConfig::default()
    }
}

pub(crate) fn seconds(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

pub(crate) async fn channel(socket: &Path) -> Channel {
    within(Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap().connect()).await.unwrap()
}

pub(crate) async fn client(socket: &Path) -> Client {
    SpiffeWorkloadApiClient::with_interceptor(channel(socket).await, Header)
}

/// The one deadline of these tests: nothing takes this long on any machine.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("too late")
}

/// An open `FetchX509SVID`.
pub(crate) async fn open(client: &mut Client) -> Streaming<X509svidResponse> {
    within(client.fetch_x509svid(X509svidRequest {})).await.unwrap().into_inner()
}

/// The next message of a stream.
pub(crate) async fn next<T>(stream: &mut Streaming<T>) -> T {
    within(stream.message()).await.unwrap().expect("the stream has ended")
}

/// The status that ends a stream.
pub(crate) async fn end<T: std::fmt::Debug>(stream: &mut Streaming<T>) -> Status {
    within(stream.message()).await.unwrap_err()
}

/// The first message of a new `FetchX509SVID`.
pub(crate) async fn fetch(client: &mut Client) -> X509svidResponse {
    next(&mut open(client).await).await
}

/// The status with which a new `FetchX509SVID` is refused.
pub(crate) async fn refusal(client: &mut Client) -> Status {
    within(client.fetch_x509svid(X509svidRequest {})).await.unwrap_err()
}
