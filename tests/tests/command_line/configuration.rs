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

/// A view that keeps an attribute by a wrong name would keep nothing of it.
#[test]
fn views_keep_attributes_that_exist() {
    let config = |attributes: &str| {
        format!(
            "profile: development\nadmin: {{ listen: 'off' }}\ntelemetry:\n  metrics:\n    views:\n      - instrument: sidegate.bytes\n        attributes: {attributes}\n"
        )
    };
    let (good, errors) = check(&config("[sidegate.direction, flow]"), &[]);
    let line = "c.yaml:7:42: telemetry.metrics.views[0].attributes[1]: `flow` is no attribute of `sidegate.bytes`; it has `sidegate.direction`, `sidegate.flow`";
    assert!(!good && errors.contains(line), "{errors}");
    let (_, errors) = check(&config("[sidegate.direction, sidegate.flow]"), &[]);
    assert!(!errors.contains("attributes"), "{errors}");
}

/// Shape, sense, policy, conditions, files: no mistake waits for another to be fixed, `run` refuses with the very same list.
#[test]
fn no_mistake_hides_another() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    put(
        "c.yaml",
        "limits: { connections: many }
inbound: { ports: [{ port: 80, mode: permissive }] }
drain: {}
drain: {}
policy: { files: [a.yaml, gone.yaml, b.yaml] }
revocation: { denyLists: [no-list.yaml, deny.yaml], trustDomains: [{ trustDomain: a.b, files: [gone.crl] }] }
audit: { file: { folder: c.yaml/log }, checkpoint: { key: gone.pem } }
admin: { socket: no/such/admin.sock }
",
    );
    put("deny.yaml", "denied: [{}]\n");
    put(
        "a.yaml",
        "rules:
  - { name: a, action: allow, from: { spiffeIds: ['spiffe://a.b/x'] }, whn: x }
  - { name: b, action: deny, when: peer.nam == 'x' }
  - { name: b, action: maybe, when: 1 + }
  - { name: c, action: allow }
",
    );
    put("b.yaml", "rules: [{ name: a, action: deny }, { name: d, name: e, action: deny }]\n");
    let mut said = Vec::new();
    for command in ["check", "run"] {
        let output = Command::new(sidegate()).args([command, "--config"]).arg(folder.path().join("c.yaml")).output().unwrap();
        let errors = text(&output).2.replace(&format!("{}/", folder.path().display()), "");
        assert_eq!(output.status.code(), Some(if command == "check" { 2 } else { 1 }), "{errors}");
        let mut lines: Vec<String> = errors.lines().skip(1).map(str::to_owned).collect();
        lines.sort();
        said.push(lines);
    }
    assert_eq!(said[0], said[1]);
    let wanted = [
        "a.yaml:2:72: rules[0].whn: unknown key; did you mean `when`?",
        "a.yaml:3:36: rules[1].when: `peer` has no `nam`",
        "a.yaml:4:24: rules[2].action: `maybe` is not known; use allow, deny, audit",
        "a.yaml:4:5: rules[2]: the name `b` is taken by the rule at a.yaml:3:5",
        "a.yaml:4:37: rules[2].when: is not CEL",
        "a.yaml:5:5: rules[3]: allows every peer of every trust domain; profile `production` refuses that",
        "b.yaml:1:9: rules[0]: the name `a` is taken by the rule at a.yaml:2:5",
        "b.yaml:1:47: `name` is given twice",
        "c.yaml:1:24: limits.connections: expected a whole number, found `many`",
        "c.yaml:2:38: inbound.ports[0].mode: port 80 is permissive: profile `production` wants the why in `reason`",
        "c.yaml:4:1: `drain` is given twice, first on line 3; remove one",
        "c.yaml:5:27: policy.files[1]: policy file gone.yaml can't be read: No such file",
        "c.yaml:6:27: revocation.denyLists[0]: no-list.yaml can't be read: No such file",
        "c.yaml:6:96: revocation.trustDomains[0].files[0]: gone.crl can't be read: No such file",
        "c.yaml:7:26: audit.file.folder: c.yaml is no folder",
        "c.yaml:7:59: audit.checkpoint.key: gone.pem holds no PEM private key, or can't be read",
        "c.yaml:8:18: admin.socket: there is no folder no; make it, or name another",
        "deny.yaml:1:10: denied[0]: names nobody",
    ];
    for line in wanted {
        assert_eq!(said[0].iter().filter(|said| said.starts_with(line)).count(), 1, "{line}\n{}", said[0].join("\n"));
    }
    assert_eq!(said[0].len(), wanted.len(), "{}", said[0].join("\n"));
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
        // A policy for everybody is still worth a look.
        assert!(good != config.starts_with("policy") && errors.contains(" profile development; "), "{config}{errors}");
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
    let key = Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(at("elsewhere/sign.pem")).output().unwrap();
    assert!(key.status.success(), "{key:?}");
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

/// Scripts that shells accept, and a man page for each command that `--help` lists.
#[test]
fn completions_and_man_pages_are_made_of_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    for (shell, part) in [("bash", "complete -F _sidegate"), ("zsh", "#compdef sidegate"), ("fish", "complete -c sidegate")] {
        let (good, script, errors) = run(&["completions", shell], &[]);
        assert!(good && script.contains(part) && script.contains("log-filter"), "{shell}: {errors}");
        if shell == "bash" {
            let file = folder.path().join("completions");
            std::fs::write(&file, script).unwrap();
            assert!(Command::new("bash").arg("-n").arg(&file).status().unwrap().success());
        }
    }
    let pages = folder.path().join("man");
    std::fs::create_dir(&pages).unwrap();
    let (good, _, errors) = run(&["man", pages.to_str().unwrap()], &[]);
    assert!(good, "{errors}");
    let (_, help, _) = run(&["--help"], &[]);
    let commands = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| !line.is_empty());
    let mut found = 0;
    for command in
        commands.filter(|line| line.starts_with("  ") && !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next())
    {
        if command != "help" {
            let page = std::fs::read_to_string(pages.join(format!("sidegate-{command}.1"))).unwrap_or_else(|e| panic!("{command}: {e}"));
            assert!(page.contains(".SH SYNOPSIS"), "{page}");
            found += 1;
        }
    }
    assert!(found > 15, "{help}");
    let (good, _, errors) = run(&["man", folder.path().join("none").to_str().unwrap()], &[]);
    assert!(!good && errors.contains("the man pages can't be written"), "{errors}");
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
        (&["schema", "access-log"], "deploy/schema/access-log.json"),
        (&["schema", "connections"], "deploy/schema/connections.json"),
        (&["schema", "status"], "deploy/schema/status.json"),
        (&["reference", "config"], "docs/reference/configuration.md"),
        (&["reference", "telemetry"], "docs/reference/telemetry.md"),
        (&["reference", "command-line"], "docs/reference/command-line.md"),
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
