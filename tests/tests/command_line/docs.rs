//! Docs are code: every configuration in them is checked, every command is run.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sidegate_tests::{program, sidegate, skipped};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file below `folder` that ends so.
fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
    files
}

fn documents() -> Vec<(PathBuf, String)> {
    let mut files = files_below(&root().join("docs"), "md");
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

/// A block says what it is: ```yaml config, ```yaml policy, ```yaml suite, ```yaml deny-list or ```yaml authority. One of the controller,
/// ```yaml controller, is checked by the crate `kube`.
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
                "yaml controller" => continue,
                _ => panic!("{}say what it is: config, policy, suite, deny-list, authority or controller", place()),
            };
            result.unwrap_or_else(|problems| panic!("{}{problems}", place()));
            checked += 1;
        }
    }
    assert!(checked >= 5, "only {checked} blocks were found");
}

/// The process groups of a document's blocks: what a block has started and a failed one did not end.
struct Groups(Vec<u32>);

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            let _ = killpg(Pid::from_raw(i32::try_from(*group).unwrap()), Signal::SIGKILL);
        }
    }
}

/// Commands run in one folder for each document, with `sidegate` on PATH. A block ```sh by-hand is for another machine
/// or runs for ever: of those only that sidegate knows the command is checked.
#[test]
fn every_command_in_the_docs_runs() {
    let mut ran = 0;
    for (file, text) in documents() {
        let folder = tempfile::tempdir().unwrap();
        let mut groups = Groups(Vec::new());
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
            let mut shell = Command::new("sh");
            shell.args(["-e", "-c", body]).current_dir(folder.path()).env("PATH", path).process_group(0);
            let shell = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            groups.0.push(shell.id());
            let output = shell.wait_with_output().unwrap();
            assert!(output.status.success(), "{}:\n{body}\n{}", file.display(), String::from_utf8_lossy(&output.stderr));
            ran += 1;
        }
    }
    assert!(ran >= 3, "only {ran} blocks were found");
}

/// Conditions may ask what docs/reference/policy.md lists, and nothing else.
#[test]
fn every_variable_of_conditions_is_listed() {
    let text = std::fs::read_to_string(root().join("docs/reference/policy.md")).unwrap();
    let table = text.split("| variable | type | always known | what it is |\n| --- | --- | --- | --- |\n").nth(1).unwrap();
    let listed: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    let row = |(object, name, kind, always, meaning): &(&str, &str, sidegate_policy::VariableType, bool, &str)| {
        format!("| `{object}.{name}` | {kind} | {} | {meaning} |", if *always { "yes" } else { "no" })
    };
    assert_eq!(listed, sidegate_policy::VARIABLES.iter().map(row).collect::<Vec<_>>());
}

/// What a heading is called in a link, as GitHub and mdBook call it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// The targets of the links in a document, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        in_code ^= line.starts_with("```");
        if !in_code {
            let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
            found.extend(plain.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
        }
    }
    found
}

/// Every link from a document leads to a file that is there, and to a heading in it.
#[test]
fn every_link_leads_somewhere() {
    let mut checked = 0;
    let changelog = (root().join("CHANGELOG.md"), std::fs::read_to_string(root().join("CHANGELOG.md")).unwrap());
    for (file, text) in documents().into_iter().chain([changelog]) {
        for link in links(&text).iter().filter(|link| !link.contains("://")) {
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { file.clone() } else { file.with_file_name("").join(path) };
            assert!(target.exists(), "{}: {link} leads nowhere", file.display());
            if !fragment.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                let mut anchors = text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#').trim()));
                assert!(anchors.any(|anchor| anchor == fragment), "{}: {link}: there is no such heading", file.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} links were found");
}

/// mdBook has nothing to say against the book, every page is in it, and every link in its HTML leads to a file: of the book, or of the
/// repository beside it.
#[test]
fn the_book_builds() {
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let listed: std::collections::BTreeSet<PathBuf> = links(&summary).iter().map(|link| root().join("docs").join(link)).collect();
    let pages = files_below(&root().join("docs"), "md").into_iter().filter(|page| !page.ends_with("SUMMARY.md"));
    assert_eq!(pages.collect::<std::collections::BTreeSet<_>>(), listed, "docs/SUMMARY.md lists every page once");
    let Some(mdbook) = program("mdbook") else { return skipped("mdbook is not installed") };
    let folder = tempfile::tempdir().unwrap();
    let book = folder.path().join("docs");
    let output = Command::new(mdbook).args(["build", "--dest-dir"]).arg(&book).arg(root()).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && !said.contains("WARN") && !said.contains("ERROR"), "{said}");
    let mut checked = 0;
    for page in files_below(&book, "html") {
        let html = std::fs::read_to_string(&page).unwrap();
        // mdBook's own page for what is not found has absolute links.
        if page.ends_with("404.html") {
            continue;
        }
        for link in [" href=\"", " src=\""].iter().flat_map(|name| html.split(name).skip(1)).map(|rest| rest.split('"').next().unwrap()) {
            let path = link.split(['#', '?']).next().unwrap();
            if path.is_empty() || link.contains(':') {
                continue;
            }
            let target = page.with_file_name("").join(path);
            let inside = page.with_file_name("").strip_prefix(&book).unwrap().components().count();
            let leaves = path.split('/').filter(|part| *part == "..").count() > inside;
            let target =
                if leaves { root().join("docs").join(page.strip_prefix(&book).unwrap()).with_file_name("").join(path) } else { target };
            assert!(target.exists(), "{}: {link} leads nowhere", page.strip_prefix(&book).unwrap().display());
            checked += 1;
        }
    }
    assert!(checked > 500, "only {checked} links were found");
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
