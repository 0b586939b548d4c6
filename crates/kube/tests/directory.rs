//! Who may ask the directory, and what it says by xDS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde_json::json;
use sidegate_config::schema::telemetry::CollectorTls;
use sidegate_config::schema::{self, Profile};
use sidegate_config::value::IdPattern;
use sidegate_devkit::authority::{Authority, AuthorityConfig, Entry as Registered, TrustDomainConfig};
use sidegate_directory::xds::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use sidegate_directory::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use sidegate_directory::{Entry, TYPE_URL};
use sidegate_identity::{Identity, Material};
use sidegate_kube::Directory;
use sidegate_kube::directory::{DirectoryServer, Kind, Object, SpiffeIdTemplate, Subscriptions, pod};
use sidegate_tls::{CollectorConfig, ServerName};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Status, Streaming};

const DOMAIN: &str = "a.sidegate";
const DEADLINE: Duration = Duration::from_secs(30);

/// A directory that is served, and the identities of those who may or may not ask it.
struct World {
    address: SocketAddr,
    subscriptions: Arc<Subscriptions>,
    identities: HashMap<&'static str, Arc<Material>>,
    _authority: Authority,
    _serving: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

fn pod_web(ip: &str) -> Object {
    let object = json!({
        "metadata": { "namespace": "shop", "name": "web", "annotations": { "sidegate.dev/restore": "{}" } },
        "spec": { "serviceAccountName": "web", "containers": [] }, "status": { "podIPs": [{ "ip": ip }] }
    });
    let template = SpiffeIdTemplate::parse(&format!("spiffe://{DOMAIN}/ns/{{namespace}}/sa/{{serviceAccount}}")).unwrap();
    Object::Pod(pod(&serde_json::from_value(object).unwrap(), &template).unwrap())
}

impl World {
    async fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let names = ["controller", "web", "stranger"];
        let socket = |name: &str| folder.path().join(format!("{name}.sock"));
        let config = AuthorityConfig {
            sockets: names.map(socket).into(),
            trust_domains: vec![TrustDomainConfig::new(DOMAIN)],
            entries: names
                .map(|name| Registered { socket: Some(socket(name)), ..Registered::new(format!("spiffe://{DOMAIN}/{name}")) })
                .into(),
            fault: None,
        };
        let authority = Authority::start(config).await.unwrap();
        let mut identities = HashMap::new();
        let mut own = None;
        for name in names {
            let text = format!("sources: [{{ workloadApi: {{ socket: \"unix://{}\" }} }}]", socket(name).display());
            let config: schema::Identity = sidegate_config::typed("identity", &text).unwrap().0;
            let identity = Identity::start(&config, Profile::Development).unwrap();
            let mut state = identity.subscribe();
            let state = state.wait_for(|state| state.material.is_some()).await.unwrap().clone();
            identities.insert(name, state.material.clone().unwrap());
            own = own.or(Some(identity));
        }
        let text = format!("listen: 127.0.0.1:0\nspiffeId: \"spiffe://{DOMAIN}/ns/{{namespace}}/sa/{{serviceAccount}}\"\n{more}");
        let config: Directory = sidegate_config::typed("directory", &text).unwrap().0;
        let subscriptions = Arc::new(Subscriptions::default());
        subscriptions.set(Kind::Pod, "shop/web", Some(pod_web("10.0.0.1")));
        let server = DirectoryServer::bind(config, subscriptions.clone()).unwrap();
        let address = server.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let own = own.unwrap();
            server.serve(own.subscribe()).await.unwrap();
        });
        Self { address, subscriptions, identities, _authority: authority, _serving: serving, _folder: folder }
    }

    /// A stream of `who`; without, of a client that shows no certificate. With what it asks.
    async fn ask(&self, who: Option<&str>, names: &[&str]) -> Result<Asked, Status> {
        let controller = IdPattern::parse(&format!("spiffe://{DOMAIN}/controller")).unwrap();
        let tls = CollectorTls { svid: who.is_some(), spiffe_ids: vec![controller], ..CollectorTls::default() };
        let material = self.identities[who.unwrap_or("web")].clone();
        let mut tls = (*CollectorConfig::new(tls, "test").current(Some(material)).unwrap()).clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let failed = |error: &dyn std::error::Error| Status::unavailable(error.to_string());
        let stream =
            TlsConnector::from(Arc::new(tls)).connect(ServerName::try_from("localhost").unwrap(), tcp).await.map_err(|e| failed(&e))?;
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionAborted)) }
        });
        let channel = Endpoint::from_static("http://directory.invalid").connect_with_connector(connector).await.map_err(|e| failed(&e))?;
        let (requests, outgoing) = mpsc::channel(4);
        requests.send(subscribe(names)).await.unwrap();
        let responses = AggregatedDiscoveryServiceClient::new(channel).delta_aggregated_resources(ReceiverStream::new(outgoing)).await?;
        Ok(Asked { requests, responses: responses.into_inner() })
    }
}

