//! Where the demo's workloads live: pods of network namespaces, or loopback alone.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command};

use anyhow::{Result, bail};

use super::folder::Folder;
use super::workload::Workload;
use crate::pods::{Network, Pod, Support, enter_user_namespace, nft_support, support};

/// Where api's service listens in its pod.
pub(super) const SERVICE_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 15020;
/// Users of the sidecars, one each; nobody else has them.
const FIRST_UID: u32 = 64_100;

/// How pods are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The first of the following that works.
    Auto,
    /// Network namespaces and kernel rules, as root.
    Root,
    /// The same in a user namespace, without root.
    Userns,
    /// No namespaces: explicit listeners on loopback.
    Loopback,
}

/// Where the workloads live.
pub(super) struct Topology {
    pub(super) layout: Layout,
    why: String,
}

pub(super) enum Layout {
    /// Network namespaces with kernel rules.
    Pods(Box<Pods>),
    /// Explicit listeners on loopback.
    Loopback(Ports),
}

pub(super) struct Pods {
    _network: Network,
    web: Pod,
    api: Pod,
    intruder: Pod,
    stranger: Pod,
    /// Whether every sidecar can have a user of its own.
    users: bool,
}

/// Ports on loopback that were free a moment ago.
pub(super) struct Ports {
    pub(super) service: u16,
    /// Where api's sidecar listens for its peers.
    pub(super) api: u16,
    /// Where the sidecars of web and intruder listen for their applications.
    web: u16,
    intruder: u16,
    admin: [u16; 3],
}

impl Topology {
    /// The first that works, or the one that is asked for.
    pub(super) fn choose(mode: Mode) -> Result<Self> {
        let mut because = Vec::new();
        if matches!(mode, Mode::Auto | Mode::Root) {
            match possible() {
                Ok(()) => return Self::pods(true, "as root"),
                Err(why) => because.push(format!("pods as root: {why}")),
            }
        }
        if matches!(mode, Mode::Auto | Mode::Userns) {
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
        if matches!(mode, Mode::Auto | Mode::Loopback) {
            return Ok(Self { layout: Layout::Loopback(Ports::find()?), why: because.join("\n  ") });
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
        Ok(Self { layout: Layout::Pods(Box::new(pods)), why: how.to_owned() })
    }

    pub(super) fn describe(&self) -> String {
        match &self.layout {
            Layout::Pods(pods) => {
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
            Layout::Loopback(ports) => {
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
        match &self.layout {
            Layout::Pods(pods) if pods.users => Some(FIRST_UID + workload as u32),
            _ => None,
        }
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
        Ok(match &self.layout {
            Layout::Pods(pods) => pods.stranger.spawn(job)?,
            Layout::Loopback(_) => std::thread::spawn(job),
        })
    }

    /// The workload's pod, where it has one.
    pub(super) fn pod(&self, workload: Workload) -> Option<&Pod> {
        let Layout::Pods(pods) = &self.layout else { return None };
        Some(match workload {
            Workload::Web => &pods.web,
            Workload::Api => &pods.api,
            Workload::Intruder => &pods.intruder,
        })
    }

    /// Where api's service listens.
    pub(super) fn service_address(&self) -> SocketAddr {
        match &self.layout {
            Layout::Pods(pods) => (pods.api.ipv4(), SERVICE_PORT).into(),
            Layout::Loopback(ports) => (Ipv4Addr::LOCALHOST, ports.service).into(),
        }
    }

    /// Where a workload connects in order to reach api.
    pub(super) fn api_as_seen_by(&self, workload: Workload) -> SocketAddr {
        match &self.layout {
            Layout::Pods(_) => self.service_address(),
            Layout::Loopback(ports) => {
                let port = if workload == Workload::Web { ports.web } else { ports.intruder };
                (Ipv4Addr::LOCALHOST, port).into()
            }
        }
    }

    /// Where somebody without a sidecar finds api's strict port.
    pub(super) fn api_from_outside(&self) -> SocketAddr {
        match &self.layout {
            Layout::Pods(_) => self.service_address(),
            Layout::Loopback(ports) => (Ipv4Addr::LOCALHOST, ports.api).into(),
        }
    }

    /// Where a sidecar's admin port is, seen from its workload.
    pub(super) fn admin_address(&self, workload: Workload) -> SocketAddr {
        let port = match &self.layout {
            Layout::Pods(_) => ADMIN_PORT,
            Layout::Loopback(ports) => ports.admin[workload as usize],
        };
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// Commands for `--keep`.
    pub(super) fn what_to_type(&self, folder: &Folder) -> Vec<String> {
        let (api, admin) = (self.service_address(), self.admin_address(Workload::Api));
        let program = folder.program().display().to_string();
        let socket = folder.admin_socket(Workload::Api);
        let ask = |what: &str| format!("{program} {what} --socket {}", socket.display());
        let mut lines = match &self.layout {
            Layout::Pods(pods) => {
                let enter = |pod: &Pod| {
                    let user = if pods.users { "" } else { "--preserve-credentials --user=/proc/{pid}/ns/user " };
                    format!("nsenter {user}--net={}", pod.netns_path().display()).replace("{pid}", &std::process::id().to_string())
                };
                vec![
                    format!("{} curl -s http://{api}/          # as web: allowed", enter(&pods.web)),
                    format!("{} curl -s http://{api}/          # as intruder: refused", enter(&pods.intruder)),
                    format!("{} curl -s http://{api}/          # without a sidecar: refused", enter(&pods.stranger)),
                    format!("{} curl -s http://{admin}/metrics   # api's sidecar", enter(&pods.api)),
                    format!("{} nft list table inet sidegate   # api's kernel rules", enter(&pods.api)),
                ]
            }
            Layout::Loopback(ports) => vec![
                format!("curl -s http://127.0.0.1:{}/          # as web: allowed", ports.web),
                format!("curl -s http://127.0.0.1:{}/          # as intruder: refused", ports.intruder),
                format!("curl -s http://127.0.0.1:{}/          # plaintext to the strict port: refused", ports.api),
                format!("curl -s http://{admin}/metrics   # api's sidecar"),
            ],
        };
        lines.push(ask("status"));
        lines.push(ask("connections --watch"));
        let [web, api] = [Workload::Web, Workload::Api].map(|workload| folder.audit_log(workload).display().to_string());
        let read = |what: &str| format!("{program} {what}");
        lines.push(read(&format!("audit verify {api} --bundle {} --signer {}", folder.bundle().display(), Workload::Api.spiffe_id())));
        lines.push(read(&format!("audit show {api} --event connection")));
        lines.push(read(&format!("audit join {web} {api}   # both ends of each connection")));
        lines.push(read(&format!("policy suggest --audit {api}")));
        lines
    }
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
