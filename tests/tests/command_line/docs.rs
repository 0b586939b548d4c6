//! Docs are code: every configuration in them is checked, every command is run.

use std::path::{Path, PathBuf};
use std::process::Command;

use sidegate_tests::sidegate;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn documents() -> Vec<(PathBuf, String)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "md"))
        .collect();
    files.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"].map(|f| root().join(f)));
    files.sort();
    files.into_iter().map(|f| (f.clone(), std::fs::read_to_string(&f).unwrap_or_else(|e| panic!("{}: {e}", f.display())))).collect()
}

/// The blocks of a language, with the words that follow it.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("\n```") {
        let Some((head, body)) = after.split_once('\n') else { break };
        let Some((body, after)) = body.split_once("\n```") else { break };
        if head.split(' ').next() == Some(language) {
            found.push((head, body));
        }
        rest = after;
    }
    found
}

/// A block says what it is: ```yaml config, ```yaml policy, ```yaml suite, ```yaml deny-list or ```yaml authority.
#[test]
fn every_configuration_in_the_docs_is_good() {
    let mut checked = 0;
    for (file, text) in documents() {
        for (head, body) in blocks(&text, "yaml") {
            let source = file.display().to_string();
            let place = || format!("{source}:\n{body}\n");
            let result = match head {
                "yaml config" => sidegate_config::parse(&source, body).map(drop),
                "yaml policy" => {
                    sidegate_policy::Policy::parse(&[(source.clone(), body.to_owned())], sidegate_config::schema::Profile::Production)
                        .map(drop)
                }
                "yaml deny-list" => sidegate_config::typed::<sidegate_config::schema::DenyList>(&source, body).map(drop),
                "yaml suite" => sidegate_config::typed::<sidegate_policy::suite::Suite>(&source, body).map(drop),
                "yaml authority" => sidegate_config::typed::<sidegate_devkit::authority::AuthorityConfig>(&source, body).map(drop),
                _ => panic!("{}say what it is: config, policy, suite, deny-list or authority", place()),
            };
            result.unwrap_or_else(|problems| panic!("{}{problems}", place()));
            checked += 1;
        }
    }
    assert!(checked >= 5, "only {checked} blocks were found");
}

/// Commands run in one folder for each document, with `sidegate` on PATH. A block ```sh by-hand is for another machine
/// or runs for ever: of those only that sidegate knows the command is checked.
#[test]
fn every_command_in_the_docs_runs() {
    let mut ran = 0;
    for (file, text) in documents() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(sidegate(), folder.path().join("sidegate")).unwrap();
        for (_, body) in blocks(&text, "yaml") {
            // A document's configuration files are there under the name that their first line gives.
            if let Some(name) = body.lines().next().and_then(|line| line.strip_prefix("# ")).filter(|n| n.ends_with(".yaml")) {
                std::fs::write(folder.path().join(name), body).unwrap();
            }
        }
        for (head, body) in blocks(&text, "sh") {
            if head == "sh by-hand" {
                for line in body.lines().filter_map(|l| l.split("sidegate ").nth(1)) {
                    let command = line.split(' ').next().unwrap();
                    let output = Command::new(sidegate()).args([command, "--help"]).output().unwrap();
                    assert!(output.status.success(), "{}: sidegate has no command {command}", file.display());
                }
                continue;
            }
            let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
            let output = Command::new("sh").args(["-e", "-c", body]).current_dir(folder.path()).env("PATH", path).output().unwrap();
            assert!(output.status.success(), "{}:\n{body}\n{}", file.display(), String::from_utf8_lossy(&output.stderr));
            ran += 1;
        }
    }
    assert!(ran >= 3, "only {ran} blocks were found");
}

/// Conditions may ask what docs/policy.md lists, and nothing else.
#[test]
fn every_variable_of_conditions_is_listed() {
    let text = std::fs::read_to_string(root().join("docs/policy.md")).unwrap();
    let table = text.split("| variable | type | always known | what it is |\n| --- | --- | --- | --- |\n").nth(1).unwrap();
    let listed: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    let row = |(object, name, kind, always, meaning): &(&str, &str, sidegate_policy::Type, bool, &str)| {
        format!("| `{object}.{name}` | {kind} | {} | {meaning} |", if *always { "yes" } else { "no" })
    };
    assert_eq!(listed, sidegate_policy::VARIABLES.iter().map(row).collect::<Vec<_>>());
}

