//! Resumed sessions, and that whom they lead to is judged like in any other.

use std::time::Duration;

use sidegate_core::Reason;
use sidegate_identity::{Material, unix_now};
use sidegate_tls::{ClientChoice, HandshakeFailure, Role, ServerChoice, ServerName, Session, TlsContext, TrustStore, accept, verify_again};

use crate::material;
use crate::pki::{ID, Spec, World, signing_key};
use crate::wire::{connect, read_to_end, shutdown, sockets, within};

struct Pair {
    server: ServerChoice,
    client: ClientChoice,
}

fn pair(server: &Material, client: &Material) -> Pair {
    Pair { server: TlsContext::new(server).unwrap().server(&[]), client: TlsContext::new(client).unwrap().client(&[], false) }
}

impl Pair {
    /// Shakes hands; both ends close in order, so that the ticket has come.
    async fn shake(&self) -> (Result<Session, HandshakeFailure>, Result<Session, HandshakeFailure>) {
        let (server_tcp, client_tcp) = sockets().await;
        let name = ServerName::try_from("web.prod.example").unwrap();
        let (mut server, mut client) =
            within(async { tokio::join!(accept(&server_tcp, b"", &self.server), connect(&client_tcp, &self.client, name)) }).await;
        if let (Ok(server), Ok(client)) = (&mut server, &mut client) {
            shutdown(&server_tcp, server).await.unwrap();
            assert_eq!(read_to_end(&client_tcp, client).await.unwrap(), b"");
        }
        (server, client)
    }

    async fn resumed(&self) -> bool {
        let (server, client) = self.shake().await;
        let (server, client) = (server.unwrap(), client.unwrap());
        assert_eq!(server.facts.resumed, client.facts.resumed);
        assert_eq!((server.facts.group, client.facts.group), (Some("X25519MLKEM768"), Some("X25519MLKEM768")));
        client.facts.resumed
    }
}

#[tokio::test]
async fn the_second_handshake_resumes_and_so_does_the_next() {
    let material = material();
    let pair = pair(&material, &material);
    let resumed = [pair.resumed().await, pair.resumed().await, pair.resumed().await];
    assert_eq!(resumed, [false, true, true]);
}

/// Each destination has a choice of its own, so a ticket for one server is never offered to another.
#[tokio::test]
async fn a_ticket_is_for_one_destination() {
    let material = material();
    let context = TlsContext::new(&material).unwrap();
    let mut pair = Pair { server: context.server(&[]), client: context.client(&[], false) };
    assert!(!pair.resumed().await && pair.resumed().await);
    pair.client = context.client(&[], false);
    assert!(!pair.resumed().await);
}

/// After a rotation on either side an old ticket means a full handshake, not a failed one.
#[tokio::test]
async fn a_new_generation_shakes_hands_in_full() {
    let material = material();
    let mut pair = pair(&material, &material);
    assert!(!pair.resumed().await && pair.resumed().await);
    pair.server = TlsContext::new(&material).unwrap().server(&[]);
    assert!(!pair.resumed().await && pair.resumed().await);
    pair.client = TlsContext::new(&material).unwrap().client(&[], false);
    assert!(!pair.resumed().await && pair.resumed().await);
}

/// The chain of a resumed session is judged by the time that it is now, also where the material has not changed.
#[tokio::test]
async fn a_peer_who_has_expired_is_refused_although_it_has_a_ticket() {
    const BRIEF: &str = "spiffe://prod.example/brief";
    let world = World::new();
    let end = unix_now() + 2;
    let leaf = Spec::leaf(BRIEF).valid(end - 60, end).signed_by(&world.ours, &world.leaf_key);
    let pair = pair(&world.material(ID), &world.presenting(vec![leaf], signing_key(&world.leaf_key)));
    assert!(!pair.resumed().await && pair.resumed().await);
    // Certificates go by the clock on the wall.
    while unix_now() <= end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (server, _) = pair.shake().await;
    let failure = server.err().unwrap();
    assert_eq!(failure.reason, Reason::Expired, "{failure:?}");
    assert_eq!(failure.claimed_id.as_deref(), Some(BRIEF));
}

/// What was verified by one generation of bundles is verified anew by the next.
#[tokio::test]
async fn a_peer_is_judged_again_by_what_holds_now() {
    let world = World::new();
    let material = world.material(ID);
    let pair = pair(&material, &material);
    let peer = pair.shake().await.0.unwrap().peer;
    let mut without = world.material(ID);
    without.bundles.clear();
    let (now, later) = (unix_now(), unix_now() + 7200);
    for (trust, now, verdict) in [
        (TrustStore::new(&material), now, Ok(())),
        (TrustStore::new(&material), later, Err(Reason::Expired)),
        (TrustStore::new(&without), now, Err(Reason::TrustDomainUnknown)),
    ] {
        assert_eq!(verify_again(&peer, Role::Client, &trust, now).map(drop).map_err(|failure| failure.reason), verdict);
    }
}
