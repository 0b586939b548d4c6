//! The real binary as a sidecar.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::echo::{free_port, read_all};
use super::wait::eventually;

/// The sidecar's binary, built from what is in the tree, and copied to where every user may run it: of the tests' own profile, or of
/// `SIDEGATE_TEST_PROFILE`.
pub fn sidegate() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| binary("sidegate", "sidegate"))
}

/// The controller's binary, likewise.
pub fn controller() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| binary("sidegate-kube", "sidegate-controller"))
}

fn binary(package: &str, name: &str) -> PathBuf {
    // The tests' own binary lies in TARGET/PROFILE/deps.
    let own = std::env::current_exe().unwrap();
    let mut folder = own.ancestors().nth(2).unwrap().to_owned();
    if let Some(profile) = std::env::var_os("SIDEGATE_TEST_PROFILE") {
        folder.set_file_name(profile);
    }
    let profile = folder.file_name().unwrap().to_str().unwrap();
    let profile = if profile == "debug" { "dev" } else { profile };
    // What `cargo test --workspace` has built is there; built alone, a package gets other features of what it depends on.
    if std::env::var_os("SIDEGATE_TEST_BUILT").is_none() {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package", package, "--bin", name, "--profile", profile]);
        assert!(cargo.status().unwrap().success(), "{name} can't be built");
    }
    let built = folder.join(name);
    // Keyed by its age, so that all test binaries of a run share one copy; those of yesterday go.
    let age = built.metadata().unwrap().modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let prefix = format!("sidegate-test-binary-{name}-{}-", nix::unistd::geteuid());
    let copy = std::env::temp_dir().join(format!("{prefix}{age}"));
    if !copy.exists() {
        for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
            let old = entry.metadata().is_ok_and(|m| m.modified().is_ok_and(|t| t.elapsed().is_ok_and(|age| age.as_secs() > 86_400)));
            if old && entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let new = copy.with_extension(std::process::id().to_string());
        std::fs::copy(&built, &new).unwrap();
        std::fs::rename(&new, &copy).unwrap();
    }
    copy
}

type Ask = dyn Fn(SocketAddr, &str) -> Option<(u16, String)> + Send + Sync;

/// A running sidecar. Dropping it kills it.
pub struct Sidecar {
    child: Child,
    /// Its admin address.
    pub admin: SocketAddr,
    /// Its admin socket, where it has one.
    pub socket: PathBuf,
    records: Arc<Mutex<Vec<Value>>>,
    log: PathBuf,
    /// Where its admin port can be asked: in the pod, or here.
    ask: Box<Ask>,
}

impl Sidecar {
    /// Starts a sidecar on this host with `config`, to which admin port, log format and two workers are added as far as it does not name
    /// its own. `{folder}`, `{name}` and `{admin}`, the admin port, are replaced in it.
    pub fn start(folder: &Path, name: &str, config: &str) -> Self {
        Self::start_with(folder, name, config, &[])
    }

    /// As [`Sidecar::start`], with these variables in its environment.
    pub fn start_with(folder: &Path, name: &str, config: &str, variables: &[(&str, &str)]) -> Self {
        let admin = free_port();
        let spawn = |mut command: Command| command.envs(variables.iter().copied()).spawn().unwrap();
        Self::start_by(folder, name, config, admin, &[], spawn, get)
    }

    /// As [`Sidecar::start`], with an access log that nobody reads.
    pub fn start_unread(folder: &Path, name: &str, config: &str) -> Self {
        Self::start_by(folder, name, config, free_port(), &[], |mut command| command.stdout(Stdio::null()).spawn().unwrap(), get)
    }

