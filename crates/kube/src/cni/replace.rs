//! Replaces files in one step, so that a reader finds the old one or the new one, and never a part.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use sidegate_config::file;
use tempfile::NamedTempFile;

/// The most that is read of a file of network configurations.
pub(crate) const LONGEST: usize = file::SMALL;
/// How often somebody else may write in between.
const TRIES: usize = 100;

/// Makes `path` hold `bytes`; false if it does already.
pub(crate) fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<bool> {
    if holds(path, bytes, mode) {
        return Ok(false);
    }
    let new = write(path, bytes, mode)?;
    new.persist(path).map_err(|error| error.error)?;
    sync_folder(path)?;
    Ok(true)
}

/// Whether `path` holds `bytes`, with this mode.
pub(crate) fn holds(path: &Path, bytes: &[u8], mode: u32) -> bool {
    // `symlink_metadata`: what is behind a link is somebody else's.
    let matches = std::fs::symlink_metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes.len() as u64 && metadata.mode() & 0o7777 == mode);
    matches && file::read(path, bytes.len()).is_ok_and(|found| found == bytes)
}

/// Replaces what `path` holds by what `change` makes of it; false if that is nothing, or the file is gone. Others write it too: the files
/// are exchanged, so that what another one has written in the meantime comes into our hands and is changed in turn, and not lost.
pub(crate) fn edit(path: &Path, change: impl Fn(&[u8]) -> Option<Vec<u8>>) -> io::Result<bool> {
    let mut base = file::read(path, LONGEST)?;
    let Some(mut wanted) = change(&base) else { return Ok(false) };
    for _ in 0..TRIES {
        let mode = std::fs::metadata(path)?.mode() & 0o7777;
        let new = write(path, &wanted, mode)?;
        match renameat_with(CWD, new.path(), CWD, path, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            // The other one has removed it: it has another plan.
            Err(rustix::io::Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        sync_folder(path)?;
        // The temporary file has what was there. It goes when it is dropped.
        let displaced = file::read(new.path(), LONGEST)?;
        if displaced == base {
            return Ok(true);
        }
        // If nothing is to be changed in it, it comes back as it was.
        let next = change(&displaced).unwrap_or(displaced);
        base = std::mem::replace(&mut wanted, next);
    }
    Err(io::Error::other("somebody else writes it all the time"))
}

/// Renames within a folder's file system.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    sync_folder(to)?;
    sync_folder(from)
}

/// A new file beside `path`, on the disk.
fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    // Runtimes look at files that end in .conf, .conflist and .json.
    let mut new = tempfile::Builder::new().prefix(".sidegate-cni-").suffix(".new").tempfile_in(folder(path))?;
    new.write_all(bytes)?;
    new.as_file().set_permissions(Permissions::from_mode(mode))?;
    new.as_file().sync_all()?;
    Ok(new)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| folder.as_os_str() != OsStr::new("")).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_file_is_put_once_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(put(&path, b"a", 0o600).unwrap());
        assert!(!put(&path, b"a", 0o600).unwrap());
        assert!(put(&path, b"b", 0o600).unwrap());
        assert!(put(&path, b"b", 0o755).unwrap(), "the mode counts too");
        let mut names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.next().unwrap() == "token" && names.next().is_none(), "nothing is left over");
    }

    /// Another one writes twice in a row, so that the second time is often between our reading and our writing.
    #[test]
    fn what_another_one_writes_at_the_same_time_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "0").unwrap();
        let done = AtomicBool::new(false);
        let add = |bytes: &[u8]| (!bytes.ends_with(b"+")).then(|| [bytes, b"+"].concat());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    edit(&path, add).unwrap();
                }
            });
            let is_kept = |count: i32| {
                put(&path, b"first", 0o644).unwrap();
                put(&path, count.to_string().as_bytes(), 0o644).unwrap();
                let end = Instant::now() + Duration::from_secs(10);
                while std::fs::read_to_string(&path).unwrap() != format!("{count}+") {
                    if Instant::now() > end {
                        return false;
                    }
                }
                true
            };
            let all_kept = (0..200).all(is_kept);
            done.store(true, Ordering::Relaxed);
            assert!(all_kept, "{}", std::fs::read_to_string(&path).unwrap());
        });
    }
}
