//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::products::Product;

/// Compares sidegate with other proxies, side by side on this machine. Needs root.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) options: Options,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The collector that throws everything away
    #[command(hide = true)]
    Collector {
        /// Where it listens
        socket: PathBuf,
    },
}

/// What to do.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The sidegate that is measured; by default it is built, with the release profile
    #[arg(long, value_name = "FILE")]
    pub(crate) sidegate: Option<PathBuf>,
    /// It does not know the key `tunnel`: leave that out, and what needs it
    #[arg(long)]
    pub(crate) without_tunnel_key: bool,
    /// What to compare; by default everything
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) products: Vec<Product>,
    /// What to measure; by default everything
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) measure: Vec<Measure>,
    /// How often each product is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Measure for a third of the time, and fewer idle connections
    #[arg(long)]
    pub(crate) quick: bool,
    /// At how many idle connections memory is measured [default: 1000 and 10000, or as many as the limit on descriptors
    /// allows; with --quick 1000 only]. A sidegate with kernel redirection can have half as many as the others
    #[arg(long, value_name = "COUNT", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=12_000))]
    pub(crate) idle: Vec<u32>,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw the ratios to Envoy into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Print the table as Markdown
    #[arg(long)]
    pub(crate) table_markdown: bool,
}

/// A group of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measure {
    /// Idle, and for each idle connection
    Memory,
    /// One small request at a time
    Rtt,
    /// As many requests as possible
    Requests,
    /// As many bytes as possible
    Bulk,
    /// As many connections as possible, and one at a time
    Connections,
    /// Small requests beside bulk
    Mixed,
    /// A service at a fixed rate
    Service,
}

impl Options {
    /// The products, each once, in their own order.
    pub(crate) fn chosen(&self) -> Vec<Product> {
        let all = Product::value_variants().iter().copied();
        all.filter(|product| self.products.is_empty() || self.products.contains(product)).collect()
    }

    /// Whether this is measured.
    pub(crate) fn measures(&self, what: Measure) -> bool {
        self.measure.is_empty() || self.measure.contains(&what)
    }

    /// At how many idle connections memory is measured if nothing is said.
    pub(crate) fn default_idle(&self) -> &'static [u32] {
        if self.quick { &[1_000] } else { &[1_000, 10_000] }
    }

    /// How long something is measured that takes so many milliseconds if there is time.
    pub(crate) fn length(&self, millis: u64) -> Duration {
        Duration::from_millis(if self.quick { millis / 3 } else { millis })
    }
}
