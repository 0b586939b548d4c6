//! Points of standards, and what a log shows about each.

use serde::Serialize;
use sidegate_core::counted;

use super::ProvedCounts;
use super::summary::{Counts, Summary};
use crate::verify::LogVerdict;

#[derive(Debug, Serialize)]
pub(super) struct ControlPoint {
    pub(super) standard: &'static str,
    pub(super) point: &'static str,
    /// None where no record shows it, or not all records are there.
    pub(super) met: Option<bool>,
    pub(super) evidence: String,
}

/// Whether NIST approves of a cipher suite, and it has forward secrecy: AES-GCM of TLS 1.3, or of 1.2 with ECDHE (SP 800-52r2
/// §3.3.1).
fn is_approved(cipher: &str) -> bool {
    let of_tls_1_2 = cipher.starts_with("TLS_ECDHE_") && cipher.contains("_WITH_AES_") && cipher.contains("_GCM_");
    matches!(cipher, "TLS_AES_128_GCM_SHA256" | "TLS_AES_256_GCM_SHA384") || of_tls_1_2
}

/// Whether it is strong: one of these, or one with ChaCha20-Poly1305.
fn is_strong(cipher: &str) -> bool {
    let chacha =
        cipher == "TLS_CHACHA20_POLY1305_SHA256" || (cipher.starts_with("TLS_ECDHE_") && cipher.ends_with("_CHACHA20_POLY1305_SHA256"));
    chacha || is_approved(cipher)
}

