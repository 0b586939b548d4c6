//! Reads policy files and directories of these.

use std::path::{Path, PathBuf};

use sidegate_config::file::LARGE;

/// A file or directory of policy that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("policy file {} can't be read: {error}", path.display())]
pub struct Unreadable {
    /// Its index among the paths that were asked for.
    pub index: usize,
    /// The file or directory.
    pub path: PathBuf,
    /// Why.
    pub error: std::io::Error,
}

/// Bytes of all files together.
const ALL: usize = 4 * LARGE;
/// Files of one directory.
const MOST_FILES: usize = 1000;

/// The texts of `paths` with their names, and what can't be read of them. Of a directory these are its `*.yaml` and `*.yml` in the order of
/// their names; what begins with a dot is left out, as are directories in it. So a mounted ConfigMap is read once, by the names
/// of its keys.
#[must_use]
pub fn read(paths: &[PathBuf]) -> (Vec<(String, String)>, Vec<Unreadable>) {
    let (mut texts, mut unreadable) = (Vec::new(), Vec::new());
    let mut left = ALL;
    for (index, path) in paths.iter().enumerate() {
        let mut failed = |path: &Path, error| unreadable.push(Unreadable { index, path: path.to_owned(), error });
        let files = if path.is_dir() { in_directory(path) } else { Ok(vec![path.clone()]) };
        for file in files.unwrap_or_else(|error| {
            failed(path, error);
            Vec::new()
        }) {
            match sidegate_config::file::read_text(&file, LARGE.min(left)) {
                Ok(text) => {
                    left -= text.len();
                    texts.push((file.display().to_string(), text));
                }
                Err(error) => failed(&file, error),
            }
        }
    }
    (texts, unreadable)
}

fn in_directory(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let path = directory.join(&name);
        let is_policy = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        // A dangling link is kept: reading it fails with an error.
        if is_policy && !name.as_encoded_bytes().starts_with(b".") && !path.is_dir() {
            if files.len() == MOST_FILES {
                return Err(std::io::Error::other(format!("it has more than {MOST_FILES} policy files")));
            }
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_directory_are_bounded_in_number_and_length() {
        let folder = tempfile::tempdir().unwrap();
        let read = || {
            let (texts, unreadable) = read(&[folder.path().to_owned()]);
            unreadable.first().map_or(Ok(texts), |error| Err(error.to_string()))
        };
        for n in 0..4 {
            let file = std::fs::File::create(folder.path().join(format!("{n}.yaml"))).unwrap();
            file.set_len(LARGE as u64).unwrap();
        }
        assert_eq!(read().unwrap().len(), 4);
        std::fs::write(folder.path().join("9.yaml"), "x").unwrap();
        assert!(read().unwrap_err().contains("9.yaml can't be read: it has more than 0 bytes"), "{:?}", read());
        for n in 10..=MOST_FILES + 5 {
            std::fs::write(folder.path().join(format!("{n}.yaml")), "").unwrap();
        }
        assert!(read().unwrap_err().contains("it has more than 1000 policy files"));
    }
}
