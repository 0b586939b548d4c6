//! stunnel: a thread for each connection. Chains are verified on both sides; it can't match a URI among the names of a
//! certificate.

use std::process::Command;

use anyhow::Result;

use super::{Pair, install, write};
use crate::identity::Side;
use crate::rig::Rig;

pub(super) fn start(rig: &Rig) -> Result<Pair> {
    let stunnel = install::debian("stunnel4", &["stunnel4"])?;
    Pair::explicit(rig, "stunnel", |side| {
        let pem = rig.identities.files(side)?;
        let client = if side == Side::Client { "yes" } else { "no" };
        let config = format!(
            "foreground = yes
pid =
syslog = no
output = {}
debug = notice
[pair]
client = {client}
accept = {}
connect = {}
cert = {}
key = {}
CAfile = {}
verifyChain = yes
sslVersionMin = TLSv1.3
TIMEOUTidle = 3600
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
",
            rig.folder().join(format!("stunnel.{}.access", side.name())).display(),
            rig.listen(side),
            rig.upstream(side),
            pem.certificate.display(),
            pem.key.display(),
            pem.bundle.display(),
        );
        let file = write(rig, &format!("stunnel.{}.conf", side.name()), &config)?;
        let mut command = Command::new(&stunnel);
        command.arg(file);
        Ok(command)
    })
}
