//! Puts the plugin on a node, keeps it there, and takes it away.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sidegate_config::{FileWatch, aside, file};
use sidegate_core::event;
use zeroize::Zeroizing;

use super::chain::{Network, chained, files, first, has_plugin, listed, unchained, unsupported};
use super::network_config::{NetworkConfig, PLUGIN};
use super::replace::{LONGEST, edit, holds, put, rename};

/// The folder beside the network configurations for credentials and what was replaced. Runtimes don't look into folders.
const FOLDER: &str = "sidegate-cni.d";
const CA: &str = "ca.crt";
const TOKEN: &str = "token";
/// A program has some MiB, and a build for tests some hundred.
const LONGEST_PROGRAM: usize = 1024 * 1024 * 1024;

/// The plugin can't be put in place, or taken away.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file can't be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// It.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another file is in the way.
    #[error("{path} is in the way: it would have to hold the list of plugins; remove it", path = .0.display())]
    InTheWay(PathBuf),
    /// The first network configuration is of a version without chains.
    #[error("{path} has cniVersion {version}, which is too old for a chain, or too new; it has to be between 0.3.0 and 1.1.0", path = path.display())]
    Version {
        /// The configuration.
        path: PathBuf,
        /// What it has.
        version: String,
    },
}

/// What became of an installation.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Files that were made or changed.
    pub changed: Vec<PathBuf>,
    /// The network configuration in which the plugin is; none while there is no network configuration.
    pub network: Option<PathBuf>,
}

/// A file that only the installer writes.
struct OwnFile {
    path: PathBuf,
    bytes: Zeroizing<Vec<u8>>,
    mode: u32,
}

/// Where the plugin goes, and what it needs.
#[derive(Debug, Clone)]
pub struct Installation {
    /// The program itself.
    pub program: PathBuf,
    /// The runtime's folder of plugins.
    pub bin_dir: PathBuf,
    /// The runtime's folder of network configurations.
    pub conf_dir: PathBuf,
    /// The CA of the API server, PEM.
    pub ca_file: PathBuf,
    /// The token with which the plugin asks the API server.
    pub token_file: PathBuf,
    /// The plugin's keys. Its files are those of the installer.
    pub config: NetworkConfig,
}

impl Installation {
    /// Puts everything in place that is not: binary, credentials, and then the plugin into the chain.
    ///
    /// # Errors
    /// If a file can't be read or written.
    pub fn apply(&self) -> Result<Installed, InstallError> {
        let mut installed = Installed::default();
        self.make_folder()?;
        for OwnFile { path, bytes, mode } in self.own_files()? {
            if put(&path, &bytes, mode).map_err(at(&path))? {
                installed.changed.push(path);
            }
        }
        installed.network = match self.chain(&mut installed.changed) {
            // Its owner is replacing it. The change is seen.
            Err(InstallError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            network => network?,
        };
        Ok(installed)
    }

    /// Puts the plugin into the chain that the runtime takes. Which one that is.
    fn chain(&self, changed: &mut Vec<PathBuf>) -> Result<Option<PathBuf>, InstallError> {
        match first(&self.conf_dir).map_err(at(&self.conf_dir))? {
            None => Ok(None),
            Some(Network::List(path)) => {
                self.refuse_version(&path)?;
                let entry = self.entry();
                if edit(&path, |text| chained(text, &entry)).map_err(at(&path))? {
                    changed.push(path.clone());
                }
                Ok(Some(path))
            }
            Some(Network::Single(path)) => {
                self.refuse_version(&path)?;
                let list = self.make_list(&path)?;
                changed.push(list.clone());
                Ok(Some(list))
            }
        }
    }

    /// What is not in place, each with why.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn missing(&self) -> Result<Vec<String>, InstallError> {
        let mut missing = Vec::new();
        for OwnFile { path, bytes, mode } in self.own_files()? {
            if !holds(&path, &bytes, mode) {
                missing.push(format!("{} is not there, or not that of this installer", path.display()));
            }
        }
        match first(&self.conf_dir).map_err(at(&self.conf_dir))? {
            None => missing.push(format!("{} has no network configuration yet", self.conf_dir.display())),
            Some(Network::List(path) | Network::Single(path)) => {
                let text = file::read(&path, LONGEST).map_err(at(&path))?;
                if !has_plugin(&text) || chained(&text, &self.entry()).is_some() {
                    missing.push(format!("{} does not have the plugin", path.display()));
                }
            }
        }
        Ok(missing)
    }

