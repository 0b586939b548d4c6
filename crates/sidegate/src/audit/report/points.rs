//! Points of standards, and what a log bears out of each.

use serde::Serialize;
use sidegate_audit::Report as Verified;

use super::summary::Summary;

#[derive(Debug, Serialize)]
pub(super) struct Point {
    pub(super) standard: &'static str,
    pub(super) point: &'static str,
    pub(super) met: bool,
    pub(super) evidence: String,
}

/// Each point that such a log can say something about.
pub(super) fn points(summary: &Summary, verified: &Verified) -> Vec<Point> {
    let old = summary.tls.versions.keys().filter(|version| *version != "TLS 1.3").count();
    let versions = format!("TLS versions seen: {}", names(&summary.tls.versions));
    let plaintext = summary.connections.plaintext;
    let in_the_clear = format!("{plaintext} of {} admitted connections were plaintext", summary.connections.admitted);
    let authenticated = summary.connections.admitted - plaintext;
    let who = format!("{authenticated} connections with both ends authenticated by X.509-SVID; {} peers", summary.peers.len());
    let access = format!(
        "{} refused, {} of these by policy; {} policies in force or refused",
        summary.connections.refused,
        summary.connections.denied,
        summary.policies.len()
    );
    let rotated = format!("{} rotations, {} expiries", summary.identity.rotated, summary.identity.expired);
    let groups = format!("{} of {} key exchanges post-quantum", summary.tls.post_quantum, summary.tls.exchanges);
    let ciphers = format!("cipher suites seen: {}", names(&summary.tls.ciphers));
    let intact = verified.is_intact();
    let proved = intact && verified.proven_checkpoints > 0;
    let log = format!(
        "{} records, {}, {} missing, {} checkpoints with a trusted signature",
        verified.records,
        if intact { "chain intact" } else { "CHAIN NOT INTACT" },
        summary.missing,
        verified.proven_checkpoints
    );
    let admin = format!("{} administrative actions, {} accesses to secrets, each with time", summary.admin.len(), summary.secrets);
    let modern = summary.tls.ciphers.keys().all(|cipher| cipher.starts_with("TLS13_") || cipher.starts_with("TLS_"));
    let point = |standard, point, met, evidence: &String| Point { standard, point, met, evidence: evidence.clone() };
    vec![
        point("OWASP TLS cheat sheet", "Only support strong protocols", old == 0, &versions),
        point("OWASP TLS cheat sheet", "Only support strong ciphers", modern, &ciphers),
        point("OWASP TLS cheat sheet", "Use TLS for all connections", plaintext == 0, &in_the_clear),
        point("OWASP TLS cheat sheet", "Client certificates and mutual TLS", plaintext == 0, &who),
        point("NIST SP 800-52r2", "3.1 protocol versions", old == 0, &versions),
        point("NIST SP 800-52r2", "3.3 cipher suites", modern, &ciphers),
        point("NIST SP 800-52r2", "3.5 client authentication", plaintext == 0, &who),
        point("NIST SP 800-207", "2.1 tenet 2: all communication is secured", plaintext == 0, &in_the_clear),
        point("NIST SP 800-207", "2.1 tenet 3: access is granted for each session", true, &access),
        point("NIST SP 800-207", "2.1 tenet 6: authentication is dynamic and enforced", summary.identity.expired == 0, &rotated),
        point("NIST SP 800-207", "2.1 tenet 7: the state of communication is recorded", intact && summary.missing == 0, &log),
        point("SOC 2", "CC6.1 logical access", true, &access),
        point("SOC 2", "CC6.7 data in transmission", plaintext == 0, &in_the_clear),
        point("SOC 2", "CC7.2 monitoring", intact, &log),
        point("ISO 27001 Annex A", "8.5 secure authentication", plaintext == 0, &who),
        point("ISO 27001 Annex A", "8.15 logging", proved && summary.missing == 0, &log),
        point("ISO 27001 Annex A", "8.18 privileged utility programs", true, &admin),
        point("ISO 27001 Annex A", "8.24 use of cryptography", old == 0, &groups),
        point("GDPR Art. 32", "1(a) encryption of what is transmitted", plaintext == 0, &in_the_clear),
        point("GDPR Art. 32", "1(d) means to assess that it works", intact, &log),
    ]
}

fn names(counts: &super::summary::Counts) -> String {
    let all: Vec<&str> = counts.keys().map(String::as_str).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}
