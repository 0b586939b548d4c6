//! Values with a grammar of their own. Each is a string in the file; the schema names its `format`,
//! by which a document is checked as a whole before any value is built.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sidegate_core::{SpiffeId, SpiffeIdPattern, TrustDomain, parse_canonical};

macro_rules! text_values {
    ($($(#[$doc:meta])* $name:ident($inner:ty) $format:literal $parse:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Eq, Hash)]
            pub struct $name(pub $inner);

            impl $name {
                /// Parses the text form.
                ///
                /// # Errors
                /// What is wrong with `text`, and what to write.
                pub fn parse(text: &str) -> Result<Self, String> {
                    let parse: fn(&str) -> Result<$inner, String> = $parse;
                    parse(text).map(Self)
                }

                /// The value.
                #[must_use]
                pub fn get(&self) -> &$inner { &self.0 }
            }

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    let text = Cow::<str>::deserialize(deserializer)?;
                    Self::parse(&text).map_err(serde::de::Error::custom)
                }
            }

            impl Serialize for $name {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            impl JsonSchema for $name {
                fn schema_name() -> Cow<'static, str> { stringify!($name).into() }
                fn inline_schema() -> bool { true }
                fn json_schema(_: &mut SchemaGenerator) -> Schema { json_schema!({ "type": "string", "format": $format }) }
            }
        )*

        /// Checks `text` against the grammar that `format` names; `ip` is schemars' own; others pass.
        pub(crate) fn check_format(format: &str, text: &str) -> Result<(), String> {
            match format {
                $($format => $name::parse(text).map(drop),)*
                "path" if text.is_empty() => Err("is empty; name a file or folder, or leave the key out".to_owned()),
                "ip" => text.parse::<std::net::IpAddr>().map(drop).map_err(|_| format!("`{text}` is not an IP address")),
                _ => Ok(()),
            }
        }
    };
}

text_values! {
    /// A length of time, such as `500ms`, `30s`, `5m`, `1h` or `1h30m`.
    Span(Duration) "duration" parse_duration;
    /// An address block such as `10.0.0.0/8` or `fd00::/8`; a bare address is a block of one.
    Cidr(ipnet::IpNet) "cidr" parse_cidr;
    /// A port or an inclusive range, such as `8080` or `9000-9010`.
    Ports(PortRange) "ports" PortRange::parse;
    /// An IP address and port, such as `127.0.0.1:15001` or `[::]:15006`.
    Address(SocketAddr) "socket-address" |text| text.parse().map_err(|_| format!("`{text}` is not an address and port; write for example 127.0.0.1:15001 or [::]:15006"));
    /// An IP address and port such as `10.0.0.7:5432`, or a port alone such as `:5432`, at whatever address.
    Target(SocketAddr) "target" parse_target;
    /// A moment, such as `2026-01-31T14:30:00Z`.
    Moment(SystemTime) "date-time" |text| humantime::parse_rfc3339_weak(text).map_err(|_| format!("`{text}` is not a moment; write for example 2026-01-31T14:30:00Z"));
    /// A host and port, such as `api.default.svc:8443`, `10.0.0.7:8443` or `[fd00::7]:8443`.
    HostPort(HostAndPort) "host-port" HostAndPort::parse;
    /// A DNS name such as `api.default.svc`.
    DnsName(String) "dns-name" parse_dns_name;
    /// A SPIFFE ID.
    Id(SpiffeId) "spiffe-id" |text| parse_canonical(text).map_err(|e| format!("`{text}` is not a SPIFFE ID: {e}"));
    /// A SPIFFE ID pattern: `*` is one path segment, a final `**` one or more.
    IdPattern(SpiffeIdPattern) "spiffe-id-pattern" |text| SpiffeIdPattern::parse(text).map_err(|e| e.to_string());
    /// A trust domain such as `prod.example`.
    Domain(TrustDomain) "trust-domain" parse_trust_domain;
    /// An OTLP endpoint: `https://host:port`, `http://host:port` or `unix:///path`.
    Collector(CollectorAddress) "collector-url" CollectorAddress::parse;
    /// A URL with `http://` or `https://`.
    Url(CollectorAddress) "url" parse_url;
    /// The public key of somebody who can decrypt, in age's form: `age1…`.
    AgeRecipient(String) "age-recipient" parse_age_recipient;
    /// A Workload API endpoint: `unix:///path` or `tcp://127.0.0.1:PORT` (loopback only: it carries private keys).
    Endpoint(EndpointSocket) "endpoint-socket" EndpointSocket::parse;
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

macro_rules! display_inner { ($($name:ident)*) => { $(impl fmt::Display for $name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
})* } }
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_seconds(self.0).fmt(f)
    }
}

