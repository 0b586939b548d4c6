//! Which identity is used, whose bundles are believed, and where they come from.

use std::io::copy;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;
use sidegate_devkit::authority::{Entry, TrustDomainConfig};
use sidegate_tests::{Echo, Identities, Pair, Sidecar, client_config, echo_bytes, eventually, free_port, id, server_config};

const HOUR: Duration = Duration::from_secs(3600);

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

/// A federated trust domain is believed about itself while its bundle is there, and no longer.
#[test]
fn federation_comes_and_goes_with_its_bundle() {
    let echo = Echo::start();
    let domain = |name: &str, with: &str| TrustDomainConfig { federates_with: vec![with.to_owned()], ..TrustDomainConfig::new(name) };
    let domains = vec![domain("test.sidegate", "partner.sidegate"), domain("partner.sidegate", "test.sidegate")];
    let identities = Identities::start_with(domains, |folder| {
        vec![(folder.join("api.sock"), id("api")), (folder.join("web.sock"), "spiffe://partner.sidegate/web".to_owned())]
    });
    let (entry, port) = (loopback(), loopback());
    let api = Sidecar::start(identities.folder(), "api", &server_config(&identities, port, echo.address));
    let policy = identities.folder().join("api.policy.yaml");
    std::fs::write(&policy, "rules:\n  - name: partner\n    action: allow\n    from: { trustDomains: [partner.sidegate] }\n").unwrap();
    // Each connection with a handshake of its own: what is refused on a session that is used again is tried elsewhere.
    let config = client_config(&identities, entry, port).replace("{ name: api,", "{ name: api, tunnel: once,");
    let web = Sidecar::start(identities.folder(), "web", &config);
    api.wait_ready();
    web.wait_ready();
    eventually("the partner to be let in", || echo_bytes(entry, 1000, 1).ok());
    assert_eq!(api.reason("closed")["peerId"], "spiffe://partner.sidegate/web");

    identities.authority.set_federation("test.sidegate", &[]).unwrap();
    eventually("the withdrawal", || echo_bytes(entry, 1000, 2).is_err().then_some(()));
    // One that was under way at that moment is cut instead.
    let refused = eventually("a refused handshake", || {
        let _ = echo_bytes(entry, 1000, 2);
        api.records().into_iter().find(|record| record["reason"] == "trust_domain_unknown")
    });
    assert_eq!(refused["claimedId"], "spiffe://partner.sidegate/web");
    assert!(refused["peerId"].is_null(), "a claim is no identity");
    // One that is under way at that moment may be refused in its tunnel instead.
    let alert = |r: &Value| r["detail"].as_str().is_some_and(|d| d.contains("UnknownCA"));
    let told = eventually("the alert", || {
        let _ = echo_bytes(entry, 1000, 2);
        web.records().into_iter().find(alert)
    });
    assert_eq!(told["reason"], "peer_rejected_us", "{told}");

    identities.authority.set_federation("test.sidegate", &["partner.sidegate"]).unwrap();
    eventually("the return", || echo_bytes(entry, 1000, 3).ok());
}

/// Of several SVIDs the first is the default; a hint or an ID selects another; one that nobody offers is said to be so.
#[test]
fn one_of_several_svids_is_selected() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let socket = pair.identities.socket("web");
    let entry = |name: &str, hint: &str| Entry { socket: Some(socket.clone()), hint: Some(hint.to_owned()), ..Entry::new(id(name)) };
    let api = Entry { socket: Some(pair.identities.socket("api")), ..Entry::new(id("api")) };
    pair.identities.authority.set_entries(&[entry("first", "external"), entry("web", "internal"), api]).unwrap();
    let with = |name: &str, select: &str| {
        let listen = loopback();
        let config =
            client_config(&pair.identities, listen, pair.port).replace("identity: {", &format!("identity: {{ use: {{ {select} }},"));
        (Sidecar::start(pair.identities.folder(), name, &config), listen)
    };
    let (by_hint, listen) = with("by-hint", "hint: internal");
    by_hint.wait_ready();
    echo_bytes(listen, 1000, 1).unwrap();
    let (by_id, listen) = with("by-id", &format!("spiffeId: '{}'", id("web")));
    by_id.wait_ready();
    echo_bytes(listen, 1000, 2).unwrap();
    let (default, listen) = with("default", "");
    default.wait_ready();
    assert!(echo_bytes(listen, 1000, 3).is_err(), "`first` is not allowed to call");
    let refused = default.record("the refusal", |r| r["reason"] == "peer_refused" || r["reason"] == "upstream_reset");
    assert_eq!(refused["localId"], id("first"));
    let (nobody, _) = with("nobody", "hint: no-such");
    eventually("what is offered", || {
        nobody
            .ask("/readyz")
            .filter(|(s, why)| *s == 503 && why.contains("matches none of those offered") && why.contains("hint `internal`"))
    });
}

