//! Checks what a schema can't express: values that contradict each other, and what production refuses.

mod audit;
mod probes;
mod status_page;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::document::{Node, Problems};
use crate::named_paths::NamedPath;
use crate::schema::telemetry::{CollectorTls, Signal};
use crate::schema::{Config, Drain, LogFormat, Mode, Otherwise, Profile, Timeouts};
use crate::value::{Collector, PortRange, Scheme, Span};

/// Adds what is wrong with `config`, which was built from `root`.
pub(crate) fn validate(config: &Config, root: &Node, problems: &mut Problems) {
    let mut say = |path: &str, message: String| problems.push(&root.nearest(path).location, path, message);
    identity(config, &mut say);
    secrets(config, &mut say);
    listeners(config, &mut say);
    outbound(config, &mut say);
    if config.redirect.exempt_uid.is_some() && config.redirect.exempt_mark.is_some() {
        say("redirect.exemptMark", "set either `exemptUid` or `exemptMark`".to_owned());
    }
    if !config.redirect.inbound.include_cidrs.is_empty() {
        say("redirect.inbound.includeCidrs", "is for `redirect.outbound`; inbound, name what passes in `excludeCidrs`".to_owned());
    }
    timeouts(&config.timeouts, &mut say);
    drain(&config.drain, &mut say);
    protocols(config, &mut say);
    revocation(config, &mut say);
    telemetry(config, &mut say);
    audit::validate(config, &mut say);
    probes::validate(config, &mut say);
    status_page::validate(config, &mut say);
    if config.profile == Profile::Production {
        production(config, &mut say);
    }
}

/// Every wait has a deadline, and the kernel must be able to take those that are its own.
fn timeouts(timeouts: &Timeouts, say: &mut impl FnMut(&str, String)) {
    const MOMENT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(7 * 86_400);
    for (path, span, least, most) in [
        ("timeouts.dial", &timeouts.dial, MOMENT, LONG),
        ("timeouts.handshake", &timeouts.handshake, MOMENT, LONG),
        ("timeouts.detect", &timeouts.detect, MOMENT, LONG),
        ("timeouts.silent", &timeouts.silent, MOMENT, LONG),
        ("timeouts.halfOpen", &timeouts.half_open, MOMENT, LONG),
        ("timeouts.tcpUser", &timeouts.tcp_user, MOMENT, LONG),
        ("timeouts.keepalive", &timeouts.keepalive, Duration::from_secs(1), Duration::from_secs(32_767)),
    ] {
        if !(least..=most).contains(&span.0) {
            let (least, most) = (Span(least), Span(most));
            say(path, format!("must be between {least} and {most}: every wait has a deadline"));
        }
    }
    if timeouts.detect.0 >= timeouts.silent.0 {
        say("timeouts.detect", "must be shorter than `timeouts.silent`".to_owned());
    }
}

/// The last fourth of the deadline is for records and exports, which a fraction of a second is not enough for.
fn drain(drain: &Drain, say: &mut impl FnMut(&str, String)) {
    const DAY: Duration = Duration::from_secs(86_400);
    for (path, span, least) in [
        ("drain.deadline", &drain.deadline, Duration::from_secs(1)),
        ("drain.settle", &drain.settle, Duration::ZERO),
        ("drain.quiet", &drain.quiet, Duration::ZERO),
    ] {
        if !(least..=DAY).contains(&span.0) {
            say(path, format!("must be between {} and {}", Span(least), Span(DAY)));
        }
    }
}

/// A trust domain that asks for lists needs some, once.
fn revocation(config: &Config, say: &mut impl FnMut(&str, String)) {
    let mut seen = HashSet::new();
    for (i, lists) in config.revocation.trust_domains.iter().enumerate() {
        let path = format!("revocation.trustDomains[{i}]");
        if lists.files.is_empty() && lists.urls.is_empty() {
            say(&path, "has no list: set `files` or `urls`".to_owned());
        }
        if !seen.insert(lists.trust_domain.get()) {
            say(&path, format!("{} is named twice; put its lists together", lists.trust_domain));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(7 * 86_400)).contains(&lists.refresh.0.0) {
            say(&format!("{path}.refresh"), "must be between 1s and 7d".to_owned());
        }
    }
    if config.live_connections.cuts_per_second == 0 {
        say("liveConnections.cutsPerSecond", "must be at least 1".to_owned());
    }
    if config.live_connections.drain_within.0 > Duration::from_secs(86_400) {
        say("liveConnections.drainWithin", "must not be longer than 24h".to_owned());
    }
}