    /// Puts everything in place, and again whenever somebody changes it, until `stop` ends. Then all stays as it is.
    ///
    /// # Errors
    /// If a file can't be read or written.
    pub async fn follow(&self, stop: impl Future<Output = ()>) -> Result<(), InstallError> {
        tokio::pin!(stop);
        // What is not there can't be watched. And first it is watched, so that no change is missed.
        self.make_folder()?;
        let (folder, binary) = (self.folder(), self.binary());
        let watched = vec![self.ca_file.clone(), self.token_file.clone(), self.conf_dir.clone(), folder, binary];
        let (mut watch, why) = FileWatch::aside(watched).await;
        if let Some(why) = why {
            tracing::warn!(event = event::FILES_UNWATCHED, "the plugin's files: {why}");
        }
        let mut last = None;
        loop {
            let own = self.clone();
            let applied = aside("install", move || own.apply(), || {}).await.map_err(at(&self.conf_dir))?;
            match applied {
                Ok(Installed { changed, network }) => {
                    if !changed.is_empty() {
                        let changed = changed.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
                        tracing::info!(event = event::CNI_INSTALLED, "put in place: {changed}");
                    }
                    if network.is_none() && last != Some(network.clone()) {
                        let folder = self.conf_dir.display();
                        tracing::warn!(
                            event = event::CNI_NO_NETWORK,
                            "{folder} has no network configuration that can be read; waiting for it"
                        );
                    }
                    last = Some(network);
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = &mut stop => return Ok(()),
                () = watch.changed() => {}
            }
        }
    }

    /// Takes the plugin out of all chains, and its credentials away. With `binary` also its binary, which runtimes may still call for pods
    /// that were started with it. Pods keep their rules. Returns what was changed.
    ///
    /// # Errors
    /// If a file can't be read or written.
    pub fn remove(&self, binary: bool) -> Result<Vec<PathBuf>, InstallError> {
        let mut changed = Vec::new();
        let folder = self.folder();
        let saved = match files(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            saved => saved.map_err(at(&folder))?,
        };
        for saved in saved {
            let Some(name) = saved.file_name() else { continue };
            let (original, list) = (self.conf_dir.join(name), self.conf_dir.join(name).with_extension("conflist"));
            // One that its owner has written again is newer.
            if !original.exists() {
                rename(&saved, &original).map_err(at(&original))?;
            }
            if file::read(&list, LONGEST).is_ok_and(|text| has_plugin(&text)) {
                std::fs::remove_file(&list).map_err(at(&list))?;
            }
            changed.push(original);
        }
        for path in files(&self.conf_dir).map_err(at(&self.conf_dir))? {
            if edit(&path, unchained).map_err(at(&path))? {
                changed.push(path);
            }
        }
        let gone = |result: io::Result<()>, path: PathBuf, changed: &mut Vec<PathBuf>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(at(&path)(error)),
            Ok(()) => {
                changed.push(path);
                Ok(())
            }
        };
        gone(std::fs::remove_dir_all(&folder), folder, &mut changed)?;
        if binary {
            gone(std::fs::remove_file(self.binary()), self.binary(), &mut changed)?;
        }
        Ok(changed)
    }

    /// The plugin's own files. The binary is the first, so that no chain names one that is not there.
    fn own_files(&self) -> Result<[OwnFile; 3], InstallError> {
        let program = file::read(&self.program, LONGEST_PROGRAM).map_err(at(&self.program))?;
        let ca = file::read(&self.ca_file, file::SMALL).map_err(at(&self.ca_file))?;
        let token = sidegate_secrets::open("token of the CNI plugin", &self.token_file).map_err(at(&self.token_file))?;
        let folder = self.folder();
        Ok([
            OwnFile { path: self.binary(), bytes: Zeroizing::new(program), mode: 0o755 },
            OwnFile { path: folder.join(CA), bytes: Zeroizing::new(ca), mode: 0o600 },
            OwnFile { path: folder.join(TOKEN), bytes: token, mode: 0o600 },
        ])
    }

    fn make_folder(&self) -> Result<(), InstallError> {
        let folder = self.folder();
        let made = std::fs::create_dir_all(&folder);
        made.and_then(|()| std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700))).map_err(at(&folder))
    }

    fn folder(&self) -> PathBuf {
        self.conf_dir.join(FOLDER)
    }

    fn binary(&self) -> PathBuf {
        self.bin_dir.join(PLUGIN)
    }

    fn entry(&self) -> Value {
        let folder = self.folder();
        NetworkConfig { ca_file: folder.join(CA), token_file: folder.join(TOKEN), ..self.config.clone() }.entry()
    }

    fn refuse_version(&self, path: &Path) -> Result<(), InstallError> {
        let text = file::read(path, LONGEST).map_err(at(path))?;
        unsupported(&text).map_or(Ok(()), |version| Err(InstallError::Version { path: path.to_owned(), version }))
    }

    /// Makes a list of a single plugin, which is kept for the removal. The list is there before the single one goes.
    fn make_list(&self, path: &Path) -> Result<PathBuf, InstallError> {
        let list = path.with_extension("conflist");
        if file::read(&list, LONGEST).is_ok_and(|text| !has_plugin(&text)) {
            return Err(InstallError::InTheWay(list));
        }
        let saved = self.folder().join(path.file_name().unwrap_or_default());
        let mode = std::fs::metadata(path).map_err(at(path))?.mode() & 0o7777;
        let write = |from: &Path| {
            let text = file::read(from, LONGEST).map_err(at(from))?;
            if let Some(new) = listed(&text, &self.entry()) {
                put(&list, &new, mode).map_err(at(&list))?;
            }
            Ok(())
        };
        write(path)?;
        rename(path, &saved).map_err(at(path))?;
        // Its owner may have written it between the two.
        write(&saved)?;
        Ok(list)
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> InstallError + use<> {
    let path = path.to_owned();
    move |source| InstallError::File { path: path.clone(), source }
}