    /// As [`Sidecar::start`], `through` other programs, with a way to start the process and to ask its admin port.
    pub fn start_by(
        folder: &Path,
        name: &str,
        config: &str,
        admin: u16,
        through: &[&str],
        spawn: impl FnOnce(Command) -> Child,
        ask: impl Fn(SocketAddr, &str) -> Option<(u16, String)> + Send + Sync + 'static,
    ) -> Self {
        let file = write_config(folder, name, config, admin);
        let log = folder.join(format!("{name}.log"));
        let program: Vec<&OsStr> = through.iter().map(OsStr::new).chain([sidegate().as_os_str()]).collect();
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).args(["run", "--with-parent", "--config"]).arg(&file);
        // Nothing of the environment in which the tests run.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["SPIFFE_", "SIDEGATE_", "OTEL_", "POD_", "NODE_NAME", "CONTAINER_NAME"].iter().any(|ours| text.starts_with(ours)) {
                command.env_remove(&name);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(&log).unwrap());
        let mut child = spawn(command);
        let records = Arc::new(Mutex::new(Vec::new()));
        let sink = records.clone();
        // Not there if nobody wants it.
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let record = serde_json::from_str(&line).unwrap_or_else(|e| panic!("not a record: {line}: {e}"));
                    sink.lock().unwrap().push(record);
                }
            });
        }
        let socket = folder.join(format!("{name}.admin.sock"));
        Self { child, admin: (Ipv4Addr::LOCALHOST, admin).into(), socket, records, log, ask: Box::new(ask) }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a command of sidegate against its admin socket: exit status, standard output, standard error.
    pub fn command(&self, arguments: &[&str]) -> (ExitStatus, String, String) {
        let output = Command::new(sidegate()).args(arguments).arg("--socket").arg(&self.socket).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status, text(output.stdout), text(output.stderr))
    }

    /// CPU time that the process has used, seconds; to a hundredth.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The name, in brackets, may hold anything; user and system time are the 12th and 13th field after it.
        let fields: Vec<f64> = stat.rsplit(") ").next().unwrap_or_default().split(' ').map(|f| f.parse().unwrap_or(0.0)).collect();
        (fields[11] + fields[12]) / 100.0
    }

    /// An answer of its admin port; none while it does not answer.
    pub fn ask(&self, path: &str) -> Option<(u16, String)> {
        (self.ask)(self.admin, path)
    }

    /// Waits until it is ready.
    #[track_caller]
    pub fn wait_ready(&self) -> &Self {
        let mut last = None;
        let end = std::time::Instant::now() + super::wait::DEADLINE;
        loop {
            if let Some((200, _)) = last {
                return self;
            }
            assert!(std::time::Instant::now() < end, "not ready: {last:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
            last = self.ask("/readyz");
        }
    }

    /// The value of a metric, with its labels as they are printed; 0 if it is absent.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = eventually("a scrape", || self.ask("/metrics"));
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// All records so far.
    pub fn records(&self) -> Vec<Value> {
        self.records.lock().unwrap().clone()
    }

    /// Waits for a record.
    #[track_caller]
    pub fn record(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let end = std::time::Instant::now() + super::wait::DEADLINE;
        loop {
            if let Some(record) = self.records.lock().unwrap().iter().find(|r| fits(r)) {
                return record.clone();
            }
            assert!(std::time::Instant::now() < end, "no record of: {what}\n{:#?}\n{}", self.records(), self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until there are at least `count` records.
    #[track_caller]
    pub fn wait_records(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} records"), || Some(self.records()).filter(|records| records.len() >= count))
    }

    /// Waits for a record with this reason.
    #[track_caller]
    pub fn reason(&self, reason: &str) -> Value {
        self.record(reason, |r| r["reason"] == reason)
    }

    /// Makes attempts until one ends for this reason: what is under way while policy or trust change is cut instead.
    #[track_caller]
    pub fn reason_of(&self, reason: &str, mut attempt: impl FnMut()) -> Value {
        eventually(reason, || {
            attempt();
            self.records().into_iter().find(|record| record["reason"] == reason)
        })
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Stops it. The signal only begins that: a thread goes on until the first one has run to see it.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.unwrap().path().join("status")).is_ok_and(|status| status.contains("\nState:\tT"))
        };
        let tasks = format!("/proc/{}/task", self.child.id());
        eventually("a stop", || std::fs::read_dir(&tasks).unwrap().all(is_stopped).then_some(()));
    }

    /// Kills it as the kernel's memory killer would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        eventually("the sidecar's end", || self.child.try_wait().unwrap())
    }

    /// Open descriptors and KiB of memory of its own of the process: the program's text comes and goes.
    pub fn usage(&self) -> (usize, u64) {
        // Its memory is not dumpable, so only root may look; others skip the comparison.
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count);
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let resident = status.lines().find_map(|l| l.strip_prefix("RssAnon:")?.trim().strip_suffix("kB")?.trim().parse().ok());
        (descriptors, resident.unwrap_or(0))
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
        }
        let status = self.child.wait();
        // A sidecar that ended itself by a signal such as SIGABRT or SIGSEGV is a defect wherever it shows.
        let crash = status.is_ok_and(|s| s.signal().is_some_and(|n| n != 9 && n != 15));
        assert!(!crash || std::thread::panicking(), "the sidecar crashed:\n{}", self.log());
    }
}