/// RFC 7301 §3.1: a protocol's name has 1 to 255 bytes.
fn protocols(config: &Config, say: &mut impl FnMut(&str, String)) {
    let inbound = config.inbound.ports.iter().enumerate().map(|(i, p)| (format!("inbound.ports[{i}].alpn"), &p.alpn));
    let destinations = config.outbound.destinations.iter().enumerate().map(|(i, d)| (format!("outbound.destinations[{i}].alpn"), &d.alpn));
    let listeners = config.outbound.listeners.iter().enumerate().map(|(i, l)| (format!("outbound.listeners[{i}].alpn"), &l.alpn));
    for (path, alpn) in inbound.chain(destinations).chain(listeners) {
        if alpn.iter().any(|name| name.is_empty() || name.len() > 255) {
            say(&path, "a protocol's name has 1 to 255 bytes".to_owned());
        }
    }
}

fn identity(config: &Config, say: &mut impl FnMut(&str, String)) {
    for (index, source) in config.identity.sources.iter().enumerate() {
        if usize::from(source.workload_api.is_some()) + usize::from(source.files.is_some()) != 1 {
            say(&format!("identity.sources[{index}]"), "a source has exactly one of `workloadApi` and `files`".to_owned());
        }
    }
    if config.identity.select.spiffe_id.is_some() && config.identity.select.hint.is_some() {
        say("identity.use", "set either `spiffeId` or `hint`".to_owned());
    }
}

/// In production nobody else may read a secret.
fn secrets(config: &Config, say: &mut impl FnMut(&str, String)) {
    if config.profile != Profile::Production {
        return;
    }
    for NamedPath { key, path, .. } in config.paths().iter().filter(|named| named.path_use.is_secret()) {
        let Ok(mode) = std::fs::metadata(path).map(|meta| meta.permissions().mode() & 0o777) else { continue };
        if mode & 0o077 != 0 {
            say(key, format!("{} can be read by others (mode {mode:04o}); profile `production` refuses that: chmod 0600", path.display()));
        }
    }
}

fn listeners(config: &Config, say: &mut impl FnMut(&str, String)) {
    let mut all: Vec<(String, SocketAddr)> = Vec::new();
    let mut add = |path: &str, address: Option<SocketAddr>| all.extend(address.map(|a| (path.to_owned(), a)));
    add("inbound.listen", config.inbound.listen.as_ref().map(|a| a.0));
    add("outbound.listen", config.outbound.listen.as_ref().map(|a| a.0));
    add("outbound.listen6", config.outbound.listen6.as_ref().map(|a| a.0));
    add("admin.listen", config.admin.listen.as_ref().map(|a| a.0));
    for (i, listener) in config.inbound.listeners.iter().enumerate() {
        add(&format!("inbound.listeners[{i}].listen"), Some(listener.listen.0));
    }
    for (i, listener) in config.outbound.listeners.iter().enumerate() {
        add(&format!("outbound.listeners[{i}].listen"), Some(listener.listen.0));
    }
    let mut seen: HashMap<u16, (&str, SocketAddr)> = HashMap::new();
    for (path, address) in &all {
        if address.port() == 0 {
            say(path, "a listener needs a port other than 0".to_owned());
        } else if let Some((other, first)) = seen.get(&address.port())
            && (first.ip() == address.ip() || first.ip().is_unspecified() || address.ip().is_unspecified())
        {
            say(path, format!("port {} is already taken by `{other}`", address.port()));
        } else {
            seen.insert(address.port(), (path, *address));
        }
    }
    if let (Some(v4), Some(v6)) = (&config.outbound.listen, &config.outbound.listen6)
        && v4.0.port() != v6.0.port()
    {
        say(
            "outbound.listen6",
            format!("its port must be that of `outbound.listen`, {}: the kernel redirects both families to one port", v4.0.port()),
        );
    }
    let outbound = [("outbound.listen", &config.outbound.listen), ("outbound.listen6", &config.outbound.listen6)];
    let outbound = outbound.into_iter().filter_map(|(path, a)| a.as_ref().map(|a| (path.to_owned(), a.0)));
    let explicit = config.outbound.listeners.iter().enumerate().map(|(i, l)| (format!("outbound.listeners[{i}].listen"), l.listen.0));
    for (path, address) in outbound.chain(explicit) {
        if !address.ip().is_loopback() {
            say(&path, format!("{address} is not on loopback; from elsewhere anybody could use our identity"));
        }
    }
}

