//! A document by HTTP or HTTPS.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Request, StatusCode, header};
use sidegate_config::value::{CollectorAddress, Scheme};
use sidegate_net::{HttpClient, dial_host};
use sidegate_tls::{CollectorConfig, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// For all of it.
const DEADLINE: Duration = Duration::from_secs(30);
/// For the connect, to all addresses of a name together.
const DIAL: Duration = Duration::from_secs(15);

/// What is at `url`, not longer than `most` bytes. Redirections are not followed.
pub(crate) async fn fetch(url: &CollectorAddress, mark: Option<u32>, most: usize) -> Result<Vec<u8>, String> {
    let document = async {
        let tcp = dial(url, mark).await?;
        if url.scheme == Scheme::Http {
            return get(url, tcp, most).await;
        }
        static TLS: OnceLock<CollectorConfig> = OnceLock::new();
        let config = TLS.get_or_init(|| CollectorConfig::new(Default::default())).current(None).map_err(|e| e.to_string())?;
        let name = ServerName::try_from(url.host.clone()).map_err(|_| format!("`{}` is no name for a certificate", url.host))?;
        get(url, TlsConnector::from(config).connect(name, tcp).await.map_err(|e| e.to_string())?, most).await
    };
    timeout(DEADLINE, document).await.map_err(|_| format!("not done within {DEADLINE:?}"))?
}

async fn dial(url: &CollectorAddress, mark: Option<u32>) -> Result<TcpStream, String> {
    let port = url.port.unwrap_or(if url.scheme == Scheme::Http { 80 } else { 443 });
    dial_host(&url.host, port, mark, DIAL).await.map_err(|e| e.to_string())
}

async fn get(url: &CollectorAddress, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, most: usize) -> Result<Vec<u8>, String> {
    let mut client = HttpClient::new(stream).await.map_err(|e| e.to_string())?;
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    let host = url.port.map_or(host.clone(), |port| format!("{host}:{port}"));
    let path = if url.path.is_empty() { "/" } else { &url.path };
    let request = Request::get(path).header(header::HOST, host).body(Bytes::new()).map_err(|e| e.to_string())?;
    let answer = client.send(request, most).await.map_err(|e| e.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("it answers {}", answer.status()));
    }
    answer.into_body().map(|body| body.to_vec())
}
