//! Errors of a call, with the codes of the CNI specification.

use serde_json::{Value, json};
use sidegate_redirect::RedirectError;

use super::version::{NEWEST, VERSIONS};

/// Why a call fails. As text: what is wrong and how to fix it. The runtime shows it in the events of the pod.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// A version of the specification that is not known.
    #[error("cniVersion `{0}` is not supported; supported are {known}", known = VERSIONS.join(", "))]
    Version(String),
    /// A key that is neither the specification's nor ours.
    #[error("`{key}: {value}` is no key of sidegate-cni; known are {known}")]
    UnknownKey {
        /// It.
        key: String,
        /// What it has.
        value: String,
        /// All that are known.
        known: String,
    },
    /// Variables of the environment that are missing or wrong.
    #[error("{}", .0.join("; "))]
    Environment(Vec<String>),
    /// Standard input, or a file of the installer, can't be read.
    #[error("{0}")]
    Input(String),
    /// It is no JSON.
    #[error("{0}")]
    Decode(String),
    /// The network configuration can't be used.
    #[error("{0}")]
    Config(String),
    /// What may be over soon.
    #[error("{0}")]
    TryAgain(String),
    /// The plugin can't make rules.
    #[error("{0}")]
    Unavailable(String),
    /// The network namespace is not the pod's own.
    #[error("{0}; no rules were made")]
    Namespace(String),
    /// The API server's pod is not the one that is started.
    #[error("{0}; no rules were made")]
    Pod(String),
    /// What the pod says of its sidecar can't be used.
    #[error("{0}; no rules were made")]
    PodConfig(String),
    /// The kernel rules can't be made or read.
    #[error("{0}")]
    Rules(#[from] RedirectError),
    /// Other rules than the pod's are there, or none.
    #[error("{0}")]
    OtherRules(String),
}

impl CniError {
    /// The code of the specification, or our own from 100 on, and what it means.
    #[must_use]
    pub const fn code(&self) -> (u32, &'static str) {
        match self {
            Self::Version(_) => (1, "incompatible CNI version"),
            Self::UnknownKey { .. } => (2, "unsupported field in the network configuration"),
            Self::Environment(_) => (4, "invalid environment variables"),
            Self::Input(_) => (5, "I/O failure"),
            Self::Decode(_) => (6, "the input can't be decoded"),
            Self::Config(_) => (7, "invalid network configuration"),
            Self::TryAgain(_) => (11, "try again later"),
            Self::Unavailable(_) => (50, "the plugin is not available"),
            Self::Namespace(_) => (100, "the network namespace is not the pod's own"),
            Self::Pod(_) => (101, "the pod is another one"),
            Self::PodConfig(_) => (102, "the pod's configuration can't be used"),
            Self::Rules(_) => (103, "the kernel rules can't be made"),
            Self::OtherRules(_) => (104, "the kernel rules are not the pod's"),
        }
    }

    /// The error result of the specification.
    #[must_use]
    pub fn result(&self, version: Option<&str>) -> Value {
        let (code, message) = self.code();
        json!({ "cniVersion": version.unwrap_or(NEWEST), "code": code, "msg": format!("sidegate-cni: {message}"), "details": self.to_string() })
    }
}
