//! What can go wrong with pods.

use std::io;

use nix::errno::Errno;

/// Why a pod could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The kernel refused a new network namespace.
    #[error("cannot make a network namespace for pod {pod}: {errno}; run as root (CAP_SYS_ADMIN) or enter a user namespace first")]
    Namespace {
        /// The pod that was to live in it.
        pod: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The system refused another thread.
    #[error("cannot start a thread for pod {pod}: {source}; look at the limits on processes and memory")]
    Thread {
        /// The pod that needed it.
        pod: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The pod's thread is no longer there.
    #[error("pod {pod} is gone: its thread has ended; make a new pod")]
    Gone {
        /// The pod.
        pod: String,
    },
    /// A closure that ran inside the pod panicked; the pod goes on.
    #[error("a closure that ran in pod {pod} panicked: {message}; the pod itself goes on")]
    Panicked {
        /// The pod.
        pod: String,
        /// What the panic said.
        message: String,
    },
    /// A program could not be started.
    #[error("cannot start {program}: {source}; is it installed, and in PATH?")]
    Start {
        /// The program.
        program: String,
        /// The system's answer.
        source: io::Error,
    },
    /// `ip` did not do what it was asked.
    #[error("ip failed in pod {pod}: {stderr}\nit was asked to:\n{script}")]
    Ip {
        /// The pod in which it ran.
        pod: String,
        /// What it was asked, in the format of `ip -batch`.
        script: String,
        /// Its own words.
        stderr: String,
    },
    /// All addresses of the network are taken.
    #[error("the network is full: it has {limit} pods; make a second network")]
    Full {
        /// How many pods fit.
        limit: u8,
    },
    /// This process could not move into a user namespace of its own.
    #[error(
        "cannot enter a user namespace ({step}: {source}); call this before any thread starts, and see that \
         user.max_user_namespaces is not 0, kernel.unprivileged_userns_clone (Debian) is 1 and \
         kernel.apparmor_restrict_unprivileged_userns (Ubuntu) is 0, or run as root"
    )]
    UserNamespace {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Frames could not be collected.
    #[error("cannot capture in pod {pod} ({step}: {source}); it takes CAP_NET_RAW, and the interface must exist")]
    Capture {
        /// The pod.
        pod: String,
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The capture has holes, so nothing must be concluded from what it did not see.
    #[error("the capture in pod {pod} lost {lost} frames after {kept} bytes; send less while it runs, or stop it earlier")]
    CaptureLost {
        /// The pod.
        pod: String,
        /// How many frames are missing.
        lost: u64,
        /// How many bytes were kept.
        kept: usize,
    },
}
