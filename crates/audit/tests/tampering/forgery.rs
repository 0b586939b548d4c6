//! Forgeries: somebody rewrites records and makes the chain anew, without the keys, or with some of them.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::PublicKeyData;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use sidegate_audit::{Given, Trust};

use crate::common::{World, write_lines};

/// What a forger does with the checkpoints' signatures.
#[derive(Clone, Copy)]
enum Signatures<'a> {
    Keep,
    Remove,
    /// Signs with this key, and says that it is this public key.
    MakeWith(&'a str, Option<&'a str>),
}

/// Changes record `which` and links all that follow anew, as whoever knows the format can.
fn forge(lines: &[String], which: usize, signatures: Signatures<'_>) -> Vec<String> {
    let mut forged: Vec<String> = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let mut text = if i == which {
            line.replace("spiffe://a.b/web", "spiffe://a.b/bob").replace("\"rules\":", "\"rules\":4")
        } else {
            line.clone()
        };
        if i == which {
            assert_ne!(text, *line, "nothing was changed");
        }
        if let (Some(last), Some(at)) = (forged.last(), text.rfind(",\"prev\":\"")) {
            let hash: String = digest(&SHA256, last.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect();
            text.replace_range(at + 9..at + 73, &hash);
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

/// Every record that can be changed is, and the log is written anew.
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
    let trust = || Given { trust: world.given().trust, ..Given::default() };
    let stranger = rcgen::KeyPair::generate().unwrap();
    let (pem, public) = (stranger.serialize_pem(), STANDARD.encode(stranger.subject_public_key_info()));
    for signatures in [Signatures::Keep, Signatures::Remove, Signatures::MakeWith(&pem, None), Signatures::MakeWith(&pem, Some(&public))] {
        each_forgery(&world, &lines, signatures, |i| assert!(!world.verify(&trust()).is_intact(), "line {i}"));
    }
    // What verifying says where it can't know better: it is another's log, chained and signed in order.
    let file = world.lines().remove(0).0;
    write_lines(&file, &forge(&lines, 3, Signatures::MakeWith(&pem, Some(&public))));
    let report = world.verify(&Given::default());
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
    let without = Given { trust: world.given().trust, keys: world.given().keys, ..Given::default() };
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
    let only_trust = Given { trust: Trust { public_key: given.trust.public_key.clone(), ..Trust::default() }, ..Given::default() };
    let anchors = Given { anchors: given.anchors.clone(), ..Given::default() };
    let macs = Given { keys: world.given().keys, ..Given::default() };
    each_forgery(&world, &lines, Signatures::MakeWith(&pem, None), |i| {
        // A real signature: this alone can't tell, and says what would.
        assert!(world.verify(&only_trust).is_intact(), "line {i}");
        assert!(!world.verify(&anchors).is_intact(), "line {i}");
        assert!(!world.verify(&macs).is_intact(), "line {i}");
    });
}
