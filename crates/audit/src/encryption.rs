//! Encryption to auditors, in age's format: the `age` tool opens what is encrypted here.

use std::io::Write;

use age::x25519;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sidegate_config::value::AgeRecipient;

/// The auditors who can decrypt the records.
#[derive(Debug)]
pub(crate) struct Auditors(Vec<x25519::Recipient>);

impl Auditors {
    /// By their public keys, which the configuration has checked.
    pub(crate) fn new(keys: &[AgeRecipient]) -> Self {
        Self(keys.iter().filter_map(|key| key.get().parse().ok()).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `bytes` as an age file, base64. age's own buffer of them is freed without being erased, which docs/reference/audit-log.md says.
    ///
    /// # Errors
    /// age's, if there is nobody to seal to.
    pub(crate) fn seal(&self, bytes: &[u8]) -> Result<String, String> {
        let recipients = self.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients).map_err(|e| e.to_string())?;
        let mut sealed = Vec::with_capacity(bytes.len() + 1024);
        let mut writer = encryptor.wrap_output(&mut sealed).map_err(|e| e.to_string())?;
        writer.write_all(bytes).and_then(|()| writer.finish().map(drop)).map_err(|e| e.to_string())?;
        Ok(STANDARD.encode(sealed))
    }
}