fn outbound(config: &Config, say: &mut impl FnMut(&str, String)) {
    let mut names: HashMap<&str, String> = HashMap::new();
    let destinations = config.outbound.destinations.iter().enumerate().map(|(i, d)| (format!("outbound.destinations[{i}].name"), &d.name));
    let listeners = config.outbound.listeners.iter().enumerate().map(|(i, l)| (format!("outbound.listeners[{i}].name"), &l.name));
    for (path, name) in destinations.chain(listeners) {
        if name.trim().is_empty() {
            say(&path, "give it a name; records and metrics show it".to_owned());
        } else if let Some(first) = names.insert(name, path.clone()) {
            say(&path, format!("`{name}` is already the name of `{}`", first.trim_end_matches(".name")));
        }
    }
    let mut ranges: Vec<(usize, PortRange)> = Vec::new();
    for (i, port) in config.inbound.ports.iter().enumerate() {
        let range = port.port.0;
        if let Some((first, _)) = ranges.iter().find(|(_, r)| r.first <= range.last && range.first <= r.last) {
            say(&format!("inbound.ports[{i}].port"), format!("{range} overlaps with `inbound.ports[{first}]`"));
        }
        ranges.push((i, range));
    }
}

/// Exporters, whether by the file or by the environment.
fn telemetry(config: &Config, say: &mut impl FnMut(&str, String)) {
    let telemetry = &config.telemetry;
    let places = [
        ("telemetry.otlp", &telemetry.otlp),
        ("telemetry.traces.otlp", &telemetry.traces.otlp),
        ("telemetry.metrics.otlp", &telemetry.metrics.otlp),
        ("telemetry.logs.otlp", &telemetry.logs.otlp),
    ];
    for (path, otlp) in places {
        for (name, value) in otlp.headers.iter().flatten() {
            let token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            // In gRPC the ending says that the value is binary.
            let token = token && !name.to_lowercase().ends_with("-bin");
            // A malformed name may be part of a secret: it is not shown.
            let shown = if token { format!("`{name}`") } else { "one of them".to_owned() };
            if !token || !value.expose().bytes().all(|b| (0x20..0x7f).contains(&b)) {
                let path = format!("{path}.headers");
                say(&path, format!("{shown} is no header: letters, digits and -_. in the name, ASCII in the value"));
            }
        }
        let tls = &otlp.tls;
        if tls.certificate.is_some() != tls.key.is_some() {
            say(&format!("{path}.tls"), "`certificate` and `key` belong together".to_owned());
        }
        if tls.svid && tls.certificate.is_some() {
            say(&format!("{path}.tls.svid"), "set either `svid` or `certificate` and `key`".to_owned());
        }
        if !tls.spiffe_ids.is_empty() && (tls.ca.is_some() || tls.server_name.is_some()) {
            say(&format!("{path}.tls.spiffeIds"), "a SPIFFE peer is known by its ID: leave out `ca` and `serverName`".to_owned());
        }
    }
    for (path, otlp) in places {
        if let Some(endpoint) = otlp.endpoint.as_ref().map(Collector::get).filter(|e| e.scheme != Scheme::Https)
            && otlp.tls != CollectorTls::default()
        {
            say(&format!("{path}.tls"), format!("is set, but {endpoint} has no TLS; write https://"));
        }
    }
    for signal in Signal::ALL {
        let Some(target) = telemetry.target(signal) else { continue };
        let own = format!("telemetry.{}.otlp", signal.label());
        let (of_its_own, _) = telemetry.own(signal);
        if of_its_own.tls != CollectorTls::default() && of_its_own.endpoint.is_none() && target.address.scheme != Scheme::Https {
            say(&format!("{own}.tls"), format!("is set, but {} has no TLS; write https://", target.address));
        }
        let path =
            if telemetry.own(signal).0.endpoint.is_some() { format!("{own}.endpoint") } else { "telemetry.otlp.endpoint".to_owned() };
        if config.profile == Profile::Production && target.address.scheme == Scheme::Http && !target.address.is_local() {
            let message = format!(
                "{} would leave this host without TLS, with the names of who talks to which peer; profile `production` refuses that: write https://",
                signal.label()
            );
            say(&path, message);
        }
    }
    let (traces, metrics, logs) = (&telemetry.traces, &telemetry.metrics, &telemetry.logs);
    let mut names = HashSet::new();
    for (i, view) in metrics.views.iter().enumerate() {
        if let Some(name) = view.name.as_ref().filter(|name| !names.insert((*name).clone())) {
            say(&format!("telemetry.metrics.views[{i}].name"), format!("`{name}` is the name of another instrument already"));
        }
        let plain = |name: &String| {
            name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
        };
        if view.name.as_ref().is_some_and(|name| !plain(name) || view.instrument.ends_with('*')) {
            say(
                &format!("telemetry.metrics.views[{i}].name"),
                "a name is for one instrument, begins with a letter and has letters, digits and ._-/ only".to_owned(),
            );
        }
    }
    let mut span = |path: &str, span: &Span, least: u64, most: u64| {
        let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
        if !(least..=most).contains(&span.0) {
            say(path, format!("must be between {} and {}", Span(least), Span(most)));
        }
    };
    span("telemetry.traces.batch.delay", &traces.batch.delay, 1, 60_000);
    span("telemetry.logs.batch.delay", &logs.batch.delay, 1, 60_000);
    span("telemetry.metrics.interval", &metrics.interval, 100, 3_600_000);
    span("telemetry.flush", &telemetry.flush, 0, 60_000);
    for (path, otlp) in places {
        if let Some(timeout) = &otlp.timeout {
            span(&format!("{path}.timeout"), timeout, 1, 600_000);
        }
    }
    for (path, batch) in [("telemetry.traces.batch", &traces.batch), ("telemetry.logs.batch", &logs.batch)] {
        if batch.size > batch.queue {
            say(&format!("{path}.size"), "must not be larger than `queue`".to_owned());
        }
    }
}

