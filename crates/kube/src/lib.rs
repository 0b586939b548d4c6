//! sidegate in a Kubernetes cluster: the injector, which gives pods their sidecar, and [`cni`], the plugin that makes their kernel rules.
//!
//! ```text
//! a pod, or a workload with a pod template          the cluster's settings (ControllerConfig)
//!              |                                                    |
//!              v                                                    v
//!   annotations, typed (PodOptions) ---> inject ---> init container with the kernel rules, sidecar, volumes,
//!              |                            |        rewritten probes, the sidecar's configuration
//!              `-> Refusals: all at once    `------> served as an admission webhook, or written to a manifest
//! ```
//!
//! What the author of a pod says stands in its annotations. It is parsed into the types of sidegate's own configuration and checked as
//! a file would be; it is never spliced into text.
//!
//! ```
//! use sidegate_kube::{ControllerConfig, inject, uninject};
//!
//! let (settings, _) = sidegate_config::typed::<ControllerConfig>("controller.yaml", "sidecar: { image: 'sidegate:0.1.0' }")?;
//! let mut pod = serde_json::json!({
//!     "metadata": { "name": "web", "annotations": { "sidegate.dev/inbound-ports": "[{ port: 9090, mode: permissive, reason: moving }]" } },
//!     "spec": { "containers": [{ "name": "web", "image": "web:1" }] }
//! });
//! let before = pod.clone();
//!
//! inject(&mut pod, &settings.sidecar)?;
//! assert_eq!(pod["spec"]["initContainers"][1]["restartPolicy"], "Always");
//! uninject(&mut pod)?;
//! assert_eq!(pod, before);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it guarantees: a pod that is injected twice is as one that was injected once; what it does not know of a pod stays as it is; a pod
//! that would get around its sidecar is refused, with every reason at once; the configuration that a sidecar gets has passed the checks of
//! a configuration file.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod certificate;
pub mod cni;
mod config;
pub mod directory;
mod inject;
mod manifest;
mod options;
mod probes;
mod refusal;
mod review;
mod sidecar;
mod sidecar_config;
mod webhook;

pub use config::{ControllerConfig, Directory, PullPolicy, Resources, ResourcesOverride, Rules, SidecarConfig, Webhook, WorkloadApiVolume};
pub use inject::{UninjectError, check_sidecar, inject, is_injected, uninject};
pub use manifest::{ManifestError, inject_manifest, uninject_manifest};
pub use options::{ANNOTATIONS, CONFIG, DefaultMode, Exceptions, INJECT, PodOptions, RESTORE, RULES, RULES_BY_CNI};
pub use refusal::{Refusal, Refusals};
pub use review::review;
pub use webhook::{LAST_ANSWERS, WebhookError, WebhookServer};
