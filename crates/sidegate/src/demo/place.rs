//! Where the demo's workloads live: pods of network namespaces, or loopback alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use sidegate_devkit::pods::{Network, Pod, Support, enter_user_namespace, nft_support, support};

use super::TRUST_DOMAIN;
use super::sidecar::Sidecar;
use crate::cli::DemoMode;

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    Web,
    Api,
    Intruder,
}

pub(super) const WORKLOADS: [Workload; 3] = [Workload::Api, Workload::Web, Workload::Intruder];

/// Where api's service listens.
const SERVICE_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 15020;
/// Users of the sidecars, one each; nobody else has them.
const FIRST_UID: u32 = 64_100;
/// What marks the sidecars' packets where there is only one user.
const MARK: u32 = 0x51de;

impl Workload {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Api => "api",
            Self::Intruder => "intruder",
        }
    }

    pub(super) fn spiffe_id(self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/{}", self.name())
    }
}

/// Where the workloads live.
pub(super) struct Place {
    kind: Kind,
    why: String,
}

enum Kind {
    /// Network namespaces with kernel rules.
    Pods(Box<Pods>),
    /// Explicit listeners on loopback.
    Loopback(Ports),
}

struct Pods {
    _network: Network,
    web: Pod,
    api: Pod,
    intruder: Pod,
    stranger: Pod,
    /// Whether every sidecar can have a user of its own.
    users: bool,
}

/// Ports on loopback that were free a moment ago.
struct Ports {
    service: u16,
    /// Where api's sidecar listens for its peers.
    api: u16,
    /// Where the sidecars of web and intruder listen for their applications.
    web: u16,
    intruder: u16,
    admin: [u16; 3],
}

impl Place {
    /// The first that works, or the one that is asked for.
    pub(super) fn choose(mode: DemoMode) -> Result<Self> {
        let mut because = Vec::new();
        if matches!(mode, DemoMode::Auto | DemoMode::Root) {
            match possible() {
                Ok(()) => return Self::pods(true, "as root"),
                Err(why) => because.push(format!("pods as root: {why}")),
            }
        }
        if matches!(mode, DemoMode::Auto | DemoMode::Userns) {
            // Without nft a user namespace helps nothing, and it can't be left again.
            let entered = match nft_support() {
                Support::Root => enter_user_namespace().map_err(|e| e.to_string()).and_then(|()| possible()),
                Support::NotPossible(why) => Err(why),
            };
            match entered {
                Ok(()) => return Self::pods(false, "in a user namespace, without root"),
                Err(why) => because.push(format!("pods in a user namespace: {why}")),
            }
        }
        if matches!(mode, DemoMode::Auto | DemoMode::Loopback) {
            return Ok(Self { kind: Kind::Loopback(Ports::find()?), why: because.join("\n  ") });
        }
        bail!("the demo can't run in this mode here: {}", because.join("; "))
    }

    fn pods(users: bool, how: &str) -> Result<Self> {
        let mut network = Network::new()?;
        let pods = Pods {
            web: network.pod("web")?,
            api: network.pod("api")?,
            intruder: network.pod("intruder")?,
            stranger: network.pod("stranger")?,
            users,
            _network: network,
        };
        Ok(Self { kind: Kind::Pods(Box::new(pods)), why: how.to_owned() })
    }

    pub(super) fn describe(&self) -> String {
        match &self.kind {
            Kind::Pods(pods) => {
                let who = if pods.users { "each sidecar is a user of its own" } else { "the sidecars' packets carry a mark" };
                format!(
                    "Pods of network namespaces, {}; {who}.\n  web {}   api {}   intruder {}   stranger {} (no sidecar)",
                    self.why,
                    pods.web.ipv4(),
                    pods.api.ipv4(),
                    pods.intruder.ipv4(),
                    pods.stranger.ipv4()
                )
            }
            Kind::Loopback(ports) => {
                let why = if self.why.is_empty() { String::new() } else { format!("\n  {}", self.why) };
                format!(
                    "No transparent capture: explicit listeners on loopback.{why}\n  api's sidecar 127.0.0.1:{}   web's 127.0.0.1:{}   intruder's 127.0.0.1:{}",
                    ports.api, ports.web, ports.intruder
                )
            }
        }
    }

