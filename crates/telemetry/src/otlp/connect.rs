//! A connection to a collector: TCP, TLS over TCP, or a Unix socket.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sidegate_config::schema::telemetry::{Protocol, Target};
use sidegate_config::value::Scheme;
use sidegate_net::dial_host;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;

/// What bytes pass through, whatever it is.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Connects to `target`; `tls` is there if it is an `https` endpoint. The caller sets the deadline.
pub(crate) async fn connect(target: &Target, mark: Option<u32>, tls: Option<Arc<ClientConfig>>) -> io::Result<Box<dyn ByteStream>> {
    if target.address.scheme == Scheme::Unix {
        return Ok(Box::new(UnixStream::connect(&target.address.host).await?));
    }
    let tcp = dial_host(&target.address.host, port(target), mark, target.timeout).await?;
    let Some(config) = tls else { return Ok(Box::new(tcp)) };
    let host = target.tls.server_name.as_ref().map_or(&target.address.host, |name| name.get());
    let name = ServerName::try_from(host.clone()).map_err(|_| io::Error::other(format!("`{host}` is no name for a certificate")))?;
    Ok(Box::new(TlsConnector::from(config).connect(name, tcp).await?))
}

/// The endpoint's port, or the one that OTLP has by default.
pub(crate) fn port(target: &Target) -> u16 {
    target.address.port.unwrap_or(match target.protocol {
        Protocol::Grpc => 4317,
        Protocol::HttpProtobuf => 4318,
    })
}