/// `tcp://` on loopback is an endpoint too, and the environment names one where the configuration does not.
#[test]
fn the_workload_api_is_reached_by_tcp_and_by_the_environment() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let socket = pair.identities.socket("web");
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let endpoint = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let (mut tcp, mut unix) = (tcp.unwrap(), UnixStream::connect(&socket).unwrap());
            let (mut back_from, mut back_to) = (unix.try_clone().unwrap(), tcp.try_clone().unwrap());
            std::thread::spawn(move || copy(&mut back_from, &mut back_to));
            std::thread::spawn(move || copy(&mut tcp, &mut unix));
        }
    });
    let listen = loopback();
    let unix = format!("unix://{}", pair.identities.socket("web").display());
    let config = client_config(&pair.identities, listen, pair.port);
    let by_tcp = Sidecar::start(pair.identities.folder(), "tcp", &config.replace(&unix, &format!("tcp://{endpoint}")));
    by_tcp.wait_ready();
    echo_bytes(listen, 1000, 1).unwrap();

    let listen = loopback();
    let config = client_config(&pair.identities, listen, pair.port);
    let without: String = config.lines().filter(|l| !l.starts_with("identity:")).map(|l| format!("{l}\n")).collect();
    let by_environment = Sidecar::start_by(
        pair.identities.folder(),
        "environment",
        &without,
        free_port(),
        &[],
        |mut command| command.env("SPIFFE_ENDPOINT_SOCKET", &unix).spawn().unwrap(),
        sidegate_tests::get,
    );
    by_environment.wait_ready();
    echo_bytes(listen, 1000, 2).unwrap();
}

/// A production profile refuses the embedded authority's SVIDs, whatever socket they come from.
#[test]
fn production_refuses_the_embedded_authority() {
    let identities = Identities::start(&["web"], HOUR);
    let config = client_config(&identities, loopback(), loopback()).replace("profile: development", "profile: production");
    let sidecar = Sidecar::start(identities.folder(), "web", &config);
    eventually("the refusal", || {
        sidecar.ask("/readyz").filter(|(s, why)| *s == 503 && why.contains("development authority, which profile `production` refuses"))
    });
}

/// `sidegate authority` alone, as a process: it says loudly what it is, serves sidecars, and leaves no socket behind.
#[test]
fn the_authority_runs_alone() {
    use std::process::{Command, Stdio};
    let folder = tempfile::tempdir().unwrap();
    let (socket, file, log) = (folder.path().join("agent.sock"), folder.path().join("authority.yaml"), folder.path().join("authority.log"));
    let text = format!(
        "sockets: ['{}']\ntrustDomains: [{{ name: test.sidegate, ttl: 1h }}]\nentries: [{{ spiffeId: '{}', uid: {}, path: '{}' }}]\n",
        socket.display(),
        id("web"),
        nix::unistd::geteuid(),
        sidegate_tests::sidegate().display()
    );
    std::fs::write(&file, text).unwrap();
    let mut authority = Command::new(sidegate_tests::sidegate())
        .args(["authority", "--config"])
        .arg(&file)
        .stderr(Stdio::from(std::fs::File::create(&log).unwrap()))
        .spawn()
        .unwrap();
    let config = format!(
        "profile: development\nidentity: {{ sources: [{{ workloadApi: {{ socket: 'unix://{}' }} }}] }}\ninbound: {{ listen: null }}\noutbound: {{ listen: null, listen6: null }}\n",
        socket.display()
    );
    let sidecar = Sidecar::start(folder.path(), "web", &config);
    sidecar.wait_ready();
    assert!(sidecar.log().contains(&id("web")), "attested by user and by the path of its binary");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(authority.id()).unwrap()), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(eventually("its end", || authority.try_wait().unwrap()).success());
    assert!(!socket.exists());
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("WARN") && said.contains("FOR DEVELOPMENT ONLY"), "{said}");
    // A mistake is named with its place.
    std::fs::write(&file, "sockets: [x]\ntrustDomains: [{ name: test.sidegate, tll: 1h }]\n").unwrap();
    let output = Command::new(sidegate_tests::sidegate()).args(["authority", "--config"]).arg(&file).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && errors.contains("authority.yaml:2:"), "{errors}");
    assert!(errors.contains("tll: unknown key; did you mean `ttl`?"), "{errors}");
}

/// Whatever an agent offers is bounded; what is too much is named, and what was there before stays.
#[test]
fn what_an_agent_offers_is_bounded() {
    let identities = Identities::start(&["web"], HOUR);
    let config = client_config(&identities, loopback(), loopback());
    let sidecar = Sidecar::start(identities.folder(), "web", &config);
    sidecar.wait_ready();
    let entry = |n: usize| Entry { socket: Some(identities.socket("web")), ..Entry::new(id(&format!("w{n}"))) };
    identities.authority.set_entries(&(0..101).map(entry).collect::<Vec<_>>()).unwrap();
    eventually("the refusal", || sidecar.log().contains("SVIDs: 101, 100 are the most").then_some(()));
    assert_eq!(sidecar.ask("/readyz").unwrap().0, 200, "the last good SVID stays");
}

#[test]
fn a_chain_and_bundles_are_bounded() {
    use sidegate_identity::{Bundle, Material, Svid};
    let identities = Identities::start(&["web"], HOUR);
    let offered = || sidegate_tests::material(&identities, "web");
    let said = |bundles| Material::new(offered().svid, bundles, Vec::new(), false).map(drop).unwrap_err().to_string();
    let mut bundles = offered().bundles;
    for n in 0..1000 {
        bundles.insert(sidegate_core::TrustDomain::new(format!("d{n}.test")).unwrap(), Bundle::default());
    }
    assert_eq!(said(bundles), "trust bundles: 1001, 1000 are the most");
    let mut bundles = offered().bundles;
    let bundle = bundles.values_mut().next().unwrap();
    bundle.authorities = vec![bundle.authorities[0].clone(); 4001];
    assert_eq!(said(bundles), "CA certificates of all bundles: 4001, 4000 are the most");
    let chain = vec![rustls::pki_types::CertificateDer::from(vec![0]); 17];
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(vec![0]).into();
    assert_eq!(Svid::new(chain, &key).unwrap_err().to_string(), "certificates of the SVID's chain: 17, 16 are the most");
}
