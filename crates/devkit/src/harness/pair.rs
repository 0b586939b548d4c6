//! Two sidecars with explicit listeners on loopback, which any machine can have.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::echo::free_port;
use super::identities::{Identities, id};
use super::sidecar::Sidecar;

/// `web` calls `api`: application, web's sidecar, api's sidecar, service.
pub struct Pair {
    /// The authority.
    pub identities: Identities,
    /// The client's sidecar.
    pub web: Sidecar,
    /// The server's sidecar.
    pub api: Sidecar,
    /// Where web's application connects.
    pub entry: SocketAddr,
    /// Where api's sidecar listens for its peers.
    pub port: SocketAddr,
}

impl Pair {
    /// Starts both, in front of the service at `service`; `more` is YAML for both.
    pub fn start(service: SocketAddr, ttl: Duration, more: &str) -> Self {
        let pair = Self::start_unready(service, ttl, more);
        pair.web.wait_ready();
        pair.api.wait_ready();
        pair
    }

    /// As [`Pair::start`]; `destination` is YAML for web's listener, `inbound` for api's inbound section.
    pub fn start_with(service: SocketAddr, ttl: Duration, more: &str, destination: &str, inbound: &str) -> Self {
        let identities = Identities::start(&["web", "api"], ttl);
        let (entry, port) = (loopback(), loopback());
        let folder = identities.folder();
        let server =
            server_config(&identities, port, service).replace("inbound: { listen: null,", &format!("inbound: {{ listen: null, {inbound}"));
        let client = client_config(&identities, entry, port).replace("{ name: api,", &format!("{{ name: api, {destination},"));
        let api = Sidecar::start(folder, "api", &format!("{server}{more}"));
        let web = Sidecar::start(folder, "web", &format!("{client}{more}"));
        web.wait_ready();
        api.wait_ready();
        Self { web, api, entry, port, identities }
    }

    /// As [`Pair::start`], with this mode of tunnels, and one worker each: which session a connection finds is no chance then.
    pub fn with_tunnel(service: SocketAddr, mode: &str, more: &str) -> Self {
        Self::start_with(service, Duration::from_secs(3600), &format!("workers: 1\n{more}"), &format!("tunnel: {mode}"), "")
    }

    /// As [`Pair::start`], but does not wait until they are ready.
    pub fn start_unready(service: SocketAddr, ttl: Duration, more: &str) -> Self {
        let identities = Identities::start(&["web", "api"], ttl);
        let (entry, port) = (loopback(), loopback());
        let folder = identities.folder();
        let api = Sidecar::start(folder, "api", &format!("{}{more}", server_config(&identities, port, service)));
        let web = Sidecar::start(folder, "web", &format!("{}{more}", client_config(&identities, entry, port)));
        Self { web, api, entry, port, identities }
    }

    /// Replaces api's policy.
    pub fn set_policy(&self, text: &str) {
        write_policy(self.identities.folder(), "api", text);
    }
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// The configuration of `api`: it lets web in.
pub fn server_config(identities: &Identities, port: SocketAddr, service: SocketAddr) -> String {
    let policy = format!("rules:\n  - name: web\n    action: allow\n    from: {{ spiffeIds: [\"{}\"] }}\n", id("web"));
    let policy = write_policy(identities.folder(), "api", &policy);
    format!(
        "profile: development\nidentity: {{ sources: [{{ workloadApi: {{ socket: \"unix://{}\" }} }}] }}\npolicy: {{ files: [\"{policy}\"] }}\ninbound: {{ listen: null, listeners: [{{ listen: \"{port}\", to: \"{service}\" }}] }}\noutbound: {{ listen: null, listen6: null }}\n",
        identities.socket("api").display()
    )
}

/// The configuration of `web`: it expects api at `port`.
pub fn client_config(identities: &Identities, entry: SocketAddr, port: SocketAddr) -> String {
    format!(
        "profile: development\nidentity: {{ sources: [{{ workloadApi: {{ socket: \"unix://{}\" }} }}] }}\ninbound: {{ listen: null }}\noutbound: {{ listen: null, listen6: null, listeners: [{{ name: api, listen: \"{entry}\", to: \"{port}\", spiffeIds: [\"{}\"] }}] }}\n",
        identities.socket("web").display(),
        id("api")
    )
}

fn write_policy(folder: &Path, name: &str, text: &str) -> String {
    let (file, new) = (folder.join(format!("{name}.policy.yaml")), folder.join(format!("{name}.policy.new")));
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, &file).unwrap();
    file.display().to_string()
}
