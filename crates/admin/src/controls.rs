//! What an operator can see and change of this process.

use std::sync::Arc;
use std::time::Instant;

use sidegate_proxy::Shared;

use crate::drain::DrainState;

type SetLogFilter = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// What the admin API can read and change, and the status page can read.
pub struct Controls {
    /// The data plane.
    pub shared: Arc<Shared>,
    /// The configuration as it was loaded, secrets redacted.
    pub config: String,
    /// The profile's name.
    pub profile: String,
    /// Returns the log filter.
    pub log_filter: Box<dyn Fn() -> String + Send + Sync>,
    /// Changes the log filter, or says what is wrong with the new one.
    pub set_log_filter: Box<SetLogFilter>,
    /// The drain, which the API can begin.
    pub drain: Arc<DrainState>,
    /// When the process started.
    pub started: Instant,
}
