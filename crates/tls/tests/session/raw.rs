//! A client of plain rustls, each of whose steps is the test's own.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, Error};
use sidegate_identity::Material;
use sidegate_tls::{HandshakeFailure, ServerName, Session, TlsContext, accept};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::pki::TrustsAnybody;
use crate::wire::{sockets, within};

pub(crate) struct Raw {
    pub(crate) connection: ClientConnection,
    pub(crate) tcp: TcpStream,
}

/// A configuration that presents `material`'s SVID, or nothing.
pub(crate) fn config(material: Option<&Material>, provider: CryptoProvider) -> ClientConfig {
    let config = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[&TLS13]).unwrap();
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(TrustsAnybody));
    match material {
        Some(material) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from((*material.svid.certified_key).clone()))),
        None => config.with_no_client_auth(),
    }
}

pub(crate) fn connection(config: ClientConfig) -> ClientConnection {
    ClientConnection::new(Arc::new(config), ServerName::try_from("web.prod.example").unwrap()).unwrap()
}

/// A real ClientHello.
pub(crate) fn hello(material: &Material) -> Vec<u8> {
    let mut bytes = Vec::new();
    connection(config(Some(material), default_provider())).write_tls(&mut bytes).unwrap();
    bytes
}

/// What our server makes of such a client, and the client.
pub(crate) async fn against_us(server: &Material, config: ClientConfig) -> (TcpStream, Result<Session, HandshakeFailure>, Raw) {
    let choice = TlsContext::new(server).unwrap().server(&[]);
    let (server_tcp, tcp) = sockets().await;
    let mut raw = Raw { connection: connection(config), tcp };
    let (outcome, ()) = within(async { tokio::join!(accept(&server_tcp, b"", &choice), raw.shake()) }).await;
    (server_tcp, outcome, raw)
}

impl Raw {
    /// Until this side is done; what is left to send is sent.
    pub(crate) async fn shake(&mut self) {
        while self.connection.is_handshaking() {
            self.flush().await;
            if self.connection.is_handshaking() && self.fill().await.unwrap() == 0 {
                return;
            }
        }
        self.flush().await;
    }

    pub(crate) fn waiting(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    pub(crate) async fn flush(&mut self) {
        let bytes = self.waiting();
        self.tcp.write_all(&bytes).await.unwrap();
    }

    /// Reads once; how many bytes came.
    pub(crate) async fn fill(&mut self) -> Result<usize, Error> {
        let mut bytes = vec![0; 4096];
        let length = within(self.tcp.read(&mut bytes)).await.unwrap();
        self.connection.read_tls(&mut &bytes[..length]).unwrap();
        self.connection.process_new_packets().map(|_| length)
    }
}
