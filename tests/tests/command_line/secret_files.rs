//! Secrets are read from files by `sidegate_secrets::open` and by nothing else, as the sources say: so the audit log has each access.

use std::path::{Path, PathBuf};

/// What reads a file, up to its first argument.
const READERS: &[&str] = &["read(", "read_text(", "read_into(", "read_to_string(", "File::open(", "from_pem_file("];
/// What makes a private key of what was read.
const PARSERS: &[&str] = &["PrivateKeyDer::from_pem", "x25519::Identity>", "KeyPair::from_pem", "KeyPair::from_pkcs8"];
/// Parts of a name that is a secret's.
const NAMES: &[&str] = &["key", "keys", "secret", "secrets", "token", "password", "passphrase"];

/// What `text` of a source file does that only `sidegate_secrets` may do.
fn offences(text: &str) -> Vec<String> {
    let text = text.split("\n#[cfg(test)]").next().unwrap();
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    let mut found = Vec::new();
    for statement in code.split(';') {
        let calls = READERS.iter().flat_map(|reader| statement.match_indices(reader).map(|(at, _)| (*reader, at)));
        for (reader, at) in calls {
            let argument: String = statement[at + reader.len()..].chars().take_while(|c| !",()".contains(*c)).collect();
            let names_secret = argument.to_lowercase().split(|c: char| !c.is_ascii_alphanumeric()).any(|part| NAMES.contains(&part));
            if names_secret || statement.contains("Zeroizing") || statement.contains("Secret::new") {
                found.push(format!("`{reader}{argument}` reads a secret; use sidegate_secrets::open"));
            }
        }
    }
    if PARSERS.iter().any(|parser| code.contains(parser)) && !code.contains("sidegate_secrets::open(") {
        found.push("parses a private key that sidegate_secrets::open has not read".to_owned());
    }
    found
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let entries = entries.filter(|path| path.file_stem().is_some_and(|name| name != "tests"));
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// Besides `secrets` itself only `devkit` is exempt: it makes keys for tests and is in no production build.
#[test]
fn only_one_crate_reads_secret_files() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("crates");
    let (mut openers, mut wrong) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(&crates).unwrap() {
        let path = entry.unwrap().path();
        if ["secrets", "devkit"].iter().any(|exempt| path.ends_with(exempt)) {
            continue;
        }
        for file in sources(&path.join("src")) {
            let text = std::fs::read_to_string(&file).unwrap();
            let name = file.strip_prefix(&crates).unwrap().display().to_string();
            wrong.extend(offences(&text).into_iter().map(|offence| format!("{name}: {offence}")));
            if text.contains("sidegate_secrets::open(") {
                openers.push(name);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    openers.sort();
    // A new one is added here, with a purpose that says what it is for.
    let known = [
        "audit/src/signing.rs",
        "evidence/src/decryption.rs",
        "identity/src/files.rs",
        "kube/src/certificate.rs",
        "kube/src/cni/api_server.rs",
        "kube/src/cni/install.rs",
        "tls/src/collector.rs",
    ];
    assert_eq!(openers, known);
}

#[test]
fn code_that_reads_a_secret_by_itself_is_found() {
    for offence in [
        "let pem = Zeroizing::new(file::read(path, file::SMALL)?);",
        "let pem = file::read(path, SMALL)\n    .map(Zeroizing::new)?;",
        "let token = Secret::new(std::fs::read_to_string(path)?);",
        "let pem = std::fs::read(&config.key)?;",
        "let file = File::open(client_key)?;",
        "let key = PrivateKeyDer::from_pem_slice(&pem)?;",
        "let key = PrivateKeyDer::from_pem_file(path)?;",
    ] {
        assert!(!offences(offence).is_empty(), "{offence}");
    }
    for fine in [
        "let pem = file::read(&tls.certificate, SMALL)?;\nlet keys = Zeroizing::new(Vec::new());",
        "// file::read(key)\nlet known = read(&files.bundle)?;",
        "let pem = sidegate_secrets::open(PURPOSE, key)?;\nlet key = PrivateKeyDer::from_pem_slice(&pem)?;",
        "fn f() {}\n#[cfg(test)]\nmod tests { fn g() { std::fs::read(key); } }",
    ] {
        assert!(offences(fine).is_empty(), "{fine}: {:?}", offences(fine));
    }
}
