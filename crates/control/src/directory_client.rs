//! Keeps a stream of delta xDS to the directory: sends the questions, and takes the answers and what changes later.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use sidegate_config::schema;
use sidegate_config::schema::telemetry::CollectorTls;
use sidegate_core::{event, innermost, printable};
use sidegate_directory::xds::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use sidegate_directory::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, ErrorDetail, Node};
use sidegate_directory::{Entry, TYPE_URL};
use sidegate_identity::IdentityState;
use sidegate_net::{Backoff, dial_host};
use sidegate_tls::{CollectorConfig, ServerName};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::control::Control;
use crate::directory::Directory;

/// TCP, TLS, HTTP/2 and the stream's beginning.
const CONNECT: Duration = Duration::from_secs(10);
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// A stream that stands for so long was a success.
const STANDS: Duration = Duration::from_secs(10);
/// A controller that vanished without a word is noticed after this and [`KEEPALIVE_ANSWER`].
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(5);
/// Requests that wait until HTTP/2 takes them.
const REQUESTS: usize = 4;
/// The longest response: tens of thousands of endpoints.
const LONGEST_RESPONSE: usize = 4 * 1024 * 1024;
/// Requests that wait, beyond which nothing is asked; with those that accept responses at most twice as many.
const WAITING: usize = 64;
/// Questions in one request.
const TOGETHER: usize = 256;
const LOOK_FOR_UNUSED: Duration = Duration::from_secs(300);

/// Who asks, and where.
pub(crate) struct DirectoryClient {
    directory: Arc<Directory>,
    config: schema::Directory,
    tls: CollectorConfig,
    mark: Option<u32>,
    identity: watch::Receiver<Arc<IdentityState>>,
}

impl DirectoryClient {
    /// None if there is no directory.
    pub(crate) fn new(control: &Control, identity: watch::Receiver<Arc<IdentityState>>) -> Option<Self> {
        let (directory, config) = (control.directory.clone()?, control.settings.directory.clone()?);
        let tls = CollectorTls { svid: true, spiffe_ids: config.spiffe_ids.clone(), ..CollectorTls::default() };
        let tls = CollectorConfig::new(tls, "the directory");
        Some(Self { directory, config, tls, mark: control.settings.mark, identity })
    }

