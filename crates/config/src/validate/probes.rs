//! What is wrong with the application's health checks.

use std::collections::HashMap;
use std::time::Duration;

use crate::schema::{Config, HttpProbe, Probe};
use crate::value::Span;

/// Where the paths of all probes begin, so that none hides an endpoint of sidegate's own.
const PREFIX: &str = "/probe/";
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(300);
/// Headers that say how the message is sent, which is not the configuration's to say.
const OF_THE_CONNECTION: [&str; 7] = ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// Adds what is wrong with `admin.probes`.
pub(super) fn validate(config: &Config, say: &mut impl FnMut(&str, String)) {
    let admin = &config.admin;
    if admin.listen.is_none() && !admin.probes.is_empty() {
        say("admin.probes", "nobody can ask for them: `admin.listen` is null".to_owned());
    }
    let own = own_ports(config);
    let mut paths: HashMap<&str, usize> = HashMap::new();
    for (index, probe) in admin.probes.iter().enumerate() {
        let at = format!("admin.probes[{index}]");
        if !is_endpoint(&probe.path) {
            let message = "begins with `/probe/` and has letters, digits and -._~/ only; write for example /probe/web/readiness";
            say(&format!("{at}.path"), message.to_owned());
        }
        if let Some(first) = paths.insert(&probe.path, index) {
            say(&format!("{at}.path"), format!("{} is already the path of `admin.probes[{first}]`", probe.path));
        }
        if !(SHORTEST..=LONGEST).contains(&probe.timeout.0) {
            say(&format!("{at}.timeout"), format!("must be between {} and {}", Span(SHORTEST), Span(LONGEST)));
        }
        let kinds = ports(probe);
        if kinds.len() != 1 {
            say(&at, "a probe has exactly one of `http`, `tcp` and `grpc`".to_owned());
        }
        for (kind, port) in kinds {
            if let Some((listener, _)) = own.iter().find(|(_, own)| *own == port) {
                say(&format!("{at}.{kind}.port"), format!("{port} is not the application's: it is the port of `{listener}`"));
            }
        }
        if let Some(http) = &probe.http {
            validate_http(http, &format!("{at}.http"), say);
        }
    }
}

fn validate_http(http: &HttpProbe, at: &str, say: &mut impl FnMut(&str, String)) {
    let in_path = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&b);
    if !http.path.starts_with('/') || !http.path.bytes().all(in_path) {
        say(&format!("{at}.path"), "begins with / and has characters of URLs only; encode others, such as a space as %20".to_owned());
    }
    let in_host = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if http.host.as_ref().is_some_and(|host| host.is_empty() || !host.bytes().all(in_host)) {
        say(&format!("{at}.host"), "is not a host; write for example web.example or web.example:8080".to_owned());
    }
    for (index, header) in http.headers.iter().enumerate() {
        let name = &header.name;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            say(&format!("{at}.headers[{index}].name"), "is no name of a header: letters, digits and -_. only".to_owned());
        } else if OF_THE_CONNECTION.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            say(&format!("{at}.headers[{index}].name"), format!("`{name}` is set by sidegate; remove it"));
        }
        if !header.value.expose().bytes().all(|b| (0x20..0x7f).contains(&b)) {
            say(&format!("{at}.headers[{index}].value"), "has characters that are not printable ASCII".to_owned());
        }
    }
}

/// Whether `path` can be the path of a probe.
fn is_endpoint(path: &str) -> bool {
    let rest = path.strip_prefix(PREFIX).unwrap_or_default();
    !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/".contains(&b))
}

/// The kinds of check that a probe names, with their ports.
fn ports(probe: &Probe) -> Vec<(&'static str, u16)> {
    let kinds = [
        ("http", probe.http.as_ref().map(|http| http.port)),
        ("tcp", probe.tcp.as_ref().map(|tcp| tcp.port)),
        ("grpc", probe.grpc.as_ref().map(|grpc| grpc.port)),
    ];
    kinds.into_iter().filter_map(|(kind, port)| Some((kind, port?))).collect()
}

