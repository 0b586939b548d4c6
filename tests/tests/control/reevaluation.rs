//! Live connections while the world changes: policy, revocation lists, deny lists, federation, and age.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use sidegate_devkit::authority::TrustDomainConfig;
use sidegate_tests::{
    DEADLINE, Echo, Identities, Pair, Sidecar, TRUST_DOMAIN, assert_reset, client_config, echo_bytes, eventually, free_port, id,
    server_config,
};

const HOUR: Duration = Duration::from_secs(3600);
const DENY: &str = "rules:\n  - name: nobody-from-web\n    action: deny\n    from: { spiffeIds: ['spiffe://test.sidegate/web'] }\n";

/// An application's connection through both sidecars, over which bytes have passed.
fn open(pair: &Pair) -> TcpStream {
    open_at(pair.entry)
}

fn open_at(entry: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(entry).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    say(&mut client);
    client
}

/// Says something, and hears it.
fn say(client: &mut TcpStream) {
    client.write_all(b"still here").unwrap();
    let mut heard = [0; 10];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still here");
}

fn put(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}

fn serial(record: &Value) -> Vec<u8> {
    let text = record["localCertificate"]["serial"].as_str().unwrap();
    let text = if text.len().is_multiple_of(2) { text.to_owned() } else { format!("0{text}") };
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The serial number of web's certificate, as its record of a first connection has it.
fn serial_of_web(pair: &Pair) -> Vec<u8> {
    echo_bytes(pair.entry, 1000, 1).unwrap();
    serial(&pair.web.reason("closed"))
}

#[test]
fn a_connection_that_policy_forbids_now_is_cut_and_both_ends_say_why() {
    for (tunnel, of_web) in [("auto", "peer_aborted"), ("once", "peer_aborted"), ("off", "upstream_reset")] {
        let echo = Echo::start();
        let pair = Pair::with_tunnel(echo.address, tunnel, "");
        let mut client = open(&pair);
        pair.set_policy(DENY);
        assert_reset(&mut client);
        let cut = pair.api.reason("no_longer_allowed");
        assert!(cut["detail"].as_str().unwrap().starts_with("decided now by nobody-from-web ("), "{cut}");
        assert_eq!((&cut["peerId"], &cut["bytesUp"]), (&id("web").into(), &10.into()));
        let told = pair.web.reason(of_web);
        if tunnel != "off" {
            assert!(told["detail"].as_str().unwrap().contains("no_longer_allowed"), "{told}");
        }
    }
}

#[test]
fn what_is_kept_goes_on_under_a_policy_that_would_not_let_it_in() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "liveConnections: { onChange: keep }\n");
    let mut client = open(&pair);
    pair.set_policy(DENY);
    eventually("the policy to be in force", || echo_bytes(pair.entry, 1000, 1).is_err().then_some(()));
    say(&mut client);
}

#[test]
fn what_is_drained_ends_within_its_time() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "liveConnections: { onChange: drain, drainWithin: 500ms, cutsPerSecond: 50 }\n");
    let mut clients: Vec<TcpStream> = (0..20).map(|_| open(&pair)).collect();
    pair.set_policy(DENY);
    clients.iter_mut().for_each(assert_reset);
    eventually("all records", || {
        (pair.api.records().iter().filter(|record| record["reason"] == "no_longer_allowed").count() == 20).then_some(())
    });
}

#[test]
fn a_connection_whose_denial_is_taken_back_in_time_goes_on() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "liveConnections: { onChange: drain, drainWithin: 24h }\n");
    let allow = std::fs::read_to_string(pair.identities.folder().join("api.policy.yaml")).unwrap();
    let mut client = open(&pair);
    pair.set_policy(DENY);
    eventually("the policy to be in force", || echo_bytes(pair.entry, 1000, 1).is_err().then_some(()));
    pair.set_policy(&allow);
    eventually("the policy to be back", || echo_bytes(pair.entry, 1000, 2).ok());
    say(&mut client);
}