fn production(config: &Config, say: &mut impl FnMut(&str, String)) {
    let unwritten = |reason: &Option<String>| reason.as_ref().is_none_or(|text| text.trim().is_empty());
    for (i, port) in config.inbound.ports.iter().enumerate() {
        if port.mode != Mode::Strict && unwritten(&port.reason) {
            let message = format!("port {} is {}: profile `production` wants the why in `reason`", port.port, port.mode.label());
            say(&format!("inbound.ports[{i}].mode"), message);
        }
    }
    if config.inbound.default_mode != Mode::Strict && unwritten(&config.inbound.reason) {
        let message =
            format!("every other port is {}: profile `production` wants the why in `inbound.reason`", config.inbound.default_mode.label());
        say("inbound.defaultMode", message);
    }
    if config.access_log.format == LogFormat::Off && !config.audit.is_on() {
        say(
            "accessLog.format",
            "without an access log or an audit log nobody can say who was admitted: profile `production` refuses that".to_owned(),
        );
    }
    if config.outbound.otherwise == Otherwise::Passthrough && unwritten(&config.outbound.reason) {
        say(
            "outbound.otherwise",
            "what is not in the mesh goes out in plaintext: profile `production` wants the why in `outbound.reason`".to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::load::parse;

    /// What is said of a configuration; nothing if it is good.
    fn problems(text: &str) -> String {
        parse("f.yaml", text).map_or_else(|problems| problems.to_string(), |_| String::new())
    }

    #[test]
    fn the_end_has_a_deadline_that_can_be_kept() {
        assert_eq!(problems("drain: { deadline: 1s, settle: 0s, quiet: 0s }\n"), "");
        for (bad, said) in [
            ("deadline: 900ms", "drain.deadline: must be between 1s and 24h"),
            ("deadline: 9999d", "drain.deadline: must be between 1s and 24h"),
            ("settle: 2d", "drain.settle: must be between 0s and 24h"),
        ] {
            let problems = problems(&format!("drain: {{ {bad} }}\n"));
            assert!(problems.contains(said), "{problems}");
        }
    }

    #[test]
    fn production_wants_tls_to_a_collector_that_is_not_local() {
        let to = |profile: &str, endpoint: &str| {
            problems(&format!("profile: {profile}\ntelemetry: {{ otlp: {{ endpoint: \"{endpoint}\" }} }}\n"))
        };
        for good in
            ["https://otel.example:4317", "http://127.0.0.1:4317", "http://localhost:4317", "http://[::1]:4317", "unix:///run/otel.sock"]
        {
            assert_eq!(to("production", good), "", "{good}");
        }
        for bad in ["http://otel.example:4317", "http://10.0.0.1", "http://localhost.example:4317"] {
            let said = to("production", bad);
            assert!(said.starts_with("f.yaml:2:") && said.contains("profile `production` refuses that: write https://"), "{said}");
            assert_eq!(said.lines().count(), 3, "one for each signal");
            assert_eq!(to("development", bad), "");
        }
        let own = problems("telemetry: { otlp: { endpoint: \"https://a\" }, logs: { otlp: { endpoint: \"http://b\" } } }\n");
        assert!(own.contains("telemetry.logs.otlp.endpoint: logs would leave") && own.lines().count() == 1, "{own}");
    }

    #[test]
    fn production_wants_an_access_log() {
        let off = "accessLog: { format: off }\n";
        assert!(problems(off).contains("accessLog.format: without an access log or an audit log"));
        assert_eq!(problems(&format!("profile: development\n{off}")), "");
    }

    #[test]
    fn exporters_that_contradict_themselves_are_refused() {
        for (text, say) in [
            (
                "otlp: { endpoint: \"http://localhost\", tls: { svid: true } }",
                "telemetry.otlp.tls: is set, but http://localhost has no TLS",
            ),
            ("otlp: { endpoint: \"https://a\", tls: { certificate: c.pem } }", "`certificate` and `key` belong together"),
            ("otlp: { endpoint: \"https://a\", tls: { svid: true, certificate: c.pem, key: k.pem } }", "set either `svid` or"),
            ("otlp: { endpoint: \"https://a\", tls: { ca: c.pem, spiffeIds: [\"spiffe://a.b/c\"] } }", "leave out `ca` and `serverName`"),
            ("otlp: { headers: { \"a b\": x } }", "one of them is no header"),
            ("otlp: { timeout: 0s }", "telemetry.otlp.timeout: must be between 1ms and 10m"),
            ("traces: { batch: { queue: 5, size: 6 } }", "telemetry.traces.batch.size: must not be larger than `queue`"),
            ("traces: { sampler: { ratio: 1.5 } }", "1.5 must be between 0 and 1"),
            ("traces: { sampler: { ratio: often } }", "expected a number, found `often`"),
            ("metrics: { views: [{ instrument: \"a.*\", name: b }] }", "views[0].name: a name is for one instrument"),
            ("metrics: { views: [{ instrument: a, name: \"b c\" }] }", "views[0].name: a name is for one instrument"),
            ("metrics: { views: [{ instrument: a, name: c }, { instrument: b, name: c }] }", "views[1].name: `c` is the name of another"),
            ("otlp: { endpoint: \"http://localhost\" }, logs: { otlp: { tls: { svid: true } } }", "telemetry.logs.otlp.tls: is set, but"),
            ("otlp: { headers: { a-bin: x } }", "is no header"),
            ("flush: 2m", "telemetry.flush: must be between 0s and 1m"),
            ("otlp: { endpoint: \"http://u:p@a\" }", "holds no user and password"),
        ] {
            let said = problems(&format!("telemetry: {{ {text} }}\n"));
            assert!(said.contains(say), "{text}\n{said}");
        }
        assert_eq!(
            problems("telemetry: { traces: { sampler: { ratio: 1, peers: [{ spiffeIds: [\"spiffe://a.b/**\"], ratio: 0.5 }] } } }\n"),
            ""
        );
    }
}
