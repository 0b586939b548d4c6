//! SPIFFE-ID §2 and X509-SVID §2 and §5.2: exactly one URI SAN, a SPIFFE ID, with a path.

use sidegate_core::Reason;

use super::{Cases, Verdict};
use crate::pki::{ID, Name, Spec, names, oid, raw};

pub(super) fn add(cases: &mut Cases<'_>) {
    grammar(cases);
    number(cases);
    shape(cases);
}

fn grammar(cases: &mut Cases<'_>) {
    let long = |total: usize| format!("spiffe://prod.example/{}", "a".repeat(total - "spiffe://prod.example/".len()));
    for (name, id) in
        [("every character that a path may have", "spiffe://prod.example/AZaz09.-_/...".to_owned()), ("as long as may be", long(2048))]
    {
        let chain = cases.ours(&Spec::leaf(&id));
        cases.add(&format!("id: {name}"), chain, Verdict::Accepted(id));
    }
    for (name, id) in [
        ("upper-case trust domain", "spiffe://PROD.example/web"),
        ("upper-case scheme", "SPIFFE://prod.example/web"),
        ("mixed-case scheme", "Spiffe://prod.example/web"),
        ("empty segment", "spiffe://prod.example/a//b"),
        ("empty first segment", "spiffe://prod.example//web"),
        ("trailing slash", "spiffe://prod.example/web/"),
        ("only a slash for a path", "spiffe://prod.example/"),
        ("dot segment", "spiffe://prod.example/./web"),
        ("dot segment at the end", "spiffe://prod.example/web/."),
        ("dot-dot segment", "spiffe://prod.example/a/../web"),
        ("percent-encoded space", "spiffe://prod.example/a%20b"),
        ("percent-encoded letter", "spiffe://prod.example/%77eb"),
        ("percent-encoded slash", "spiffe://prod.example/a%2fweb"),
        ("bare percent sign", "spiffe://prod.example/100%"),
        ("query", "spiffe://prod.example/web?a=b"),
        ("empty query", "spiffe://prod.example/web?"),
        ("fragment", "spiffe://prod.example/web#a"),
        ("port", "spiffe://prod.example:8443/web"),
        ("empty port", "spiffe://prod.example:/web"),
        ("user", "spiffe://user@prod.example/web"),
        ("user and password", "spiffe://user:word@prod.example/web"),
        ("empty trust domain", "spiffe:///web"),
        ("nothing after the scheme", "spiffe://"),
        ("one slash", "spiffe:/prod.example/web"),
        ("no scheme", "prod.example/web"),
        ("empty", ""),
        ("backslash", "spiffe://prod.example\\web"),
        ("space", "spiffe://prod.example/a b"),
        ("leading space", " spiffe://prod.example/web"),
        ("trailing newline in plain sight", "spiffe://prod.example/web "),
        ("bracketed address", "spiffe://[::1]/web"),
        ("wildcard", "spiffe://prod.example/*"),
        ("https", "https://prod.example/web"),
        ("scheme that only begins alike", "spiffes://prod.example/web"),
        ("non-ASCII path", "spiffe://prod.example/wéb"),
        ("non-ASCII trust domain", "spiffe://pröd.example/web"),
        ("Cyrillic letter that looks alike", "spiffe://рrod.example/web"),
    ] {
        let chain = cases.ours(&Spec::leaf(id));
        cases.refuses_claiming(&format!("id: {name}"), chain, Reason::SpiffeIdInvalid, Some(id));
    }
    let chain = cases.ours(&Spec::leaf(&long(2049)));
    // What is claimed goes into logs, so it is cut there.
    cases.refuses_claiming("id: one byte too long", chain, Reason::SpiffeIdInvalid, Some(&long(2049)[..512]));
    let domain = format!("spiffe://{}/web", "a".repeat(256));
    let chain = cases.ours(&Spec::leaf(&domain));
    cases.refuses_claiming("id: trust domain one byte too long", chain, Reason::SpiffeIdInvalid, Some(&domain));
    // Control characters never reach a log.
    for (name, id) in [
        ("NUL", "spiffe://prod.example/web\0.evil"),
        ("newline", "spiffe://prod.example/web\n.evil"),
        ("escape", "spiffe://prod.example/web\u{1b}.evil"),
    ] {
        let chain = cases.ours(&Spec::leaf(id));
        cases.refuses_claiming(&format!("id: {name}"), chain, Reason::SpiffeIdInvalid, Some("spiffe://prod.example/web\u{fffd}.evil"));
    }
    let chain = cases.ours(&Spec::leaf("").with(names(&[Name::RawUri(b"spiffe://prod.example/\xff")])));
    cases.refuses_claiming("id: not even UTF-8", chain, Reason::SpiffeIdInvalid, Some("spiffe://prod.example/\u{fffd}"));
    let chain = cases.ours(&Spec::leaf("spiffe://prod.example"));
    cases.refuses_claiming("id: no path", chain, Reason::SpiffeIdWithoutPath, Some("spiffe://prod.example"));
}

