//! A document by HTTP or HTTPS.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use sidegate_config::value::{CollectorAddress, Scheme};
use sidegate_tls::{CollectorConfig, ServerName};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// For all of it.
const DEADLINE: Duration = Duration::from_secs(30);
/// For each address of a name.
const DIAL: Duration = Duration::from_secs(5);

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
    let addresses: Vec<SocketAddr> = lookup_host((url.host.as_str(), port)).await.map_err(|e| e.to_string())?.collect();
    let mut last = format!("`{}` has no address", url.host);
    for address in addresses {
        match timeout(DIAL, connect(address, mark)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => last = format!("{address}: {error}"),
            Err(_) => last = format!("{address} did not answer within {DIAL:?}"),
        }
    }
    Err(last)
}

async fn connect(address: SocketAddr, mark: Option<u32>) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    sidegate_net::claim(&SockRef::from(&socket), mark)?;
    socket.connect(address).await
}

async fn get(url: &CollectorAddress, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, most: usize) -> Result<Vec<u8>, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    let host = url.port.map_or(host.clone(), |port| format!("{host}:{port}"));
    let path = if url.path.is_empty() { "/" } else { &url.path };
    let request = Request::get(path).header(header::HOST, host).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answers {}", response.status()));
        }
        let body = Limited::new(response.into_body(), most).collect().await.map_err(|e| e.to_string())?;
        Ok(body.to_bytes().to_vec())
    };
    tokio::pin!(answer);
    // The connection moves the bytes for which the answer waits.
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => {
            ended.map_err(|e| e.to_string())?;
            answer.await
        }
    }
}
