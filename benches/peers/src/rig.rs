//! The place: two pods, who is who, the server, and a collector that throws everything away.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sidegate_devkit::pods::{Network, Pod, Support};
use tempfile::TempDir;

use crate::identity::{Identities, Side};
use crate::process::Guest;
use crate::server::Server;
use crate::wait;

/// Where the server listens.
const SERVER_PORT: u16 = 8080;
/// Where the server's proxy listens for the client's, where nothing is redirected.
const TLS_PORT: u16 = 7443;
/// Where the client's proxy listens for the load generator, where nothing is redirected.
const ENTRY_PORT: u16 = 7000;
/// Connections beside the idle ones.
const ROOM: u32 = 400;
/// For what the rig itself starts.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything but the proxies.
pub(crate) struct Rig {
    /// Who is who.
    pub(crate) identities: Identities,
    /// The collector's socket.
    pub(crate) collector: PathBuf,
    network: Network,
    client: Pod,
    server: Pod,
    open: Arc<AtomicUsize>,
    idle: u32,
    _collecting: Guest,
    // Dropped last: others write there.
    folder: TempDir,
}

impl Rig {
    /// Makes pods and starts everything in them, for at most so many idle connections.
    pub(crate) fn new(folder: TempDir, idle: u32) -> Result<Self> {
        if let Support::NotPossible(why) = sidegate_devkit::pods::support() {
            anyhow::bail!("{why}");
        }
        // Proxies of other users read their configuration there.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let identities = Identities::start(folder.path())?;
        let mut network = Network::new()?;
        let (client, server) = (network.pod("client")?, network.pod("server")?);
        for pod in [&client, &server] {
            pod.run(tune)?.context("the pods' kernel settings can't be changed")?;
        }
        let open = Arc::new(AtomicUsize::new(0));
        let counter = open.clone();
        let mut listening = server.run(move || Server::bind((Ipv4Addr::UNSPECIFIED, SERVER_PORT).into(), counter))??;
        server.spawn(move || {
            if let Err(error) = listening.run() {
                eprintln!("the server failed: {error:#}");
            }
        })?;
        let collector = folder.path().join("collector.sock");
        let mut taker = Command::new(std::env::current_exe()?);
        taker.arg("collector").arg(&collector);
        let mut collecting = Guest::start(&client, folder.path(), "collector", None, &taker)?;
        wait::until("the collector's socket", PATIENCE, || {
            collecting.check()?;
            Ok(collector.exists().then_some(()))
        })?;
        Ok(Self { identities, collector, network, client, server, open, idle, _collecting: collecting, folder })
    }

    /// The pod of this side.
    pub(crate) fn pod(&self, side: Side) -> &Pod {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    /// What is on the wire between the pods.
    pub(crate) fn wire(&self) -> &Pod {
        self.network.switch()
    }

    /// A folder for files, which every user may read.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where this side's proxy listens, where nothing is redirected.
    pub(crate) fn listen(&self, side: Side) -> SocketAddr {
        match side {
            Side::Client => (Ipv4Addr::LOCALHOST, ENTRY_PORT).into(),
            Side::Server => (self.server.ipv4(), TLS_PORT).into(),
        }
    }

    /// Where this side's proxy connects to, where nothing is redirected.
    pub(crate) fn upstream(&self, side: Side) -> SocketAddr {
        match side {
            Side::Client => self.listen(Side::Server),
            Side::Server => (Ipv4Addr::LOCALHOST, SERVER_PORT).into(),
        }
    }

    /// The server itself, as the client's pod sees it.
    pub(crate) fn service(&self) -> SocketAddr {
        (self.server.ipv4(), SERVER_PORT).into()
    }

    /// For how many connections a proxy has to be told that it may have them; within its limit on descriptors.
    pub(crate) fn connections(&self) -> u32 {
        self.idle + ROOM
    }

    /// How many connections the server has, at all times.
    pub(crate) fn open(&self) -> Arc<AtomicUsize> {
        self.open.clone()
    }
}

/// Kernel settings of the calling thread's pod: ports for ten thousand connections twice over, and for those that have
/// just ended; none of the proxies' and the server's own ports are among them.
fn tune() -> Result<()> {
    for (setting, value) in [("ip_local_port_range", "16384 65535"), ("tcp_tw_reuse", "1")] {
        let file = format!("/proc/sys/net/ipv4/{setting}");
        std::fs::write(&file, value).with_context(|| file.clone())?;
        let is = std::fs::read_to_string(&file)?;
        ensure!(is.split_whitespace().eq(value.split_whitespace()), "{file} is {is}");
    }
    Ok(())
}
