//! What is measured: every figure with its name and what is better.

use std::collections::BTreeMap;

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// Less.
    Less,
    /// More.
    More,
    /// Neither: it tells about the machine.
    Neither,
}

/// One line of the tables.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// Its name in JSON.
    pub(crate) key: String,
    /// Its human-readable name, with the unit.
    pub(crate) label: String,
    /// Which way is better.
    pub(crate) better: Better,
    /// Digits after the point.
    pub(crate) digits: usize,
    /// It is in the picture too.
    pub(crate) drawn: bool,
}

/// What one product did in one round, by key.
pub(crate) type Figures = BTreeMap<String, f64>;

use Better::{Less, More, Neither};

const BEFORE_IDLE: &[(&str, &str, Better, usize, bool)] = &[
    ("rtt_p50", "round trip, 64 B: p50, µs", Less, 0, false),
    ("rtt_p99", "round trip, 64 B: p99, µs", Less, 0, false),
    ("rtt_added", "round trip, 64 B: added to direct at p50, µs", Less, 0, true),
    ("requests", "requests/s, 1 KiB on 64 connections", More, 0, true),
    ("requests_p50", "… p50, µs", Less, 0, false),
    ("requests_p99", "… p99, µs", Less, 0, true),
    ("requests_cpu", "… CPU of the proxies, µs each", Less, 1, true),
    ("upload_1", "upload, 1 stream, GB/s", More, 2, true),
    ("upload_1_cpu", "… CPU of the proxies, s/GB", Less, 2, true),
    ("upload_8", "upload, 8 streams, GB/s", More, 2, true),
    ("upload_8_cpu", "… CPU of the proxies, s/GB", Less, 2, false),
    ("download_1", "download, 1 stream, GB/s", More, 2, true),
    ("download_1_cpu", "… CPU of the proxies, s/GB", Less, 2, false),
    ("download_8", "download, 8 streams, GB/s", More, 2, true),
    ("download_8_cpu", "… CPU of the proxies, s/GB", Less, 2, false),
    ("connections", "new connections/s, 16 at a time", More, 0, true),
    ("connections_cpu", "… CPU of the proxies, µs each", Less, 0, true),
    ("connect_p50", "new connection until its first answer: p50, µs", Less, 0, true),
    ("connect_p99", "new connection until its first answer: p99, µs", Less, 0, false),
    ("idle_pss", "memory of the idle pair, PSS, MiB", Less, 1, true),
];

const AFTER_IDLE: &[(&str, &str, Better, usize, bool)] = &[
    ("mixed_p50", "small requests beside 4 uploads: p50, µs", Less, 0, false),
    ("mixed_p99", "small requests beside 4 uploads: p99, µs", Less, 0, true),
    ("mixed_upload", "… what the uploads had, GB/s", More, 2, false),
    ("service_p50", "service of 5 ms, 1,000 requests/s: p50, µs", Less, 0, false),
    ("service_p99", "service of 5 ms, 1,000 requests/s: p99, µs", Less, 0, false),
    ("service_added_p50", "… added to direct at p50, µs", Less, 0, true),
    ("service_added_p99", "… added to direct at p99, µs", Less, 0, false),
    ("service_cpu", "… CPU of the proxies, µs each", Less, 1, true),
    (OTHERS, "CPU of others meanwhile, % of the machine", Neither, 0, false),
];

/// What is derived from the same round's direct connections: the key, and of what it is the difference.
pub(crate) const ADDED: &[(&str, &str)] =
    &[("rtt_added", "rtt_p50"), ("service_added_p50", "service_p50"), ("service_added_p99", "service_p99")];

/// The key of what others used of the machine.
pub(crate) const OTHERS: &str = "others_percent";

/// The key of the memory at a number of connections.
pub(crate) fn idle_key(count: u32) -> String {
    format!("idle_kib_{count}")
}

/// All figures, in the order of the tables.
pub(crate) fn catalog(idle: &[u32]) -> Vec<Figure> {
    let fixed = |&(key, label, better, digits, drawn): &(&str, &str, Better, usize, bool)| Figure {
        key: key.to_owned(),
        label: label.to_owned(),
        better,
        digits,
        drawn,
    };
    let idle = idle.iter().enumerate().map(|(index, count)| Figure {
        key: idle_key(*count),
        label: format!("memory for each of {count} idle connections, KiB"),
        better: Less,
        digits: 1,
        drawn: index + 1 == idle.len(),
    });
    BEFORE_IDLE.iter().map(fixed).chain(idle).chain(AFTER_IDLE.iter().map(fixed)).collect()
}
