//! sidegate: a service-mesh sidecar that proves both ends of every connection and says why.
//!
//! This crate is the command line ([`cli`]) and the wiring of the other crates ([`run`]). Each command is a module of its name.
//! What commands print passes through [`output`], which makes text of peers safe for a terminal; [`exit_status`] turns an answer into
//! an exit code.

#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod output;

mod audit;
mod authority;
mod check;
mod cli;
mod command_line;
mod connections;
#[cfg(feature = "development")]
mod demo;
mod drain;
mod exit_status;
mod log_filter;
#[cfg(feature = "packaging")]
mod manual;
mod policy;
mod redirect;
mod reference;
mod run;
mod schema;
mod status;
mod style;
mod target;
mod top;
mod variables;
mod wait;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::exit_status::ExitStatus;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => output::exit_code(run_command(cli.command)),
        Err(error) => {
            // Help and version are no errors, and go to standard output.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            if error.use_stderr() {
                let _ = error.print();
            } else {
                let help = error.render();
                let is_coloured = style::is_coloured(&std::io::stdout());
                output::print_anyway((if is_coloured { help.ansi().to_string() } else { help.to_string() }).trim_end());
            }
            output::exit_code(ExitCode::from(code))
        }
    }
}

/// Runs a command; its exit code.
fn run_command(command: Command) -> ExitCode {
    let result = match command {
        // These say by their exit code what they have found.
        Command::Policy(arguments) => return policy::run(&arguments.command),
        Command::Check(arguments) => return ExitStatus::exit_code(check::check(&arguments)),
        Command::Redirect(arguments) => return ExitStatus::exit_code(redirect::redirect(&arguments)),
        Command::Audit(arguments) => return audit::audit(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Wait(arguments) => wait::wait(&arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Connections(arguments) => connections::connections(&arguments),
        Command::Top(arguments) => top::top(&arguments),
        Command::Cut(arguments) => connections::cut(&arguments),
        Command::LogFilter(arguments) => log_filter::log_filter(&arguments),
        Command::Drain(arguments) => drain::drain(&arguments),
        Command::Authority(arguments) => authority::authority(&arguments),
        #[cfg(feature = "development")]
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Schema(arguments) => schema::schema(&arguments),
        Command::Reference(arguments) => reference::reference(arguments.of),
        #[cfg(feature = "packaging")]
        Command::Completions(arguments) => manual::completions(arguments.shell),
        #[cfg(feature = "packaging")]
        Command::Man(arguments) => manual::man_pages(&arguments.folder),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::failed(&error, 1),
    }
}
