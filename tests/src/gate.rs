//! One sidecar with one explicit listener on loopback, for a peer that is not sidegate.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use sidegate_devkit::harness::{Identities, Sidecar, free_port};

/// Whose sidecar it is.
pub struct Owner {
    /// Its name; the gates of one test have different ones.
    name: String,
    folder: PathBuf,
    identity: String,
    more: String,
}

/// A sidecar whose one listener leads to one address.
pub struct Gate {
    /// The sidecar.
    pub sidecar: Sidecar,
    /// Its listener.
    pub address: SocketAddr,
}

impl Owner {
    /// A workload of the test's own authority.
    pub fn of(identities: &Identities, name: &str) -> Self {
        let socket = identities.socket(name);
        Self::with(identities.folder(), name, &format!("{{ sources: [{{ workloadApi: {{ socket: \"unix://{}\" }} }}] }}", socket.display()))
    }

    /// A workload with this `identity` in its configuration.
    pub fn with(folder: &Path, name: &str, identity: &str) -> Self {
        Self { name: name.to_owned(), folder: folder.to_owned(), identity: identity.to_owned(), more: String::new() }
    }

    /// The same workload under another name, for a further gate.
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// With this YAML besides.
    pub fn more(mut self, more: &str) -> Self {
        more.clone_into(&mut self.more);
        self
    }

    /// A gate in front of the application at `app`: TLS in, plaintext out. Who may come in is `allowed`, SPIFFE IDs.
    pub fn inbound(&self, allowed: &[&str], app: SocketAddr) -> Gate {
        let policy = self.folder.join(format!("{}.policy.yaml", self.name));
        let rule = |id: &&str| format!("{{ name: \"{id}\", action: allow, from: {{ spiffeIds: [\"{id}\"] }} }}");
        let rules: Vec<String> = allowed.iter().map(rule).collect();
        std::fs::write(&policy, format!("rules: [{}]\n", rules.join(", "))).unwrap();
        self.start(|listen| {
            format!(
                "policy: {{ files: [\"{}\"] }}\ninbound: {{ listen: null, listeners: [{{ listen: \"{listen}\", to: \"{app}\" }}] }}\noutbound: {{ listen: null, listen6: null }}\n",
                policy.display(),
            )
        })
    }

    /// A gate towards the peer at `peer`, which has to be `expected`: plaintext in, TLS out.
    pub fn outbound(&self, expected: &str, peer: SocketAddr) -> Gate {
        self.start(|listen| {
            format!(
                "inbound: {{ listen: null }}\noutbound: {{ listen: null, listen6: null, listeners: [{{ name: peer, listen: \"{listen}\", to: \"{peer}\", spiffeIds: [\"{expected}\"] }}] }}\n",
            )
        })
    }

    fn start(&self, listeners: impl FnOnce(SocketAddr) -> String) -> Gate {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let config = format!("profile: development\nidentity: {}\n{}{}", self.identity, self.more, listeners(address));
        Gate { sidecar: Sidecar::start(&self.folder, &self.name, &config), address }
    }
}

impl Gate {
    /// Waits until it is ready.
    #[track_caller]
    pub fn ready(self) -> Self {
        self.sidecar.wait_ready();
        self
    }
}
