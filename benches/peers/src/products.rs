//! The products, each with what is needed to start a pair of it.

mod envoy;
mod haproxy;
mod install;
mod nginx;
mod sidegate;
mod stunnel;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::identity::Side;
use crate::load;
use crate::process::{Guest, Processes};
use crate::rig::Rig;
use crate::wait;

pub(crate) use sidegate::{Mode, Tunnel};

/// How long a pair may take to pass its first byte.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Product {
    /// No proxy at all
    Direct,
    /// Envoy with X25519, to which the others are compared
    Envoy,
    /// Envoy with X25519MLKEM768
    EnvoyMlkem,
    /// HAProxy
    Haproxy,
    /// nginx's stream module
    Nginx,
    /// stunnel
    Stunnel,
    /// sidegate, transparent, as it comes
    Sidegate,
    /// sidegate, transparent, a tunnel for each connection
    SidegateOnce,
    /// sidegate, transparent, mutual TLS for each connection
    SidegatePlain,
    /// The same with X25519, as most others
    SidegatePlainX25519,
    /// sidegate, explicit listeners
    SidegateExplicit,
    /// sidegate-plain without resumption: a full handshake for each connection
    SidegateFull,
    /// The same with X25519
    SidegateFullX25519,
    /// sidegate, transparent, with a poll of 100 µs before a worker sleeps
    SidegatePolling,
    /// sidegate, transparent, with every connection in the audit logs of both ends
    SidegateAudit,
    /// sidegate without TLS: what two more hops cost
    SidegatePassthrough,
}

/// What ratios are to.
pub(crate) const BASELINE: Product = Product::Envoy;

/// How products are started.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// The program that is sidegate, if that is among them.
    pub(crate) sidegate: PathBuf,
    /// It does not know the key that chooses the tunnel.
    pub(crate) without_tunnel_key: bool,
}

/// A running pair of proxies. Dropping it ends them.
pub(crate) struct Pair {
    /// Where the load generator connects.
    pub(crate) entry: SocketAddr,
    guests: Vec<Guest>,
    /// What has to be undone after they have ended.
    _after: Vec<Undo>,
}

impl Product {
    /// Its name on the command line and in reports.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it is sidegate.
    pub(crate) fn is_ours(self) -> bool {
        self >= Self::Sidegate
    }

    /// Finds or installs its program; what that says of its version.
    pub(crate) fn version(self, choice: &Choice) -> Result<String> {
        match self {
            Self::Direct => Ok("no proxy".to_owned()),
            Self::Envoy | Self::EnvoyMlkem => version(&install::envoy()?, "--version"),
            Self::Haproxy => version(&install::debian("haproxy", &["haproxy"])?, "-v"),
            Self::Nginx => version(&install::debian("nginx", &["nginx-core", "libnginx-mod-stream"])?, "-v"),
            Self::Stunnel => version(&install::debian("stunnel4", &["stunnel4"])?, "-version"),
            Self::Sidegate | Self::SidegateOnce if choice.without_tunnel_key => bail!("it has no tunnel, as --without-tunnel-key says"),
            _ => Ok(said(&choice.sidegate, "--version")?.trim().to_owned()),
        }
    }

