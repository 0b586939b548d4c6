//! Filters the records of a log. An unknown name is an error, and not an empty result.

use std::time::SystemTime;

use sidegate_audit::{ConnectionEntry, Event, NAMES};
use sidegate_config::distance;
use sidegate_config::value::Span;
use sidegate_core::{Reason, SpiffeId, SpiffeIdPattern};

use crate::period::Period;
use crate::read::Record;

/// Selects records. An empty field selects all.
#[derive(Debug, Default)]
pub struct Filter {
    /// From when until when.
    pub period: Period,
    /// How names of events begin.
    pub event: Vec<String>,
    /// The SPIFFE ID at the other end of a connection.
    pub peer: Option<SpiffeIdPattern>,
    /// How the connection's ID begins.
    pub connection: Option<String>,
    /// Why the connection ended.
    pub reason: Option<String>,
}

impl Filter {
    /// Whether the filter selects a record.
    #[must_use]
    pub fn takes(&self, record: &Record) -> bool {
        let name = record.event.name();
        let connection = record.event.connection();
        let of = |fits: &dyn Fn(&ConnectionEntry) -> bool| connection.is_some_and(fits);
        let is_peer = |c: &ConnectionEntry, wanted: &SpiffeIdPattern| {
            c.peer_id.as_deref().and_then(|id| SpiffeId::new(id).ok()).is_some_and(|id| wanted.matches(&id))
        };
        // One record may stand for both.
        let stands_for = if matches!(record.event, Event::ConnectionEnded { admitted: true, .. }) { "connection.admitted" } else { name };
        let is_asked_for = |start: &String| name.starts_with(start.as_str()) || stands_for.starts_with(start.as_str());
        self.period.has(record)
            && (self.event.is_empty() || self.event.iter().any(is_asked_for))
            && self.peer.as_ref().is_none_or(|wanted| of(&|c| is_peer(c, wanted)))
            && self.connection.as_ref().is_none_or(|start| of(&|c| c.connection_id.starts_with(start.as_str())))
            && self.reason.as_ref().is_none_or(|wanted| of(&|c| c.reason.as_ref() == Some(wanted)))
    }
}

/// The beginning of an event's name.
///
/// # Errors
/// If it is unknown, with the likely name.
pub fn event(text: &str) -> Result<String, String> {
    if !text.is_empty() && NAMES.iter().any(|name| name.starts_with(text)) {
        return Ok(text.to_owned());
    }
    // Of a group of events its name is meant, such as `connection`.
    let groups = NAMES.iter().filter_map(|name| name.split('.').next());
    Err(unknown(text, "no event has a name that begins so", NAMES.iter().copied().chain(groups)))
}

/// A reason's name.
///
/// # Errors
/// If it is unknown, with the likely name.
pub fn reason(text: &str) -> Result<String, String> {
    let names = || Reason::ALL.iter().map(|reason| reason.label());
    if names().any(|name| name == text) { Ok(text.to_owned()) } else { Err(unknown(text, "no connection ends for such a reason", names())) }
}

/// A connection's ID, or the beginning of it.
///
/// # Errors
/// If it is none.
pub fn connection(text: &str) -> Result<String, String> {
    const LENGTH: usize = 32;
    let is_id = (1..=LENGTH).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if is_id {
        Ok(text.to_owned())
    } else {
        Err(format!("a connection's ID has {LENGTH} digits 0 to 9 and a to f; its beginning is enough"))
    }
}

/// SPIFFE IDs, as policies name them.
///
/// # Errors
/// If it is no pattern.
pub fn peer(text: &str) -> Result<SpiffeIdPattern, String> {
    SpiffeIdPattern::parse(text).map_err(|e| e.to_string())
}

/// A time in RFC 3339, or how long ago it was.
///
/// # Errors
/// If it is neither.
pub fn moment(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    let ago = Span::parse(text)
        .map_err(|_| format!("`{text}` is neither a time such as 2026-01-31T08:00:00Z nor an age such as 24h"))?
        .duration();
    SystemTime::now().checked_sub(ago).ok_or_else(|| format!("`{text}` is before all time"))
}

/// An error that lists all names, the nearest first.
fn unknown<'a>(text: &str, wrong: &str, names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_by_key(|name| (distance(text, name), *name));
    names.dedup();
    format!("{wrong}; did you mean `{}`? Known: {}", names.first().copied().unwrap_or_default(), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_nothing_has_is_an_error_that_names_the_nearest() {
        for good in ["connection", "connection.", "log.gap", "admin"] {
            assert_eq!(event(good).as_deref(), Ok(good));
        }
        let starts = |told: Result<String, String>, with: &str| assert!(told.as_ref().is_err_and(|e| e.contains(with)), "{told:?}");
        starts(event("conection"), "did you mean `connection`? Known: connection, ");
        starts(event("log.checkpoints"), "did you mean `log.checkpoint`?");
        starts(event(""), "no event");
        assert_eq!(reason("closed").as_deref(), Ok("closed"));
        starts(reason("dial_refuse"), "did you mean `dial_refused`? Known: dial_refused, ");
        starts(connection("xyz"), "has 32 digits");
        assert!(connection("5538989ccab1").is_ok() && peer("spiffe://a.b/ns/*/web").is_ok() && peer("web").is_err());
    }
}