fn number(cases: &mut Cases<'_>) {
    let id = Name::Uri(ID);
    let chain = cases.ours(&Spec::leaf("").with(names(&[Name::Dns("web.prod.example"), id, Name::Ip([10, 0, 0, 1])])));
    cases.accepts("names: DNS and IP beside the ID", chain);
    for (name, sans) in [("empty", &[] as &[Name<'_>]), ("DNS only", &[Name::Dns("prod.example")]), ("an ID, but as DNS", &[Name::Dns(ID)])]
    {
        let chain = cases.ours(&Spec::leaf("").with(names(sans)));
        cases.refuses_claiming(&format!("names: {name}"), chain, Reason::NoSpiffeId, None);
    }
    let chain = cases.ours(&Spec::leaf("").without(oid::SUBJECT_ALT_NAME));
    cases.refuses_claiming("names: absent", chain, Reason::NoSpiffeId, None);
    for (name, second) in [
        ("two IDs", Name::Uri("spiffe://prod.example/db")),
        ("one ID twice", id),
        ("an ID and another URI", Name::Uri("https://prod.example/web")),
        ("an ID and a trust domain", Name::Uri("spiffe://prod.example")),
        ("an ID and an empty URI", Name::Uri("")),
        ("an ID and a URI that is not even UTF-8", Name::RawUri(b"spiffe://prod.example/\xff")),
    ] {
        let chain = cases.ours(&Spec::leaf("").with(names(&[id, second])));
        cases.refuses(&format!("names: {name}"), chain, Reason::MultipleUriSans);
    }
    let chain = cases.ours(&Spec::leaf("").with(names(&[Name::Uri("https://prod.example/web"), id])));
    cases.refuses_claiming("names: another URI and an ID", chain, Reason::MultipleUriSans, Some("https://prod.example/web"));
}

/// A SAN extension that can't be read claims nothing.
fn shape(cases: &mut Cases<'_>) {
    let twice = Spec::leaf(ID).and(names(&[Name::Uri("spiffe://prod.example/db")]));
    let garbage = Spec::leaf(ID).with(raw(oid::SUBJECT_ALT_NAME, b"spiffe://prod.example/web".to_vec()));
    let nothing = Spec::leaf(ID).with(raw(oid::SUBJECT_ALT_NAME, Vec::new()));
    let cut = Spec::leaf(ID).with(raw(oid::SUBJECT_ALT_NAME, vec![0x30, 0x20, 0x86, 0x1e, b's']));
    for (name, spec) in [("twice", twice), ("garbage", garbage), ("no content", nothing), ("cut", cut)] {
        let chain = cases.ours(&spec);
        cases.refuses_claiming(&format!("names: extension {name}"), chain, Reason::CertificateMalformed, None);
    }
}