/// A deny list that is read while a connection is open, at either end.
#[test]
fn a_peer_that_is_denied_is_cut_and_let_in_again_when_it_is_taken_off_the_list() {
    let echo = Echo::start();
    for (at, whom) in [("api", "web"), ("web", "api")] {
        let list = std::env::temp_dir().join(format!("sidegate-deny-{}-{at}.yaml", std::process::id()));
        put(&list, "denied: []\n");
        let pair = Pair::start(echo.address, HOUR, &format!("revocation: {{ denyLists: ['{}'] }}\n", list.display()));
        let mut client = open(&pair);
        put(&list, &format!("denied:\n  - spiffeId: {}\n    reason: a stolen key\n", id(whom)));
        assert_reset(&mut client);
        let sidecar = if at == "api" { &pair.api } else { &pair.web };
        let cut = sidecar.reason("no_longer_trusted");
        assert_eq!(cut["detail"], "a deny list names it: a stolen key");
        eventually("new connections to be refused", || echo_bytes(pair.entry, 1000, 1).is_err().then_some(()));
        let refused = eventually("a refused handshake", || {
            let _ = echo_bytes(pair.entry, 1000, 1);
            sidecar.records().into_iter().find(|record| record["reason"] == "peer_denied")
        });
        assert_eq!((&refused["claimedId"], &refused["peerId"]), (&id(whom).into(), &Value::Null));
        // A list that can't be read changes nothing.
        put(&list, "denied:\n  - spifeId: spiffe://test.sidegate/web\n");
        eventually("the complaint", || sidecar.log().contains("did you mean `spiffeId`?").then_some(()));
        assert!(echo_bytes(pair.entry, 1000, 1).is_err());
        put(&list, "denied: []\n");
        eventually("service again", || echo_bytes(pair.entry, 1000, 2).ok());
        std::fs::remove_file(list).unwrap();
    }
}

#[test]
fn a_serial_number_denies_one_certificate_and_not_its_successor() {
    let echo = Echo::start();
    let list = std::env::temp_dir().join(format!("sidegate-deny-{}-serial.yaml", std::process::id()));
    put(&list, "denied: []\n");
    let pair = Pair::start(echo.address, HOUR, &format!("revocation: {{ denyLists: ['{}'] }}\n", list.display()));
    let hex: Vec<String> = serial_of_web(&pair).iter().map(|byte| format!("{byte:02X}")).collect();
    let mut client = open(&pair);
    put(&list, &format!("denied:\n  - {{ serialNumber: '{}', trustDomain: {TRUST_DOMAIN} }}\n", hex.join(":")));
    assert_reset(&mut client);
    assert_eq!(pair.api.reason("no_longer_trusted")["detail"], "a deny list names it");
    pair.identities.authority.rotate_now();
    eventually("the successor to be let in", || echo_bytes(pair.entry, 1000, 2).ok());
    std::fs::remove_file(list).unwrap();
}