/// Each point that such a log can say something about. `summary` is of proved records only.
pub(super) fn points(summary: &Summary, proved: &ProvedCounts) -> Vec<ControlPoint> {
    let c = &summary.connections;
    let (versions, ciphers) = (&summary.tls.versions, &summary.tls.ciphers);
    let intact = proved.verdict != LogVerdict::NotIntact;
    // Where records are missing or not proved, what is there does not show that all were so.
    let whole = intact && summary.missing == 0 && summary.unreadable == 0;
    let complete = whole && proved.unproved == 0;
    let shown = |seen: bool, met: bool| (seen && (complete || !met)).then_some(met);
    let all = |count: u64| shown(c.admitted > 0, count == c.admitted);

    let version = shown(!versions.is_empty(), versions.keys().all(|version| version == "TLS 1.3"));
    let strong = shown(!ciphers.is_empty(), ciphers.keys().all(|cipher| is_strong(cipher)));
    let approved = shown(!ciphers.is_empty(), ciphers.keys().all(|cipher| is_approved(cipher)));
    let cryptography = version.zip(strong).map(|(version, strong)| version && strong);
    // Traffic that bypassed the sidecar has no record, so the records then show nothing about all connections.
    let of_all = |met: Option<bool>| met.filter(|met| !*met || !summary.uncaptured);
    let (encrypted, authenticated, authorized) = (of_all(all(c.mtls)), of_all(all(c.authenticated)), of_all(all(c.authorized)));
    let past = if summary.uncaptured { "; kernel rules were missing for a time, when traffic may have passed the sidecar by" } else { "" };
    let identity = &summary.identity;
    let dynamic = shown(identity.received + identity.rotated > 0, identity.expired == 0);
    // Points about the log itself: the log shows its faults, but only a proof shows that it has none.
    let recorded = if !whole { Some(false) } else { (summary.records > 0 && complete).then_some(true) };
    let administered = shown(!summary.admin.is_empty(), true);

    let seen_versions = format!("TLS versions seen: {}", names(versions));
    let seen_ciphers = format!("cipher suites seen: {}", names(ciphers));
    let admitted = counted(c.admitted, "admitted connection");
    let in_tls = format!("{} of {admitted} over mutual TLS, {} plaintext{past}", c.mtls, c.plaintext);
    let who = format!(
        "{} of {admitted} with both ends authenticated by X.509-SVID; {}{past}",
        c.authenticated,
        counted(summary.peers.keys().filter(|peer| peer.starts_with("spiffe://")).count() as u64, "peer")
    );
    let access = format!(
        "{} of {admitted} by a decision of policy or of the destination; {} refused, {} of these by a decision{past}",
        c.authorized, c.refused, c.denied
    );
    let rotations = counted(identity.rotated, "rotation");
    let expiries = if identity.expired == 1 { "1 expiry".to_owned() } else { format!("{} expiries", identity.expired) };
    let rotated = format!("SVIDs: {} received, {rotations}, {expiries}", identity.received);
    let keys = format!("{seen_versions}; {seen_ciphers}; {}", summary.tls.said());
    let log = format!(
        "{}; {} proved, {} not; {} missing, as the log says itself",
        if intact { "nothing contradicts the log" } else { "the log is NOT INTACT" },
        counted(proved.proved, "record"),
        proved.unproved,
        summary.missing
    );
    let (actions, secrets) = (summary.admin.len() as u64, summary.secrets);
    let secrets = if secrets == 1 { "1 access to a secret".to_owned() } else { format!("{secrets} accesses to secrets") };
    let admin = format!("{}, {secrets}, each with time", counted(actions, "administrative action"));
    let point = |standard, point, met, evidence: &String| ControlPoint { standard, point, met, evidence: evidence.clone() };
    vec![
        point("OWASP TLS cheat sheet", "Only support strong protocols", version, &seen_versions),
        point("OWASP TLS cheat sheet", "Only support strong ciphers", strong, &seen_ciphers),
        point("OWASP TLS cheat sheet", "Use TLS for all connections", encrypted, &in_tls),
        point("OWASP TLS cheat sheet", "Client certificates and mutual TLS", authenticated, &who),
        point("NIST SP 800-52r2", "3.1 protocol versions", version, &seen_versions),
        point("NIST SP 800-52r2", "3.3 cipher suites", approved, &seen_ciphers),
        point("NIST SP 800-52r2", "3.5 client authentication", authenticated, &who),
        point("NIST SP 800-207", "2.1 tenet 2: all communication is secured", encrypted, &in_tls),
        point("NIST SP 800-207", "2.1 tenet 3: access is granted for each session", authorized, &access),
        point("NIST SP 800-207", "2.1 tenet 6: authentication is dynamic and enforced", dynamic, &rotated),
        point("NIST SP 800-207", "2.1 tenet 7: the state of communication is recorded", recorded, &log),
        point("SOC 2", "CC6.1 logical access", authorized, &access),
        point("SOC 2", "CC6.7 data in transmission", encrypted, &in_tls),
        point("SOC 2", "CC7.2 monitoring", recorded, &log),
        point("ISO 27001 Annex A", "8.5 secure authentication", authenticated, &who),
        point("ISO 27001 Annex A", "8.15 logging", recorded, &log),
        point("ISO 27001 Annex A", "8.18 privileged utility programs", administered, &admin),
        point("ISO 27001 Annex A", "8.24 use of cryptography", cryptography, &keys),
        point("GDPR Art. 32", "1(a) encryption of what is transmitted", encrypted, &in_tls),
        point("GDPR Art. 32", "1(d) means to assess that it works", recorded, &log),
    ]
}

