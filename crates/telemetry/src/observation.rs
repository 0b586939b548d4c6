//! The state of the sidecar, which is read only when metrics are collected.

use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{self, IDENTITY_SOURCE, SUBJECT, TRUST_DOMAIN};
use crate::stream::{Streams, attribute};

/// State that is read only when metrics are collected: readiness, expiry, sources.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// Whether connections can be served.
    pub ready: bool,
    /// Seconds until our SVID expires.
    pub svid_time_left: Option<i64>,
    /// Trust domains, with the seconds until the last CA certificate of each expires.
    pub bundles_time_left: Vec<(Arc<str>, i64)>,
    /// Whether the kernel sends the pod's traffic here; none if that is not checked.
    pub captured: Option<bool>,
    /// Whether the directory can be asked, and how many addresses are known; none without a directory.
    pub directory: Option<(bool, usize)>,
    /// What can be loaded again, how long it has been in force, and how many of its sources offer what is refused.
    pub loads: Vec<(&'static str, Option<Duration>, usize)>,
    /// Bytes that the buffers of all connections hold, and may hold.
    pub buffered: (usize, usize),
    /// Identity sources, and whether each is healthy.
    pub sources: Vec<(Arc<str>, bool)>,
}

impl Streams {
    /// Adds what was observed.
    #[allow(clippy::cast_precision_loss, reason = "seconds")]
    pub(crate) fn observed(&mut self, seen: Observation) {
        self.number(&catalog::READY, [], f64::from(u8::from(seen.ready)));
        if let Some(captured) = seen.captured {
            self.number(&catalog::CAPTURE_PROVEN, [], f64::from(u8::from(captured)));
        }
        if let Some((reachable, addresses)) = seen.directory {
            self.number(&catalog::DIRECTORY_REACHABLE, [], f64::from(u8::from(reachable)));
            self.number(&catalog::DIRECTORY_ADDRESSES, [], addresses as f64);
        }
        for (subject, age, refused) in seen.loads {
            if let Some(age) = age {
                self.number(&catalog::LOAD_AGE, [attribute(SUBJECT, subject)], age.as_secs_f64());
            }
            self.number(&catalog::LOAD_REFUSED, [attribute(SUBJECT, subject)], refused as f64);
        }
        if let Some(left) = seen.svid_time_left {
            self.number(&catalog::SVID_TIME_LEFT, [], left as f64);
        }
        for (domain, left) in seen.bundles_time_left {
            self.number(&catalog::BUNDLE_TIME_LEFT, [attribute(TRUST_DOMAIN, domain)], left as f64);
        }
        self.number(&catalog::BUFFERED, [], seen.buffered.0 as f64);
        self.number(&catalog::BUFFERED_LIMIT, [], seen.buffered.1 as f64);
        for (source, healthy) in seen.sources {
            self.number(&catalog::SOURCE_HEALTHY, [attribute(IDENTITY_SOURCE, source)], f64::from(u8::from(healthy)));
        }
    }
}
