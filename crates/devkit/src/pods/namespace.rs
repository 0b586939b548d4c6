//! A network namespace on a thread, which runs closures for others.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::{self, ThreadId};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, getpid, gettid};

use super::error::PodError;

type Job = Box<dyn FnOnce() + Send>;

/// The namespace exists as long as this value, and anything that was made inside.
///
/// A namespace belongs to a thread, not to a process, so nothing needs a name in the file system, and the end of the
/// process, even by SIGKILL, is the end of the namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    pod: String,
    jobs: mpsc::SyncSender<Job>,
    thread: ThreadId,
    tid: Pid,
}

impl Namespace {
    pub(crate) fn new(pod: &str) -> Result<Self, PodError> {
        let pod = pod.to_owned();
        let (jobs, queue) = mpsc::sync_channel::<Job>(1);
        let (ready, started) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("pod-{pod}"))
            .spawn(move || {
                let entered = unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid());
                let goes_on = entered.is_ok();
                let _ = ready.send(entered);
                if goes_on {
                    // Ends when the last sender is dropped, and the namespace with it.
                    queue.into_iter().for_each(|job| job());
                }
            })
            .map_err(|source| PodError::Thread { pod: pod.clone(), source })?
            .thread()
            .id();
        match started.recv() {
            Ok(Ok(tid)) => Ok(Self { pod, jobs, thread, tid }),
            Ok(Err(errno)) => Err(PodError::Namespace { pod, errno }),
            Err(_) => Err(PodError::Gone { pod }),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/task/{}/ns/net", getpid(), self.tid))
    }

    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, PodError> {
        let guarded = move || catch_unwind(AssertUnwindSafe(job));
        // A closure that runs here already may ask for more: waiting for ourselves would take forever.
        let outcome = if thread::current().id() == self.thread {
            guarded()
        } else {
            let (answer, outcome) = mpsc::sync_channel(1);
            let job: Job = Box::new(move || {
                let _ = answer.send(guarded());
            });
            self.jobs.send(job).map_err(|_| self.gone())?;
            outcome.recv().map_err(|_| self.gone())?
        };
        outcome.map_err(|payload| PodError::Panicked { pod: self.pod.clone(), message: said(&*payload) })
    }

    fn gone(&self) -> PodError {
        PodError::Gone { pod: self.pod.clone() }
    }
}

fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("(no text)").to_owned()
}
