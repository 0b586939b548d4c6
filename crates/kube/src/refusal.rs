//! Why a pod is not injected but refused.

use std::fmt;

use sidegate_config::Problems;

/// Why a pod is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It can't be understood.
    #[error("{0}")]
    Malformed(String),
    /// An annotation that nobody knows.
    #[error("annotation `{name}` is not known; did you mean `{nearest}`?")]
    UnknownAnnotation {
        /// It.
        name: String,
        /// The one that comes nearest.
        nearest: &'static str,
    },
    /// An annotation or label whose value can't be used.
    #[error("`{name}`: {why}")]
    Value {
        /// Its name.
        name: &'static str,
        /// What is wrong, and how to fix it.
        why: String,
    },
    /// The annotations fit each other or the cluster's configuration badly.
    #[error("the sidecar's configuration can't be used:\n{0}")]
    Config(Problems),
    /// It would be the node's network.
    #[error("hostNetwork: the rules would be the node's, for all its pods; a pod of the node's network can't have a sidecar")]
    HostNetwork,
    /// It is no Linux pod.
    #[error("os `{0}`: sidegate is for Linux")]
    OtherSystem(String),
    /// It would see the processes of the node, and they it.
    #[error("{0}: containers of this pod could look into sidecars of the whole node; a pod with it can't have a sidecar")]
    HostProcesses(&'static str),
    /// Other containers could read the sidecar's memory.
    #[error(
        "shareProcessNamespace: other containers could look into the sidecar; give a reason in `sidegate.dev/exceptions`: {{ shareProcessNamespace: REASON }}"
    )]
    SharedProcesses,
    /// The kernel rules exempt it.
    #[error("container `{container}` runs as user {uid}, which is the sidecar's: the rules would let it bypass the sidecar; use another")]
    SidecarUid {
        /// Which container.
        container: String,
        /// The sidecar's user.
        uid: u32,
    },
    /// It could take the kernel rules away, or send past them.
    #[error(
        "container `{container}` has {capability}: it could remove the rules or send past them; take it away, or give a reason in `sidegate.dev/exceptions`: {{ capabilities: REASON }}"
    )]
    Capability {
        /// Which container.
        container: String,
        /// What it has.
        capability: String,
    },
    /// A container would have one of the sidecar's volumes.
    #[error("container `{container}` mounts `{volume}`, which is the sidecar's: it could take its identity or its admin socket")]
    Mount {
        /// Which container.
        container: String,
        /// The volume.
        volume: String,
    },
    /// A hook that the kubelet makes by HTTP.
    #[error(
        "container `{container}`: its {hook} hook asks port {port}, which is strict, and the kubelet has no SVID; use `exec`, or a port of mode plaintext"
    )]
    Hook {
        /// Which container.
        container: String,
        /// Which hook.
        hook: &'static str,
        /// The port.
        port: u16,
    },
    /// A name is taken.
    #[error("{what} `{name}` has a name that the injector needs; rename it")]
    Name {
        /// What has it.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A port is taken.
    #[error("container `{container}` has port {port}, which is the sidecar's; use another")]
    Port {
        /// Which container.
        container: String,
        /// The port.
        port: u16,
    },
    /// A probe names a port that the container does not have.
    #[error("container `{container}`: its {probe} probe is for port `{port}`, which it does not name in `ports`")]
    ProbePort {
        /// Which container.
        container: String,
        /// Which probe.
        probe: &'static str,
        /// The name.
        port: String,
    },
}

/// All reasons why a pod is refused; as text one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals(pub Vec<Refusal>);

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, refusal) in self.0.iter().enumerate() {
            let line = if at > 0 { "\n" } else { "" };
            write!(f, "{line}{refusal}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusals {}

impl From<Refusal> for Refusals {
    fn from(refusal: Refusal) -> Self {
        Self(vec![refusal])
    }
}
