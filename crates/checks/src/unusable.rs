//! Why a configuration can't be used.

use sidegate_config::Problems;

/// A configuration can't be used: everything that keeps the sidecar from starting, at once.
#[derive(Debug, thiserror::Error)]
#[error("the configuration can't be used:\n{0}")]
pub struct Unusable(pub Problems);