    /// The user of a workload's sidecar, where there are several.
    pub(super) fn uid(&self, workload: Workload) -> Option<u32> {
        match &self.kind {
            Kind::Pods(pods) if pods.users => Some(FIRST_UID + workload as u32),
            _ => None,
        }
    }

    /// Writes a sidecar's configuration and policy, and puts its kernel rules in place.
    pub(super) fn sidecar_config(&self, workload: Workload, socket: &Path, collector: &Path, folder: &Path) -> Result<PathBuf> {
        let policy = folder.join(format!("{}.policy.yaml", workload.name()));
        let rules = match workload {
            Workload::Api => format!(
                "rules:\n  - name: web-may-call-api\n    action: allow\n    from: {{ spiffeIds: [\"{}\"] }}\n    to: {{ ports: [{}] }}\n",
                Workload::Web.spiffe_id(),
                self.service_address().port()
            ),
            _ => "rules: []\n".to_owned(),
        };
        std::fs::write(&policy, rules)?;
        let common = format!(
            "profile: development\nidentity:\n  sources:\n    - workloadApi: {{ socket: \"unix://{}\" }}\npolicy: {{ files: [\"{}\"] }}\naccessLog: {{ format: json }}\nworkers: 1\nadmin: {{ listen: \"127.0.0.1:{}\", socket: \"{}\" }}\ntelemetry: {{ otlp: {{ endpoint: \"unix://{}\" }}, traces: {{ batch: {{ delay: 100ms }} }}, metrics: {{ interval: 1s }} }}\naudit: {{ file: {{ folder: \"{}\" }}, checkpoint: {{ interval: 1s }} }}\n",
            socket.display(),
            policy.display(),
            self.admin_port(workload),
            admin_socket(workload, folder).display(),
            collector.display(),
            audit_log(workload, folder).display(),
        );
        let run = folder.join(format!("{}.run", workload.name()));
        std::fs::create_dir(&run)?;
        if let Some(uid) = self.uid(workload) {
            std::os::unix::fs::chown(&run, Some(uid), Some(uid))?;
        }
        let expected = Workload::Api.spiffe_id();
        let own = match &self.kind {
            Kind::Pods(_) => {
                let exempt = match self.uid(workload) {
                    Some(uid) => format!("exemptUid: {uid}"),
                    None => format!("exemptMark: {MARK}"),
                };
                format!(
                    "outbound:\n  destinations:\n    - {{ name: api, cidrs: [10.77.0.0/24], ports: [{SERVICE_PORT}], spiffeIds: [\"{expected}\"] }}\nredirect: {{ {exempt} }}\n"
                )
            }
            Kind::Loopback(ports) => match workload {
                Workload::Api => format!(
                    "inbound:\n  listen: null\n  listeners: [{{ listen: \"127.0.0.1:{}\", to: \"127.0.0.1:{}\" }}]\noutbound: {{ listen: null, listen6: null }}\n",
                    ports.api, ports.service
                ),
                Workload::Web | Workload::Intruder => {
                    let listen = if workload == Workload::Web { ports.web } else { ports.intruder };
                    format!(
                        "inbound: {{ listen: null }}\noutbound:\n  listen: null\n  listen6: null\n  listeners: [{{ name: api, listen: \"127.0.0.1:{listen}\", to: \"127.0.0.1:{}\", spiffeIds: [\"{expected}\"] }}]\n",
                        ports.api
                    )
                }
            },
        };
        let file = folder.join(format!("{}.yaml", workload.name()));
        std::fs::write(&file, format!("{common}{own}"))?;
        if let Some(pod) = self.pod(workload) {
            let config = sidegate_config::load(&file).map_err(|p| anyhow!("the demo's own configuration is wrong:\n{p}"))?;
            let plan = sidegate_redirect::Plan::new(&config);
            pod.run(move || sidegate_redirect::apply(&plan))?.context("the kernel rules can't be applied")?;
        }
        Ok(file)
    }

