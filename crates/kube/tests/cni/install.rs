//! The installer, as it runs on a node.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::node::PLUGIN;

/// The folders of a node, and what the kubelet mounts into the installer's container.
struct Folders {
    root: TempDir,
}

/// An installer that runs. It is ended with the test.
struct Installer(Child);

impl Drop for Installer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Folders {
    fn new() -> Self {
        let folders = Self { root: tempfile::tempdir().unwrap() };
        for folder in ["bin", "net.d"] {
            std::fs::create_dir(folders.path(folder)).unwrap();
        }
        folders.write("ca.crt", "a certificate");
        folders.write("token", "first");
        folders
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// As kubelets and other plugins write files: by renaming.
    fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    fn command(&self, command: &str) -> Command {
        let mut process = Command::new(PLUGIN);
        process.arg(command).args(["--api-server", "https://10.96.0.1:443"]);
        for (option, name) in [("--bin-dir", "bin"), ("--conf-dir", "net.d"), ("--ca-file", "ca.crt"), ("--token-file", "token")] {
            process.arg(option).arg(self.path(name));
        }
        process
    }

    fn run(&self, command: &str, arguments: &[&str]) -> (bool, String) {
        let Output { status, stderr, .. } = self.command(command).args(arguments).output().unwrap();
        (status.success(), String::from_utf8(stderr).unwrap())
    }

    fn install(&self) -> Installer {
        Installer(self.command("install").stderr(Stdio::piped()).spawn().unwrap())
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap_or_default()).unwrap_or_default()
    }

    /// The types of the plugins in a list.
    fn plugins(&self, name: &str) -> Vec<String> {
        let list = self.json(name);
        list["plugins"].as_array().into_iter().flatten().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }

    #[track_caller]
    fn eventually(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !is_so(self) {
            assert!(Instant::now() < end, "not in time: {what}; {}", self.run("check", &[]).1);
            std::thread::yield_now();
        }
    }

    fn is_complete(&self) -> bool {
        self.run("check", &[]).0
    }
}

