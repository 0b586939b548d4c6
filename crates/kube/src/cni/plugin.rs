//! The commands of the specification.

use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use sidegate_redirect::{Plan, apply, is_applied, verify};

use super::call::{Attachment, Command, Input, version_of};
use super::error::CniError;
use super::namespace::inside;
use super::version::VERSIONS;
use super::{api_server, pod};

/// A prevResult is some hundred bytes; nobody's has as many as this.
const LONGEST_INPUT: u64 = 4 * 1024 * 1024;

/// What a call answers on standard output. It failed if there is an error; then the process has to end with another status than 0.
pub type Answer = Result<String, String>;

/// Answers one call. `variables` looks up a variable of the environment, and `input` is standard input.
pub fn run(variables: &dyn Fn(&str) -> Option<String>, input: &mut dyn Read) -> Answer {
    let mut version = None;
    answer(variables, input, &mut version).map_err(|error| error.result(version.as_deref()).to_string())
}

fn answer(variables: &dyn Fn(&str) -> Option<String>, input: &mut dyn Read, version: &mut Option<String>) -> Result<String, CniError> {
    let command = Command::of(&variables("CNI_COMMAND").unwrap_or_default())?;
    // Nothing that is made needs to be released: the rules end with their namespace. So these succeed whatever state the rest is in.
    if matches!(command, Command::Del | Command::Gc) {
        return Ok(String::new());
    }
    let mut text = String::new();
    input
        .take(LONGEST_INPUT)
        .read_to_string(&mut text)
        .map_err(|error| CniError::Input(format!("standard input can't be read: {error}")))?;
    let named = version_of(&text)?;
    if command == Command::Version {
        return Ok(json!({ "cniVersion": named, "supportedVersions": VERSIONS }).to_string());
    }
    if !VERSIONS.contains(&named.as_str()) {
        return Err(CniError::Version(named));
    }
    *version = Some(named);
    let input = Input::parse(&text)?;
    if command == Command::Status {
        return within(input.config.timeout.duration(), move || status(&input));
    }
    let attachment = Attachment::of(variables)?;
    within(input.config.timeout.duration(), move || match command {
        Command::Check => check(&input, &attachment).map(|()| String::new()),
        _ => add(&input, &attachment),
    })
}

/// Does `work`, for `deadline` at most. After that it does not matter what becomes of it: the process ends, and so do its children.
fn within(deadline: Duration, work: impl FnOnce() -> Result<String, CniError> + Send + 'static) -> Result<String, CniError> {
    let (done, result) = sync_channel(1);
    let started = thread::Builder::new().name("call".to_owned()).spawn(move || drop(done.send(work())));
    started.map_err(|error| CniError::TryAgain(format!("no thread can be started: {error}")))?;
    match result.recv_timeout(deadline) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            kill_children();
            Err(CniError::TryAgain(format!(
                "it was not done within {} s; the node may be overloaded, or nft hangs",
                deadline.as_secs_f32()
            )))
        }
        Err(RecvTimeoutError::Disconnected) => Err(CniError::TryAgain("the thread that does it failed".to_owned())),
    }
}

/// Ends an `nft` that hangs: it would go on without us.
fn kill_children() {
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
    }
}

/// The plan of the pod that is started; none if it waits for no rules.
fn plan(input: &Input, attachment: &Attachment) -> Result<Option<Plan>, CniError> {
    match &attachment.pod {
        Some(name) if !input.config.exclude_namespaces.contains(&name.namespace) => pod::plan(&api_server::pod(&input.config, name)?, name),
        _ => Ok(None),
    }
}

fn add(input: &Input, attachment: &Attachment) -> Result<String, CniError> {
    let previous = input.previous()?.get().to_owned();
    if let Some(plan) = plan(input, attachment)? {
        let Attachment { namespace, interface, .. } = attachment;
        inside(namespace, interface, &input.addresses(interface)?, || {
            // A call that is repeated finds its own rules. Others would be those of a pod that runs.
            if is_applied()? { verified(&plan, namespace) } else { Ok(apply(&plan).map(drop)?) }
        })?;
    }
    Ok(previous)
}

fn check(input: &Input, attachment: &Attachment) -> Result<(), CniError> {
    let Some(plan) = plan(input, attachment)? else { return Ok(()) };
    let Attachment { namespace, interface, .. } = attachment;
    inside(namespace, interface, &input.addresses(interface)?, || verified(&plan, namespace))
}

/// Whether the kernel has exactly the plan's rules.
fn verified(plan: &Plan, namespace: &Path) -> Result<(), CniError> {
    let differences = verify(plan)?;
    if differences.is_empty() {
        return Ok(());
    }
    let shown = differences.iter().take(5).map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let why = format!("{}: its kernel rules are not those of the pod, in {} places:\n{shown}", namespace.display(), differences.len());
    Err(CniError::OtherRules(why))
}

/// Whether rules could be made.
fn status(input: &Input) -> Result<String, CniError> {
    is_applied().map_err(|error| CniError::Unavailable(error.to_string()))?;
    api_server::check(&input.config).map_err(|error| CniError::Unavailable(error.to_string()))?;
    Ok(String::new())
}
