use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use sidegate_identity::{Bundle, Svid};
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use super::*;
use crate::settings::Settings;

fn control() -> Arc<Control> {
    let config = sidegate_config::Config::default();
    let options = sidegate_telemetry::TelemetryOptions::new(&config.telemetry);
    let (telemetry, _) = sidegate_telemetry::Telemetry::start(options).unwrap();
    Control::new(Settings::new(&config), Arc::new(telemetry), Arc::default())
}

type Ca = CertifiedIssuer<'static, KeyPair>;

const DOMAIN: &str = "test.sidegate";

fn ca(name: &str, issuer: Option<&Ca>) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    match issuer {
        Some(issuer) => Ca::signed_by(params, key, issuer).unwrap(),
        None => Ca::self_signed(params, key).unwrap(),
    }
}

fn list(by: &Ca, made: i32) -> rcgen::CertificateRevocationList {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(made, 1, 1),
        next_update: date_time_ymd(2100, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(by).unwrap()
}

/// Material of somebody whose certificate `root` has signed, with these lists of the Workload API.
fn material(root: &Ca, lists: &[rcgen::CertificateRevocationList]) -> Option<Arc<Material>> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{DOMAIN}/web").try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, root).unwrap();
    let svid = Svid::new(vec![leaf.der().clone()], &PrivatePkcs8KeyDer::from(key.serialize_der()).into()).unwrap();
    let domain = TrustDomain::new(DOMAIN).unwrap();
    let bundle = Bundle::new(&domain, vec![root.der().clone()], &mut Vec::new());
    let mut material = Material::new(svid, [(domain, bundle)].into(), Vec::new(), false).unwrap();
    material.lists = lists.iter().map(|list| list.der().to_vec()).collect();
    Some(Arc::new(material))
}

fn source(lists: &str) -> RevocationSource {
    let text = format!("trustDomains: [{{ trustDomain: {DOMAIN}, {lists} }}]");
    RevocationSource::load(sidegate_config::typed(DOMAIN, &text).unwrap().0).unwrap()
}

fn file(name: &str, text: &str) -> PathBuf {
    let file = std::env::temp_dir().join(format!("sidegate-{}-{name}", std::process::id()));
    std::fs::write(&file, text).unwrap();
    file
}

fn count(source: &RevocationSource) -> usize {
    source.build().domains.values().map(|domain| domain.lists.len()).sum()
}

#[test]
fn a_list_of_the_workload_api_stays_when_a_message_is_without_it() {
    let (control, root) = (control(), ca("root", None));
    let mut source = RevocationSource::load(schema::Revocation::default()).unwrap();
    let first = source.round(false, true, material(&root, &[list(&root, 2021)]), None, &control).unwrap();
    assert!(first.next_expiry(unix_now()).is_some(), "live connections are re-evaluated when it expires");
    for lists in [&[][..], &[list(&root, 2020)]] {
        assert!(source.round(false, false, material(&root, lists), None, &control).is_none());
        assert_eq!(count(&source), 1);
    }
    assert_eq!(control.telemetry.metrics.revocation_reloads(false).get(), 1, "the older one");
}

#[test]
fn an_older_list_stays_refused_until_the_source_holds_another() {
    let (control, root) = (control(), ca("root", None));
    let pem = |made| list(&root, made).pem().unwrap();
    let file = file("older.crl", &pem(2021));
    let mut source = source(&format!("files: ['{}']", file.display()));
    let material = material(&root, &[]);
    let refused = || control.loads.get(Subject::Revocation).refused.len();
    let digests = |source: &RevocationSource| source.files().into_iter().map(|digest| digest.sha256).collect::<Vec<_>>();
    source.round(true, true, material.clone(), None, &control).unwrap();
    let before = digests(&source);
    assert_eq!((refused(), before.len()), (0, 1));
    std::fs::write(&file, pem(2020)).unwrap();
    for _ in 0..3 {
        assert!(source.round(true, false, material.clone(), None, &control).is_none());
        assert_eq!((refused(), digests(&source)), (1, before.clone()), "what is in force is the newer one");
    }
    assert_eq!(control.telemetry.metrics.revocation_reloads(false).get(), 1, "it is told of once");
    std::fs::write(&file, pem(2022)).unwrap();
    assert!(source.round(true, false, material, None, &control).is_some());
    assert_eq!(refused(), 0);
    assert_ne!(digests(&source), before);
    std::fs::remove_file(file).unwrap();
}

