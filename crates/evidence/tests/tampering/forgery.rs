//! Forgeries: an attacker rewrites records and computes a new chain, without the keys or with some of them.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::{hkdf, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::PublicKeyData;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use sidegate_evidence::{Trust, VerifyInputs};

use crate::common::{World, write_lines};

/// What a forger does with the checkpoints' signatures.
#[derive(Clone, Copy)]
enum Signatures<'a> {
    Keep,
    Remove,
    /// Signs with this key, and says that it is this public key.
    MakeWith(&'a str, Option<&'a str>),
}

/// Changes record `which` and links all later records again, as anyone who knows the format can.
fn forge(lines: &[String], which: usize, signatures: Signatures<'_>) -> Vec<String> {
    let mut changed = lines.to_vec();
    changed[which] = lines[which].replace("spiffe://a.b/web", "spiffe://a.b/bob").replace("\"rules\":", "\"rules\":4");
    assert_ne!(changed[which], lines[which], "nothing was changed");
    link(changed, signatures, None)
}

/// Links each record to the one before, and signs checkpoints; with the key of the first one's epoch also makes MACs.
fn link(lines: Vec<String>, signatures: Signatures<'_>, mut key: Option<[u8; 32]>) -> Vec<String> {
    let mut forged: Vec<String> = Vec::new();
    for mut text in lines {
        if let (Some(last), Some(at)) = (forged.last(), text.rfind(",\"prev\":\"")) {
            let hash: String = digest(&SHA256, last.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect();
            text.replace_range(at + 9..at + 73, &hash);
        }
        if let (Some(key), Some(at)) = (&mut key, text.rfind(",\"mac\":\"")) {
            let digest = digest(&SHA256, &text.as_bytes()[..at]);
            let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), digest.as_ref());
            text.replace_range(at + 8..at + 72, &mac.as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>());
            if text.contains("\"event\":\"log.checkpoint\"") {
                *key = next_epoch(*key);
            }
        }
        if let Some(at) = text.rfind(",\"signature\":\"") {
            match signatures {
                Signatures::Keep => {}
                Signatures::Remove => {
                    let signer = text.find("\"signer\":").unwrap();
                    let end = text.find(",\"prev\":").unwrap();
                    text = format!("{}\"signer\":null{}}}", &text[..signer], &text[end..at]);
                }
                Signatures::MakeWith(pem, public) => {
                    let mut signed = text[..at].to_owned();
                    if let Some(public) = public {
                        let start = signed.find("\"publicKey\":\"").unwrap() + 13;
                        let end = start + signed[start..].find('"').unwrap();
                        signed.replace_range(start..end, public);
                    }
                    let key = any_supported_type(&PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
                    let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
                    let message = format!("sidegate audit checkpoint v1\n{signed}");
                    text = format!("{signed},\"signature\":\"{}\"}}", STANDARD.encode(signer.sign(message.as_bytes()).unwrap()));
                }
            }
        }
        forged.push(text);
    }
    forged
}

/// One file, so that a forger has it easy, with its checkpoint at the end.
fn world() -> (World, Vec<String>) {
    let world = World::new("");
    world.write(8);
    let lines = world.lines().remove(0).1;
    (world, lines)
}

/// Changes every record that can be changed, and writes a new log.
fn each_forgery(world: &World, lines: &[String], signatures: Signatures<'_>, caught: impl Fn(usize)) {
    let file = world.lines().remove(0).0;
    let mut forgeries = 0;
    for i in 0..lines.len() {
        if lines[i].contains("spiffe://a.b/web") || lines[i].contains("\"rules\":") {
            write_lines(&file, &forge(lines, i, signatures));
            caught(i);
            forgeries += 1;
        }
    }
    assert!(forgeries >= 8, "{forgeries}");
    write_lines(&file, lines);
}

