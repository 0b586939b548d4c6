//! sidegate, with everything on that it has: access log, traces, metrics and logs exported, a policy of a hundred rules.

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sidegate_devkit::pods::Pod;

use super::{Choice, Pair, Undo, write};
use crate::identity::{Side, TRUST_DOMAIN};
use crate::process::Guest;
use crate::rig::Rig;

/// The user that the kernel's rules exempt.
const USER: u32 = 61_337;
/// Rules of the policy; the last one matches.
const RULES: usize = 100;

/// How connections come to the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The kernel redirects them.
    Transparent,
    /// The application connects to it.
    Explicit,
    /// The kernel redirects them, and they cross as they are.
    Passthrough,
}

/// How they cross to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tunnel {
    /// Through a tunnel that others use too.
    Auto,
    /// Through one of their own.
    Once,
    /// Each in mutual TLS of its own.
    Off,
}

impl Tunnel {
    /// The key of a destination, or of an outbound listener, that chooses it: the one place that knows its name.
    fn key(self, choice: &Choice) -> &'static str {
        match self {
            _ if choice.without_tunnel_key => "",
            Self::Auto => "tunnel: auto, ",
            Self::Once => "tunnel: once, ",
            Self::Off => "tunnel: off, ",
        }
    }
}

/// The section for an audit log of its own for each side, which must be able to make it.
pub(super) fn audit(rig: &Rig) -> Result<String> {
    let logs = rig.folder().join("audit");
    if !logs.exists() {
        std::fs::create_dir(&logs)?;
        std::fs::set_permissions(&logs, std::fs::Permissions::from_mode(0o777))?;
    }
    Ok(format!("audit: {{ file: {{ folder: \"{}/SIDE\", retain: {{ files: 2 }} }} }}\n", logs.display()))
}

/// Starts a pair. `more` is YAML of both sides, where `SIDE` is the name of the one.
pub(super) fn start(rig: &Rig, choice: &Choice, mode: Mode, tunnel: Tunnel, more: &str) -> Result<Pair> {
    let program = program(rig, &choice.sidegate)?;
    let mut pair = Pair { entry: rig.listen(Side::Client), guests: Vec::new(), _after: Vec::new() };
    for side in [Side::Server, Side::Client] {
        let name = format!("sidegate.{}", side.name());
        let config = config(rig, side)? + &connections(rig, side, mode, tunnel.key(choice)) + &more.replace("SIDE", side.name());
        let file = write(rig, &format!("{name}.yaml"), &config)?;
        if mode != Mode::Explicit {
            pair.entry = rig.service();
            redirect(rig.pod(side), &program, &["apply", "--config", &file.display().to_string()])?;
            let (pod, program) = (rig.pod(side).clone(), program.clone());
            pair._after.push(Undo::new(move || {
                if let Err(error) = redirect(&pod, &program, &["remove"]) {
                    eprintln!("{error:#}");
                }
            }));
        }
        let mut command = Command::new(&program);
        command.args(["run", "--config"]).arg(&file);
        pair.guests.push(Guest::start(rig.pod(side), rig.folder(), &name, Some(USER), &command)?);
    }
    Ok(pair)
}

/// A copy that every user may run: a checkout often lies in a home that others can't enter.
fn program(rig: &Rig, original: &Path) -> Result<PathBuf> {
    let copy = rig.folder().join("sidegate");
    if !copy.exists() {
        std::fs::copy(original, &copy).with_context(|| format!("{} can't be copied", original.display()))?;
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(copy)
}

fn redirect(pod: &Pod, program: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.arg("redirect").args(arguments);
    let output = pod.run(move || command.output())??;
    if !output.status.success() {
        bail!("sidegate redirect {arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// What both modes have in common.
fn config(rig: &Rig, side: Side) -> Result<String> {
    let mut rules = "rules:\n".to_owned();
    for rule in 1..=RULES {
        let id = if rule == RULES { Side::Client.id() } else { format!("spiffe://{TRUST_DOMAIN}/ns/n{rule}/sa/*") };
        writeln!(
            rules,
            "  - {{ name: r{rule:03}, action: allow, from: {{ spiffeIds: [\"{id}\"] }}, to: {{ ports: [{}] }} }}",
            rig.service().port()
        )?;
    }
    let policy = write(rig, &format!("sidegate.{}.policy.yaml", side.name()), &rules)?;
    Ok(format!(
        "profile: development
identity: {{ sources: [{{ workloadApi: {{ socket: \"unix://{}\" }} }}] }}
policy: {{ files: [\"{}\"] }}
accessLog: {{ format: json }}
admin: {{ listen: \"127.0.0.1:15020\", socket: null }}
telemetry: {{ otlp: {{ endpoint: \"unix://{}\" }} }}
drain: {{ deadline: 1s, settle: 1s, quiet: 1s }}
workers: 2
",
        rig.identities.socket(side).display(),
        policy.display(),
        rig.collector.display(),
    ))
}

/// Where connections come from and go to.
fn connections(rig: &Rig, side: Side, mode: Mode, tunnel: &str) -> String {
    let (listen, to, peer) = (rig.listen(side), rig.upstream(side), side.peer().id());
    match (mode, side) {
        (Mode::Transparent, Side::Client) => format!(
            "redirect: {{ exemptUid: {USER} }}
outbound: {{ destinations: [{{ name: peer, {tunnel}cidrs: [\"{}/32\"], ports: [{}], spiffeIds: [\"{peer}\"] }}] }}
",
            rig.service().ip(),
            rig.service().port(),
        ),
        (Mode::Transparent, Side::Server) => format!("redirect: {{ exemptUid: {USER} }}\n"),
        (Mode::Passthrough, _) => format!(
            "redirect: {{ exemptUid: {USER} }}
inbound: {{ defaultMode: plaintext, reason: a benchmark }}
outbound: {{ otherwise: passthrough, reason: a benchmark }}
"
        ),
        (Mode::Explicit, Side::Client) => format!(
            "inbound: {{ listen: null }}
outbound: {{ listen: null, listen6: null, listeners: [{{ name: peer, {tunnel}listen: \"{listen}\", to: \"{to}\", spiffeIds: [\"{peer}\"] }}] }}
"
        ),
        (Mode::Explicit, Side::Server) => format!(
            "inbound: {{ listen: null, listeners: [{{ listen: \"{listen}\", to: \"{to}\" }}] }}
outbound: {{ listen: null, listen6: null }}
"
        ),
    }
}