    /// Starts a process where the workload lives.
    pub(super) fn start(&self, workload: Workload, mut command: Command) -> Result<Child> {
        use std::os::unix::process::CommandExt;
        if let Some(uid) = self.uid(workload) {
            command.uid(uid).gid(uid);
        }
        Ok(match self.pod(workload) {
            Some(pod) => pod.spawn_process(command)?,
            None => command.spawn()?,
        })
    }

    /// Runs `job` where the workload lives, on a thread of its own.
    pub(super) fn run_at<T: Send + 'static>(
        &self,
        workload: Workload,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<std::thread::JoinHandle<T>> {
        Ok(match self.pod(workload) {
            Some(pod) => pod.spawn(job)?,
            None => std::thread::spawn(job),
        })
    }

    /// Runs `job` where there is no sidecar.
    pub(super) fn run_outside<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<std::thread::JoinHandle<T>> {
        Ok(match &self.kind {
            Kind::Pods(pods) => pods.stranger.spawn(job)?,
            Kind::Loopback(_) => std::thread::spawn(job),
        })
    }

    fn pod(&self, workload: Workload) -> Option<&Pod> {
        let Kind::Pods(pods) = &self.kind else { return None };
        Some(match workload {
            Workload::Web => &pods.web,
            Workload::Api => &pods.api,
            Workload::Intruder => &pods.intruder,
        })
    }

    /// Where api's service listens.
    pub(super) fn service_address(&self) -> SocketAddr {
        match &self.kind {
            Kind::Pods(pods) => (pods.api.ipv4(), SERVICE_PORT).into(),
            Kind::Loopback(ports) => (Ipv4Addr::LOCALHOST, ports.service).into(),
        }
    }

    /// Where a workload connects in order to reach api.
    pub(super) fn api_as_seen_by(&self, workload: Workload) -> SocketAddr {
        match &self.kind {
            Kind::Pods(_) => self.service_address(),
            Kind::Loopback(ports) => {
                let port = if workload == Workload::Web { ports.web } else { ports.intruder };
                (Ipv4Addr::LOCALHOST, port).into()
            }
        }
    }

    /// Where somebody without a sidecar finds api's strict port.
    pub(super) fn api_from_outside(&self) -> SocketAddr {
        match &self.kind {
            Kind::Pods(_) => self.service_address(),
            Kind::Loopback(ports) => (Ipv4Addr::LOCALHOST, ports.api).into(),
        }
    }

    pub(super) fn admin_port(&self, workload: Workload) -> u16 {
        match &self.kind {
            Kind::Pods(_) => ADMIN_PORT,
            Kind::Loopback(ports) => ports.admin[workload as usize],
        }
    }

    /// An answer of a sidecar's admin port.
    pub(super) fn ask_admin(&self, workload: Workload, path: &'static str) -> Result<(u16, String)> {
        let address: SocketAddr = (IpAddr::from(Ipv4Addr::LOCALHOST), self.admin_port(workload)).into();
        let job = move || super::traffic::get(TcpStream::connect_timeout(&address, Duration::from_secs(2))?, path);
        let answer: io::Result<(u16, String)> =
            self.run_at(workload, job)?.join().map_err(|_| anyhow!("asking the admin port panicked"))?;
        Ok(answer?)
    }