    /// Starts a pair, and waits until bytes pass.
    pub(crate) fn start(self, rig: &Rig, choice: &Choice) -> Result<Pair> {
        let mut pair = match self {
            Self::Direct => Pair { entry: rig.service(), guests: Vec::new(), _after: Vec::new() },
            Self::Envoy => envoy::start(rig, "X25519")?,
            Self::EnvoyMlkem => envoy::start(rig, "X25519MLKEM768")?,
            Self::Haproxy => haproxy::start(rig)?,
            Self::Nginx => nginx::start(rig)?,
            Self::Stunnel => stunnel::start(rig)?,
            Self::Sidegate => sidegate::start(rig, choice, Mode::Transparent, Tunnel::Auto, "")?,
            Self::SidegateOnce => sidegate::start(rig, choice, Mode::Transparent, Tunnel::Once, "")?,
            Self::SidegatePlain => sidegate::start(rig, choice, Mode::Transparent, Tunnel::Off, "")?,
            Self::SidegatePlainX25519 => sidegate::start(rig, choice, Mode::Transparent, Tunnel::Off, "tls: { groups: [X25519] }\n")?,
            Self::SidegateExplicit => sidegate::start(rig, choice, Mode::Explicit, Tunnel::Auto, "")?,
            Self::SidegateFull => sidegate::start(rig, choice, Mode::Transparent, Tunnel::Off, "tls: { resumption: false }\n")?,
            Self::SidegateFullX25519 => {
                sidegate::start(rig, choice, Mode::Transparent, Tunnel::Off, "tls: { resumption: false, groups: [X25519] }\n")?
            }
            Self::SidegateAudit => sidegate::start(rig, choice, Mode::Transparent, Tunnel::Auto, &sidegate::audit(rig)?)?,
            Self::SidegatePolling => sidegate::start(rig, choice, Mode::Transparent, Tunnel::Auto, "pollMicroseconds: 100\n")?,
            Self::SidegatePassthrough => sidegate::start(rig, choice, Mode::Passthrough, Tunnel::Off, "")?,
        };
        pair.wait_passing(rig)?;
        if ![Self::Direct, Self::SidegatePassthrough].contains(&self) {
            pair.check_wire(rig)?;
        }
        Ok(pair)
    }
}

impl Pair {
    /// A pair with explicit listeners: `program` makes the command of each side.
    fn explicit(rig: &Rig, name: &str, mut program: impl FnMut(Side) -> Result<Command>) -> Result<Self> {
        let mut guest = |side: Side| {
            let name = format!("{name}.{}", side.name());
            Guest::start(rig.pod(side), rig.folder(), &name, None, &program(side)?)
        };
        Ok(Self { entry: rig.listen(Side::Client), guests: vec![guest(Side::Server)?, guest(Side::Client)?], _after: Vec::new() })
    }

    fn wait_passing(&mut self, rig: &Rig) -> Result<()> {
        let entry = self.entry;
        let mut last = String::new();
        let passing = wait::until("the first byte through the pair", PATIENCE, || {
            self.guests.iter_mut().try_for_each(Guest::check)?;
            match rig.pod(Side::Client).run(move || load::probe(entry))? {
                Ok(()) => Ok(Some(())),
                Err(error) => {
                    last = format!("{error:#}");
                    Ok(None)
                }
            }
        });
        passing.with_context(|| format!("the last attempt: {last}"))
    }

    /// An error if what one says to the other can be read on the wire: then it is no pair.
    fn check_wire(&self, rig: &Rig) -> Result<()> {
        let (entry, capture) = (self.entry, rig.wire().capture()?);
        rig.pod(Side::Client).run(move || load::probe(entry))??;
        let frames = capture.stop()?;
        ensure!(!frames.is_empty(), "nothing was on the wire between the pods");
        ensure!(!sidegate_devkit::pods::contains(&frames, &load::PROBE), "what passes can be read on the wire");
        Ok(())
    }

    /// All its processes.
    pub(crate) fn processes(&self) -> Result<Processes> {
        Processes::of(&self.guests)
    }
}

/// Does what it holds when it is dropped.
struct Undo(Option<Box<dyn FnOnce()>>);

impl Undo {
    fn new(what: impl FnOnce() + 'static) -> Self {
        Self(Some(Box::new(what)))
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(what) = self.0.take() {
            what();
        }
    }
}

/// The first word of what a program says that looks like a version.
fn version(program: &Path, argument: &str) -> Result<String> {
    let text = said(program, argument)?;
    let mut words = text.split(|c: char| c.is_whitespace() || c == '/');
    let version = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'));
    version.map(str::to_owned).with_context(|| format!("{} {argument} tells no version: {text}", program.display()))
}

/// What a program says, on whichever output.
fn said(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).output().with_context(|| format!("{} can't be started", program.display()))?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Writes a file of the rig's folder.
fn write(rig: &Rig, name: &str, text: &str) -> Result<PathBuf> {
    let path = rig.folder().join(name);
    std::fs::write(&path, text).with_context(|| format!("{} can't be written", path.display()))?;
    Ok(path)
}