#[test]
fn without_the_signing_key_no_rewriting_passes() {
    let (world, lines) = world();
    let trust = || VerifyInputs { trust: world.given().trust, ..VerifyInputs::default() };
    let stranger = rcgen::KeyPair::generate().unwrap();
    let (pem, public) = (stranger.serialize_pem(), STANDARD.encode(stranger.subject_public_key_info()));
    for signatures in [Signatures::Keep, Signatures::Remove, Signatures::MakeWith(&pem, None), Signatures::MakeWith(&pem, Some(&public))] {
        each_forgery(&world, &lines, signatures, |i| assert!(!world.verify(&trust()).is_intact(), "line {i}"));
    }
    // What verifying says where it can't know better: it is another's log, chained and signed in order.
    let file = world.lines().remove(0).0;
    write_lines(&file, &forge(&lines, 3, Signatures::MakeWith(&pem, Some(&public))));
    let report = world.verify(&VerifyInputs::default());
    assert!(report.is_intact());
    assert!(report.unproven.iter().any(|u| u.starts_with("who signed the checkpoints")), "{:#?}", report.unproven);
    assert!(report.unproven.iter().any(|u| u.contains("replaced as a whole")), "{:#?}", report.unproven);
}

/// Who can sign can write a log of his own from the beginning, and seal its key to the auditor: his public key is no secret.
/// Only what was exported when the run began tells.
#[test]
fn a_whole_log_by_somebody_who_can_sign_is_told_by_what_was_exported() {
    let (world, _) = world();
    let given = world.given();
    let file = world.lines().remove(0).0;
    std::fs::remove_file(&file).unwrap();
    let exported = std::fs::read(world.path("anchors.jsonl")).unwrap();
    world.write(8);
    std::fs::write(world.path("anchors.jsonl"), exported).unwrap();
    let without = VerifyInputs { trust: world.given().trust, keys: world.given().keys, ..VerifyInputs::default() };
    let report = world.verify(&without);
    assert!(report.is_intact() && report.unproven.iter().any(|u| u.contains("began with the key")), "{report:#?}");
    assert!(!world.verify(&given).is_intact());
}

/// Who took the process has the key that signs, but not the keys of the epochs before; and no exported checkpoint.
#[test]
fn with_the_signing_key_the_macs_and_the_anchors_still_tell() {
    let (world, lines) = world();
    let pem = std::fs::read_to_string(world.path("key.pem")).unwrap();
    let given = world.given();
    let only_trust =
        VerifyInputs { trust: Trust { public_key: given.trust.public_key.clone(), ..Trust::default() }, ..VerifyInputs::default() };
    let anchors = VerifyInputs { anchors: given.anchors.clone(), ..VerifyInputs::default() };
    let macs = VerifyInputs { keys: world.given().keys, ..VerifyInputs::default() };
    each_forgery(&world, &lines, Signatures::MakeWith(&pem, None), |i| {
        // A real signature: this alone can't tell, and says what would.
        assert!(world.verify(&only_trust).is_intact(), "line {i}");
        assert!(!world.verify(&anchors).is_intact(), "line {i}");
        assert!(!world.verify(&macs).is_intact(), "line {i}");
    });
}

