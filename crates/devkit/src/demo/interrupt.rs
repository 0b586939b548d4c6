//! Ctrl-C and SIGTERM.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Whether the demo was told to end.
#[derive(Debug, Clone)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches the signals from now on, on this runtime.
    pub(super) fn catch(runtime: &Runtime) -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let told = interrupted.clone();
        runtime.spawn(async move {
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
            told.store(true, Ordering::Relaxed);
        });
        Ok(Self(interrupted))
    }

    pub(super) fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once it has come.
    pub(super) fn check(&self) -> Result<()> {
        if self.has_come() {
            bail!("interrupted");
        }
        Ok(())
    }
}
