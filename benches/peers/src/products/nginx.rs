//! nginx's stream module: chains are verified on both sides, and the server's DNS name; it can't match a URI among the
//! names of a certificate.

use std::process::Command;

use anyhow::Result;

use super::{Pair, install, write};
use crate::identity::{self, Side};
use crate::rig::Rig;

pub(super) fn start(rig: &Rig) -> Result<Pair> {
    let nginx = install::debian("nginx", &["nginx-core", "libnginx-mod-stream"])?;
    let (client, server) = identity::named(rig.folder())?;
    Pair::explicit(rig, "nginx", |side| {
        let at = |what: &str| rig.folder().join(format!("nginx.{}.{what}", side.name())).display().to_string();
        let (listen, tls) = match side {
            Side::Client => {
                let (certificate, key, bundle) = (client.certificate.display(), client.key.display(), client.bundle.display());
                let name = Side::Server.name();
                let tls = format!(
                    "proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {certificate}; proxy_ssl_certificate_key {key};
        proxy_ssl_verify on; proxy_ssl_trusted_certificate {bundle}; proxy_ssl_name {name};"
                );
                ("", tls)
            }
            Side::Server => {
                let (certificate, key, bundle) = (server.certificate.display(), server.key.display(), server.bundle.display());
                let tls = format!(
                    "ssl_protocols TLSv1.3; ssl_certificate {certificate}; ssl_certificate_key {key};
        ssl_verify_client on; ssl_client_certificate {bundle};"
                );
                ("ssl ", tls)
            }
        };
        // Of connections with two ends each, either worker may get somewhat more than half.
        let config = format!(
            "load_module modules/ngx_stream_module.so;
daemon off;
worker_processes 2;
pid {};
error_log {} warn;
events {{ worker_connections {}; }}
stream {{
    log_format line '$time_iso8601 $remote_addr $status $bytes_sent $bytes_received $session_time $upstream_addr';
    access_log {} line;
    server {{
        listen {} {listen}reuseport backlog=4096;
        proxy_pass {};
        proxy_timeout 1h;
        {tls}
    }}
}}
",
            at("pid"),
            at("error"),
            rig.connections() * 6 / 5,
            at("access"),
            rig.listen(side),
            rig.upstream(side),
        );
        let file = write(rig, &format!("nginx.{}.conf", side.name()), &config)?;
        let mut command = Command::new(&nginx);
        command.arg("-c").arg(file);
        Ok(command)
    })
}
