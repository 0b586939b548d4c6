//! A real Envoy with a static configuration: one listener, TCP only.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use sidegate_devkit::harness::{Identities, TRUST_DOMAIN, eventually, free_port, id};

use crate::peers::program;
use crate::process::Process;

/// A running Envoy.
pub struct Envoy {
    /// Its listener.
    pub address: SocketAddr,
    process: Process,
    access: std::path::PathBuf,
}

impl Envoy {
    /// TLS in, plaintext out to `app`: a server as `name`, for the client `peer` only. None if there is no Envoy.
    pub fn server(identities: &Identities, name: &str, peer: &str, app: SocketAddr) -> Option<Self> {
        let tls = format!("\"require_client_certificate\": true, {}", tls_context(identities, name, peer));
        let filter_chain = format!("\"transport_socket\": {},", transport("Downstream", &tls));
        Self::start(identities, name, &filter_chain, "", app)
    }

    /// Plaintext in, TLS out to `to`: a client as `name`, of the server `peer` only. None if there is no Envoy.
    pub fn client(identities: &Identities, name: &str, peer: &str, to: SocketAddr) -> Option<Self> {
        let cluster = format!("\"transport_socket\": {},", transport("Upstream", &tls_context(identities, name, peer)));
        Self::start(identities, name, "", &cluster, to)
    }

    fn start(identities: &Identities, name: &str, filter_chain: &str, cluster: &str, to: SocketAddr) -> Option<Self> {
        let program = program("envoy")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let path = |what: &str| identities.folder().join(format!("{name}.envoy.{what}"));
        let config = config(address, to, filter_chain, cluster, &path("access").display().to_string());
        std::fs::write(path("json"), config).unwrap();
        let mut command = Command::new(program);
        // Without hot restart there is no shared memory; the base ID keeps even its name apart.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let base = (std::process::id() % 100_000) * 100 + NEXT.fetch_add(1, Ordering::Relaxed);
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--base-id", &base.to_string()]);
        // Its access log is asked about at once, not after 10 s.
        command.args(["--file-flush-interval-msec", "20"]);
        command.arg("--config-path").arg(path("json")).stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = Process::start(command, &path("log"));
        process.wait_listening(address);
        Some(Self { address, process, access: path("access") })
    }

    /// Waits for a line of its access log that has all of `parts`: what Envoy itself says of a connection.
    #[track_caller]
    pub fn wait_access(&self, parts: &[&str]) -> String {
        let read = || std::fs::read_to_string(&self.access).unwrap_or_default();
        eventually(&format!("{parts:?} in Envoy's access log\n{}", self.process.log()), || {
            read().lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        })
    }
}

fn transport(side: &str, tls: &str) -> String {
    format!(
        r#"{{ "name": "tls", "typed_config": {{ "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext", {tls} }} }}"#
    )
}

/// Envoy's own certificate, and its SPIFFE validator: the peer's chain against the bundle, its ID against `peer`.
/// The groups are left to Envoy.
fn tls_context(identities: &Identities, name: &str, peer: &str) -> String {
    let (certificate, key, bundle) = identities.files(name);
    let (certificate, key, bundle) = (certificate.display(), key.display(), bundle.display());
    let peer = id(peer);
    format!(
        r#""common_tls_context": {{
            "tls_params": {{ "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" }},
            "tls_certificates": [{{ "certificate_chain": {{ "filename": "{certificate}" }}, "private_key": {{ "filename": "{key}" }} }}],
            "validation_context": {{
                "match_typed_subject_alt_names": [{{ "san_type": "URI", "matcher": {{ "exact": "{peer}" }} }}],
                "custom_validator_config": {{
                    "name": "envoy.tls.cert_validator.spiffe",
                    "typed_config": {{
                        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
                        "trust_domains": [{{ "name": "{TRUST_DOMAIN}", "trust_bundle": {{ "filename": "{bundle}" }} }}]
                    }}
                }}
            }}
        }}"#
    )
}

fn config(listen: SocketAddr, to: SocketAddr, filter_chain: &str, cluster: &str, access: &str) -> String {
    let address = |a: SocketAddr| format!(r#"{{ "socket_address": {{ "address": "{}", "port_value": {} }} }}"#, a.ip(), a.port());
    let (listen, to) = (address(listen), address(to));
    let format = "flags=%RESPONSE_FLAGS% up=%BYTES_RECEIVED% down=%BYTES_SENT% version=%DOWNSTREAM_TLS_VERSION% \
        client=%DOWNSTREAM_PEER_URI_SAN% downstream_failure=%DOWNSTREAM_TRANSPORT_FAILURE_REASON% \
        server=%UPSTREAM_PEER_URI_SAN% upstream_failure=%UPSTREAM_TRANSPORT_FAILURE_REASON%\\n";
    format!(
        r#"{{ "static_resources": {{
            "listeners": [{{ "name": "in", "address": {listen}, "filter_chains": [{{ {filter_chain}
                "filters": [{{ "name": "tcp", "typed_config": {{
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": "tcp", "cluster": "out", "max_connect_attempts": 1,
                    "access_log": [{{ "name": "file", "typed_config": {{
                        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                        "path": "{access}",
                        "log_format": {{ "text_format_source": {{ "inline_string": "{format}" }} }}
                    }} }}]
                }} }}]
            }}] }}],
            "clusters": [{{ "name": "out", "type": "STATIC", "connect_timeout": "5s", {cluster}
                "load_assignment": {{ "cluster_name": "out", "endpoints": [{{ "lb_endpoints": [{{ "endpoint": {{ "address": {to} }} }}] }}] }}
            }}]
        }} }}"#
    )
}