#[test]
fn an_unreadable_list_of_the_workload_api_stays_refused() {
    let (control, root) = (control(), ca("root", None));
    let mut source = RevocationSource::load(schema::Revocation::default()).unwrap();
    let mut garbage = Arc::into_inner(material(&root, &[list(&root, 2021)]).unwrap()).unwrap();
    garbage.lists.push(b"no list".to_vec());
    let garbage = Some(Arc::new(garbage));
    for _ in 0..2 {
        source.round(false, true, garbage.clone(), None, &control).unwrap();
        assert_eq!((control.loads.get(Subject::Revocation).refused.len(), count(&source)), (1, 1));
    }
    source.round(false, false, material(&root, &[list(&root, 2021)]), None, &control);
    assert_eq!(control.loads.get(Subject::Revocation).refused.len(), 0);
}

#[test]
fn a_signers_certificate_makes_lists_of_other_sources_count_and_may_go_again() {
    let (control, root) = (control(), ca("root", None));
    let inner = ca("inner", Some(&root));
    let complaints = || control.telemetry.metrics.revocation_reloads(false).get();
    let (by_inner, by_root) = (list(&inner, 2020).pem().unwrap(), list(&root, 2020).pem().unwrap());
    let (of_inner, signers) = (file("inner.crl", &by_inner), file("signers.pem", &by_root));
    let mut source = source(&format!("files: ['{}', '{}']", of_inner.display(), signers.display()));
    let material = material(&root, &[]);
    for _ in 0..2 {
        source.round(true, true, material.clone(), None, &control).unwrap();
        assert_eq!((count(&source), complaints()), (1, 1), "it is told of once");
    }
    file("signers.pem", &(by_root.clone() + &inner.pem()));
    assert!(source.round(true, false, material.clone(), None, &control).is_some());
    assert_eq!(count(&source), 2);
    file("signers.pem", &by_root);
    assert!(source.round(true, false, material, None, &control).is_none());
    assert_eq!((count(&source), complaints()), (2, 1));
    for file in [of_inner, signers] {
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn a_url_vouches_for_nobody_and_what_it_has_is_not_kept_unsigned() {
    let (control, root) = (control(), ca("root", None));
    let inner = ca("inner", Some(&root));
    let mut source = source("urls: ['http://127.0.0.1:1/ca.crl']");
    let text = list(&inner, 2020).pem().unwrap() + &inner.pem();
    let index = source.sources.iter().position(|source| matches!(source.place, Place::Url(..))).unwrap();
    let answer = || Some((index, FileDigest::new("url", text.as_bytes()), Content::read(text.clone().into_bytes()).unwrap()));
    let material = material(&root, &[]);
    source.round(true, true, material.clone(), answer(), &control).unwrap();
    assert!(count(&source) == 0 && source.sources[index].pending.is_empty());
    let signers = file("url-signers.pem", &inner.pem());
    let mut signer = Source::new(Some(&TrustDomain::new(DOMAIN).unwrap()), Place::File(signers.clone()));
    let (digest, _) = signer.look(&signers).unwrap();
    signer.found = Some(FileDigest { sha256: String::new(), ..digest });
    source.sources.push(signer);
    source.round(true, false, material.clone(), None, &control);
    let Place::Url(_, again) = &source.sources[index].place else { unreachable!() };
    assert!(std::pin::pin!(again.notified()).enable(), "it is fetched at once");
    assert!(source.round(true, false, material, answer(), &control).is_some(), "the same answer counts now");
    std::fs::remove_file(signers).unwrap();
}

#[test]
fn a_list_of_the_future_is_told_of_once_and_waits() {
    let (control, root) = (control(), ca("root", None));
    let file = file("future.crl", &list(&root, 2099).pem().unwrap());
    let mut source = source(&format!("files: ['{}']", file.display()));
    let material = material(&root, &[]);
    for _ in 0..3 {
        source.round(true, true, material.clone(), None, &control).unwrap();
        assert_eq!(control.telemetry.metrics.revocation_reloads(false).get(), 1);
        assert_eq!((count(&source), source.sources[1].pending.len()), (0, 1));
    }
    std::fs::remove_file(file).unwrap();
}
