//! How a step of a connection fails.

use sidegate_core::Reason;

use crate::registry::Cut;

/// How a step of a connection failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) detail: Option<String>,
}

impl Failure {
    pub(crate) fn new(reason: Reason) -> Self {
        Self { reason, detail: None }
    }

    /// The system refused something that it should not.
    #[allow(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
    pub(crate) fn system(error: std::io::Error) -> Self {
        Self::with(Reason::RelayFailed, error.to_string())
    }

    pub(crate) fn with(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: Some(detail.into()) }
    }
}

impl From<Cut> for Failure {
    fn from(cut: Cut) -> Self {
        Self { reason: cut.reason, detail: cut.detail }
    }
}