/// Who can sign says that all that was exported was deleted by `retain`: what he puts in its place is nothing that was exported.
#[test]
fn a_log_that_begins_behind_what_was_exported_is_another_log() {
    let world = World::new(", rotate: { bytes: 9000 }");
    world.write(30);
    let pem = std::fs::read_to_string(world.path("key.pem")).unwrap();
    let files = world.lines();
    let (last, lines) = files.last().unwrap();
    for (file, _) in &files {
        std::fs::remove_file(file).unwrap();
    }
    let name = "audit-00000000000000002001.jsonl";
    assert!(number(&lines[0]) < 2001);
    let mut forged = renumbered(lines, 2001, last, name);
    // What says so is in place of another record, before the checkpoint that covers it.
    let which = forged.iter().position(|line| line.contains("\"event\":\"policy.loaded\"")).unwrap();
    let (start, end) = (forged[which].find("\"event\"").unwrap(), forged[which].find(",\"prev\"").unwrap());
    let first = forged[0].rfind(",\"prev\":\"").unwrap() + 9;
    let before = forged[0][first..first + 64].to_owned();
    forged[which].replace_range(start..end, &format!(r#""event":"log.retired","file":"x","lastSeq":2000,"lastHash":"{before}""#));
    write_lines(&world.log().join(name), &link(forged, Signatures::MakeWith(&pem, None), None));
    let trust = || world.given().trust;
    // Without what was exported nothing tells.
    let report = world.verify(&VerifyInputs { trust: trust(), ..VerifyInputs::default() });
    assert!(report.is_intact() && report.anchored == 0, "{report:#?}");
    let report = world.verify(&VerifyInputs { trust: trust(), anchors: world.given().anchors, ..VerifyInputs::default() });
    assert!(report.findings.iter().any(|f| f.what.starts_with("none of the exported records")), "{report:#?}");
}

/// Who takes the process has the key that signs and the key of the running epoch, and not those before. He goes on with it right
/// behind the first file, and says that its epoch has come: neither what is linked nor MACs nor signatures contradict that.
#[test]
fn an_epoch_that_is_not_due_is_found() {
    let world = World::new(", rotate: { bytes: 6000 }");
    world.write(30);
    let pem = std::fs::read_to_string(world.path("key.pem")).unwrap();
    let files = world.lines();
    let (last, lines) = files.last().unwrap();
    let epoch = serde_json::from_str::<serde_json::Value>(&lines[0]).unwrap()["epoch"].as_u64().unwrap();
    assert!(epoch > 1);
    let key = (0..epoch).fold(first_key(&world, &lines[0]), |key, _| next_epoch(key));
    // His key is that of the epoch: it can rewrite the log as it is.
    let mut anew = files[files.len() - 2].1.last().cloned().into_iter().chain(lines.clone()).collect::<Vec<_>>();
    let linked = link(anew.clone(), Signatures::Keep, None);
    assert_eq!(linked, anew);
    anew = link(lines.clone(), Signatures::Keep, Some(key));
    assert_eq!(anew, *lines);
    let next = number(files[0].1.last().unwrap()) + 1;
    let name = format!("audit-{next:020}.jsonl");
    let mut forged = vec![files[0].1.last().unwrap().clone()];
    forged.extend(renumbered(lines, next, last, &name));
    // The first line is linked to, and not made.
    let first = link(forged[..2].to_vec(), Signatures::Keep, None).remove(1);
    forged.remove(0);
    forged[0] = first;
    for (file, _) in &files[1..] {
        std::fs::remove_file(file).unwrap();
    }
    write_lines(&world.log().join(name), &link(forged, Signatures::MakeWith(&pem, None), Some(key)));
    let exported = std::fs::read_to_string(world.path("anchors.jsonl")).unwrap();
    let beginning: Vec<String> = exported.lines().take(1).map(str::to_owned).collect();
    write_lines(&world.path("anchors.jsonl"), &beginning);
    let report = world.verify(&world.given());
    let what: Vec<&str> = report.findings.iter().map(|f| f.what.as_str()).collect();
    let [epoch] = what.as_slice() else { panic!("{report:#?}") };
    assert!(epoch.starts_with("it goes on with epoch"), "{epoch}");
}

/// The first key of a run, which is sealed to the auditor.
fn first_key(world: &World, opened: &str) -> [u8; 32] {
    let sealed = serde_json::from_str::<serde_json::Value>(opened).unwrap()["sealedKey"].as_str().unwrap().to_owned();
    let identity = std::fs::read_to_string(world.path("auditor.txt")).unwrap();
    let identity: age::x25519::Identity = identity.lines().last().unwrap().parse().unwrap();
    age::decrypt(&identity, &STANDARD.decode(sealed).unwrap()).unwrap().try_into().unwrap()
}

fn next_epoch(key: [u8; 32]) -> [u8; 32] {
    struct Length;
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    let mut next = [0; 32];
    let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sidegate audit v1").extract(&key);
    derived.expand(&[b"next epoch"], Length).unwrap().fill(&mut next).unwrap();
    next
}

/// The lines of a file as if it were another one, which begins with record `first`.
fn renumbered(lines: &[String], first: u64, file: &Path, name: &str) -> Vec<String> {
    let file = file.file_name().unwrap().display().to_string();
    let renumber =
        |(line, seq): (&String, u64)| line.replace(&format!("\"seq\":{},", number(line)), &format!("\"seq\":{seq},")).replace(&file, name);
    lines.iter().zip(first..).map(renumber).collect()
}

fn number(line: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap()
}
