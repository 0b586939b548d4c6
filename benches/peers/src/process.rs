//! Programs as processes of the rig: started in a pod, measured, ended.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;
use sidegate_devkit::pods::Pod;

use crate::wait;

/// How long a program may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much of a program's log an error shows.
const TAIL: usize = 2_000;

/// A running program. Dropping it ends it, and so does the end of the rig, however that comes about.
pub(crate) struct Guest {
    child: Child,
    log: PathBuf,
}

impl Guest {
    /// Starts it in a pod, as a user other than root if one is given. What it writes goes to a file `NAME.log` (standard
    /// error) and `NAME.out` in the folder's folder `logs`: not beside its configuration, which it may watch.
    pub(crate) fn start(pod: &Pod, folder: &Path, name: &str, user: Option<u32>, program: &Command) -> Result<Self> {
        let logs = folder.join("logs");
        std::fs::create_dir_all(&logs)?;
        let log = logs.join(format!("{name}.log"));
        // The kernel signals the program when the thread ends that started it, which is the pod's.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        if let Some(user) = user {
            command.args(["--reuid", &user.to_string(), "--regid", &user.to_string(), "--clear-groups"]);
        }
        command.arg(program.get_program()).args(program.get_args());
        // Nothing of the environment decides how a program behaves.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).stdout(File::create(logs.join(format!("{name}.out")))?).stderr(File::create(&log)?);
        Ok(Self { child: pod.spawn_process(command)?, log })
    }

    /// An error if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        bail!("it ended by itself ({status}): {}", said[said.floor_char_boundary(said.len().saturating_sub(TAIL))..].trim());
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn end(&mut self) -> Result<()> {
        let asked = wait::until("a program's end", PATIENCE, || {
            let ended = self.child.try_wait()?;
            // Again and again: some drain after the first signal, and end at once after the second.
            if ended.is_none() {
                kill(Pid::from_raw(self.pid()), Signal::SIGTERM)?;
            }
            Ok(ended)
        });
        if asked.is_err() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("process {} could not be ended: {error:#}", self.pid());
        }
    }
}

/// All processes of a product: those that were started, and theirs.
#[derive(Clone, Default)]
pub(crate) struct Processes(Vec<i32>);

impl Processes {
    /// Those of `guests`, as they are now.
    pub(crate) fn of(guests: &[Guest]) -> Result<Self> {
        let mut all: Vec<i32> = guests.iter().map(Guest::pid).collect();
        let parents = parents()?;
        let mut index = 0;
        while index < all.len() {
            let of_this = parents.iter().filter(|(_, parent)| *parent == all[index]).map(|(pid, _)| *pid);
            let of_this: Vec<i32> = of_this.collect();
            all.extend(of_this);
            index += 1;
        }
        Ok(Self(all))
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The CPU time that they have used so far, threads that have ended included.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let one = |pid: &i32| {
            let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(*pid)).and_then(ClockId::now);
            clock.map(Duration::from).with_context(|| format!("the CPU time of process {pid} can't be read"))
        };
        self.0.iter().map(one).sum()
    }

    /// The memory that is theirs, in KiB: what several processes share counts in parts.
    pub(crate) fn memory(&self) -> Result<f64> {
        let one = |pid: &i32| {
            let file = format!("/proc/{pid}/smaps_rollup");
            let text = std::fs::read_to_string(&file).with_context(|| format!("{file} can't be read"))?;
            let pss = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
            pss.with_context(|| format!("{file} names no PSS"))
        };
        self.0.iter().map(one).sum()
    }
}

/// Every process of this machine with its parent.
fn parents() -> Result<Vec<(i32, i32)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended in the meantime.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name, in brackets, may hold anything; state and parent follow it.
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).and_then(|parent| parent.parse().ok());
        found.extend(parent.map(|parent| (pid, parent)));
    }
    Ok(found)
}
