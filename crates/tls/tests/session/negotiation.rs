//! What both ends agree on, and that both record the same.

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use sidegate_core::{CertificateFacts, HandshakeFacts};
use sidegate_identity::unix_now;
use sidegate_tls::{ServerName, TlsContext, accept};

use crate::material;
use crate::raw::{against_us, config};
use crate::wire::{connect, shake, shake_with_alpn, sockets, within};

#[tokio::test]
async fn the_best_of_tls_1_3_is_agreed_on() {
    let material = material();
    let (server, client) = shake(&material, &material).await;
    let (server, client) = (server.session().1, client.session().1);
    let leaf = &material.svid.certified_key.cert[0];
    for session in [&server, &client] {
        let certificate = &session.peer.certificate;
        assert_eq!(certificate.sha256, CertificateFacts::new(leaf, String::new(), 0, 0).sha256);
        assert!((certificate.not_after - unix_now() - 3600).abs() < 60 && certificate.not_before <= unix_now());
    }
    let (server, client) = (server.facts, client.facts);
    let agreed = |facts: &HandshakeFacts| (facts.version, facts.cipher, facts.group, facts.alpn.clone(), facts.resumed);
    assert_eq!(agreed(&server), agreed(&client));
    assert_eq!((server.version, server.group, server.resumed), ("1.3", Some("X25519MLKEM768"), false));
    assert!(["TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"].contains(&server.cipher), "{}", server.cipher);
}

#[tokio::test]
async fn a_client_without_ml_kem_is_still_a_client() {
    let material = material();
    for (group, name) in [(kx_group::X25519, "X25519"), (kx_group::SECP256R1, "secp256r1"), (kx_group::SECP384R1, "secp384r1")] {
        let provider = CryptoProvider { kx_groups: vec![group], ..default_provider() };
        let (_tcp, outcome, _raw) = against_us(&material, config(Some(&material), provider)).await;
        assert_eq!(outcome.unwrap().facts.group, Some(name));
    }
}

/// The client offers ML-KEM, but sends a share of another group first: one more round.
#[tokio::test]
async fn what_is_preferred_costs_no_client_its_connection() {
    let material = material();
    let provider = CryptoProvider { kx_groups: vec![kx_group::SECP384R1, kx_group::X25519MLKEM768], ..default_provider() };
    let (_tcp, outcome, _raw) = against_us(&material, config(Some(&material), provider)).await;
    assert!(outcome.unwrap().facts.group.is_some());
}

#[tokio::test]
async fn alpn_is_the_ports_where_the_client_offers_it_and_none_elsewhere() {
    let material = material();
    for (port, offered, agreed) in [
        (vec!["h2"], vec!["h2"], Some("h2")),
        (vec!["h2"], vec!["http/1.1", "h2"], Some("h2")),
        // The port's order counts.
        (vec!["h2", "http/1.1"], vec!["http/1.1", "h2"], Some("h2")),
        (vec!["h2"], vec![], None),
        (vec!["h2"], vec!["http/1.1"], None),
        (vec!["h2"], vec!["H2"], None),
        (vec![], vec!["h2"], None),
        (vec![], vec![], None),
    ] {
        let (server, client) = shake_with_alpn((&material, &port), (&material, &offered)).await;
        for end in [server, client] {
            assert_eq!(end.session().1.facts.alpn.as_deref(), agreed, "{port:?} and {offered:?}");
        }
    }
}

#[tokio::test]
async fn the_server_sees_which_name_was_asked_for() {
    let material = material();
    let context = TlsContext::new(&material).unwrap();
    let choice = context.server(&[]);
    for (name, seen) in
        [("web.prod.example", Some("web.prod.example")), ("WEB.prod.example", Some("web.prod.example")), ("10.0.0.1", None), ("::1", None)]
    {
        let (server_tcp, client_tcp) = sockets().await;
        let config = context.client(&[], false);
        let connecting = connect(&client_tcp, &config, ServerName::try_from(name).unwrap());
        let (server, client) = within(async { tokio::join!(accept(&server_tcp, b"", &choice), connecting) }).await;
        assert_eq!(server.unwrap().facts.sni.as_deref(), seen);
        assert_eq!(client.unwrap().facts.sni, None);
    }
}