display_inner! { AgeRecipient Collector Url DnsName Cidr Ports Target Address HostPort Id IdPattern Domain Endpoint }

fn parse_url(text: &str) -> Result<CollectorAddress, String> {
    let url = CollectorAddress::parse(text).ok().filter(|url| url.scheme != Scheme::Unix);
    url.ok_or_else(|| "is not a URL; write for example http://pki.example/ca.crl".to_owned())
}

fn parse_age_recipient(text: &str) -> Result<String, String> {
    let parsed: Result<age::x25519::Recipient, _> = text.parse();
    parsed.map(|_| text.to_owned()).map_err(|e| format!("`{text}` is no public key of age; write what `age-keygen` shows, age1…: {e}"))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration; write for example 500ms, 30s, 5m or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let millis = match &rest[..unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        rest = &rest[unit..];
        total = total.saturating_add(Duration::from_millis(number.saturating_mul(millis)));
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

/// A port alone is at the unspecified address, which is in no block but those of all addresses.
fn parse_target(text: &str) -> Result<SocketAddr, String> {
    let port_alone = || Some(SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, text.strip_prefix(':')?.parse().ok()?)));
    let target = text.parse().ok().or_else(port_alone).filter(|target: &SocketAddr| target.port() > 0);
    target.ok_or_else(|| format!("`{text}` is not an address and port; write for example 10.0.0.7:5432, or :5432 for a port alone"))
}

fn parse_cidr(text: &str) -> Result<ipnet::IpNet, String> {
    let net = text
        .parse()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from))
        .map_err(|_| format!("`{text}` is not an address block; write for example 10.0.0.0/8 or fd00::/8"))?;
    if net.trunc() == net { Ok(net) } else { Err(format!("`{text}` has bits beyond its prefix; write {}", net.trunc())) }
}

fn parse_dns_name(text: &str) -> Result<String, String> {
    // What the TLS library takes as a server name, for that is what it may become.
    let is_server_name = rustls_pki_types::DnsName::try_from(text).is_ok();
    if is_server_name {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not a DNS name; write for example api.default.svc (addresses go into `cidrs`)"))
    }
}

fn parse_trust_domain(text: &str) -> Result<TrustDomain, String> {
    match TrustDomain::new(text) {
        Ok(domain) if domain.as_str() == text => Ok(domain),
        Ok(domain) => Err(format!("`{text}` is not a trust domain's name; write {domain}")),
        Err(e) => Err(format!("`{text}` is not a trust domain: {e}")),
    }
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, at least `first`.
    pub last: u16,
}

impl PortRange {
    fn parse(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Self { first, last }),
            _ => Err(format!("`{text}` is not a port or range; write for example 8080 or 9000-9010")),
        }
    }

    /// Whether `port` is in the range.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// A host by name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostAndPort {
    /// DNS name or IP address.
    pub host: String,
    /// Port, not 0.
    pub port: u16,
}

impl HostAndPort {
    fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a host and port; write for example api.default.svc:8443 or [fd00::7]:8443");
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let host = match host.strip_prefix('[').map(|h| h.strip_suffix(']')) {
            Some(Some(inner)) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(bad()),
            None if host.contains(':') => return Err(bad()),
            None => host,
        };
        match port.parse() {
            Ok(port) if port > 0 && (host.parse::<std::net::IpAddr>().is_ok() || parse_dns_name(host).is_ok()) => {
                Ok(Self { host: host.to_owned(), port })
            }
            _ => Err(bad()),
        }
    }

    /// The address, if the host is one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host.parse().ok()?, self.port))
    }
}

impl fmt::Display for HostAndPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

/// How a collector is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plaintext TCP.
    Http,
    /// TLS.
    Https,
    /// A Unix socket on this host.
    Unix,
}

/// Where a collector listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CollectorAddress {
    /// How it is reached.
    pub scheme: Scheme,
    /// DNS name or IP address; for a Unix socket its path.
    pub host: String,
    /// TCP port; none if the protocol's own is meant.
    pub port: Option<u16>,
    /// Path of the URL, without a final slash; empty for none.
    pub path: String,
}

