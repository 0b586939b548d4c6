//! The collector: a process of its own, so that what it costs is nobody's.

use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::sys::stat::{Mode, umask};
use sidegate_devkit::fake_collector::{Behaviour, FakeCollector, ListenOn};

/// Takes whatever comes to this Unix socket, unread, until the process ends.
pub(crate) fn run(socket: PathBuf) -> Result<()> {
    // Sidecars of any user write here.
    umask(Mode::empty());
    let collector = FakeCollector::start(ListenOn::Unix(socket), 0).context("the collector can't be started")?;
    collector.behave(Behaviour::Discard);
    loop {
        std::thread::park();
    }
}
