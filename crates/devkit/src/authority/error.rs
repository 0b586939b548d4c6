//! What can go wrong in the authority.

use std::fmt;
use std::io;
use std::path::PathBuf;

use sidegate_core::counted;

/// Why the authority could not start, change or issue.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// What the authority was told contradicts itself or a standard; every problem is listed.
    #[error("the authority can't do what it was told for {}; correct each:{}", counted(.0.len() as u64, "problem"), list(.0))]
    Config(Vec<AuthorityProblem>),

    /// A socket could not be made ready.
    #[error("can't serve the Workload API on {}: {source}; check that its folder is writable", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// Somebody answers on a socket.
    #[error("can't serve the Workload API on {}: another process serves it; stop that one or choose another path", .0.display())]
    SocketInUse(PathBuf),

    /// What stands where a socket should be is none.
    #[error("can't serve the Workload API on {}: a file that is no socket is there; move it or choose another path", .0.display())]
    NotASocket(PathBuf),

    /// No such trust domain here.
    #[error("the trust domain `{name}` is not one of this authority's ({known}); use one of those or configure it")]
    UnknownTrustDomain {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },

    /// A certificate could not be made.
    #[error("cannot make a certificate for {subject}: {source}; check its DNS names and that the system has entropy")]
    Certificate {
        /// Whose certificate.
        subject: String,
        /// What the library said.
        source: rcgen::Error,
    },

    /// A JWT key could not be made or used.
    #[error("cannot sign a JWT for {subject}: {source}; rotate the trust domain's keys and try again")]
    Jwt {
        /// Whose token or key.
        subject: String,
        /// What the library said.
        source: jsonwebtoken::errors::Error,
    },
}

/// One thing wrong in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityProblem {
    /// Where, e.g. `entries[2].spiffeId`.
    pub at: String,
    /// What is wrong and what to do.
    pub what: String,
}

impl fmt::Display for AuthorityProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

fn list(problems: &[AuthorityProblem]) -> String {
    problems.iter().map(|problem| format!("\n  - {problem}")).collect()
}
