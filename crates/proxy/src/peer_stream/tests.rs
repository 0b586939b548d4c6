use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::PrivatePkcs8KeyDer;
use sidegate_core::{ConnectionRecord, Direction, TrustDomain};
use sidegate_identity::{Bundle, Material, Svid};
use sidegate_tls::{ServerName, TlsContext};
use sidegate_tunnel::Tunnel;
use sidegate_tunnel::v1::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::tunnel_server::{self, First};

fn context() -> TlsContext {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("spiffe://a.b/web".try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &root).unwrap();
    let svid = Svid::new(vec![leaf.der().clone()], &PrivatePkcs8KeyDer::from(key.serialize_der()).into()).unwrap();
    let domain = TrustDomain::new("a.b").unwrap();
    let bundle = Bundle::new(&domain, vec![root.der().clone()], &mut Vec::new());
    TlsContext::new(&Material::new(svid, BTreeMap::from([(domain, bundle)]), Vec::new(), false).unwrap()).unwrap()
}

/// Two ends of one channel. In a tunnel the client has said OPEN, on a session that was used before, and the server has not answered.
async fn pair(tunnel: bool) -> (PeerStream, PeerStream) {
    let context = context();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (client, server) = (client.unwrap(), server.unwrap().0);
    let (choice, servers) = (context.client(&[], tunnel), context.server(&[]));
    let name = ServerName::IpAddress(address.ip().into());
    // The client's last flight goes with what it sends first.
    let (shaken, accepted) = tokio::join!(
        async {
            let mut session = sidegate_tls::connect(&client, &choice, name).await.unwrap();
            session.try_flush(&client).unwrap();
            session
        },
        sidegate_tls::accept(&server, &[], &servers)
    );
    let mut ends = [(client, shaken), (server, accepted.unwrap())].map(|(tcp, session)| (tcp, Box::new(PeerChannel::plain(session))));
    if tunnel {
        let record = ConnectionRecord::new(Direction::Outbound, address.into());
        ends[0].1.tunnel = Some(Tunnel::waiting(address.into(), 0));
        ends[1].1.tunnel = Some(Tunnel::new(address.into(), 0));
        ends[0].1.open(&record, true).unwrap();
        ends[0].1.session.try_flush(&ends[0].0).unwrap();
        let (tcp, channel) = &mut ends[1];
        assert!(matches!(tunnel_server::first(tcp, channel).await.unwrap(), First::Open(_)));
        channel.tunnel.as_mut().unwrap().begin();
    }
    let [client, server] = ends.map(|(tcp, channel)| PeerStream::new(tcp, channel));
    (client, server)
}

/// Sends much both ways at once, by pieces of any size, and reads it to the end.
async fn exchange(client: PeerStream, server: PeerStream) -> [PeerStream; 2] {
    let data: Vec<u8> = (0..2_000_000_u32).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
    let ends = [client, server].map(|stream| {
        let data = data.clone();
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let expected = data.clone();
            let write = tokio::spawn(async move {
                let mut rest = &data[..];
                for size in (1..).map(|i: usize| i * i % 40_000 + 1) {
                    let (now, later) = rest.split_at(size.min(rest.len()));
                    writer.write_all(now).await.unwrap();
                    rest = later;
                    if rest.is_empty() {
                        break;
                    }
                }
                writer.shutdown().await.unwrap();
                writer
            });
            let mut all = Vec::new();
            reader.read_to_end(&mut all).await.unwrap();
            assert!(all == expected);
            reader.unsplit(write.await.unwrap())
        })
    });
    let [client, server] = ends;
    [client.await.unwrap(), server.await.unwrap()]
}

#[tokio::test]
async fn what_is_written_is_read_in_order_to_the_end() {
    let (client, server) = pair(false).await;
    exchange(client, server).await;
}

#[tokio::test]
async fn a_tunnel_carries_a_stream_once_its_server_has_answered() {
    let (client, mut server) = pair(true).await;
    tunnel_server::accept(&mut server.channel).unwrap();
    for end in exchange(client, server).await {
        let (_, channel, failed) = end.into_parts();
        assert!(failed.is_none() && channel.tunnel.unwrap().is_between_connections());
    }
}

/// What is kept for another try has a bound; the writer goes on when a reader has seen the answer.
#[tokio::test]
async fn a_writer_waits_for_the_answer() {
    let (client, mut server) = pair(true).await;
    let (mut reader, mut writer) = tokio::io::split(client);
    let write = tokio::spawn(async move {
        writer.write_all(&vec![7; 1_000_000]).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let read = tokio::spawn(async move { reader.read_to_end(&mut Vec::new()).await });
    let mut first = vec![0; 1];
    server.read_exact(&mut first).await.unwrap();
    assert!(!write.is_finished(), "all of it was written before the server has answered");
    tunnel_server::accept(&mut server.channel).unwrap();
    server.flush().await.unwrap();
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest.len() + first.len(), 1_000_000);
    write.await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(read.await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_refusal_is_an_error_that_keeps_its_reason() {
    let (mut client, mut server) = pair(true).await;
    tunnel_server::decline(&server.tcp, &mut server.channel, Outcome::Refused, Some(sidegate_core::Reason::DeniedByDefault)).unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let (_, _, failed) = client.into_parts();
    assert!(matches!(failed, Some(ChannelError::Refused(reason)) if reason == "denied_by_default"));
}

#[tokio::test]
async fn a_refusal_ends_a_writer_that_waits_for_the_answer() {
    let (client, mut server) = pair(true).await;
    let (mut reader, mut writer) = tokio::io::split(client);
    let write = tokio::spawn(async move { writer.write_all(&vec![7; 1_000_000]).await });
    let read = tokio::spawn(async move { reader.read_to_end(&mut Vec::new()).await });
    server.read_exact(&mut [0]).await.unwrap();
    tunnel_server::decline(&server.tcp, &mut server.channel, Outcome::Refused, Some(sidegate_core::Reason::DeniedByDefault)).unwrap();
    assert_eq!(read.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(write.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn an_end_that_tls_does_not_vouch_for_is_an_error() {
    let (mut client, server) = pair(false).await;
    drop(server);
    assert!(client.read(&mut [0]).await.is_err());
}
