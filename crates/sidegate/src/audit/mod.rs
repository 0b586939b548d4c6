//! `sidegate audit`: what is done with a log that was written. docs/audit.md says what each command can prove.

pub(crate) mod filter;
mod join;
mod report;
mod show;
mod verify;

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Result;
use sidegate_core::TrustDomain;
use sidegate_evidence::{Anchor, AuditorKeys, Given, Record, Trust, anchors};
use sidegate_identity::Bundle;
use sidegate_tls::verify::TrustStore;

use crate::cli::audit::{Audit, AuditCommand, Period, Proof};
use crate::outcome::Outcome;
use crate::say::{complain, say_json, say_pretty_json};

#[cfg(feature = "development")]
pub(crate) use verify::Verified;

/// Runs a command: 0 if nothing was found, 1 if something was, 2 if the question can't be answered.
pub(crate) fn audit(arguments: &Audit) -> ExitCode {
    let outcome = match &arguments.command {
        AuditCommand::Verify(arguments) => verify::verify(arguments),
        AuditCommand::Show(arguments) => show::show(arguments),
        AuditCommand::Join(arguments) => join::join(arguments),
        AuditCommand::Report(arguments) => report::report(arguments),
    };
    Outcome::exit_code(outcome)
}

/// The keys in the file that `--identity` names; none without it.
pub(crate) fn keys(file: Option<&Path>) -> Result<AuditorKeys> {
    file.map_or_else(|| Ok(AuditorKeys::default()), |file| Ok(AuditorKeys::load(file)?))
}

/// All that the command line gives to verify by.
fn given(proof: &Proof, identity: Option<&Path>) -> Result<Given> {
    let mut trust = Trust::default();
    if let (Some(file), Some(signer)) = (&proof.bundle, &proof.signer) {
        trust.bundles = Some(bundle(file, signer.get().trust_domain())?);
        trust.spiffe_id = Some(signer.to_string());
    }
    if let Some(file) = &proof.public_key {
        trust.public_key = Some(Trust::public_key(file)?);
    }
    let mut exported = Vec::new();
    for file in &proof.anchor {
        let anchors = anchors(file)?;
        if !anchors.iter().any(Anchor::is_whole) {
            anyhow::bail!("{} has no exported record: there is nothing to compare the log with", file.display());
        }
        exported.extend(anchors);
    }
    let anchors = (!proof.anchor.is_empty()).then_some(exported);
    Ok(Given { trust, anchors, keys: keys(identity)? })
}

/// The CA certificates in a PEM file.
pub(crate) fn bundle(file: &Path, trust_domain: &TrustDomain) -> Result<TrustStore> {
    let certificates = sidegate_tls::certificates(file)?;
    let mut left_out = Vec::new();
    let bundle = Bundle::new(trust_domain, certificates, &mut left_out);
    if bundle.authorities.is_empty() {
        anyhow::bail!("{} has no usable CA certificate of {trust_domain}: {}", file.display(), left_out.join("; "));
    }
    Ok(TrustStore::of(&[(trust_domain.clone(), bundle)].into()))
}

impl Period {
    /// Whether a record is of it. One whose time can't be read is of every period.
    fn has(&self, record: &Record) -> bool {
        let Ok(time) = humantime::parse_rfc3339(&record.time) else { return true };
        let of = |moment: Option<SystemTime>, inside: fn(SystemTime, SystemTime) -> bool| moment.is_none_or(|moment| inside(time, moment));
        of(self.since, |time, since| time >= since) && of(self.until, |time, until| time < until)
    }

    /// Whether a record is from before it.
    fn is_after(&self, record: &Record) -> bool {
        humantime::parse_rfc3339(&record.time).is_ok_and(|time| self.since.is_some_and(|since| time < since))
    }
}
