//! Who a caller is: what the kernel says of the other end of a socket, and which entries that fits.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UnixStream;

use super::config::Entry;

/// A caller as attested when it connected (SPIFFE_Workload_Endpoint.md, section 5: out-of-band, no secret is asked for).
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    uid: u32,
    gid: u32,
    /// Its binary. Unknown where the caller lives in a pid namespace that we cannot see into, or has ended.
    path: Option<PathBuf>,
    socket: Arc<Path>,
}

impl Caller {
    /// Attests the other end of `stream`, which was accepted on `socket`.
    pub(crate) fn attest(stream: &UnixStream, socket: Arc<Path>) -> io::Result<Caller> {
        let credentials = stream.peer_cred()?;
        let path = credentials.pid().and_then(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).ok());
        Ok(Caller { uid: credentials.uid(), gid: credentials.gid(), path, socket })
    }

    /// Whether all selectors of `entry` fit.
    pub(crate) fn matches(&self, entry: &Entry) -> bool {
        entry.uid.is_none_or(|uid| uid == self.uid)
            && entry.gid.is_none_or(|gid| gid == self.gid)
            && entry.socket.as_deref().is_none_or(|socket| socket == &*self.socket)
            && entry.path.as_deref().is_none_or(|path| self.runs(path))
    }

    /// `/proc` names the file itself, an entry may name a link to it.
    fn runs(&self, path: &Path) -> bool {
        self.path.as_deref().is_some_and(|own| own == path || path.canonicalize().is_ok_and(|real| own == real))
    }
}