fn list(of: &str) -> Value {
    json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [{ "type": of, "mtu": 1450 }, { "type": "portmap", "capabilities": { "portMappings": true } }] })
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn the_plugin_is_put_in_place_and_stays_when_the_installer_ends() {
    let folders = Folders::new();
    folders.write("net.d/10-calico.conflist", &list("calico").to_string());
    folders.write("net.d/20-other.conflist", &list("other").to_string());
    std::fs::set_permissions(folders.path("net.d/10-calico.conflist"), PermissionsExt::from_mode(0o600)).unwrap();
    let (is_complete, why) = folders.run("check", &[]);
    assert!(
        !is_complete && why.contains("10-calico.conflist does not have the plugin") && why.contains("bin/sidegate-cni is not there"),
        "{why}"
    );
    let mut installer = folders.install();
    folders.eventually("all is in place", Folders::is_complete);
    assert_eq!(folders.plugins("net.d/10-calico.conflist"), ["calico", "portmap", "sidegate-cni"]);
    assert_eq!(folders.json("net.d/20-other.conflist"), list("other"), "the runtime takes the first one only");
    let mut before = folders.json("net.d/10-calico.conflist");
    let entry = before["plugins"].as_array_mut().unwrap().pop().unwrap();
    assert_eq!(before, list("calico"));
    let folder = folders.path("net.d/sidegate-cni.d");
    assert_eq!(
        entry,
        json!({
            "type": "sidegate-cni", "apiServer": "https://10.96.0.1:443", "caFile": folder.join("ca.crt"), "tokenFile": folder.join("token"),
            "excludeNamespaces": ["kube-system", "sidegate-system", "sidegate-cni"], "timeout": "30s"
        })
    );
    let modes = ["net.d/sidegate-cni.d", "net.d/sidegate-cni.d/token", "net.d/sidegate-cni.d/ca.crt", "bin/sidegate-cni"];
    assert_eq!(modes.map(|name| mode(&folders.path(name))), [0o700, 0o600, 0o600, 0o755]);
    assert_eq!(mode(&folders.path("net.d/10-calico.conflist")), 0o600, "who may read it is its owner's decision");
    assert!(std::fs::read(folders.path("bin/sidegate-cni")).unwrap() == std::fs::read(PLUGIN).unwrap());
    // What is in place is not written again.
    let inode = |name: &str| std::fs::metadata(folders.path(name)).unwrap().ino();
    let inodes = modes.map(inode);
    // The end of the installer is no end of the plugin.
    kill(Pid::from_raw(installer.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert!(installer.0.wait().unwrap().success());
    assert!(folders.is_complete());
    let again = folders.install();
    folders.write("token", "second");
    folders.eventually("the new token", |folders| {
        std::fs::read(folders.path("net.d/sidegate-cni.d/token")).is_ok_and(|token| token == b"second")
    });
    assert_eq!((inode(modes[0]), inode(modes[2]), inode(modes[3])), (inodes[0], inodes[2], inodes[3]));
    drop(again);
    let left: Vec<_> = ["net.d", "bin"].iter().flat_map(|folder| std::fs::read_dir(folders.path(folder)).unwrap()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn what_others_change_is_repaired() {
    let folders = Folders::new();
    folders.write("net.d/10-calico.conflist", &list("calico").to_string());
    let _installer = folders.install();
    folders.eventually("all is in place", Folders::is_complete);
    // The other plugin writes its configuration again, by renaming and in place.
    folders.write("net.d/10-calico.conflist", &list("calico-2").to_string());
    folders.eventually("repaired", |folders| folders.plugins("net.d/10-calico.conflist") == ["calico-2", "portmap", "sidegate-cni"]);
    std::fs::write(folders.path("net.d/10-calico.conflist"), list("calico-3").to_string()).unwrap();
    folders.eventually("repaired", |folders| folders.plugins("net.d/10-calico.conflist") == ["calico-3", "portmap", "sidegate-cni"]);
    // Another network comes first.
    folders.write("net.d/05-cilium.conflist", &list("cilium").to_string());
    folders.eventually("the first one", |folders| folders.plugins("net.d/05-cilium.conflist") == ["cilium", "portmap", "sidegate-cni"]);
    // Its own files are changed, or gone.
    for name in ["bin/sidegate-cni", "net.d/sidegate-cni.d/token"] {
        folders.write(name, "something else");
        folders.eventually(name, Folders::is_complete);
        std::fs::remove_file(folders.path(name)).unwrap();
        folders.eventually(name, Folders::is_complete);
    }
    std::fs::remove_dir_all(folders.path("net.d/sidegate-cni.d")).unwrap();
    folders.eventually("credentials", Folders::is_complete);
}

#[test]
fn a_network_that_comes_later_is_waited_for() {
    let folders = Folders::new();
    folders.write("net.d/00-broken.conflist", "{ \"plugins\": [");
    let _installer = folders.install();
    folders.eventually("the binary", |folders| folders.run("check", &[]).1.contains("net.d has no network configuration yet"));
    assert_eq!(
        std::fs::read_to_string(folders.path("net.d/00-broken.conflist")).unwrap(),
        "{ \"plugins\": [",
        "its owner may be writing it"
    );
    folders.write("net.d/10-a.conflist", &list("a").to_string());
    folders.eventually("the network", Folders::is_complete);
    folders.write("net.d/00-broken.conflist", &list("whole").to_string());
    folders.eventually("the first one", |folders| folders.plugins("net.d/00-broken.conflist") == ["whole", "portmap", "sidegate-cni"]);
}

#[test]
fn a_single_plugin_becomes_a_list_and_comes_back() {
    let folders = Folders::new();
    let single = |mtu: u32| json!({ "cniVersion": "0.3.1", "name": "pods", "type": "bridge", "mtu": mtu });
    folders.write("net.d/10-bridge.conf", &single(1400).to_string());
    std::fs::set_permissions(folders.path("net.d/10-bridge.conf"), PermissionsExt::from_mode(0o600)).unwrap();
    let installer = folders.install();
    folders.eventually("all is in place", Folders::is_complete);
    let of = |mtu: u32| move |folders: &Folders| folders.json("net.d/10-bridge.conflist")["plugins"][0] == single(mtu);
    assert!(of(1400)(&folders) && !folders.path("net.d/10-bridge.conf").exists());
    assert_eq!(folders.plugins("net.d/10-bridge.conflist"), ["bridge", "sidegate-cni"]);
    assert_eq!(mode(&folders.path("net.d/10-bridge.conflist")), 0o600);
    // Its owner knows nothing of that.
    folders.write("net.d/10-bridge.conf", &single(1500).to_string());
    folders.eventually("the new one", of(1500));
    folders.eventually("all is in place", Folders::is_complete);
    drop(installer);
    let (done, text) = folders.run("uninstall", &[]);
    assert!(done, "{text}");
    assert_eq!(folders.json("net.d/10-bridge.conf"), single(1500));
    assert!(!folders.path("net.d/10-bridge.conflist").exists());
}

#[test]
fn the_removal_takes_the_plugin_away_and_nothing_else() {
    let folders = Folders::new();
    folders.write("net.d/10-a.conflist", &list("a").to_string());
    let first = folders.install();
    folders.eventually("all is in place", Folders::is_complete);
    folders.write("net.d/05-b.conflist", &list("b").to_string());
    folders.eventually("all is in place", Folders::is_complete);
    drop(first);
    let (done, text) = folders.run("uninstall", &[]);
    assert!(done && text.contains("10-a.conflist") && text.contains("05-b.conflist"), "{text}");
    assert_eq!((folders.json("net.d/10-a.conflist"), folders.json("net.d/05-b.conflist")), (list("a"), list("b")));
    assert!(!folders.path("net.d/sidegate-cni.d").exists());
    assert!(folders.path("bin/sidegate-cni").exists(), "runtimes call it when pods end");
    assert!(folders.run("uninstall", &["--binary"]).0);
    assert!(!folders.path("bin/sidegate-cni").exists());
    assert_eq!(folders.run("uninstall", &["--binary"]), (true, String::new()));
}

/// Another plugin that writes its configuration all the time loses nothing, and has the plugin in it at the end.
#[test]
fn two_who_write_the_same_file_lose_nothing() {
    let folders = Folders::new();
    folders.write("net.d/10-a.conflist", &list("0").to_string());
    let _installers = [folders.install(), folders.install()];
    for count in 1..300 {
        folders.write("net.d/10-a.conflist", &list(&count.to_string()).to_string());
        // A runtime reads at any time, and finds a whole list.
        let found = folders.plugins("net.d/10-a.conflist");
        assert!(found.len() >= 2 && found[1] == "portmap", "{found:?}");
    }
    folders.eventually("the last one", |folders| folders.plugins("net.d/10-a.conflist") == ["299", "portmap", "sidegate-cni"]);
}

#[test]
fn what_can_not_be_repaired_ends_the_installer() {
    let folders = Folders::new();
    let ends = |part: &str| {
        let mut installer = folders.install();
        assert!(!installer.0.wait().unwrap().success(), "{part}");
        let mut text = String::new();
        installer.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(text.contains(part), "{part}: {text}");
    };
    std::fs::remove_file(folders.path("token")).unwrap();
    ends("/token: No such file");
    folders.write("token", "t");
    folders.write("net.d/10-old.conf", r#"{ "cniVersion": "0.2.0", "name": "n", "type": "bridge" }"#);
    ends("has cniVersion 0.2.0");
    folders.write("net.d/10-old.conf", r#"{ "cniVersion": "0.3.1", "name": "n", "type": "bridge" }"#);
    folders.write("net.d/10-old.conflist", &list("another").to_string());
    ends("10-old.conflist is in the way");
    std::fs::remove_dir_all(folders.path("bin")).unwrap();
    ends("bin/sidegate-cni: No such file");
    let output = Command::new(PLUGIN).args(["check", "--api-server", "http://10.96.0.1"]).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("it has to be https"));
}

/// The manifest gives the installer the folders, the rights and the program that it needs, and the page names its options.
#[test]
fn manifest_and_page_are_true() {
    let read = |path: &str| std::fs::read_to_string(format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let manifest: Vec<Value> = serde_saphyr::from_multiple(&read("deploy/kubernetes/cni.yaml")).unwrap();
    let of_kind = |kind: &str| manifest.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"));
    let set: k8s_openapi::api::apps::v1::DaemonSet = serde_json::from_value(of_kind("DaemonSet").clone()).unwrap();
    let pod = set.spec.template.spec.unwrap();
    let container = &pod.containers[0];
    assert_eq!(container.command.as_ref().unwrap().join(" "), "sidegate-cni install");
    assert_eq!(
        container.readiness_probe.as_ref().unwrap().exec.as_ref().unwrap().command.as_ref().unwrap().join(" "),
        "sidegate-cni check"
    );
    let help = Command::new(PLUGIN).args(["install", "--help"]).env("KUBERNETES_SERVICE_HOST", "").output().unwrap();
    // Lines are as wide as a terminal.
    let help = String::from_utf8(help.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    // Each folder by the same path as on the node, which is the default of its option.
    for (mount, volume) in container.volume_mounts.as_ref().unwrap().iter().zip(pod.volumes.as_ref().unwrap()) {
        assert_eq!((&mount.name, &mount.mount_path), (&volume.name, &volume.host_path.as_ref().unwrap().path));
        assert!(help.contains(&format!("[default: {}]", mount.mount_path)), "{help}");
    }
    assert!(container.security_context.as_ref().unwrap().run_as_user == Some(0) && pod.host_network == Some(true));
    assert_eq!(of_kind("ClusterRole")["rules"], json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }]));
    let (role, account) = (of_kind("ClusterRoleBinding"), of_kind("ServiceAccount"));
    assert_eq!(
        (&role["roleRef"]["name"], &role["subjects"][0]["name"]),
        (&of_kind("ClusterRole")["metadata"]["name"], &account["metadata"]["name"])
    );
    assert_eq!(pod.service_account_name.as_deref(), account["metadata"]["name"].as_str());
    let image = read("deploy/docker/controller.Dockerfile");
    assert!(
        image.contains(&format!("--tag {} .\n", container.image.as_ref().unwrap())) && image.contains("/sidegate-cni /usr/local/bin/"),
        "{image}"
    );

    let page = read("docs/how-to/cni.md");
    let options = |text: &str| -> std::collections::BTreeSet<String> {
        let words =
            text.split(|c: char| c.is_whitespace() || "`,".contains(c)).filter(|word| word.starts_with("--") && !word.starts_with("---"));
        words.map(str::to_owned).filter(|word| word != "--help").collect()
    };
    let table = page.split("| option | default | meaning |").nth(1).unwrap().split("\n\n").next().unwrap();
    assert_eq!(options(table), options(&help));
}
