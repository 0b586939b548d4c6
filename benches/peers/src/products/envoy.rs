//! Envoy: TCP proxy, its SPIFFE validator, and an exact match of the peer's ID on both sides.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Pair, install, write};
use crate::identity::{Side, TRUST_DOMAIN};
use crate::rig::Rig;

const TYPES: &str = "type.googleapis.com/envoy.extensions";
/// More than any measurement opens; the default is 1,024.
const CONNECTIONS: u32 = 100_000;

/// Starts a pair that offers this group only. Session resumption is left at Envoy's defaults.
pub(super) fn start(rig: &Rig, group: &str) -> Result<Pair> {
    let envoy = install::envoy()?;
    Pair::explicit(rig, "envoy", |side| {
        let name = |what: &str| format!("envoy.{}.{what}", side.name());
        let access = rig.folder().join(name("access")).display().to_string();
        let config = config(rig.listen(side), rig.upstream(side), side, &tls_context(rig, side, group)?, &access);
        let file = write(rig, &name("json"), &config.to_string())?;
        let mut command = Command::new(&envoy);
        command.args(["--concurrency", "2", "--disable-hot-restart", "--log-level", "warning", "--config-path"]).arg(file);
        // Without hot restart there is no shared memory, but the name of a socket that both would want.
        command.args(["--base-id", &format!("{}{}", std::process::id() % 100_000, side as u8)]);
        Ok(command)
    })
}

fn tls_context(rig: &Rig, side: Side, group: &str) -> Result<Value> {
    let pem = rig.identities.files(side)?;
    let kind = match side {
        Side::Client => "UpstreamTlsContext",
        Side::Server => "DownstreamTlsContext",
    };
    let mut context = json!({
        "@type": format!("{TYPES}.transport_sockets.tls.v3.{kind}"),
        "common_tls_context": {
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
                "ecdh_curves": [group],
            },
            "tls_certificates": [{ "certificate_chain": { "filename": pem.certificate }, "private_key": { "filename": pem.key } }],
            "validation_context": {
                "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": side.peer().id() } }],
                "custom_validator_config": {
                    "name": "envoy.tls.cert_validator.spiffe",
                    "typed_config": {
                        "@type": format!("{TYPES}.transport_sockets.tls.v3.SPIFFECertValidatorConfig"),
                        "trust_domains": [{ "name": TRUST_DOMAIN, "trust_bundle": { "filename": pem.bundle } }],
                    },
                },
            },
        },
    });
    if side == Side::Server {
        context["require_client_certificate"] = json!(true);
    }
    Ok(json!({ "name": "tls", "typed_config": context }))
}

fn config(listen: SocketAddr, to: SocketAddr, side: Side, tls: &Value, access: &str) -> Value {
    let address = |a: SocketAddr| json!({ "socket_address": { "address": a.ip().to_string(), "port_value": a.port() } });
    let format = "{\"time\":\"%START_TIME%\",\"flags\":\"%RESPONSE_FLAGS%\",\"up\":%BYTES_RECEIVED%,\"down\":%BYTES_SENT%,\
        \"ms\":%DURATION%,\"client\":\"%DOWNSTREAM_PEER_URI_SAN%\",\"server\":\"%UPSTREAM_PEER_URI_SAN%\",\
        \"from\":\"%DOWNSTREAM_REMOTE_ADDRESS%\",\"to\":\"%UPSTREAM_HOST%\"}\n";
    let access_log = json!([{
        "name": "file",
        "typed_config": {
            "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"),
            "path": access,
            "log_format": { "text_format_source": { "inline_string": format } },
        },
    }]);
    let mut chain = json!({ "filters": [{
        "name": "tcp",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "tcp", "cluster": "out", "access_log": access_log,
        },
    }] });
    let mut cluster = json!({
        "name": "out", "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [{ "max_connections": CONNECTIONS, "max_pending_requests": CONNECTIONS, "max_requests": CONNECTIONS }] },
        "load_assignment": { "cluster_name": "out", "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(to) } }] }] },
    });
    match side {
        Side::Client => cluster["transport_socket"] = tls.clone(),
        Side::Server => chain["transport_socket"] = tls.clone(),
    }
    json!({ "static_resources": {
        "listeners": [{ "name": "in", "address": address(listen), "filter_chains": [chain] }],
        "clusters": [cluster],
    } })
}