    /// Keeps a stream, until dropped.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_WAIT);
        let mut told = None;
        loop {
            // Without an SVID nobody can be asked, and no connection gets that far.
            if self.identity.wait_for(|state| state.material.is_some()).await.is_err() {
                return;
            }
            let begun = Instant::now();
            let error = match self.connect().await {
                Ok((requests, responses)) => {
                    self.directory.set_unavailable(None);
                    told = None;
                    tracing::info!(event = event::DIRECTORY_CONNECTED, directory = %self.config.to.get(), "the directory is asked");
                    self.follow(requests, responses).await
                }
                Err(error) => {
                    self.directory.set_unavailable(Some(error.clone()));
                    error
                }
            };
            if told.as_ref() != Some(&error) {
                tracing::warn!(
                    event = event::DIRECTORY_UNAVAILABLE,
                    directory = %self.config.to.get(),
                    "the directory can't be asked, what it has said stays valid: {error}"
                );
                told = Some(error);
            }
            if begun.elapsed() >= STANDS {
                backoff.reset();
            }
            sleep(backoff.next(LONGEST_WAIT)).await;
        }
    }

    /// Opens a stream, and says what is known already.
    async fn connect(&mut self) -> Result<(mpsc::Sender<DeltaDiscoveryRequest>, tonic::Streaming<DeltaDiscoveryResponse>), String> {
        let opened = async {
            let channel = self.channel().await?;
            let (requests, outgoing) = mpsc::channel(REQUESTS);
            let (names, versions) = self.known();
            let first = DeltaDiscoveryRequest {
                node: Some(Node {
                    id: std::env::var("HOSTNAME").unwrap_or_default(),
                    user_agent_name: "sidegate".to_owned(),
                    user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                }),
                type_url: TYPE_URL.to_owned(),
                resource_names_subscribe: names,
                initial_resource_versions: versions,
                ..DeltaDiscoveryRequest::default()
            };
            requests.try_send(first).map_err(|error| error.to_string())?;
            let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(LONGEST_RESPONSE);
            let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await;
            let responses = responses.map_err(|status| printable(&format!("{:?}: {}", status.code(), status.message())))?;
            Ok((requests, responses.into_inner()))
        };
        timeout(CONNECT, opened).await.unwrap_or_else(|_| Err(format!("no answer within {} s", CONNECT.as_secs())))
    }

    async fn channel(&self) -> Result<Channel, String> {
        let to = self.config.to.get();
        let material = self.identity.borrow().material.clone();
        let mut tls = (*self.tls.current(material).map_err(|error| error.to_string())?).clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = dial_host(&to.host, to.port, self.mark, CONNECT).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from(to.host.clone()).map_err(|_| format!("`{}` is no name for a certificate", to.host))?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.map_err(|error| printable(&innermost(&error)))?;
        let mut stream = Some(TokioIo::new(stream));
        let origin = format!("https://{to}").parse::<Uri>().map_err(|error| error.to_string())?;
        // TLS is ours: to tonic the connection is a plain one, whatever the requests say.
        let endpoint = Endpoint::from_static("http://directory.invalid")
            .origin(origin)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_ANSWER)
            .keep_alive_while_idle(true);
        // One stream, one connection: where it ends we connect again, with the SVID of then.
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionAborted)) }
        });
        endpoint.connect_with_connector(connector).await.map_err(|error| printable(&innermost(&error)))
    }

    /// What is known and what is asked, for the first request of a stream.
    fn known(&self) -> (Vec<String>, HashMap<String, String>) {
        let known = self.directory.versions();
        let mut names: Vec<String> = known.iter().map(|(ip, _)| ip.to_string()).collect();
        let versions = known.into_iter().filter_map(|(ip, version)| Some((ip.to_string(), version?))).collect();
        names.extend(texts(&self.directory.all_questions()));
        (names, versions)
    }

    /// Asks and learns until the stream ends, and says why it did.
    async fn follow(
        &mut self,
        requests: mpsc::Sender<DeltaDiscoveryRequest>,
        mut responses: tonic::Streaming<DeltaDiscoveryResponse>,
    ) -> String {
        let mut unused = interval(LOOK_FOR_UNUSED);
        unused.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Requests that HTTP/2 has not taken yet. Responses are read meanwhile, or both ends could wait for each other.
        let mut outgoing: VecDeque<DeltaDiscoveryRequest> = VecDeque::new();
        let mut stalled = Instant::now();
        loop {
            let request = tokio::select! {
                response = responses.message() => match response {
                    Ok(Some(response)) => self.learn(response),
                    Ok(None) => return "the directory ended the stream".to_owned(),
                    Err(status) => return printable(&format!("{:?}: {}", status.code(), status.message())),
                },
                permit = requests.reserve(), if !outgoing.is_empty() => {
                    let (Ok(permit), Some(request)) = (permit, outgoing.pop_front()) else { return "the stream was closed".to_owned() };
                    permit.send(request);
                    stalled = Instant::now();
                    continue;
                }
                () = sleep_until(stalled + CONNECT), if !outgoing.is_empty() => {
                    return format!("the directory took no request within {} s", CONNECT.as_secs());
                }
                asked = self.directory.questions(TOGETHER), if outgoing.len() < WAITING => {
                    DeltaDiscoveryRequest { resource_names_subscribe: texts(&asked), ..DeltaDiscoveryRequest::default() }
                }
                _ = unused.tick() => {
                    let forgotten = self.directory.forget_unused();
                    if forgotten.is_empty() {
                        continue;
                    }
                    DeltaDiscoveryRequest { resource_names_unsubscribe: texts(&forgotten), ..DeltaDiscoveryRequest::default() }
                }
            };
            if outgoing.is_empty() {
                stalled = Instant::now();
            }
            outgoing.push_back(DeltaDiscoveryRequest { type_url: TYPE_URL.to_owned(), ..request });
            if outgoing.len() > 2 * WAITING {
                return "the directory takes no requests".to_owned();
            }
        }
    }

    /// Takes a response, and makes the request that accepts it, or refuses it where something in it can't be used. The rest is used.
    fn learn(&self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let mut wrong = None;
        let mut entries = Vec::with_capacity(response.resources.len());
        for resource in response.resources {
            let name = resource.name.parse::<IpAddr>().map_err(|_| "its name is no IP address".to_owned());
            match name.and_then(|ip| Ok((ip, Entry::of_resource(&resource).map_err(|invalid| invalid.to_string())?))) {
                Ok((ip, entry)) => entries.push((ip, resource.version, entry)),
                Err(why) => wrong = Some(printable(&format!("{}: {why}", resource.name))),
            }
        }
        let absent: Vec<IpAddr> = response.removed_resources.iter().filter_map(|name| name.parse().ok()).collect();
        let forgotten = self.directory.learn(entries, absent);
        if let Some(why) = &wrong {
            tracing::warn!(event = event::DIRECTORY_REFUSED, "what the directory says can't be used: {why}");
        }
        DeltaDiscoveryRequest {
            resource_names_unsubscribe: texts(&forgotten),
            response_nonce: response.nonce,
            // INVALID_ARGUMENT of google.rpc.Code.
            error_detail: wrong.map(|message| ErrorDetail { code: 3, message }),
            ..DeltaDiscoveryRequest::default()
        }
    }
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}
