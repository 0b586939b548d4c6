//! Files that a running sidecar reads again: whatever lies where one should be, and however long it takes to read, probes are
//! answered, memory stays, and what was read last stays in force.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use sidegate_tests::{
    Echo, Identities, Sidecar, TRUST_DOMAIN, client_config, echo_bytes, eventually, free_port, id, server_config, sidegate,
};

const HOUR: Duration = Duration::from_secs(3600);
/// How long a kubelet waits for a probe's answer by default.
const PATIENCE: Duration = Duration::from_secs(1);

/// `api`, whose SVID is in files, and `web`, which calls it.
struct World {
    identities: Identities,
    api: Sidecar,
    _web: Sidecar,
    _echo: Echo,
    entry: SocketAddr,
    certificate: PathBuf,
    list: PathBuf,
    denied: PathBuf,
}

impl World {
    fn start() -> Self {
        let (echo, identities) = (Echo::start(), Identities::start(&["web", "api"], HOUR));
        let [entry, port] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let (certificate, key, bundle) = identities.files("api");
        let files =
            format!("files: {{ certificate: '{}', key: '{}', bundle: '{}' }}", certificate.display(), key.display(), bundle.display());
        let source = format!("workloadApi: {{ socket: \"unix://{}\" }}", identities.socket("api").display());
        let config = server_config(&identities, port, echo.address);
        assert!(config.contains(&source));
        let [list, denied] = ["api.crl", "api.denied.yaml"].map(|name| identities.folder().join(name));
        std::fs::write(&list, identities.authority.revocation_lists_pem(TRUST_DOMAIN, &[], HOUR).unwrap()).unwrap();
        std::fs::write(&denied, "denied: []\n").unwrap();
        let revocation = format!(
            "revocation: {{ trustDomains: [{{ trustDomain: {TRUST_DOMAIN}, files: ['{}'] }}], denyLists: ['{}'] }}\n",
            list.display(),
            denied.display()
        );
        let api = Sidecar::start(identities.folder(), "api", &(config.replace(&source, &files) + &revocation));
        let web = Sidecar::start(identities.folder(), "web", &client_config(&identities, entry, port));
        api.wait_ready();
        web.wait_ready();
        Self { identities, api, _web: web, _echo: echo, entry, certificate, list, denied }
    }

    fn policy(&self) -> PathBuf {
        self.identities.folder().join("api.policy.yaml")
    }

    /// A probe, which has its answer in time.
    #[track_caller]
    fn probe(&self) -> Duration {
        let start = Instant::now();
        let answer = self.api.ask("/livez").map(|(status, _)| status);
        assert!(answer == Some(200) && start.elapsed() < PATIENCE, "{answer:?} after {:?}\n{}", start.elapsed(), self.api.log());
        start.elapsed()
    }

    /// Puts what `make` makes in the place of `file`, waits until the log has `said`, and puts back what was there.
    #[track_caller]
    fn with(&self, file: &Path, said: &str, make: impl FnOnce(&Path)) {
        let (before, other) = (std::fs::read(file).unwrap(), file.with_extension("other"));
        let told = || self.api.log().matches(said).count();
        let already = told();
        make(&other);
        std::fs::rename(&other, file).unwrap();
        eventually(said, || {
            self.probe();
            (told() > already).then_some(())
        });
        let (_, resident) = self.api.usage();
        assert!(resident < 64 * 1024, "{resident} KiB");
        // What was read before is in force.
        echo_bytes(self.entry, 1000, 1).unwrap();
        std::fs::write(&other, before).unwrap();
        std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::rename(&other, file).unwrap();
        self.probe();
    }
}

#[test]
fn what_is_no_file_stops_no_probe_and_takes_no_memory() {
    let world = World::start();
    let pipe = |path: &Path| nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
    let device = |path: &Path| symlink("/dev/zero", path).unwrap();
    let huge = |path: &Path| std::fs::File::create(path).unwrap().set_len(1 << 36).unwrap();
    let policy = world.policy();
    for file in [&policy, &world.certificate, &world.list, &world.denied] {
        let name = file.file_name().unwrap().to_str().unwrap();
        world.with(file, &format!("{name} can't be read: it is no regular file"), pipe);
        world.with(file, &format!("{name} can't be read: it has more than"), huge);
        world.with(file, &format!("{name} can't be read: it is no regular file"), device);
    }
}

/// The same at the start: an error that says so, at once.
#[test]
fn a_start_with_what_is_no_file_is_an_error() {
    let identities = Identities::start(&["api"], HOUR);
    let config = server_config(&identities, ([127, 0, 0, 1], free_port()).into(), ([127, 0, 0, 1], 1).into());
    let file = identities.folder().join("start.yaml");
    std::fs::write(&file, config).unwrap();
    let fails = |path: &Path, what: &str| {
        for command in ["run", "check"] {
            let mut child = Command::new(sidegate()).args([command, "--config"]).arg(path).stderr(Stdio::piped()).spawn().unwrap();
            let status = eventually("its end", || child.try_wait().unwrap());
            let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
            assert!(!status.success() && said.contains(what), "{said}");
        }
    };
    let policy = identities.folder().join("api.policy.yaml");
    std::fs::remove_file(&policy).unwrap();
    nix::unistd::mkfifo(&policy, Mode::S_IRWXU).unwrap();
    fails(&file, "api.policy.yaml can't be read: it is no regular file");
    fails(&policy, "can't be read: it is no regular file");
    fails(Path::new("/dev/zero"), "can't be read: it is no regular file");
}

/// Rules of a large mesh: while they are read and compiled, probes have their answers and connections go on.
#[test]
fn fifty_thousand_rules_are_loaded_without_a_pause() {
    let world = World::start();
    let mut text = format!("rules:\n- {{ name: web, action: allow, from: {{ spiffeIds: ['{}'] }} }}\n", id("web"));
    for n in 0..50_000 {
        text +=
            &format!("- {{ name: r{n}, action: allow, from: {{ spiffeIds: ['{}'] }}, to: {{ ports: [8080] }} }}\n", id(&format!("w{n}")));
    }
    let (policy, new) = (world.policy(), world.policy().with_extension("new"));
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, &policy).unwrap();
    let mut took = Vec::new();
    eventually("the reload", || {
        took.push(world.probe());
        world.api.log().contains("\"rules\":50001").then_some(())
    });
    took.sort_unstable();
    assert!(took[took.len() / 2] < Duration::from_millis(100), "{took:?}");
    echo_bytes(world.entry, 1000, 1).unwrap();
}
