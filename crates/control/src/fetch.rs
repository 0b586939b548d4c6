//! A document by HTTP or HTTPS.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Request, StatusCode, header};
use sidegate_config::value::{CollectorAddress, Scheme};
use sidegate_net::{HttpClient, dial_host, read_body};
use sidegate_tls::{CollectorConfig, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// For all of it.
const DEADLINE: Duration = Duration::from_secs(30);

/// What is at `url`, not longer than `most` bytes. Redirections are not followed.
pub(crate) async fn fetch(url: &CollectorAddress, mark: Option<u32>, most: usize) -> Result<Vec<u8>, String> {
    let document = async {
        let tcp = dial(url, mark).await?;
        if url.scheme == Scheme::Http {
            return get(url, tcp, most).await;
        }
        static TLS: OnceLock<CollectorConfig> = OnceLock::new();
        let config = TLS
            .get_or_init(|| CollectorConfig::new(Default::default(), "servers of revocation lists"))
            .current(None)
            .map_err(|e| e.to_string())?;
        let name = ServerName::try_from(url.host.clone()).map_err(|_| format!("`{}` is no name for a certificate", url.host))?;
        get(url, TlsConnector::from(config).connect(name, tcp).await.map_err(|e| e.to_string())?, most).await
    };
    timeout(DEADLINE, document).await.map_err(|_| format!("not done within {DEADLINE:?}"))?
}

async fn dial(url: &CollectorAddress, mark: Option<u32>) -> Result<TcpStream, String> {
    let port = url.port.unwrap_or(if url.scheme == Scheme::Http { 80 } else { 443 });
    dial_host(&url.host, port, mark, DEADLINE).await.map_err(|e| e.to_string())
}

async fn get(url: &CollectorAddress, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, most: usize) -> Result<Vec<u8>, String> {
    let mut client = HttpClient::new(stream).await.map_err(|e| e.to_string())?;
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    let host = url.port.map_or(host.clone(), |port| format!("{host}:{port}"));
    let path = if url.path.is_empty() { "/" } else { &url.path };
    let request = Request::get(path).header(header::HOST, host).body(Bytes::new()).map_err(|e| e.to_string())?;
    let answer = client.send(request).await.map_err(|e| e.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("it answers {}", answer.status()));
    }
    read_body(answer.into_body(), most).await.map(|body| body.to_vec())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_error_is_told_without_its_page() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = Some(listener.local_addr().unwrap().port());
        let url = CollectorAddress { scheme: Scheme::Http, host: "127.0.0.1".to_owned(), port, path: "/list.crl".to_owned() };
        let server = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            assert!(tcp.read(&mut [0; 1024]).await.unwrap() > 0, "a request");
            tcp.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 1000000\r\n\r\nsorry").await.unwrap();
            // The rest never comes.
            tcp.read(&mut [0; 1024]).await.unwrap_or(0)
        });
        assert_eq!(fetch(&url, None, 1 << 20).await.unwrap_err(), "it answers 503 Service Unavailable");
        server.await.unwrap();
        let nobody = fetch(&url, None, 1 << 20).await.unwrap_err();
        assert!(nobody.starts_with("127.0.0.1:"), "{nobody}");
    }
}
