//! What a connection costs before its first byte: verification, policy, the handshake, the record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sidegate_authority::{Authority, AuthorityConfig, TrustDomainConfig};
use sidegate_config::schema::Profile;
use sidegate_core::{ConnectionRecord, Direction, SpiffeId, TrustDomain};
use sidegate_identity::{Bundle, Material, Svid, unix_now};
use sidegate_policy::{Policy, Query};
use sidegate_tls::{Role, ServerName, TlsContext, TrustStore, verify};
use tokio::net::{TcpListener, TcpStream};

const DOMAIN: &str = "bench.sidegate";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// An SVID with its bundle, as the embedded authority issues them.
fn material(runtime: &tokio::runtime::Runtime) -> Material {
    use rustls::pki_types::pem::PemObject;
    let folder = tempfile::tempdir().unwrap();
    let config = AuthorityConfig {
        sockets: vec![folder.path().join("agent.sock")],
        trust_domains: vec![TrustDomainConfig::new(DOMAIN)],
        ..AuthorityConfig::default()
    };
    let authority = runtime.block_on(Authority::start(config)).unwrap();
    let issued = authority.issue(&format!("spiffe://{DOMAIN}/web"), Duration::from_secs(3600)).unwrap();
    let bundle = authority.bundle_pem(DOMAIN).unwrap();
    runtime.block_on(authority.shutdown());
    let chain = issued.chain_der.into_iter().map(CertificateDer::from).collect();
    let svid = Svid::new(chain, &PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.key_der))).unwrap();
    let domain = TrustDomain::new(DOMAIN).unwrap();
    let roots = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect::<Result<_, _>>().unwrap();
    let bundle = Bundle::new(&domain, roots, &mut Vec::new());
    Material::new(svid, BTreeMap::from([(domain, bundle)]), Vec::new(), false).unwrap()
}

fn verification(c: &mut Criterion) {
    let material = material(&runtime());
    let trust = TrustStore::new(&material);
    let leaf = material.svid.certified_key.cert[0].clone();
    c.bench_function("verify a P-256 leaf", |b| b.iter(|| verify::verify(&leaf, &[], Role::Client, &trust, unix_now()).unwrap()));
}

fn policy(c: &mut Criterion) {
    let rule = |n: usize| {
        format!("  - {{ name: r{n}, action: allow, from: {{ spiffeIds: ['spiffe://{DOMAIN}/ns/n{n}/sa/*'] }}, to: {{ ports: [8080] }} }}\n")
    };
    let text = format!("rules:\n{}", (0..100).map(rule).collect::<String>());
    let policy = Policy::parse(&[("bench".to_owned(), text)], Profile::Production).unwrap();
    let peer = SpiffeId::new(format!("spiffe://{DOMAIN}/ns/n99/sa/web")).unwrap();
    let query = Query { peer: Some(&peer), peer_address: [10, 0, 0, 1].into(), destination: ([10, 0, 0, 2], 8080).into(), sni: None };
    c.bench_function("decide among 100 rules, the last matches", |b| b.iter(|| policy.decide(&query)));
}

fn handshake(c: &mut Criterion) {
    let runtime = runtime();
    let context = TlsContext::new(&material(&runtime)).unwrap();
    let (client, server) = (context.client(&[]), Arc::new(context.server(&[])));
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    c.bench_function("full handshake over loopback, both ends", |b| {
        b.to_async(&runtime).iter(|| async {
            let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
            let (near, (far, _)) = (near.unwrap(), far.unwrap());
            let name = ServerName::IpAddress(address.ip().into());
            let (one, other) = tokio::join!(sidegate_tls::connect(&near, client.clone(), name), sidegate_tls::accept(&far, &[], &server));
            (one.unwrap(), other.unwrap())
        });
    });
}

fn record(c: &mut Criterion) {
    c.bench_function("a record, begun", |b| {
        b.iter(|| {
            let record = ConnectionRecord::new(Direction::Inbound, ([10, 0, 0, 1], 4711).into());
            record.connection_id.to_string()
        });
    });
}

criterion_group!(benches, verification, policy, handshake, record);
criterion_main!(benches);
