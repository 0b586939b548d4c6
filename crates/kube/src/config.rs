//! The controller's configuration file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidegate_config::Config;
use sidegate_config::path_use::{FilePath, SecretPath};
use sidegate_config::schema::{Identity, Profile};
use sidegate_config::value::{Address, IdPattern};

use crate::directory::SpiffeIdTemplate;

/// What a file of the controller's configuration holds.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControllerConfig {
    /// The sidecar that pods get.
    pub sidecar: SidecarConfig,
    /// Who is expected to answer at each address of the cluster, as sidecars ask; only `sidegate-controller run` needs it.
    #[serde(default)]
    pub directory: Option<Directory>,
    /// The admission webhook; only `sidegate-controller run` needs it.
    #[serde(default)]
    pub webhook: Option<Webhook>,
}

/// The sidecar that pods get.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SidecarConfig {
    /// The image of sidecar and init container.
    #[schemars(length(min = 1))]
    pub image: String,
    /// When the image is pulled: `Always`, `IfNotPresent` or `Never`. Default: Kubernetes' own.
    #[serde(default)]
    pub image_pull_policy: Option<PullPolicy>,
    /// User and group of the sidecar, which no other container may have. Default 1337.
    #[serde(default = "uid")]
    #[schemars(range(min = 1))]
    pub uid: u32,
    /// Who makes the kernel rules of a pod: `initContainer`, which needs NET_ADMIN in the pod, or `cni`, the plugin `sidegate-cni`, which
    /// has to be on every node. Default `initContainer`.
    #[serde(default)]
    pub rules: Rules,
    /// Where the sockets of the SPIFFE Workload API come from. Default: the SPIFFE CSI driver.
    #[serde(default)]
    pub workload_api: WorkloadApiVolume,
    /// The sidecar's resources, unless a pod says otherwise.
    #[serde(default)]
    pub resources: Resources,
    /// The sidecar's log filter, unless a pod says otherwise. Default `info`.
    #[serde(default = "log_filter")]
    pub log_filter: String,
    /// The configuration of every sidecar, with sidegate's own keys. What the injector decides is added: identity, user, admin
    /// listener, and what a pod's annotations say. Paths in it are those inside the sidecar.
    #[serde(default)]
    pub config: Config,
}

fn uid() -> u32 {
    1337
}

fn log_filter() -> String {
    "info".to_owned()
}

/// Who makes the kernel rules of a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Rules {
    /// An init container of the pod, with NET_ADMIN.
    #[default]
    InitContainer,
    /// The CNI plugin `sidegate-cni` of the node, before any container of the pod runs.
    Cni,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// If the node does not have it.
    IfNotPresent,
    /// Never.
    Never,
}

impl PullPolicy {
    /// The word of Kubernetes.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Where the sockets of the SPIFFE Workload API come from. At most one of `csi` and `hostPath` is set.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkloadApiVolume {
    /// A CSI driver. Default `csi.spiffe.io`.
    #[schemars(length(min = 1))]
    pub csi: Option<String>,
    /// A folder of the node, for clusters without the driver.
    pub host_path: Option<String>,
    /// The name of the socket in there. Default `spire-agent.sock`.
    #[schemars(length(min = 1))]
    pub socket: String,
}

impl Default for WorkloadApiVolume {
    fn default() -> Self {
        Self { csi: None, host_path: None, socket: "spire-agent.sock".to_owned() }
    }
}

/// Resources of a container, by Kubernetes' names and quantities.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// What is set aside for it.
    pub requests: BTreeMap<String, String>,
    /// What it may use at most.
    pub limits: BTreeMap<String, String>,
}

impl Default for Resources {
    fn default() -> Self {
        let map = |entries: &[(&str, &str)]| entries.iter().map(|(name, quantity)| ((*name).to_owned(), (*quantity).to_owned())).collect();
        Self { requests: map(&[("cpu", "50m"), ("memory", "16Mi")]), limits: map(&[("memory", "128Mi")]) }
    }
}

