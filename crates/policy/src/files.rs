//! Policy files and directories of them.

use std::path::{Path, PathBuf};

use sidegate_config::document::Problems;
use sidegate_config::file::LARGE;

/// Why policy files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file or directory can't be read.
    #[error("policy file {0} can't be read: {1}; check `policy.files`")]
    Read(PathBuf, std::io::Error),
    /// There are mistakes in the files.
    #[error("{0}")]
    Invalid(Problems),
}

/// Bytes of all files together.
const ALL: usize = 4 * LARGE;
/// Files of one directory.
const MOST_FILES: usize = 1000;

/// The texts of `paths` with their names. Of a directory these are its `*.yaml` and `*.yml` in the order of their names; what
/// begins with a dot is left out, as are directories in it. So a mounted ConfigMap is read once, by the names of its keys.
///
/// # Errors
/// The first file or directory that can't be read.
pub fn read(paths: &[PathBuf]) -> Result<Vec<(String, String)>, PolicyError> {
    let mut texts = Vec::new();
    let mut left = ALL;
    for path in paths {
        let files = if path.is_dir() { in_directory(path)? } else { vec![path.clone()] };
        for file in files {
            let text = sidegate_config::file::read_text(&file, LARGE.min(left)).map_err(|error| PolicyError::Read(file.clone(), error))?;
            left -= text.len();
            texts.push((file.display().to_string(), text));
        }
    }
    Ok(texts)
}

fn in_directory(directory: &Path) -> Result<Vec<PathBuf>, PolicyError> {
    let failed = |error| PolicyError::Read(directory.to_owned(), error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let path = directory.join(&name);
        let is_policy = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        // A link that leads nowhere is not left out: to read it fails, and says so.
        if is_policy && !name.as_encoded_bytes().starts_with(b".") && !path.is_dir() {
            if files.len() == MOST_FILES {
                return Err(failed(std::io::Error::other(format!("it has more than {MOST_FILES} policy files"))));
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
        let read = || read(&[folder.path().to_owned()]).map_err(|e| e.to_string());
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
