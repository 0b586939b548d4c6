//! What an operator asks a running sidecar by.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Probe;
use crate::path_use::SocketPath;
use crate::value::{Address, DnsName};

/// The HTTP port with `/livez`, `/readyz`, `/startupz`, `/metrics`, `/status` and `probes`, and the socket of `sidegate status` and its like.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Admin {
    /// Where it listens; `null` for nowhere. Default `127.0.0.1:15020`; a kubelet's probes need the pod's address.
    pub listen: Option<Address>,
    /// A Unix socket for the admin API; `null` for none. Only its owner and root may use it. Default
    /// `/run/sidegate/admin.sock`, which is done without where it can't be made.
    #[schemars(with = "Option<SocketPath>")]
    pub socket: Option<PathBuf>,
    /// Health checks of the application, made over loopback: a kubelet has no SVID, so it can't reach a strict port itself.
    #[schemars(length(max = 64))]
    pub probes: Vec<Probe>,
    /// The page for browsers at `/status`. It shows identities, peers, addresses and rules, without authentication.
    pub status_page: StatusPage,
}

/// Where the admin API is served if nothing else is said.
pub const ADMIN_SOCKET: &str = "/run/sidegate/admin.sock";

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: Some(Address((std::net::Ipv4Addr::LOCALHOST, 15020).into())),
            socket: Some(PathBuf::from(ADMIN_SOCKET)),
            probes: Vec::new(),
            status_page: StatusPage::default(),
        }
    }
}

impl Admin {
    /// Whether the status page is served, to clients on loopback at least.
    #[must_use]
    pub fn serves_page(&self) -> bool {
        self.listen.is_some() && self.status_page.serve != ServePage::Off
    }
}

/// The page for browsers at `/status`. It shows identities, peers, addresses and rules, without authentication.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StatusPage {
    /// Which clients it is served to. Default `auto`: to clients whose own address is loopback, wherever `listen` is, such as `kubectl
    /// port-forward`, each user of this host and each container of the pod. `on`: to anyone who reaches `listen`. `off`: to nobody.
    pub serve: ServePage,
    /// Names by which browsers may ask for it, besides IP addresses and `localhost`. Any other name is refused: a web site could
    /// have given its own name the address of this port, to read the page (DNS rebinding).
    pub names: Vec<DnsName>,
    /// Why it is served to clients beyond loopback. Production wants it in writing.
    pub reason: Option<String>,
}

/// Which clients the status page is served to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServePage {
    /// To clients whose own address is loopback.
    #[default]
    Auto,
    /// To anyone who reaches `admin.listen`.
    On,
    /// To nobody.
    Off,
}
