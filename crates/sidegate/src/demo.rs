//! `sidegate demo`: this program shows itself.

use anyhow::{Context, Result};
use sidegate_devkit::demo::{self, Mode, Options, Output};

use crate::cli::{DemoArgs, DemoMode};

/// Shows it all, and fails if anything expected did not happen.
pub(crate) fn demo(arguments: &DemoArgs) -> Result<()> {
    demo::run(&Options {
        mode: match arguments.mode {
            DemoMode::Auto => Mode::Auto,
            DemoMode::Root => Mode::Root,
            DemoMode::Userns => Mode::Userns,
            DemoMode::Loopback => Mode::Loopback,
        },
        time: arguments.time.duration(),
        all: arguments.all,
        keep: arguments.keep,
        program: std::env::current_exe().context("the path of this program is unknown")?,
        output: Output { shown: |text| out!("{text}"), complaint: |text| err!("{text}") },
    })
}