/// The certificate revocation list in a file.
#[test]
fn a_revoked_peer_is_cut_and_refused() {
    let echo = Echo::start();
    let file = std::env::temp_dir().join(format!("sidegate-crl-{}.pem", std::process::id()));
    // Nothing is known before the authority is there that signs the list: so the first configuration has a list of another.
    let other = Identities::start(&["x"], HOUR);
    put(&file, &other.authority.revocation_lists_pem(TRUST_DOMAIN, &[], HOUR).unwrap());
    let more = format!("revocation: {{ trustDomains: [{{ trustDomain: {TRUST_DOMAIN}, files: ['{}'] }}] }}\n", file.display());
    let pair = Pair::start(echo.address, HOUR, &more);
    assert!(echo_bytes(pair.entry, 1000, 1).is_err(), "a list of somebody else says nothing of the peer");
    assert!(pair.web.reason("revocation_unknown")["detail"].as_str().unwrap().contains("acceptable"));

    let lists = |serials: &[Vec<u8>]| pair.identities.authority.revocation_lists_pem(TRUST_DOMAIN, serials, HOUR).unwrap();
    put(&file, &lists(&[]));
    eventually("the list to be in use", || echo_bytes(pair.entry, 1000, 1).ok());
    let good = pair.web.reason("closed");
    assert_eq!(good["revocation"], "good");
    let mut client = open(&pair);
    put(&file, &lists(&[serial(&good)]));
    assert_reset(&mut client);
    assert!(pair.api.reason("no_longer_trusted")["detail"].as_str().unwrap().starts_with("certificate_revoked: "));
    eventually("new connections to be refused", || {
        let _ = echo_bytes(pair.entry, 1000, 1);
        pair.api.records().into_iter().find(|record| record["reason"] == "certificate_revoked")
    });
    let complaints = || pair.api.metric("sidegate_revocation_reloads_total{sidegate_outcome=\"failure\"}");
    let before = complaints();
    put(&file, "no list at all");
    eventually("the complaint", || (complaints() > before).then_some(()));
    assert!(echo_bytes(pair.entry, 1000, 1).is_err(), "what was known before stays");
    std::fs::remove_file(file).unwrap();
}

/// What is not sure is refused or allowed, as the configuration says, and counted; who is on an expired list stays refused.
#[test]
fn an_expired_list_is_overlooked_only_where_that_is_allowed() {
    let echo = Echo::start();
    let file = std::env::temp_dir().join(format!("sidegate-crl-{}-expired.pem", std::process::id()));
    // A list of another issuer says nothing about these peers.
    let other = Identities::start_with(vec![TrustDomainConfig::new("other.sidegate")], |folder| {
        vec![(folder.join("x.sock"), "spiffe://other.sidegate/x".to_owned())]
    });
    put(&file, &other.authority.revocation_lists_pem("other.sidegate", &[], HOUR).unwrap());
    let more = format!(
        "revocation: {{ trustDomains: [{{ trustDomain: {TRUST_DOMAIN}, files: ['{}'], onUnknown: allow, onExpired: allow }}] }}\n",
        file.display()
    );
    let pair = Pair::start(echo.address, HOUR, &more);
    echo_bytes(pair.entry, 1000, 1).unwrap();
    let unknown = pair.api.reason("closed");
    assert_eq!(unknown["revocation"], "unknown_allowed");
    assert_eq!(pair.api.metric("sidegate_revocation_unsure_total{sidegate_peer_revocation=\"unknown_allowed\"}"), 1.0);

    let expired = |serials: &[Vec<u8>]| pair.identities.authority.revocation_lists_pem(TRUST_DOMAIN, serials, Duration::ZERO).unwrap();
    put(&file, &expired(&[]));
    let fits = |record: &Value| record["revocation"] == "expired_allowed";
    eventually("the expired list", || {
        echo_bytes(pair.entry, 1000, 1).ok()?;
        pair.api.records().into_iter().find(fits)
    });
    put(&file, &expired(&[serial(&pair.web.reason("closed"))]));
    eventually("the revoked one to be refused", || {
        let _ = echo_bytes(pair.entry, 1000, 1);
        pair.api.records().into_iter().find(|record| record["reason"] == "certificate_revoked")
    });
    std::fs::remove_file(file).unwrap();
}

/// A web server with one document, which can be replaced.
fn serve() -> (SocketAddr, Arc<Mutex<Option<String>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let document = Arc::new(Mutex::new(None::<String>));
    let shown = document.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap_or(0);
            assert!(request[..length].starts_with(b"GET /ca.crl HTTP/1.1\r\n"), "{:?}", String::from_utf8_lossy(&request[..length]));
            let answer = match &*shown.lock().unwrap() {
                Some(text) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len()),
                None => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
            };
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (address, document)
}