fn write_config(folder: &Path, name: &str, config: &str, admin: u16) -> PathBuf {
    let file = folder.join(format!("{name}.yaml"));
    // A sidecar that runs as another user can't make a socket in the test's folder.
    let socket =
        if config.contains("exemptUid") { "null".to_owned() } else { folder.join(format!("{name}.admin.sock")).display().to_string() };
    let listen = format!("admin: {{ listen: \"127.0.0.1:{admin}\", socket: {socket} }}\n");
    let listen = if config.contains("admin:") { "" } else { &listen };
    let log = if config.contains("accessLog:") { "" } else { "accessLog: { format: json }\n" };
    let workers = if config.contains("workers:") { "" } else { "workers: 2\n" };
    let common = format!("{listen}{log}{workers}");
    let config = match std::env::var("SIDEGATE_TEST_TUNNEL") {
        // Every test is also run with another mode than the default. Destinations have these keys, and collectors.
        Ok(mode) if !config.contains("tunnel:") => {
            let with = |line: &str| {
                if line.starts_with("telemetry:") {
                    line.to_owned()
                } else {
                    line.replace("spiffeIds:", &format!("tunnel: {mode}, spiffeIds:"))
                }
            };
            config.split_inclusive('\n').map(with).collect()
        }
        _ => config.to_owned(),
    };
    // What each sidecar needs for itself, in a configuration for several.
    let config = config.replace("{folder}", &folder.display().to_string()).replace("{name}", name).replace("{admin}", &admin.to_string());
    std::fs::write(&file, format!("{common}{}", without_sessions_in_advance(&config))).unwrap();
    file
}

/// Sessions that are made in advance come when they come, and have records: what is counted here would change with chance.
fn without_sessions_in_advance(config: &str) -> String {
    match config {
        named if named.contains("warmTunnels:") => named.to_owned(),
        limited if limited.contains("limits: {") => limited.replace("limits: {", "limits: { warmTunnels: 0,"),
        other => format!("{other}limits: {{ warmTunnels: 0 }}\n"),
    }
}

/// A GET on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let (head, body) = ask(address, "GET", path, &[])?;
    Some((head.split(' ').nth(1)?.parse().ok()?, String::from_utf8(body).ok()?))
}

/// A request with headers on a connection of its own: the answer's head and body.
pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Option<(String, Vec<u8>)> {
    use std::io::Write;
    let mut tcp = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    tcp.write_all(format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").as_bytes()).ok()?;
    let answer = read_all(&mut tcp).ok()?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((String::from_utf8(answer[..end].to_vec()).ok()?, answer[end + 4..].to_vec()))
}