/// Ports that never are the application's: a probe of the admin port could ask for itself.
fn own_ports(config: &Config) -> Vec<(&'static str, u16)> {
    let listeners = [
        ("admin.listen", &config.admin.listen),
        ("inbound.listen", &config.inbound.listen),
        ("outbound.listen", &config.outbound.listen),
        ("outbound.listen6", &config.outbound.listen6),
    ];
    listeners.into_iter().filter_map(|(key, address)| Some((key, address.as_ref()?.0.port()))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::load::parse;
    use crate::schema::{Config, ProbeScheme};

    const GOOD: &str = "
admin:
  listen: '0.0.0.0:15020'
  probes:
    - { path: /probe/web/readiness, http: { port: 8080, path: '/ready?deep=1', scheme: https, host: 'web:8080', headers: [{ name: X, value: 5 }] }, timeout: 5m }
    - { path: /probe/web/liveness, tcp: { port: 8080 } }
    - { path: /probe/web/startup, grpc: { port: 9090 } }
    - { path: /probe/web/startup/http, http: { port: 80 } }
";

    /// The configuration, or what is said of it.
    fn load(text: &str) -> Result<Config, String> {
        parse("f.yaml", text).map_err(|problems| problems.to_string())
    }

    #[test]
    fn probes_have_defaults_and_production_accepts_them() {
        let probes = load(GOOD).unwrap().admin.probes;
        let http = probes[0].http.as_ref().unwrap();
        assert_eq!((http.port, http.scheme, http.headers[0].value.expose()), (8080, ProbeScheme::Https, "5"));
        assert_eq!((probes[0].deadline(), probes[1].deadline()), (Duration::from_secs(300), Duration::from_secs(1)));
        assert_eq!(probes[2].grpc.as_ref().unwrap().service, "");
        let http = probes[3].http.as_ref().unwrap();
        assert_eq!((http.path.as_str(), http.scheme, &http.host), ("/", ProbeScheme::Http, &None));
        assert_eq!(load("admin: {}\n").unwrap().admin.probes, []);
    }

    /// A header may hold a token.
    #[test]
    fn the_value_of_a_header_is_not_shown() {
        let text = GOOD.replace("value: 5", "value: hunter2");
        let config = load(&text).unwrap();
        assert!(!config.to_yaml().unwrap().contains("hunter2") && !format!("{config:?}").contains("hunter2"));
        for bad in ["\"hunter2\\u00e9\"", "[hunter2]"] {
            let said = load(&GOOD.replace("value: 5", &format!("value: {bad}"))).unwrap_err();
            assert!(said.contains("admin.probes[0].http.headers[0].value") && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn a_bad_probe_is_reported_with_key_and_line() {
        for (bad, key, said) in [
            ("path: /ready, tcp: { port: 1 }", ".path", "begins with `/probe/`"),
            ("path: /probe/, tcp: { port: 1 }", ".path", "begins with `/probe/`"),
            ("path: '/probe/a?b', tcp: { port: 1 }", ".path", "begins with `/probe/`"),
            ("path: /probe/web/liveness, tcp: { port: 1 }", ".path", "already the path of `admin.probes[1]`"),
            ("tcp: { port: 1 }", "", "`path` is missing"),
            ("path: /probe/a", "", "exactly one of `http`, `tcp` and `grpc`"),
            ("path: /probe/a, tcp: { port: 1 }, grpc: { port: 1 }", "", "exactly one of `http`, `tcp` and `grpc`"),
            ("path: /probe/a, tcp: { port: 0 }", ".tcp.port", "too small"),
            ("path: /probe/a, tcp: { port: 70000 }", ".tcp.port", "too large"),
            ("path: /probe/a, tcp: { port: web }", ".tcp.port", "expected a whole number"),
            ("path: /probe/a, tcp: { port: 15020 }", ".tcp.port", "it is the port of `admin.listen`"),
            ("path: /probe/a, grpc: { port: 15006 }", ".grpc.port", "it is the port of `inbound.listen`"),
            ("path: /probe/a, tcp: { port: 1, host: x }", ".tcp.host", "unknown key"),
            ("path: /probe/a, tcp: { port: 1 }, period: 1s", ".period", "unknown key"),
            ("path: /probe/a, tcp: { port: 1 }, timeout: 0s", ".timeout", "must be between 1ms and 5m"),
            ("path: /probe/a, tcp: { port: 1 }, timeout: 301s", ".timeout", "must be between 1ms and 5m"),
            ("path: /probe/a, http: { port: 1, path: ready }", ".http.path", "begins with /"),
            ("path: /probe/a, http: { port: 1, path: '/a b' }", ".http.path", "characters of URLs"),
            ("path: /probe/a, http: { port: 1, scheme: HTTPS }", ".http.scheme", "use http, https"),
            ("path: /probe/a, http: { port: 1, host: 'a/b' }", ".http.host", "is not a host"),
            ("path: /probe/a, http: { port: 1, headers: [{ name: 'a b', value: c }] }", ".http.headers[0].name", "is no name of a header"),
            (
                "path: /probe/a, http: { port: 1, headers: [{ name: Content-Length, value: 1 }] }",
                ".http.headers[0].name",
                "is set by sidegate",
            ),
            ("path: /probe/a, http: { port: 1, headers: [{ name: a }] }", ".http.headers[0]", "`value` is missing"),
        ] {
            let problems = load(&format!("{GOOD}    - {{ {bad} }}\n")).expect_err(bad);
            let at = format!("admin.probes[4]{key}: ");
            assert!(problems.starts_with("f.yaml:9:") && problems.contains(&at) && problems.contains(said), "{bad}\n{problems}");
            assert_eq!(problems.lines().count(), 1, "{problems}");
        }
        let many: String = (0..65).map(|n| format!("    - {{ path: /probe/{n}, tcp: {{ port: 1 }} }}\n")).collect();
        assert!(load(&format!("admin:\n  probes:\n{many}")).unwrap_err().contains("admin.probes: has 65 entries, 64 are the most"));
        let said = load(&GOOD.replace("'0.0.0.0:15020'", "null")).unwrap_err();
        assert!(said.contains("admin.probes: nobody can ask for them: `admin.listen` is null"), "{said}");
    }
}