    /// How often each sidecar's SVID was rotated, by its own count.
    pub(super) fn rotations(&self, sidecars: &[Sidecar]) -> Result<Vec<(Workload, u64)>> {
        let count = |workload| {
            let (_, metrics) = self.ask_admin(workload, "/metrics")?;
            let line = metrics.lines().find_map(|l| l.strip_prefix("sidegate_identity_rotations_total{sidegate_outcome=\"success\"} "));
            Ok((workload, line.and_then(|n| n.parse().ok()).unwrap_or(0)))
        };
        sidecars.iter().map(|s| count(s.workload)).collect()
    }

    /// Commands for `--keep`.
    pub(super) fn what_to_type(&self, folder: &Path) -> Vec<String> {
        let api = self.service_address();
        let socket = admin_socket(Workload::Api, folder);
        let ask = |what: &str| format!("{}/sidegate {what} --socket {}", folder.display(), socket.display());
        let mut lines = match &self.kind {
            Kind::Pods(pods) => {
                let enter = |pod: &Pod| {
                    let user = if pods.users { "" } else { "--preserve-credentials --user=/proc/{pid}/ns/user " };
                    format!("nsenter {user}--net={}", pod.netns_path().display()).replace("{pid}", &std::process::id().to_string())
                };
                vec![
                    format!("{} curl -s http://{api}/          # as web: allowed", enter(&pods.web)),
                    format!("{} curl -s http://{api}/          # as intruder: refused", enter(&pods.intruder)),
                    format!("{} curl -s http://{api}/          # without a sidecar: refused", enter(&pods.stranger)),
                    format!("{} curl -s http://127.0.0.1:{ADMIN_PORT}/metrics   # api's sidecar", enter(&pods.api)),
                    format!("{} nft list table inet sidegate   # api's kernel rules", enter(&pods.api)),
                ]
            }
            Kind::Loopback(ports) => vec![
                format!("curl -s http://127.0.0.1:{}/          # as web: allowed", ports.web),
                format!("curl -s http://127.0.0.1:{}/          # as intruder: refused", ports.intruder),
                format!("curl -s http://127.0.0.1:{}/          # plaintext to the strict port: refused", ports.api),
                format!("curl -s http://127.0.0.1:{}/metrics   # api's sidecar", ports.admin[Workload::Api as usize]),
            ],
        };
        lines.push(ask("status"));
        lines.push(ask("connections --watch"));
        let [web, api] = [Workload::Web, Workload::Api].map(|workload| audit_log(workload, folder).display().to_string());
        let read = |what: &str| format!("{}/sidegate {what}", folder.display());
        lines.push(read(&format!("audit verify {api} --bundle {} --signer {}", bundle(folder).display(), Workload::Api.spiffe_id())));
        lines.push(read(&format!("audit show {api} --event connection")));
        lines.push(read(&format!("audit join {web} {api}   # both ends of each connection")));
        lines.push(read(&format!("policy suggest --audit {api}")));
        lines
    }
}

/// A workload's admin socket, in a folder of its user.
fn admin_socket(workload: Workload, folder: &Path) -> PathBuf {
    folder.join(format!("{}.run", workload.name())).join("admin.sock")
}

/// A workload's audit log, in a folder of its user.
pub(super) fn audit_log(workload: Workload, folder: &Path) -> PathBuf {
    folder.join(format!("{}.run", workload.name())).join("audit")
}

/// The trust bundle by which audit logs are verified.
pub(super) fn bundle(folder: &Path) -> PathBuf {
    folder.join("bundle.pem")
}

fn possible() -> Result<(), String> {
    match (support(), nft_support()) {
        (Support::Root, Support::Root) => Ok(()),
        (Support::NotPossible(why), _) | (_, Support::NotPossible(why)) => Err(why),
    }
}

impl Ports {
    fn find() -> Result<Self> {
        // All are held until all are found, so that no two are the same.
        let held: Vec<TcpListener> = (0..7).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<_>>()?;
        let port = |i: usize| held[i].local_addr().map(|a| a.port());
        Ok(Self { service: port(0)?, api: port(1)?, web: port(2)?, intruder: port(3)?, admin: [port(4)?, port(5)?, port(6)?] })
    }
}
