//! The command line and the configuration, as people meet them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sidegate_tests::sidegate;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (bool, String, String) {
    let mut command = Command::new(sidegate());
    command.args(arguments).env_remove("SPIFFE_ENDPOINT_SOCKET");
    command.envs(variables.iter().copied());
    text(&command.output().unwrap())
}

fn text(output: &Output) -> (bool, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

fn check(config: &str, variables: &[(&str, &str)]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.yaml");
    std::fs::write(&file, config).unwrap();
    let (good, _, errors) = run(&["check", "--config", file.to_str().unwrap()], variables);
    (good, errors.replace(&format!("{}/", folder.path().display()), ""))
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_place() {
    let (good, errors) = check(
        "profile: prod\nidentity:\n  sources:\n    - workloadApi: { socket: 'tcp://10.0.0.1:8081' }\ninbound:\n  ports:\n    - port: 99999\n      mode: open\n    - prot: 80\nadmin: { listen: localhost }\nlimits: { connections: 0, handshakes: many }\ntimeouts: { dial: 5 }\nextra: 1\n",
        &[],
    );
    assert!(!good);
    for line in [
        "c.yaml:1:10: profile: `prod` is not known; use production, development",
        "c.yaml:4:30: identity.sources[0].workloadApi.socket: `tcp://10.0.0.1:8081`: 10.0.0.1:8081 is not on loopback",
        "c.yaml:7:13: inbound.ports[0].port: `99999` is not a port or range",
        "c.yaml:8:13: inbound.ports[0].mode: `open` is not known; use strict, permissive, plaintext",
        "c.yaml:9:7: inbound.ports[1].prot: unknown key; did you mean `port`?",
        "inbound.ports[1]: `port` is missing; add it",
        "c.yaml:10:18: admin.listen: `localhost` is not an address and port",
        "limits.connections: 0 is too small; the least is 1",
        "limits.handshakes: expected a whole number, found `many`",
        "timeouts.dial: `5` is not a duration",
        "c.yaml:13:1: extra: unknown key",
    ] {
        assert!(errors.contains(line), "{line}\n---\n{errors}");
    }
}

#[test]
fn production_refuses_each_with_its_own_message() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    std::fs::write(&key, "").unwrap();
    let source = format!("identity: {{ sources: [{{ files: {{ certificate: c, key: '{}', bundle: b }} }}] }}\n", key.display());
    let policy = folder.path().join("p.yaml");
    std::fs::write(&policy, "rules:\n  - name: all\n    action: allow\n").unwrap();
    for (config, says) in [
        (
            "inbound: { ports: [{ port: 80, mode: permissive }] }\n".to_owned(),
            "port 80 is permissive: profile `production` wants the why in `reason`",
        ),
        ("inbound: { ports: [{ port: 80, mode: plaintext, reason: ' ' }] }\n".to_owned(), "port 80 is plaintext: profile `production`"),
        ("inbound: { defaultMode: permissive }\n".to_owned(), "every other port is permissive: profile `production`"),
        ("outbound: { otherwise: passthrough }\n".to_owned(), "what is not in the mesh goes out in plaintext: profile `production`"),
        (source.clone(), "can be read by others (mode 0644); profile `production` refuses that: chmod 0600"),
        (
            format!("policy: {{ files: ['{}'] }}\n", policy.display()),
            "allows every peer of every trust domain; profile `production` refuses that",
        ),
    ] {
        let (good, errors) = check(&config, &[]);
        assert!(!good && errors.contains(says), "{config}{errors}");
        let (good, errors) = check(&format!("profile: development\n{config}"), &[]);
        assert!(good, "{config}{errors}");
    }
    let (good, errors) = check("inbound: { ports: [{ port: 80, mode: permissive, reason: 'until the batch jobs have sidecars' }] }\n", &[]);
    assert!(good, "{errors}");
    let (good, _, errors) = run(&["authority", "--profile", "production", "--config", "x"], &[]);
    assert!(!good && errors.contains("profile `production` refuses the embedded authority"), "{errors}");
}

#[test]
fn values_that_contradict_each_other_are_reported() {
    for (config, says) in [
        ("outbound: { listen: '0.0.0.0:15001' }\n", "is not on loopback; from elsewhere anybody could use our identity"),
        ("inbound: { listen: '[::]:15001' }\n", "port 15001 is already taken by"),
        ("inbound: { ports: [{ port: 80-90 }, { port: 85 }] }\n", "85 overlaps with `inbound.ports[0]`"),
        ("outbound: { destinations: [{ name: a }, { name: a }] }\n", "`a` is already the name of `outbound.destinations[0]`"),
        ("identity: { sources: [{}] }\n", "exactly one of `workloadApi` and `files`"),
        ("timeouts: { handshake: 0s }\n", "must be between 1ms and 168h: every wait has a deadline"),
        ("timeouts: { keepalive: 500ms }\n", "timeouts.keepalive: must be between 1s and"),
        ("timeouts: { detect: 2m }\n", "must be shorter than `timeouts.silent`"),
        ("redirect: { exemptUid: 4294967296 }\n", "redirect.exemptUid: 4294967296 is too large; the most is 4294967295"),
        ("outbound: { listeners: [{ name: a, listen: '127.0.0.1:1', to: 'x:80', alpn: [''] }] }\n", "a protocol's name has 1 to 255 bytes"),
        ("outbound: { listeners: [{ name: a, listen: '127.0.0.1:1', to: '-x:80' }] }\n", "`-x:80` is not a host and port"),
        ("outbound: { destinations: [{ name: a, sni: '-a.b' }] }\n", "`-a.b` is not a DNS name"),
        ("redirect: { exemptUid: 1, exemptMark: 2 }\n", "set either `exemptUid` or `exemptMark`"),
    ] {
        let (good, errors) = check(config, &[]);
        assert!(!good && errors.contains(says), "{config}{errors}");
    }
}

#[test]
fn a_list_that_is_too_long_is_reported_with_its_place() {
    let config = format!("profile: development\ninbound:\n  ports: [{}]\n", "{ port: 80 }, ".repeat(1001));
    let (good, errors) = check(&config, &[]);
    assert!(!good && errors.contains(":3:10: inbound.ports: has 1001 entries, 1000 are the most"), "{errors}");
}

#[test]
fn the_environment_overrides_keys_and_is_checked_too() {
    let (good, errors) = check("admin: { listen: bad }\n", &[("SIDEGATE__ADMIN__LISTEN", "127.0.0.1:9000")]);
    assert!(good, "{errors}");
    let (good, errors) = check("", &[("SIDEGATE__ADMIN__LISTEN", "null")]);
    assert!(good, "{errors}");
    let (good, errors) = check("", &[("SIDEGATE__INBOUND__DEFAULT_MODE", "open"), ("SIDEGATE__NO__SUCH", "1")]);
    assert!(!good);
    assert!(errors.contains("environment variable SIDEGATE__INBOUND__DEFAULT_MODE: inbound.defaultMode: `open` is not known"), "{errors}");
    assert!(errors.contains("environment variable SIDEGATE__NO__SUCH: names no key"), "{errors}");
}

#[test]
fn what_is_printed_is_a_configuration_again() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
    std::fs::write(
        &first,
        "inbound: { ports: [{ port: 8080, alpn: [h2, http/1.1] }] }\nredirect: { dnsResolvers: [10.96.0.10], exemptUid: 5 }\n",
    )
    .unwrap();
    let print = |file: &Path| run(&["check", "--print-config", "--config", file.to_str().unwrap()], &[]);
    let (good, printed, errors) = print(&first);
    assert!(good && printed.contains("handshake: \"10s\"") && printed.contains("- h2") | printed.contains("- \"h2\""), "{printed}{errors}");
    std::fs::write(&second, &printed).unwrap();
    assert_eq!(print(&second), (true, printed, errors.replace("a.yaml", "b.yaml")));
}