/// Each dependency of each crate has its line in ARCHITECTURE.md, and each line its dependency.
#[test]
fn every_dependency_has_its_reason() {
    let mut used = std::collections::BTreeSet::new();
    let crates = std::fs::read_dir(root().join("crates")).unwrap().map(|e| e.unwrap().path().join("Cargo.toml"));
    for manifest in crates.chain(["tests/Cargo.toml", "benches/Cargo.toml"].map(|m| root().join(m))) {
        let text = std::fs::read_to_string(manifest).unwrap();
        let mut inside = false;
        for line in text.lines() {
            if line.starts_with('[') {
                inside = line.ends_with("dependencies]");
            } else if inside
                && let Some(name) = line.split([' ', '.', '=']).next().filter(|n| !n.is_empty() && !n.starts_with(['#', '"', '}']))
            {
                used.insert(name.to_owned());
            }
        }
    }
    used.retain(|name| !name.starts_with("sidegate"));
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let table = text.split("## Dependencies").nth(1).unwrap();
    let listed: std::collections::BTreeSet<String> = table
        .lines()
        .filter(|l| l.starts_with("| ") && !l.starts_with("| crate") && !l.starts_with("| ---"))
        .map(|l| l.split(' ').nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(used, listed);
}

/// The configurations inside the Kubernetes example are good for production.
#[test]
fn the_kubernetes_example_is_good() {
    let text = std::fs::read_to_string(root().join("deploy/kubernetes/example.yaml")).unwrap();
    let block = |name: &str| -> String {
        let body = text.split(&format!("  {name}: |\n")).nth(1).unwrap();
        body.lines().take_while(|l| l.starts_with("    ")).map(|l| format!("{}\n", &l[4..])).collect()
    };
    let config = sidegate_config::parse("sidegate.yaml", &block("sidegate.yaml")).unwrap_or_else(|p| panic!("{p}"));
    // The kubelet reaches the application's probes, which are on ports of mode plaintext, and the sidecar's.
    let application = text.split("  containers:\n").nth(1).unwrap();
    let probes: Vec<u16> = application
        .lines()
        .filter_map(|line| line.trim().strip_prefix("httpGet:")?.split("port: ").nth(1)?.trim_end_matches(" }").parse().ok())
        .collect();
    assert_eq!(probes.len(), 2);
    for probe in probes {
        let port = config.inbound.ports.iter().find(|port| port.port.get().contains(probe)).unwrap();
        assert_eq!(port.mode, sidegate_config::schema::Mode::Plaintext);
    }
    let api_server: std::net::IpAddr = "10.96.0.1".parse().unwrap();
    assert!(config.redirect.outbound.exclude_cidrs.iter().any(|block| block.get().contains(&api_server)));
    assert!(text.matches(concat!("image: sidegate:", env!("CARGO_PKG_VERSION"), "\n")).count() == 2);
    let policy = [("policy.yaml".to_owned(), block("policy.yaml"))];
    sidegate_policy::Policy::parse(&policy, sidegate_config::schema::Profile::Production).unwrap_or_else(|p| panic!("{p}"));
}

/// The image is built by the toolchain of the project, and has what the init container and the sidecar of the example need.
#[test]
fn the_image_has_what_the_example_needs() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).unwrap();
    let (image, toolchain) = (read("deploy/docker/Dockerfile"), read("rust-toolchain.toml"));
    let channel = toolchain.split("channel = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(image.contains(&format!("rust:{channel}-bookworm AS build\n")), "{image}");
    for part in ["nftables", "USER 1337:1337\n", "--no-default-features", concat!("sidegate:", env!("CARGO_PKG_VERSION"))] {
        assert!(image.contains(part), "{part}");
    }
    let example = read("deploy/kubernetes/example.yaml");
    assert!(example.contains("runAsUser: 1337\n") && example.contains("exemptUid: 1337\n"));
}

/// SECURITY.md says what has which bound, and which test proves it: each of them exists, in the file that is named.
#[test]
fn every_bound_has_a_test() {
    let text = std::fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let (_, table) = text.split_once("| what | bound | test |").unwrap();
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 20, "{}", rows.len());
    for row in rows {
        let proof = row.trim_matches('|').rsplit('|').next().unwrap().trim();
        for test in proof.split(", ") {
            let (file, name) = test.trim_matches('`').split_once("::").unwrap_or_else(|| panic!("no FILE::TEST: {row}"));
            let source = std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}: {row}"));
            assert!(source.contains(&format!("fn {name}(")), "{file} has no test `{name}`: {row}");
        }
    }
}