fn names(counts: &Counts) -> String {
    let all: Vec<&str> = counts.keys().map(String::as_str).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Summary);

    /// A log that bears everything out.
    fn good() -> (Summary, ProvedCounts) {
        let mut summary = Summary { records: 9, last_seq: 9, admin: vec![Default::default()], ..Summary::default() };
        let c = &mut summary.connections;
        (c.admitted, c.mtls, c.authenticated, c.authorized) = (2, 2, 2, 2);
        summary.identity.received = 1;
        summary.tls.versions.insert("TLS 1.3".to_owned(), 2);
        summary.tls.ciphers.insert("TLS_AES_256_GCM_SHA384".to_owned(), 2);
        (summary, ProvedCounts { verdict: LogVerdict::Proved, proved: 9, unproved: 0, open: 0 })
    }

    fn met(summary: &Summary, proved: &ProvedCounts) -> Vec<Option<bool>> {
        points(summary, proved).into_iter().map(|point| point.met).collect()
    }

    fn of(points: &[ControlPoint], name: &str) -> Option<bool> {
        points.iter().find(|point| point.point.starts_with(name)).and_then(|point| point.met)
    }

    #[test]
    fn nothing_is_met_without_records() {
        let (summary, proved) = good();
        assert!(met(&summary, &proved).iter().all(|met| *met == Some(true)));
        assert!(met(&Summary::default(), &proved).iter().all(Option::is_none));
    }

    #[test]
    fn nothing_is_met_by_a_log_that_is_not_whole() {
        let (summary, mut proved) = good();
        proved.verdict = LogVerdict::NotIntact;
        let points = points(&summary, &proved);
        assert!(points.iter().all(|point| point.met != Some(true)));
        assert_eq!((of(&points, "8.15"), of(&points, "8.5")), (Some(false), None));
        for change in [|s: &mut Summary| s.missing = 1, |s: &mut Summary| s.unreadable = 1] {
            let (mut summary, proved) = good();
            change(&mut summary);
            assert!(met(&summary, &proved).iter().all(|met| *met != Some(true)));
        }
    }

    /// Records that nothing proves may say anything, and hide anything; they are no failed control either.
    #[test]
    fn nothing_is_met_beside_records_that_are_not_proved() {
        let (summary, proved) = good();
        assert!(met(&summary, &ProvedCounts { unproved: 1, ..proved }).iter().all(Option::is_none));
        // The end of a log that is still written.
        assert!(met(&summary, &ProvedCounts { open: 1, ..proved }).iter().all(|met| *met == Some(true)));
    }

    /// The sidecar's records say nothing of what it never saw.
    #[test]
    fn nothing_is_shown_of_all_connections_while_rules_were_missing() {
        let (mut summary, proved) = good();
        summary.uncaptured = true;
        let all = points(&summary, &proved);
        for name in ["Use TLS for all", "Client certificates", "3.5", "2.1 tenet 2", "2.1 tenet 3", "CC6.1", "CC6.7", "8.5", "1(a)"] {
            let point = all.iter().find(|point| point.point.starts_with(name)).unwrap();
            assert!(point.met.is_none() && point.evidence.contains("rules were missing"), "{name}");
        }
        assert_eq!((of(&all, "3.1"), of(&all, "8.15")), (Some(true), Some(true)));
        // What was seen to be wrong is wrong all the same.
        summary.connections.mtls = 1;
        assert_eq!(of(&points(&summary, &proved), "CC6.7"), Some(false));
    }

    #[test]
    fn each_point_looks_at_what_it_is_about() {
        let changes: [(&str, Change); 8] = [
            ("3.1", |s| s.tls.versions = [("TLS 1.2".to_owned(), 1)].into()),
            ("3.3", |s| s.tls.ciphers = [("TLS_CHACHA20_POLY1305_SHA256".to_owned(), 1)].into()),
            ("Only support strong ciphers", |s| s.tls.ciphers = [("TLS_RSA_WITH_AES_128_CBC_SHA".to_owned(), 1)].into()),
            ("8.24", |s| s.tls.ciphers = [("unknown".to_owned(), 1)].into()),
            ("1(a)", |s| s.connections.mtls = 1),
            ("8.5", |s| s.connections.authenticated = 1),
            ("CC6.1", |s| s.connections.authorized = 1),
            ("2.1 tenet 6", |s| s.identity.expired = 1),
        ];
        for (name, change) in changes {
            let (mut summary, proved) = good();
            change(&mut summary);
            assert_eq!(of(&points(&summary, &proved), name), Some(false), "{name}");
        }
    }
}