/// Until a list has been had nothing is known, so nobody is let in; then it is fetched again before it expires.
#[test]
fn a_list_is_fetched_and_fetched_again() {
    let echo = Echo::start();
    let (address, document) = serve();
    let more =
        format!("revocation: {{ trustDomains: [{{ trustDomain: {TRUST_DOMAIN}, urls: ['http://{address}/ca.crl'], refresh: 1s }}] }}\n");
    let pair = Pair::start(echo.address, HOUR, &more);
    assert!(echo_bytes(pair.entry, 1000, 1).is_err());
    pair.web.reason("revocation_unknown");
    assert!(pair.web.log().contains("it answers 503"), "{}", pair.web.log());
    let lists = |serials: &[Vec<u8>]| pair.identities.authority.revocation_lists_pem(TRUST_DOMAIN, serials, HOUR).unwrap();
    *document.lock().unwrap() = Some(lists(&[]));
    eventually("the list to be in use", || echo_bytes(pair.entry, 1000, 1).ok());
    let mut client = open(&pair);
    *document.lock().unwrap() = Some(lists(&[serial(&pair.web.reason("closed"))]));
    assert_reset(&mut client);
    pair.api.reason("no_longer_trusted");
}

/// The partner's bundle is withdrawn while a connection of his is open.
#[test]
fn a_connection_of_a_trust_domain_that_is_given_up_is_cut() {
    let echo = Echo::start();
    let domain = |name: &str, with: &str| TrustDomainConfig { federates_with: vec![with.to_owned()], ..TrustDomainConfig::new(name) };
    let domains = vec![domain("test.sidegate", "partner.sidegate"), domain("partner.sidegate", "test.sidegate")];
    let identities = Identities::start_with(domains, |folder| {
        vec![(folder.join("api.sock"), id("api")), (folder.join("web.sock"), "spiffe://partner.sidegate/web".to_owned())]
    });
    let loopback = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let (entry, port) = (loopback(), loopback());
    let api = Sidecar::start(identities.folder(), "api", &server_config(&identities, port, echo.address));
    let policy: PathBuf = identities.folder().join("api.policy.yaml");
    put(&policy, "rules:\n  - name: partner\n    action: allow\n    from: { trustDomains: [partner.sidegate] }\n");
    let web = Sidecar::start(identities.folder(), "web", &client_config(&identities, entry, port));
    api.wait_ready();
    web.wait_ready();
    eventually("the partner to be let in", || echo_bytes(entry, 1000, 1).ok());
    let mut client = open_at(entry);
    identities.authority.set_federation("test.sidegate", &[]).unwrap();
    assert_reset(&mut client);
    let cut = api.reason("no_longer_trusted");
    assert!(cut["detail"].as_str().unwrap().starts_with("trust_domain_unknown: "), "{cut}");
}

#[test]
fn no_connection_gets_older_than_it_may() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "liveConnections: { maxAge: 1s }\n");
    let mut client = open(&pair);
    assert_reset(&mut client);
    let aged = eventually("the record", || {
        let records = pair.api.records().into_iter().chain(pair.web.records());
        records.into_iter().find(|record| record["reason"] == "max_age")
    });
    assert_eq!(aged["detail"], Value::Null);
}

/// The SVIDs live for five seconds, and rotate; the connection was opened with the first.
#[test]
fn a_peer_whose_certificate_expires_is_kept_or_cut() {
    let echo = Echo::start();
    let ttl = Duration::from_secs(5);
    let kept = Pair::start(echo.address, ttl, "");
    let cut = Pair::start(echo.address, ttl, "liveConnections: { onPeerExpiry: cut }\n");
    let mut goes_on = open(&kept);
    let mut ends = open(&cut);
    assert_reset(&mut ends);
    eventually("the record", || {
        let records = cut.api.records().into_iter().chain(cut.web.records());
        records.into_iter().find(|record| record["reason"] == "peer_expired")
    });
    say(&mut goes_on);
}