impl CollectorAddress {
    fn parse(text: &str) -> Result<Self, String> {
        // A URL may hold a secret: it is not repeated.
        let bad = || "is not an OTLP endpoint; write for example https://collector.example:4317 or unix:///run/otel.sock".to_owned();
        let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" if rest.starts_with('/') && rest.len() < 108 => {
                return Ok(Self { scheme: Scheme::Unix, host: rest.to_owned(), port: None, path: String::new() });
            }
            _ => return Err(bad()),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("an OTLP endpoint holds no user and password; use `headers`".to_owned());
        }
        // What follows the host may be its port; an IPv6 address has colons of its own.
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let with_port = if has_port { authority.to_owned() } else { format!("{authority}:1") };
        let HostAndPort { host, port } = HostAndPort::parse(&with_port).map_err(|_| bad())?;
        if path.contains(['?', '#', ' ']) || path.chars().any(char::is_control) {
            return Err(bad());
        }
        Ok(Self { scheme, host, port: has_port.then_some(port), path: path.trim_end_matches('/').to_owned() })
    }

    /// Whether what is sent there stays on this host.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.scheme == Scheme::Unix
            || self.host == "localhost"
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    }
}

impl fmt::Display for CollectorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Unix => return write!(f, "unix://{}", self.host),
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        write!(f, "{scheme}://{host}{port}{}", self.path)
    }
}

/// Where a Workload API is served.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EndpointSocket {
    /// A Unix socket, by absolute path.
    Unix(std::path::PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

impl EndpointSocket {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
            return if path.starts_with('/') && path.len() < 108 {
                Ok(Self::Unix(path.into()))
            } else {
                Err(format!("`{text}`: the path of a Unix socket must be absolute and shorter than 108 bytes"))
            };
        }
        match text.strip_prefix("tcp://").or_else(|| text.strip_prefix("tcp:")).map(str::parse::<SocketAddr>) {
            Some(Ok(address)) if address.ip().is_loopback() && address.port() > 0 => Ok(Self::Tcp(address)),
            Some(Ok(address)) => {
                Err(format!("`{text}`: {address} is not on loopback; the Workload API carries private keys and may not cross a network"))
            }
            _ => Err(format!("`{text}` is not a Workload API endpoint; write unix:///run/spire/agent.sock or tcp://127.0.0.1:PORT")),
        }
    }
}

impl fmt::Display for EndpointSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Span {
    /// The length of time.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.0
    }

    pub(crate) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("1h30m", 5_400_000), ("0s", 0), ("0", 0), ("2d", 172_800_000)] {
            assert_eq!(Span::parse(text).unwrap().0.as_millis(), millis);
        }
        assert_eq!(Span::parse("90s").unwrap().to_string(), "1m30s");
        for bad in ["", "5", "s", "5 s", "-1s", "1.5s", "5x", "99999999999999999999s"] {
            assert!(Span::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_workload_api_stays_on_the_host() {
        assert!(Endpoint::parse("unix:///run/x.sock").is_ok());
        assert!(Endpoint::parse("tcp://127.0.0.1:8081").is_ok());
        for bad in ["tcp://10.0.0.1:8081", "unix://x.sock", "http://127.0.0.1:1", "tcp://localhost:1", "tcp://127.0.0.1:0"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn collectors_are_urls() {
        for (text, local) in [
            ("http://127.0.0.1:4317", true),
            ("http://localhost:4318/base", true),
            ("https://[fd00::7]:4317", false),
            ("https://otel.example", false),
            ("https://[::1]", true),
            ("unix:///run/otel.sock", true),
        ] {
            let parsed = Collector::parse(text).unwrap();
            assert_eq!((parsed.to_string().as_str(), parsed.get().is_local()), (text, local));
        }
        assert_eq!(Collector::parse("http://a:1/b/").unwrap().get().path, "/b");
        for bad in ["", "a:4317", "ftp://a:1", "http://", "http://a:0", "http://u:p@a:1", "unix://x", "https://a b:1", "http://a:1/x?y"] {
            assert!(Collector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_blocks_and_ports() {
        assert!(HostPort::parse("[fd00::7]:8443").unwrap().0.address().is_some());
        for bad in ["x", "x:0", "x:70000", "fd00::7:80", "[x]:80", ":80", "a b:80"] {
            assert!(HostPort::parse(bad).is_err(), "{bad}");
        }
        assert!(Cidr::parse("10.0.0.1/8").unwrap_err().contains("10.0.0.0/8"));
        assert_eq!(Cidr::parse("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert!(Ports::parse("9000-9010").unwrap().0.contains(9010));
        assert!(Ports::parse("10-9").is_err() && Ports::parse("0").is_err());
        assert_eq!(Target::parse(":5432").unwrap().0, "0.0.0.0:5432".parse().unwrap());
        assert!(Target::parse("[fd00::7]:80").is_ok());
        for bad in ["", "80", ":0", ":x", "host:80", "10.0.0.1:0"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_read_as_written() {
        assert_eq!(Moment::parse("2026-01-31T14:30:00Z").unwrap().to_string(), "2026-01-31T14:30:00Z");
        assert!(Moment::parse("yesterday").is_err() && Moment::parse("2026-13-01T00:00:00Z").is_err());
    }
}
