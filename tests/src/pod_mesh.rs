//! Workloads in pods, each with a sidecar and the kernel's rules.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use sidegate_devkit::harness::{Echo, Identities, Sidecar, get, id, sidegate};
use sidegate_devkit::pods::{Network, Pod};

const ADMIN: u16 = 15020;

/// A network of pods and who its workloads are.
pub struct PodMesh {
    /// The authority.
    pub identities: Identities,
    network: Network,
}

/// A pod with kernel rules, and a way to start its sidecar.
pub struct PodWorkload {
    /// Its name.
    pub name: String,
    /// Its pod.
    pub pod: Pod,
    folder: PathBuf,
    config: String,
    uid: u32,
}

impl PodMesh {
    /// A network with an authority for `names`.
    pub fn new(names: &[&str], ttl: Duration) -> Self {
        Self::of(Identities::start(names, ttl))
    }

    /// A network whose workloads are these.
    pub fn of(identities: Identities) -> Self {
        Self { identities, network: Network::new().unwrap() }
    }

    /// A pod without sidecar and rules.
    pub fn bare(&mut self, name: &str) -> Pod {
        self.network.pod(name).unwrap()
    }

    /// Where every frame between pods passes.
    pub fn switch(&self) -> &Pod {
        self.network.switch()
    }

    /// A pod whose traffic the kernel redirects; the sidecar is not started yet. Everything between pods is in the
    /// mesh, answered by api; who may call is `allow`. `more` is YAML at the top level.
    pub fn workload(&mut self, name: &str, allow: &[&str], more: &str) -> PodWorkload {
        let pod = self.network.pod(name).unwrap();
        let folder = self.identities.folder().to_owned();
        let uid = 61_000 + u32::try_from(name.bytes().map(usize::from).sum::<usize>()).unwrap();
        let policy = folder.join(format!("{name}.policy.yaml"));
        let rules: String = allow
            .iter()
            .map(|peer| format!("  - name: {peer}\n    action: allow\n    from: {{ spiffeIds: [\"{}\"] }}\n", id(peer)))
            .collect();
        std::fs::write(&policy, if rules.is_empty() { "rules: []\n".to_owned() } else { format!("rules:\n{rules}") }).unwrap();
        let outbound = if more.contains("outbound:") {
            String::new()
        } else {
            format!("outbound:\n  destinations: [{{ name: mesh, cidrs: [10.77.0.0/24, \"fd77::/64\"], spiffeIds: [\"{}\"] }}]\n", id("api"))
        };
        let config = format!(
            "profile: development\nidentity: {{ sources: [{{ workloadApi: {{ socket: \"unix://{}\" }} }}] }}\npolicy: {{ files: [\"{}\"] }}\nredirect: {{ exemptUid: {uid} }}\n{outbound}{more}",
            self.identities.socket(name).display(),
            policy.display(),
        );
        let workload = PodWorkload { name: name.to_owned(), pod, folder, config, uid };
        workload.redirect("apply");
        workload
    }
}

impl PodWorkload {
    /// Runs `sidegate redirect ACTION` in the pod, as an init container would: exit status, and what it says.
    pub fn redirect(&self, action: &str) -> (Option<i32>, String) {
        self.redirect_by(action, &self.config)
    }

    /// As [`PodWorkload::redirect`], by a configuration in which `from` is replaced by `to`.
    pub fn redirect_differently(&self, action: &str, from: &str, to: &str) {
        assert!(self.config.contains(from));
        self.redirect_by(action, &self.config.replace(from, to));
    }

    fn redirect_by(&self, action: &str, config: &str) -> (Option<i32>, String) {
        let file = self.folder.join(format!("{}.redirect.yaml", self.name));
        let admin = if config.contains("admin:") { String::new() } else { format!("admin: {{ listen: \"127.0.0.1:{ADMIN}\" }}\n") };
        std::fs::write(&file, format!("{admin}{config}")).unwrap();
        let mut command = Command::new(sidegate());
        command.args(["redirect", action, "--config"]).arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.pod.spawn_process(command).unwrap().wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() || action == "verify", "redirect {action}: {said}");
        (output.status.code(), format!("{}{said}", String::from_utf8(output.stdout).unwrap()))
    }

    /// Starts the sidecar, as the user that the rules exempt.
    pub fn start(&self) -> Sidecar {
        self.start_by(&self.config, None)
    }

    /// As [`PodWorkload::start`], with a configuration in which `from` is replaced by `to`.
    pub fn start_differently(&self, from: &str, to: &str) -> Sidecar {
        assert!(self.config.contains(from));
        self.start_by(&self.config.replace(from, to), None)
    }

    /// As [`PodWorkload::start`], in a mount namespace of its own in which the first file lies over the second, as in a
    /// container.
    pub fn start_with_mount(&self, mount: Option<(&str, &str)>) -> Sidecar {
        self.start_by(&self.config, mount)
    }

    fn start_by(&self, config: &str, mount: Option<(&str, &str)>) -> Sidecar {
        let (pod, asking, uid) = (self.pod.clone(), self.pod.clone(), self.uid);
        let mounts = mount.is_some();
        let script = mount.map(|(file, over)| {
            format!("mount --bind {file} {over} && exec setpriv --reuid {uid} --regid {uid} --clear-groups \"$0\" \"$@\"")
        });
        let through = script.as_ref().map_or(vec![], |script| vec!["unshare", "--mount", "sh", "-c", script]);
        Sidecar::start_by(
            &self.folder,
            &self.name,
            config,
            ADMIN,
            &through,
            move |mut command| {
                // The script needs root for its mount, and gives it up itself.
                if !mounts {
                    command.uid(uid).gid(uid);
                }
                pod.spawn_process(command).unwrap()
            },
            move |address: SocketAddr, path: &str| {
                let path = path.to_owned();
                asking.run(move || get(address, &path)).unwrap()
            },
        )
    }

    /// Its IPv4 address with a port.
    pub fn v4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.pod.ipv4()), port)
    }

    /// Its IPv6 address with a port.
    pub fn v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.pod.ipv6()), port)
    }

    /// An echo server inside, on `address`.
    pub fn echo(&self, address: impl Into<SocketAddr>) -> Echo {
        let address = address.into();
        Echo::on(self.pod.run(move || TcpListener::bind(address)).unwrap().unwrap())
    }
}
