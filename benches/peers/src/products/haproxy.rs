//! HAProxy: chains are verified on both sides; it can't match a URI among the names of a certificate.

use std::process::Command;

use anyhow::Result;

use super::{Pair, install, write};
use crate::identity::Side;
use crate::rig::Rig;

pub(super) fn start(rig: &Rig) -> Result<Pair> {
    let haproxy = install::debian("haproxy", &["haproxy"])?;
    Pair::explicit(rig, "haproxy", |side| {
        let pem = rig.identities.files(side)?;
        let tls = |options: &str| format!("ssl crt {} ca-file {} verify required {options}", pem.both.display(), pem.bundle.display());
        let (bind, server) = match side {
            Side::Client => (String::new(), tls("ssl-min-ver TLSv1.3")),
            Side::Server => (tls("ssl-min-ver TLSv1.3"), String::new()),
        };
        let config = format!(
            "global
    nbthread 2
    maxconn {connections}
    log stdout format raw local0
defaults
    mode tcp
    log global
    option tcplog
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    maxconn {connections}
listen pair
    bind {} {bind}
    server peer {} {server}
",
            rig.listen(side),
            rig.upstream(side),
            connections = rig.connections(),
        );
        let file = write(rig, &format!("haproxy.{}.cfg", side.name()), &config)?;
        let mut command = Command::new(&haproxy);
        command.args(["-db", "-f"]).arg(file);
        Ok(command)
    })
}
