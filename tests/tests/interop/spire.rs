//! A real SPIRE, where one is installed: sidecars whose identities its agent gives.
//!
//! Nothing but SPIRE itself can say that sidegate gets along with SPIRE. Yet it can't be had everywhere, so its absence
//! is said and is no failure, not even where all other peers have to be there.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use sidegate_tests::{Echo, Gate, Owner, Process, TRUST_DOMAIN, echo_bytes, eventually, exchange, free_port, id, program};
use tempfile::TempDir;

const LARGE: usize = 8 << 20;

/// A server and an agent on loopback, which attests by join token and knows workloads by their user.
struct Spire {
    _server: Process,
    agent: Option<Process>,
    folder: TempDir,
}

impl Spire {
    /// None if it is not installed.
    fn start() -> Option<Self> {
        if program("spire-server").is_none() || program("spire-agent").is_none() {
            eprintln!("SKIPPED spire: no spire-server and spire-agent on PATH");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("sidegate-spire.").tempdir().unwrap();
        let (path, port) = (folder.path(), free_port());
        let server = run(path, "server", &[], &server_config(path, port));
        eventually("SPIRE's server", || ask(path, "healthcheck", &[]).ok());
        let token = ask(path, "token generate", &["-spiffeID", &id("agent"), "-output", "json"]).unwrap();
        let token: Value = serde_json::from_str(&token).unwrap();
        std::fs::write(path.join("bundle.pem"), ask(path, "bundle show", &[]).unwrap()).unwrap();
        let agent = run(path, "agent", &["-joinToken", token["value"].as_str().unwrap()], &agent_config(path, port));
        eventually("the agent's socket", || path.join("agent.sock").exists().then_some(()));
        Some(Self { _server: server, agent: Some(agent), folder })
    }

    /// Registers a workload: whoever runs as this test's user.
    fn register(&self, name: &str) {
        let uid = format!("unix:uid:{}", nix::unistd::getuid());
        ask(self.folder.path(), "entry create", &["-parentID", &id("agent"), "-spiffeID", &id(name), "-selector", &uid]).unwrap();
    }

    /// A command about the server's X.509 authorities, and its answer.
    fn authority(&self, action: &str, of: Option<&str>) -> Value {
        let mut arguments = vec!["-output", "json"];
        arguments.extend(of.iter().flat_map(|id| ["-authorityID", id]));
        let answer = ask(self.folder.path(), &format!("localauthority x509 {action}"), &arguments);
        serde_json::from_str(&answer.unwrap_or_else(|e| panic!("{action}: {e}"))).unwrap()
    }

    /// All sidecars run as one user, to whom the agent gives every SVID; each uses its own.
    fn owner(&self, name: &str) -> Owner {
        let socket = self.folder.path().join("agent.sock");
        let identity = format!(
            "{{ sources: [{{ workloadApi: {{ socket: \"unix://{}\" }} }}], use: {{ spiffeId: \"{}\" }} }}",
            socket.display(),
            id(name)
        );
        Owner::with(self.folder.path(), name, &identity)
    }

    /// web's gate, api's gate, and the application behind.
    fn pair(&self) -> (Gate, Gate, Echo) {
        let app = Echo::start();
        let api = self.owner("api").inbound(&[&id("web")], app.address);
        let web = self.owner("web").outbound(&id("api"), api.address);
        (web, api, app)
    }
}

fn server_config(folder: &Path, port: u16) -> String {
    format!(
        r#"server {{
            bind_address = "127.0.0.1"
            bind_port = "{port}"
            socket_path = "{folder}/server.sock"
            trust_domain = "{TRUST_DOMAIN}"
            data_dir = "{folder}/server"
        }}
        plugins {{
            DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{folder}/server.sqlite" }} }}
            NodeAttestor "join_token" {{ plugin_data {{}} }}
            KeyManager "memory" {{ plugin_data {{}} }}
        }}"#,
        folder = folder.display(),
    )
}

/// It asks for what is new every second, so that tests need not wait.
fn agent_config(folder: &Path, server: u16) -> String {
    format!(
        r#"agent {{
            server_address = "127.0.0.1"
            server_port = "{server}"
            socket_path = "{folder}/agent.sock"
            trust_bundle_path = "{folder}/bundle.pem"
            trust_domain = "{TRUST_DOMAIN}"
            data_dir = "{folder}/agent"
            experimental {{ sync_interval = "1s" }}
        }}
        plugins {{
            NodeAttestor "join_token" {{ plugin_data {{}} }}
            KeyManager "memory" {{ plugin_data {{}} }}
            WorkloadAttestor "unix" {{ plugin_data {{}} }}
        }}"#,
        folder = folder.display(),
    )
}

/// Starts `spire-KIND` with this configuration.
fn run(folder: &Path, kind: &str, arguments: &[&str], config: &str) -> Process {
    let file = folder.join(format!("{kind}.conf"));
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(program(&format!("spire-{kind}")).unwrap());
    command.arg("run").arg("-config").arg(file).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Process::start(command, &folder.join(format!("{kind}.log")))
}

/// Asks the server's own command line.
fn ask(folder: &Path, command: &str, arguments: &[&str]) -> Result<String, String> {
    let mut asking = Command::new(program("spire-server").unwrap());
    asking.args(command.split(' ')).arg("-socketPath").arg(folder.join("server.sock")).args(arguments);
    let output = asking.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stdout) + &text(output.stderr)) }
}