/// What a pod says of the resources of its sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ResourcesOverride {
    /// What is set aside for it, instead of the cluster's.
    pub requests: Option<BTreeMap<String, String>>,
    /// What it may use at most, instead of the cluster's.
    pub limits: Option<BTreeMap<String, String>>,
}

impl Resources {
    /// These, where `pod` does not say otherwise.
    pub(crate) fn with(&self, pod: &ResourcesOverride) -> Self {
        Self {
            requests: pod.requests.clone().unwrap_or_else(|| self.requests.clone()),
            limits: pod.limits.clone().unwrap_or_else(|| self.limits.clone()),
        }
    }

    /// What is no quantity of Kubernetes, if something is.
    pub(crate) fn mistake(&self) -> Option<String> {
        let all = self.requests.iter().chain(&self.limits);
        let wrong = all.filter(|(_, quantity)| !is_quantity(quantity)).map(|(name, quantity)| format!("{name}: `{quantity}`"));
        let wrong = wrong.collect::<Vec<_>>();
        (!wrong.is_empty()).then(|| format!("{} is no quantity; write it like `50m` or `64Mi`", wrong.join(", ")))
    }
}

/// Whether `text` is a quantity without a sign, by Kubernetes' grammar.
fn is_quantity(text: &str) -> bool {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let is_number = number.bytes().filter(|byte| *byte == b'.').count() <= 1 && number.bytes().any(|byte| byte.is_ascii_digit());
    let is_exponent = || {
        let digits = suffix.strip_prefix(['e', 'E']).map(|rest| rest.strip_prefix(['+', '-']).unwrap_or(rest));
        digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    const SUFFIXES: [&str; 15] = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi"];
    is_number && (SUFFIXES.contains(&suffix) || suffix == "Ei" || is_exponent())
}

/// The directory, which sidecars ask who is expected to answer at an address. Their `outbound.directory` names it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Directory {
    /// Where it is served. Default `[::]:8444`.
    #[serde(default = "directory_listen")]
    pub listen: Address,
    /// The SPIFFE ID that SPIRE gives to pods, with `{namespace}` and `{serviceAccount}`.
    pub spiffe_id: SpiffeIdTemplate,
    /// `development` also takes an SVID of sidegate's own development authority. Default: production.
    #[serde(default)]
    pub profile: Profile,
    /// Where the controller's own X.509-SVID comes from. Default: the Workload API at `SPIFFE_ENDPOINT_SOCKET`.
    #[serde(default)]
    pub identity: Identity,
    /// Who may ask. Default: any workload of the controller's own trust domain.
    #[serde(default)]
    pub clients: Vec<IdPattern>,
    /// Sidecars that are served at once by one controller. Default 20000.
    #[serde(default = "sidecars")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub sidecars: u32,
    /// Sidecars that are served at once at one address, an eighth of them in their handshake. Default 256: a pod has an address of its own
    /// and one sidecar, but some networks show a node's address for all its pods.
    #[serde(default = "sidecars_per_address")]
    #[schemars(range(min = 8, max = 1_000_000))]
    pub sidecars_per_address: u32,
}

fn directory_listen() -> Address {
    Address((std::net::Ipv6Addr::UNSPECIFIED, 8444).into())
}

const fn sidecars_per_address() -> u32 {
    256
}

const fn sidecars() -> u32 {
    20_000
}

/// The admission webhook.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Webhook {
    /// Where it listens. Default `[::]:8443`.
    #[serde(default = "listen")]
    pub listen: Address,
    /// Its certificate, PEM, leaf first. Files are watched; a new certificate is used without a restart.
    #[schemars(with = "FilePath")]
    pub certificate: PathBuf,
    /// Its private key, PEM.
    #[schemars(with = "SecretPath")]
    pub key: PathBuf,
}

fn listen() -> Address {
    Address((std::net::Ipv6Addr::UNSPECIFIED, 8443).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for good in ["1", "0.5", "50m", "64Mi", "1e3", "2E-3", "1.5Gi", "7n", "3E", "3Ei"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "m", "1.2.3", "64 Mi", "-1", "1mi", "e3", "1e", "1;rm", "0x10"] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }
}