struct Asked {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Asked {
    async fn hear(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        timeout(DEADLINE, self.responses.message()).await.unwrap().map(Option::unwrap)
    }
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    let resource_names_subscribe = names.iter().map(|name| (*name).to_owned()).collect();
    DeltaDiscoveryRequest { type_url: TYPE_URL.to_owned(), resource_names_subscribe, ..DeltaDiscoveryRequest::default() }
}

#[tokio::test]
async fn only_a_client_that_proves_to_be_one_of_those_may_ask() {
    let world = World::new(&format!("clients: [\"spiffe://{DOMAIN}/web\"]")).await;
    let mut web = world.ask(Some("web"), &["10.0.0.1"]).await.unwrap();
    assert_eq!(web.hear().await.unwrap().resources.len(), 1);
    for other in [Some("stranger"), None] {
        let refused = timeout(DEADLINE, world.ask(other, &["10.0.0.1"])).await.unwrap();
        assert!(refused.is_err(), "{other:?}");
    }
    assert_eq!(world.subscriptions.wanted(), 1);
}

#[tokio::test]
async fn a_stream_is_told_what_it_asked_and_what_changes() {
    let world = World::new("").await;
    let mut web = world.ask(Some("web"), &["10.0.0.1", "10.0.0.2"]).await.unwrap();
    let (mut resources, mut removed) = (Vec::new(), Vec::new());
    while resources.len() + removed.len() < 2 {
        let response = web.hear().await.unwrap();
        resources.extend(response.resources);
        removed.extend(response.removed_resources);
    }
    assert_eq!((resources[0].name.as_str(), removed), ("10.0.0.1", vec!["10.0.0.2".to_owned()]));
    assert!(matches!(Entry::of_resource(&resources[0]), Ok(Entry::Workload { name, .. }) if name == "shop/web"));
    // The pod moves. Nothing that it did not ask for comes.
    world.subscriptions.set(Kind::Pod, "shop/web", Some(pod_web("10.0.0.2")));
    let (mut resources, mut removed) = (Vec::new(), Vec::new());
    while resources.len() + removed.len() < 2 {
        let response = web.hear().await.unwrap();
        resources.extend(response.resources);
        removed.extend(response.removed_resources);
    }
    assert_eq!((resources[0].name.as_str(), removed), ("10.0.0.2", vec!["10.0.0.1".to_owned()]));
    // Another who comes back with what it knows is told only what differs.
    let mut back = world.ask(Some("web"), &[]).await.unwrap();
    let known = HashMap::from([("10.0.0.2".to_owned(), resources[0].version.clone()), ("10.0.0.1".to_owned(), "old".to_owned())]);
    let again = DeltaDiscoveryRequest { initial_resource_versions: known, ..subscribe(&["10.0.0.1", "10.0.0.2"]) };
    back.requests.send(again).await.unwrap();
    let response = back.hear().await.unwrap();
    assert_eq!((response.resources.len(), response.removed_resources), (0, vec!["10.0.0.1".to_owned()]));
    // Nonsense ends the stream that says it, and nobody is subscribed for those who have left.
    back.requests.send(subscribe(&["no address"])).await.unwrap();
    assert_eq!(back.hear().await.unwrap_err().code(), Code::InvalidArgument);
    drop(web);
    timeout(DEADLINE, async {
        while world.subscriptions.wanted() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_stream_wants_no_more_than_it_may() {
    let world = World::new("").await;
    let names: Vec<String> = (0..32_769_u32).map(|n| IpAddr::from(std::net::Ipv4Addr::from(0x0B00_0000 + n)).to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut web = world.ask(Some("web"), &names).await.unwrap();
    assert_eq!(web.hear().await.unwrap_err().code(), Code::ResourceExhausted);
    timeout(DEADLINE, async {
        while world.subscriptions.wanted() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}
