//! The first records of a process.

use std::path::Path;

use sidegate_config::Config;
use sidegate_config::file::{SMALL, read};
use sidegate_config::schema::telemetry::Signal;

use crate::event::{Event, FileDigest};
use crate::hex::sha256_hex;
use crate::log::Audit;

impl Audit {
    /// Records with what the process of `version` starts, and the secrets that its configuration, read from `file`, holds. No
    /// record of it keeps the process from starting.
    pub fn record_start(&self, config: &Config, file: &Path, version: &str) {
        if !config.audit.is_on() {
            return;
        }
        // Read again: what is in force is `effective`. A file that is gone since it was loaded has no digest.
        let name = file.display().to_string();
        let digest = match read(file, SMALL) {
            Ok(text) => FileDigest::new(&name, &text),
            Err(_) => FileDigest { file: name, sha256: String::new() },
        };
        let effective = serde_json::to_vec(config).map_or_else(|_| String::new(), |effective| sha256_hex(&effective));
        self.record(Event::ProcessStarted {
            version: version.to_owned(),
            pid: std::process::id(),
            profile: config.profile.label().to_owned(),
            config: digest,
            effective_sha256: effective,
        });
        for signal in Signal::ALL {
            let Some(target) = config.telemetry.target(signal) else { continue };
            for name in target.headers.keys() {
                let secret = format!("header {name} of telemetry's {}", signal.label());
                self.record(Event::SecretAccessed { secret, place: "configuration".to_owned() });
            }
        }
    }
}
