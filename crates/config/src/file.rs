//! Reading the files that a configuration names: only what is a file, and no more of it than it may have.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::{O_NOCTTY, O_NONBLOCK};

/// Bytes of a file that a person writes or a tool issues: a configuration, keys, certificates, a bundle.
pub const SMALL: usize = 1024 * 1024;
/// Bytes of a file that a program makes: policies, suites, lists.
pub const LARGE: usize = 16 * 1024 * 1024;

/// What `path` holds. A pipe would keep the reader waiting and a device has no end, so both are refused, also behind a link.
///
/// # Errors
/// If it can't be read, is no regular file, or has more than `most` bytes.
pub fn read(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_into(path, most, &mut bytes).map(|()| bytes)
}

/// As [`read`], into `bytes`, which its owner can erase, also after an error.
///
/// # Errors
/// Those of [`read`].
pub fn read_into(path: &Path, most: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
    let file = open(path)?;
    let about = file.metadata()?;
    let limit = most as u64 + 1;
    // With room for all of it: bytes that are moved while they are read would leave copies of a key.
    bytes.reserve_exact(usize::try_from(about.len().min(limit)).unwrap_or(0) + 1);
    file.take(limit).read_to_end(bytes)?;
    if bytes.len() > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
    }
    Ok(())
}

/// Opens a regular file to read it.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // To open a pipe without a writer would wait for one.
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok(file)
}

/// As [`read`], as text.
///
/// # Errors
/// Those of [`read`], and if it is not UTF-8.
pub fn read_text(path: &Path, most: usize) -> io::Result<String> {
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8");
    String::from_utf8(read(path, most)?).map_err(not_text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn only_a_file_is_read_and_no_more_than_it_may_have() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "text").unwrap();
        symlink(path("file"), path("link")).unwrap();
        symlink("/dev/zero", path("device")).unwrap();
        nix::unistd::mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
        std::fs::File::create(path("sparse")).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&path("link"), 4).unwrap(), b"text");
        assert_eq!(read_text(&path("file"), 4).unwrap(), "text");
        let why = |name: &str| read(&path(name), 4).map_err(|e| e.to_string()).unwrap_err();
        assert_eq!(why("device"), "it is no regular file");
        assert_eq!(why("pipe"), "it is no regular file");
        assert_eq!(why("."), "it is no regular file");
        assert_eq!(why("sparse"), "it has more than 4 bytes");
        assert!(why("none").contains("No such file"));
        // What the kernel makes has no length before it is read.
        assert!(!read(Path::new("/proc/self/status"), SMALL).unwrap().is_empty());
        std::fs::write(path("file"), b"\xff").unwrap();
        assert_eq!(read_text(&path("file"), 4).unwrap_err().to_string(), "it is not UTF-8");
    }
}