#[test]
fn sidecars_live_on_spires_identities() {
    let Some(spire) = Spire::start() else { return };
    let (web, api, app) = spire.pair();
    // The agent knows nobody yet, and says PermissionDenied.
    eventually("the denial in /readyz", || {
        let (status, why) = web.sidecar.ask("/readyz")?;
        (status == 503 && why.contains("no identity issued")).then_some(())
    });
    for name in ["web", "api", "other"] {
        spire.register(name);
    }
    let (web, api) = (web.ready(), api.ready());
    for (length, seed) in [(0, 1), (1, 2), (LARGE, 3)] {
        echo_bytes(web.address, length, seed).unwrap();
    }
    for sidecar in [&web.sidecar, &api.sidecar] {
        let record = sidecar.record("the transfer", |r| r["bytesUp"] == LARGE);
        assert_eq!(record["reason"], "closed", "{record}");
        assert_eq!(record["tls"]["group"], "X25519MLKEM768");
        let (local, peer) = if record["direction"] == "inbound" { ("api", "web") } else { ("web", "api") };
        assert_eq!(record["localId"], id(local));
        assert_eq!(record["peerId"], id(peer));
    }

    // Another of the same trust domain, by the same agent, is not let in.
    let served = app.accepted.load(Ordering::Relaxed);
    let other = spire.owner("other").outbound(&id("api"), api.address).ready();
    assert!(exchange(other.address, b"let me in").is_err());
    assert_eq!(api.sidecar.reason("denied_by_default")["peerId"], id("other"));
    assert_eq!(app.accepted.load(Ordering::Relaxed), served);
}

/// The server's authority is replaced, as its manual says: prepared, activated, the old one tainted and revoked. The
/// agent renews all SVIDs at once, and the bundle changes twice.
#[test]
fn a_new_authority_is_followed_and_nothing_breaks() {
    let Some(spire) = Spire::start() else { return };
    spire.register("web");
    spire.register("api");
    let (web, api, _app) = spire.pair();
    let (web, api) = (web.ready(), api.ready());
    let mut held = TcpStream::connect(web.address).unwrap();
    ping(&mut held);
    let before = look(&web, &api);

    let old = spire.authority("show", None)["active"]["authority_id"].as_str().unwrap().to_owned();
    let new = spire.authority("prepare", None)["prepared_authority"]["authority_id"].as_str().unwrap().to_owned();
    let trusting_both = both_see("the bundle with both authorities", &web, &api, |end, now| now.generation > before[end].generation);
    spire.authority("activate", Some(&new));
    // Tainted, it is still in the bundle, but the agent must replace every SVID by it.
    spire.authority("taint", Some(&old));
    let renewed = both_see("new SVIDs", &web, &api, |end, now| now.serial != trusting_both[end].serial);
    ping(&mut held);
    drop(held);
    for gate in [&web, &api] {
        let record = gate.sidecar.record("the connection that was held", |r| r["bytesUp"] == 2 * b"ping".len());
        assert_eq!(record["reason"], "closed", "{record}");
    }

    spire.authority("revoke", Some(&old));
    both_see("the bundle without the old authority", &web, &api, |end, now| now.generation > renewed[end].generation);
}

/// A dead agent takes nothing away: what it gave is good until it expires.
#[test]
fn the_agents_death_is_survived() {
    let Some(mut spire) = Spire::start() else { return };
    spire.register("web");
    spire.register("api");
    let (web, api, _app) = spire.pair();
    let (web, _api) = (web.ready(), api.ready());
    let mut held = TcpStream::connect(web.address).unwrap();
    ping(&mut held);
    drop(spire.agent.take());
    eventually("that web noticed", || web.sidecar.log().contains("agent.sock").then_some(()));
    ping(&mut held);
    echo_bytes(web.address, LARGE, 1).unwrap();
    web.sidecar.wait_ready();
}

fn ping(tcp: &mut TcpStream) {
    tcp.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    tcp.set_read_timeout(Some(sidegate_tests::DEADLINE)).unwrap();
    tcp.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}

/// What one end knows in a new connection.
#[derive(Debug)]
struct Seen {
    /// The snapshot that it judges by.
    generation: u64,
    /// The serial number of the other end's certificate.
    serial: String,
}

/// A new connection, by web's record and by api's.
fn look(web: &Gate, api: &Gate) -> [Seen; 2] {
    // As many bytes as no other connection carries: so its records are found.
    static NEXT: AtomicUsize = AtomicUsize::new(100);
    let length = NEXT.fetch_add(1, Ordering::Relaxed);
    echo_bytes(web.address, length, 1).unwrap();
    [web, api].map(|gate| {
        let record = gate.sidecar.record("the connection", |r| r["bytesUp"] == length);
        Seen { generation: record["generation"].as_u64().unwrap(), serial: record["peerCertificate"]["serial"].to_string() }
    })
}

/// Connects until what each end sees is `new`; not one connection may fail meanwhile.
fn both_see(what: &str, web: &Gate, api: &Gate, new: impl Fn(usize, &Seen) -> bool) -> [Seen; 2] {
    eventually(what, || {
        let now = look(web, api);
        now.iter().enumerate().all(|(end, seen)| new(end, seen)).then_some(now)
    })
}