/// Wherever a command is started, a file means the same; a variable of the environment is relative to where it is started.
#[test]
fn paths_of_a_configuration_begin_at_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["etc/policy", "elsewhere"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    let config = "policy: { files: [policy, more.yaml] }\nadmin: { socket: admin.sock }\naudit: { file: { folder: log } }\n";
    std::fs::write(at("etc/sidegate.yaml"), config).unwrap();
    let rule = |name: &str| format!("rules: [{{ name: {name}, action: allow, from: {{ spiffeIds: ['spiffe://a.b/{name}'] }} }}]\n");
    std::fs::write(at("etc/policy/a.yaml"), rule("a")).unwrap();
    let from = |folder: &str, arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(sidegate());
        command.args(arguments).current_dir(at(folder)).envs(variables.iter().copied());
        text(&command.output().unwrap())
    };
    let check = ["check", "--config", "../etc/sidegate.yaml", "--print-config"];
    let (good, _, errors) = from("elsewhere", &check, &[]);
    let missing = format!("{}/elsewhere/../etc/more.yaml can't be read", folder.path().display());
    assert!(!good && errors.contains(&missing), "{errors}");
    std::fs::write(at("etc/more.yaml"), rule("b")).unwrap();
    for command in [&check[..], &["run", "--config", "../etc/sidegate.yaml", "--print-config"]] {
        let (good, printed, errors) = from("elsewhere", command, &[("SIDEGATE__AUDIT__CHECKPOINT__KEY", "sign.pem")]);
        assert!(good, "{errors}");
        for path in ["../etc/policy", "../etc/more.yaml", "../etc/admin.sock", "../etc/log", "sign.pem"] {
            assert!(printed.contains(&format!("{}/elsewhere/{path}", folder.path().display())), "{path}\n{printed}");
        }
    }
    let (good, _, errors) = from("etc", &["check", "--config", "sidegate.yaml"], &[]);
    assert!(good, "{errors}");
    // The authority's sockets, too.
    let authority = "sockets: [run/a.sock]\ntrustDomains: [{ name: a.b }]\nentries: [{ spiffeId: 'spiffe://a.b/x', socket: run/b.sock }]\n";
    std::fs::write(at("etc/authority.yaml"), authority).unwrap();
    let (good, _, errors) = from("elsewhere", &["authority", "--config", "../etc/authority.yaml"], &[]);
    let place = format!("{}/elsewhere/../etc/run/b.sock", folder.path().display());
    assert!(!good && errors.contains(&place), "{errors}");
}

