//! The sockets on which the authority is reached (SPIFFE_Workload_Endpoint.md, section 3).

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use super::error::AuthorityError;

/// A socket's file. Dropping it removes it, unless another has taken its place since.
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

/// Listens on `path`, for everybody: who may have what is for attestation to say.
pub(crate) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), AuthorityError> {
    let failed = |source| AuthorityError::Socket { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    remove_stale(path)?;
    let open = || -> io::Result<(UnixListener, SocketFile)> {
        let listener = UnixListener::bind(path)?;
        let file = SocketFile { path: path.to_owned(), inode: inode(path)? };
        fs::set_permissions(path, Permissions::from_mode(0o666))?;
        Ok((listener, file))
    };
    open().map_err(failed)
}

/// Removes a socket that nobody serves any more.
fn remove_stale(path: &Path) -> Result<(), AuthorityError> {
    let failed = |source| AuthorityError::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => Err(AuthorityError::NotASocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => Err(AuthorityError::SocketInUse(path.to_owned())),
        Ok(_) => fs::remove_file(path).map_err(failed),
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|found| found == self.inode) {
            // Nothing is lost where it stays: the next to bind removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}
