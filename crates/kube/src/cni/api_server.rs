//! Asks the API server for one pod.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use sidegate_config::file;
use sidegate_net::{HttpClient, dial_host, read_body};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::call::PodName;
use super::error::CniError;
use super::network_config::NetworkConfig;

/// An object in etcd has at most 1.5 MiB, and its JSON little more.
const LONGEST_POD: usize = 4 * 1024 * 1024;
/// Where nothing else is said.
const HTTPS: u16 = 443;

/// The pod of this name.
pub(crate) fn pod(config: &NetworkConfig, name: &PodName) -> Result<Value, CniError> {
    let deadline = config.timeout.duration() / 2;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CniError::TryAgain(format!("no connection can be made: {error}")))?;
    let server = config.api_server.get();
    let answer = runtime.block_on(async { timeout(deadline, ask(config, name, deadline)).await });
    answer
        .unwrap_or_else(|_| Err(CniError::TryAgain(format!("the API server {server} did not answer within {} s", deadline.as_secs_f32()))))
}

async fn ask(config: &NetworkConfig, name: &PodName, deadline: Duration) -> Result<Value, CniError> {
    let server = config.api_server.get();
    let failed = |why: String| CniError::TryAgain(format!("the API server {server} can't be asked for the pod: {why}"));
    let tls = TlsConnector::from(Arc::new(trust(config)?));
    let host =
        ServerName::try_from(server.host.clone()).map_err(|_| CniError::Config(format!("apiServer: `{}` is no host", server.host)))?;
    let token = token(config)?;
    let tcp = dial_host(&server.host, server.port.unwrap_or(HTTPS), None, deadline).await.map_err(|error| failed(error.to_string()))?;
    let stream = tls.connect(host, tcp).await.map_err(|error| failed(error.to_string()))?;
    let mut client = HttpClient::new(stream).await.map_err(|error| failed(error.to_string()))?;
    let PodName { namespace, name, .. } = name;
    let request = Request::get(format!("{}/api/v1/namespaces/{namespace}/pods/{name}", server.path))
        .header(HOST, server.to_string().trim_start_matches("https://").split('/').next().unwrap_or_default())
        .header(ACCEPT, "application/json")
        .header(AUTHORIZATION, token)
        .body(Bytes::new())
        .map_err(|error| CniError::Config(format!("apiServer: {error}")))?;
    let answer = client.send(request).await.map_err(|error| failed(error.to_string()))?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(CniError::TryAgain(format!("the API server knows no pod {namespace}/{name}"))),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let why = format!(
                "it answers {}; see that `sidegate-cni install` runs on this node, and that its role may get pods",
                answer.status()
            );
            return Err(failed(why));
        }
        other => return Err(failed(format!("it answers {other}"))),
    }
    let body = read_body(answer.into_body(), LONGEST_POD).await.map_err(failed)?;
    serde_json::from_slice(&body).map_err(|error| failed(format!("its answer is no JSON: {error}")))
}

fn trust(config: &NetworkConfig) -> Result<ClientConfig, CniError> {
    let path = config.ca_file.display();
    let unreadable = |why: String| CniError::Input(format!("caFile {path}: {why}; see that `sidegate-cni install` runs on this node"));
    let pem = file::read(&config.ca_file, file::SMALL).map_err(|error| unreadable(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unreadable("it has no certificate; it has to be PEM".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| CniError::Unavailable(format!("TLS can't be configured: {error}")))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn token(config: &NetworkConfig) -> Result<HeaderValue, CniError> {
    let path = config.token_file.display();
    let unreadable = |why: String| CniError::Input(format!("tokenFile {path}: {why}; see that `sidegate-cni install` runs on this node"));
    let token = sidegate_secrets::open("token for the API server", &config.token_file).map_err(|error| unreadable(error.to_string()))?;
    let mut header = HeaderValue::from_bytes(&[b"Bearer ", token.trim_ascii()].concat())
        .map_err(|_| unreadable("it holds what is no token".to_owned()))?;
    header.set_sensitive(true);
    Ok(header)
}

/// Whether what is needed to ask it is there. It is not asked: a runtime wants to know every few seconds.
pub(crate) fn check(config: &NetworkConfig) -> Result<(), CniError> {
    trust(config)?;
    token(config).map(drop)
}
