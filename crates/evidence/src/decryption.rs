//! Decryption with an auditor's key, in age's format.

use std::io::Read;
use std::path::Path;

use age::x25519;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// An auditor's private keys.
#[derive(Default)]
pub struct AuditorKeys(Vec<x25519::Identity>);

/// Why private keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AuditorKeyError {
    /// The file can't be read.
    #[error("{0} can't be read: {1}")]
    File(String, std::io::Error),
    /// It holds no key. A line may hold a part of one, hence not shown.
    #[error("{0} holds no private key of age; it is the file that `age-keygen` has made, with a line AGE-SECRET-KEY-1…")]
    NoKey(String),
}

impl std::fmt::Debug for AuditorKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuditorKeys({})", self.0.len())
    }
}

impl AuditorKeys {
    /// Reads a file as `age-keygen` writes it.
    ///
    /// # Errors
    /// If it can't be read, or holds none.
    pub fn load(path: &Path) -> Result<Self, AuditorKeyError> {
        let name = path.display().to_string();
        let bytes = sidegate_secrets::open("private keys of an auditor", path).map_err(|e| AuditorKeyError::File(name.clone(), e))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| AuditorKeyError::NoKey(name.clone()))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<x25519::Identity> =
            lines.map(str::parse).collect::<Result<_, _>>().map_err(|_| AuditorKeyError::NoKey(name.clone()))?;
        if keys.is_empty() { Err(AuditorKeyError::NoKey(name)) } else { Ok(Self(keys)) }
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Decrypts `sealed`.
    ///
    /// # Errors
    /// If it was not sealed to any of these keys, or was changed.
    pub(crate) fn open(&self, sealed: &str) -> Result<Zeroizing<Vec<u8>>, String> {
        let bytes = STANDARD.decode(sealed).map_err(|_| "it is not base64".to_owned())?;
        let decryptor = age::Decryptor::new(bytes.as_slice()).map_err(|e| e.to_string())?;
        let keys = self.0.iter().map(|key| key as &dyn age::Identity);
        let mut plain = Zeroizing::new(Vec::new());
        decryptor.decrypt(keys).map_err(|e| e.to_string())?.read_to_end(&mut plain).map_err(|e| e.to_string())?;
        Ok(plain)
    }
}