/// Whoever answers in the place of the list's server can neither bring in a list of his own, nor make the genuine one vanish, nor lock
/// out the next genuine one.
#[test]
fn forged_lists_neither_replace_nor_hide_a_genuine_one() {
    let echo = Echo::start();
    let (address, document) = serve();
    let more = format!(
        "revocation: {{ trustDomains: [{{ trustDomain: {TRUST_DOMAIN}, urls: ['http://{address}/ca.crl'], refresh: 1s, onUnknown: allow }}] }}\n"
    );
    let pair = Pair::start(echo.address, HOUR, &more);
    let lists = |serials: &[Vec<u8>]| pair.identities.authority.revocation_lists_pem(TRUST_DOMAIN, serials, HOUR).unwrap();
    let put = |text: String| *document.lock().unwrap() = Some(text);
    put(lists(&[]));
    eventually("the list to be in use", || {
        echo_bytes(pair.entry, 1000, 1).ok()?;
        pair.api.records().into_iter().find(|record| record["revocation"] == "good")
    });
    put(lists(&[serial(&pair.web.reason("closed"))]));
    eventually("the revoked one to be refused", || echo_bytes(pair.entry, 1000, 1).err());
    let stranger = Identities::start(&["x"], HOUR);
    let another = Identities::start_with(vec![TrustDomainConfig::new("other.sidegate")], |folder| {
        vec![(folder.join("x.sock"), "spiffe://other.sidegate/x".to_owned())]
    });
    let genuine = lists(&[]);
    // A character in the middle of the signature.
    let at = genuine.rfind("-----END").unwrap() - 20;
    let flipped = format!("{}{}{}", &genuine[..at], if &genuine[at..=at] == "A" { "B" } else { "A" }, &genuine[at + 1..]);
    for forged in [
        flipped,
        stranger.authority.revocation_lists_pem(TRUST_DOMAIN, &[], HOUR).unwrap(),
        another.authority.revocation_lists_pem("other.sidegate", &[], HOUR).unwrap(),
    ] {
        let complaints = || pair.api.metric("sidegate_revocation_reloads_total{sidegate_outcome=\"failure\"}");
        let before = complaints();
        put(forged);
        eventually("the complaint", || (complaints() > before).then_some(()));
        assert!(echo_bytes(pair.entry, 1000, 1).is_err(), "the genuine list counts");
    }
    put(lists(&[]));
    eventually("the next genuine list", || echo_bytes(pair.entry, 1000, 1).ok());
}

/// Lists that come with the bundles need no configuration.
#[test]
fn lists_of_the_workload_api_are_heeded() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    echo_bytes(pair.entry, 1000, 1).unwrap();
    let first = pair.api.reason("closed");
    assert_eq!(first["revocation"], "not_checked");
    let publish = |serials: &[Vec<u8>]| pair.identities.authority.publish_revocation_lists(TRUST_DOMAIN, serials, HOUR).unwrap();
    publish(&[]);
    eventually("the list to be in use", || {
        echo_bytes(pair.entry, 1000, 1).ok()?;
        pair.api.records().into_iter().find(|record| record["revocation"] == "good")
    });
    // Nobody has promised that there is always a new one in time: one that has expired refuses only whom it names.
    pair.identities.authority.publish_revocation_lists(TRUST_DOMAIN, &[], Duration::ZERO).unwrap();
    eventually("the list to be on record as expired", || {
        echo_bytes(pair.entry, 1000, 1).unwrap();
        pair.api.records().into_iter().find(|record| record["revocation"] == "expired_allowed")
    });
    let mut client = open(&pair);
    publish(&[serial(&pair.web.reason("closed"))]);
    assert_reset(&mut client);
    eventually("new connections to be refused", || {
        let _ = echo_bytes(pair.entry, 1000, 1);
        pair.web.records().into_iter().chain(pair.api.records()).find(|record| record["reason"] == "certificate_revoked")
    });
}
