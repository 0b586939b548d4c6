//! `sidegate-cni`: makes the kernel rules of a pod before any container of it runs, as a chained CNI plugin.
//!
//! ```text
//! runtime: environment, network configuration, prevResult
//!            |
//!            v
//!          Call --> pod, from the API server --> not to be injected: prevResult, as it came
//!                          |
//!                          v
//!          its configuration --> Plan --> its network namespace, proved to be its own --> rules --> prevResult, as it came
//!
//! installer: binary, credentials and chain in place, each replaced in one step, and again when another one changes them
//! ```
//!
//! What it guarantees: a pod that waits for its rules gets them or does not start; no other namespace is touched; rules that are there are
//! never replaced or removed; a call ends within its deadline. Calls share no state, so any number may run at once.

mod api_server;
mod call;
mod chain;
mod error;
mod install;
mod namespace;
mod network_config;
mod plugin;
mod pod;
mod replace;
mod version;

pub use error::CniError;
pub use install::{InstallError, Installation, Installed};
pub use network_config::NetworkConfig;
pub use plugin::{Answer, run};
