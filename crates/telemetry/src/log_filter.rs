//! Which events are logged.

use std::sync::{Mutex, PoisonError};

use sidegate_config::schema::telemetry::LogLevel;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// The log filter, which can be changed at run time.
#[derive(Debug)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    text: Mutex<String>,
}

impl LogFilter {
    /// The filter as it was given.
    #[must_use]
    pub fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A layer that lets events pass by `text`, and the filter by which that can be changed.
    pub(crate) fn layer(text: &str) -> Result<(reload::Layer<EnvFilter, Registry>, Self), String> {
        let (layer, handle) = reload::Layer::new(parse(text)?);
        Ok((layer, Self { handle, text: Mutex::new(text.to_owned()) }))
    }

    /// Sets the filter to `text`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set(&self, text: &str) -> Result<(), String> {
        self.handle.reload(parse(text)?).map_err(|e| e.to_string())?;
        text.clone_into(&mut self.text.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

fn parse(text: &str) -> Result<EnvFilter, String> {
    // A directive with fields would stand above the last word. There are no spans that it could be meant for.
    if text.contains('[') {
        return Err(format!("`{text}`: a filter has levels and modules, such as info,sidegate_identity=debug; fields are not understood"));
    }
    text.split(',').map(str::trim).filter(|directive| !directive.is_empty()).try_for_each(check)?;
    // Any peer can make rustls warn with each hello, and the connection's record has the facts. Actions over the admin API are
    // always logged: the last directive of a filter counts.
    EnvFilter::try_new(format!("rustls=error,{text},sidegate_admin::api=warn"))
        .map_err(|e| format!("`{text}` is no log filter; write for example info, or info,sidegate_identity=debug: {e}"))
}

/// Refuses what `EnvFilter` would take for the name of a module: a level that is written wrongly, or a module of ours that there
/// is not.
fn check(directive: &str) -> Result<(), String> {
    let (module, level) = match directive.split_once('=') {
        Some((module, level)) => (Some(module.trim()), level.trim()),
        None => (None, directive),
    };
    if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
        return Err(format!("`{level}` is no level: there are {}; for one module write MODULE=LEVEL", LEVELS.join(", ")));
    }
    let Some(ours) = module.map(|module| module.split("::").next().unwrap_or(module)).filter(|module| module.starts_with("sidegate"))
    else {
        return Ok(());
    };
    if MODULES.contains(&ours) { Ok(()) } else { Err(format!("sidegate has no module `{ours}`: there are {}", MODULES.join(", "))) }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The crates of sidegate that log.
const MODULES: [&str; 15] = [
    "sidegate",
    "sidegate_admin",
    "sidegate_audit",
    "sidegate_config",
    "sidegate_control",
    "sidegate_core",
    "sidegate_devkit",
    "sidegate_identity",
    "sidegate_net",
    "sidegate_policy",
    "sidegate_proxy",
    "sidegate_redirect",
    "sidegate_system",
    "sidegate_telemetry",
    "sidegate_tls",
];

/// `filter`, after the level for what becomes of telemetry: what `filter` says of that module comes first, as the last word counts.
#[must_use]
pub fn with_telemetry(filter: &str, level: Option<LogLevel>) -> String {
    level.map_or_else(|| filter.to_owned(), |level| format!("sidegate_telemetry={},{filter}", level.label()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_comes_before_the_level_for_telemetry() {
        let of_telemetry = |filter: &str, level| {
            let filter = parse(&with_telemetry(filter, level)).unwrap().to_string();
            let directive = filter.split(',').find_map(|directive| directive.strip_prefix("sidegate_telemetry="));
            directive.map(str::to_owned)
        };
        assert_eq!(of_telemetry("info", None), None);
        assert_eq!(of_telemetry("info", Some(LogLevel::Off)).as_deref(), Some("off"));
        assert_eq!(of_telemetry("debug,sidegate_telemetry=trace", Some(LogLevel::Error)).as_deref(), Some("trace"));
    }
}