#[test]
fn the_rules_can_be_read_without_privilege() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.yaml");
    std::fs::write(&file, "redirect: { exemptUid: 4242, dnsResolvers: [10.96.0.10], outbound: { excludeCidrs: [169.254.0.0/16] } }\n")
        .unwrap();
    let (good, rules, errors) = run(&["redirect", "show", "--config", file.to_str().unwrap()], &[]);
    assert!(good, "{errors}");
    for part in ["table inet sidegate", "meta skuid 4242", "redirect to :15001", "redirect to :15006", "169.254.0.0/16", "10.96.0.10"] {
        assert!(rules.contains(part), "{part}\n{rules}");
    }
}

#[test]
fn help_and_version_say_what_they_should() {
    let (good, version, _) = run(&["--version"], &[]);
    assert!(good && version.contains("commit ") && version.contains("rustc "), "{version}");
    let (good, help, _) = run(&["--help"], &[]);
    assert!(good);
    for command in ["run", "check", "wait", "redirect", "authority", "demo", "schema"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
    }
}

/// The schemas and the reference in the repository are what the code says. `UPDATE=1 cargo test` rewrites them.
#[test]
fn generated_documents_are_current() {
    for (arguments, file) in [
        (&["schema", "config"][..], "deploy/schema/config.json"),
        (&["schema", "policy"], "deploy/schema/policy.json"),
        (&["schema", "deny-list"], "deploy/schema/deny-list.json"),
        (&["schema", "policy-test"], "deploy/schema/policy-test.json"),
        (&["schema", "authority"], "deploy/schema/authority.json"),
        (&["schema", "audit"], "deploy/schema/audit.json"),
        (&["reference", "config"], "docs/reference.md"),
        (&["reference", "telemetry"], "docs/telemetry.md"),
    ] {
        let (good, current, errors) = run(arguments, &[]);
        assert!(good, "{errors}");
        let path = root().join(file);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &current).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == current, "{file} is stale; run UPDATE=1 cargo test -p sidegate-tests --test command_line");
    }
}
