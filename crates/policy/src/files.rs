//! Policy files and directories of them.

use std::path::{Path, PathBuf};

use sidegate_config::document::Problems;

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

/// The texts of `paths` with their names. Of a directory these are its `*.yaml` and `*.yml` in the order of their names; what
/// begins with a dot is left out, as are directories in it. So a mounted ConfigMap is read once, by the names of its keys.
///
/// # Errors
/// The first file or directory that can't be read.
pub fn read(paths: &[PathBuf]) -> Result<Vec<(String, String)>, PolicyError> {
    let mut texts = Vec::new();
    for path in paths {
        let files = if path.is_dir() { in_directory(path)? } else { vec![path.clone()] };
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(|error| PolicyError::Read(file.clone(), error))?;
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
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}
