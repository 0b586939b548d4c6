//! Errors of reading and changing the rules.

use std::io;

/// Why the kernel's rules could not be read or changed. After an error from `apply` the old rules are still in force.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The plan contradicts itself.
    #[error("the capture plan cannot be used, change it: {}", wrong.join("; "))]
    BadPlan {
        /// Everything that is wrong with it.
        wrong: Vec<String>,
    },
    /// There is no `nft`.
    #[error("nft was not found in PATH, so no traffic can be captured; install the package nftables")]
    NftMissing,
    /// The kernel does not let this process change the rules.
    #[error("nft {command} is not permitted; it needs CAP_NET_ADMIN in this network namespace: {stderr}")]
    NotPermitted {
        /// The arguments of nft.
        command: String,
        /// Its error message.
        stderr: String,
    },
    /// `nft` failed.
    #[error(
        "nft {command} failed ({status}); the kernel must be 5.2 or newer with nf_tables, nft_redir, nft_fib_inet and \
         nf_conntrack: {stderr}"
    )]
    Nft {
        /// The arguments of nft.
        command: String,
        /// How it ended.
        status: String,
        /// Its error message.
        stderr: String,
    },
    /// `nft` could not be run.
    #[error("cannot run nft {command}: {source}; look at the limits on processes and memory")]
    Run {
        /// The arguments of nft.
        command: String,
        /// The system's error.
        source: io::Error,
    },
    /// The table does not exist.
    #[error("there is no table inet sidegate in this network namespace; apply the rules first")]
    NotApplied,
}
