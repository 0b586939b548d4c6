//! A period of time.

use std::time::SystemTime;

use crate::read::Record;

/// A period; without a bound it begins with the log, or ends with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Period {
    /// Only from here on.
    pub since: Option<SystemTime>,
    /// Only before this.
    pub until: Option<SystemTime>,
}

impl Period {
    /// Whether the period contains a record. A record whose time can't be read is in every period.
    #[must_use]
    pub fn has(&self, record: &Record) -> bool {
        let Ok(time) = humantime::parse_rfc3339(&record.time) else { return true };
        let of = |moment: Option<SystemTime>, inside: fn(SystemTime, SystemTime) -> bool| moment.is_none_or(|moment| inside(time, moment));
        of(self.since, |time, since| time >= since) && of(self.until, |time, until| time < until)
    }

    /// Whether a record is older than the period.
    #[must_use]
    pub fn is_after(&self, record: &Record) -> bool {
        humantime::parse_rfc3339(&record.time).is_ok_and(|time| self.since.is_some_and(|since| time < since))
    }
}
