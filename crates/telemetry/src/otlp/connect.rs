//! A connection to a collector: TCP, TLS over TCP, or a Unix socket.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sidegate_config::schema::telemetry::{Protocol, Target};
use sidegate_config::value::Scheme;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// What bytes pass through, whatever it is.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to `target`; `tls` is there if it is an `https` endpoint. The caller sets the deadline.
pub(crate) async fn connect(target: &Target, mark: Option<u32>, tls: Option<Arc<ClientConfig>>) -> io::Result<Box<dyn Stream>> {
    if target.address.scheme == Scheme::Unix {
        return Ok(Box::new(UnixStream::connect(&target.address.host).await?));
    }
    let tcp = connect_tcp(target, mark).await?;
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

async fn connect_tcp(target: &Target, mark: Option<u32>) -> io::Result<TcpStream> {
    let mut last = io::Error::other(format!("`{}` has no address", target.address.host));
    let addresses: Vec<SocketAddr> = lookup_host((target.address.host.as_str(), port(target))).await?.collect();
    // So that one that does not answer leaves time for the others.
    let patience = target.timeout / u32::try_from(addresses.len() + 1).unwrap_or(u32::MAX);
    for address in addresses {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        sidegate_net::claim(&SockRef::from(&socket), mark)?;
        match timeout(patience, socket.connect(address)).await {
            Ok(Ok(tcp)) => {
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::other(format!("{address} did not answer within {patience:?}")),
        }
    }
    Err(last)
}
