//! Points of standards, and what a log bears out of each.

use serde::Serialize;
use sidegate_audit::Report as Verified;

use super::summary::{Counts, Summary};

#[derive(Debug, Serialize)]
pub(super) struct Point {
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

/// Each point that such a log can say something about.
pub(super) fn points(summary: &Summary, verified: &Verified) -> Vec<Point> {
    let c = &summary.connections;
    let (versions, ciphers) = (&summary.tls.versions, &summary.tls.ciphers);
    let intact = verified.is_intact();
    // Where records are missing, what is there does not show that all were so.
    let complete = intact && summary.missing == 0 && summary.unreadable == 0;
    let shown = |seen: bool, met: bool| (seen && (complete || !met)).then_some(met);
    let all = |count: u64| shown(c.admitted > 0, count == c.admitted);

    let version = shown(!versions.is_empty(), versions.keys().all(|version| version == "TLS 1.3"));
    let strong = shown(!ciphers.is_empty(), ciphers.keys().all(|cipher| is_strong(cipher)));
    let approved = shown(!ciphers.is_empty(), ciphers.keys().all(|cipher| is_approved(cipher)));
    let cryptography = version.zip(strong).map(|(version, strong)| version && strong);
    let (encrypted, authenticated, judged) = (all(c.mtls), all(c.authenticated), all(c.judged));
    let identity = &summary.identity;
    let dynamic = shown(identity.received + identity.rotated > 0, identity.expired == 0);
    // Of the log itself: what is wrong with it is shown by it.
    let recorded = (summary.records > 0).then_some(complete);
    let proved = verified.proven_until >= summary.last_seq && verified.unvouched.is_empty();
    let logged = match recorded {
        Some(true) if verified.proven_checkpoints == 0 => None,
        recorded => recorded.map(|complete| complete && proved),
    };
    let administered = shown(!summary.admin.is_empty(), true);

    let seen_versions = format!("TLS versions seen: {}", names(versions));
    let seen_ciphers = format!("cipher suites seen: {}", names(ciphers));
    let in_tls = format!("{} of {} admitted connections were mutual TLS, {} plaintext", c.mtls, c.admitted, c.plaintext);
    let who = format!(
        "of {} of {} admitted connections both ends were authenticated by X.509-SVID; {} peers",
        c.authenticated,
        c.admitted,
        summary.peers.len()
    );
    let access = format!(
        "policy has judged {} of {} admitted connections; {} refused, {} of these by policy",
        c.judged, c.admitted, c.refused, c.denied
    );
    let rotated = format!("SVIDs: {} received, {} rotations, {} expiries", identity.received, identity.rotated, identity.expired);
    let keys =
        format!("{seen_versions}; {seen_ciphers}; {} of {} key exchanges post-quantum", summary.tls.post_quantum, summary.tls.exchanges);
    let log = format!(
        "{} records, {}, {} missing, {} checkpoints with a trusted signature, proved until record {} but for {} runs",
        verified.records,
        if intact { "chain intact" } else { "CHAIN NOT INTACT" },
        summary.missing,
        verified.proven_checkpoints,
        verified.proven_until,
        verified.unvouched.len()
    );
    let admin = format!("{} administrative actions, {} accesses to secrets, each with time", summary.admin.len(), summary.secrets);
    let point = |standard, point, met, evidence: &String| Point { standard, point, met, evidence: evidence.clone() };
    vec![
        point("OWASP TLS cheat sheet", "Only support strong protocols", version, &seen_versions),
        point("OWASP TLS cheat sheet", "Only support strong ciphers", strong, &seen_ciphers),
        point("OWASP TLS cheat sheet", "Use TLS for all connections", encrypted, &in_tls),
        point("OWASP TLS cheat sheet", "Client certificates and mutual TLS", authenticated, &who),
        point("NIST SP 800-52r2", "3.1 protocol versions", version, &seen_versions),
        point("NIST SP 800-52r2", "3.3 cipher suites", approved, &seen_ciphers),
        point("NIST SP 800-52r2", "3.5 client authentication", authenticated, &who),
        point("NIST SP 800-207", "2.1 tenet 2: all communication is secured", encrypted, &in_tls),
        point("NIST SP 800-207", "2.1 tenet 3: access is granted for each session", judged, &access),
        point("NIST SP 800-207", "2.1 tenet 6: authentication is dynamic and enforced", dynamic, &rotated),
        point("NIST SP 800-207", "2.1 tenet 7: the state of communication is recorded", recorded, &log),
        point("SOC 2", "CC6.1 logical access", judged, &access),
        point("SOC 2", "CC6.7 data in transmission", encrypted, &in_tls),
        point("SOC 2", "CC7.2 monitoring", recorded, &log),
        point("ISO 27001 Annex A", "8.5 secure authentication", authenticated, &who),
        point("ISO 27001 Annex A", "8.15 logging", logged, &log),
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

    type Change = fn(&mut Summary, &mut Verified);

    /// A log that bears everything out.
    fn good() -> (Summary, Verified) {
        let mut summary = Summary { records: 9, last_seq: 9, admin: vec![Default::default()], ..Summary::default() };
        let c = &mut summary.connections;
        (c.admitted, c.mtls, c.authenticated, c.judged) = (2, 2, 2, 2);
        summary.identity.received = 1;
        summary.tls.versions.insert("TLS 1.3".to_owned(), 2);
        summary.tls.ciphers.insert("TLS_AES_256_GCM_SHA384".to_owned(), 2);
        (summary, Verified { records: 9, last_seq: 9, proven_checkpoints: 1, proven_until: 9, ..Verified::default() })
    }

    fn met(summary: &Summary, verified: &Verified) -> Vec<Option<bool>> {
        points(summary, verified).into_iter().map(|point| point.met).collect()
    }

    fn of(points: &[Point], name: &str) -> Option<bool> {
        points.iter().find(|point| point.point.starts_with(name)).and_then(|point| point.met)
    }

    #[test]
    fn nothing_is_met_without_records() {
        let (summary, verified) = good();
        assert!(met(&summary, &verified).iter().all(|met| *met == Some(true)));
        assert!(met(&Summary::default(), &Verified::default()).iter().all(Option::is_none));
    }

    #[test]
    fn nothing_is_met_by_a_log_that_is_not_whole() {
        let (summary, mut verified) = good();
        let finding = sidegate_audit::Finding { file: String::new(), line: 0, seq: None, what: String::new() };
        verified.findings.push(finding);
        let points = points(&summary, &verified);
        assert!(points.iter().all(|point| point.met != Some(true)));
        assert_eq!((of(&points, "8.15"), of(&points, "8.5")), (Some(false), None));
        for change in [|s: &mut Summary| s.missing = 1, |s: &mut Summary| s.unreadable = 1] {
            let (mut summary, verified) = good();
            change(&mut summary);
            assert!(met(&summary, &verified).iter().all(|met| *met != Some(true)));
        }
    }

    #[test]
    fn each_point_looks_at_what_it_is_about() {
        let changes: [(&str, Change); 9] = [
            ("3.1", |s, _| s.tls.versions = [("TLS 1.2".to_owned(), 1)].into()),
            ("3.3", |s, _| s.tls.ciphers = [("TLS_CHACHA20_POLY1305_SHA256".to_owned(), 1)].into()),
            ("Only support strong ciphers", |s, _| s.tls.ciphers = [("TLS_RSA_WITH_AES_128_CBC_SHA".to_owned(), 1)].into()),
            ("8.24", |s, _| s.tls.ciphers = [("unknown".to_owned(), 1)].into()),
            ("1(a)", |s, _| s.connections.mtls = 1),
            ("8.5", |s, _| s.connections.authenticated = 1),
            ("CC6.1", |s, _| s.connections.judged = 1),
            ("2.1 tenet 6", |s, _| s.identity.expired = 1),
            ("8.15", |_, v| v.unvouched.push(1..=2)),
        ];
        for (name, change) in changes {
            let (mut summary, mut verified) = good();
            change(&mut summary, &mut verified);
            assert_eq!(of(&points(&summary, &verified), name), Some(false), "{name}");
        }
        let (summary, verified) = good();
        assert_eq!(of(&points(&summary, &Verified { proven_until: 8, ..verified.clone() }), "8.15"), Some(false));
        // Nothing was given to prove it by.
        assert_eq!(of(&points(&summary, &Verified { proven_checkpoints: 0, ..verified }), "8.15"), None);
    }
}
