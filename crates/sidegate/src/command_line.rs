//! The reference of the command line in Markdown, made of its definition.

use clap::{Arg, Command, CommandFactory};

use crate::cli::Cli;

/// Prints docs/reference/command-line.md.
pub(crate) fn reference() {
    let mut cli = Cli::command();
    // So that subcommands know their full names.
    cli.build();
    out!("# Command-line reference\n\nMade by `sidegate reference command-line`; a test compares it with the code.\n");
    out!("A build with `--no-default-features` leaves out `demo` and `authority` (feature `development`), and `completions` and `man`");
    out!("(feature `packaging`). Every command takes `--help`. If standard output is closed before all is written, as by `head`, the exit");
    out!("status is 141; if it can't be written for another reason, that is an error.");
    for command in visible(&cli) {
        section(command);
    }
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

/// A command with its arguments; then its subcommands.
fn section(command: &Command) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    out!("\n## `{name}`\n");
    if let Some(about) = command.get_long_about().or(command.get_about()) {
        for line in about.to_string().lines() {
            out!("{}", sentence(line));
        }
    }
    let usage = command.clone().render_usage().to_string();
    out!("\n```text\n{}\n```", usage.trim_start_matches("Usage: "));
    let arguments: Vec<&Arg> = command.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_id() != "help").collect();
    if !arguments.is_empty() {
        out!("\n| argument | default | variable | meaning |\n| --- | --- | --- | --- |");
        arguments.into_iter().for_each(row);
    }
    visible(command).for_each(section);
}

fn row(arg: &Arg) {
    let value = arg.get_value_names().filter(|_| arg.get_action().takes_values()).map_or_else(String::new, |names| names.join(" "));
    let value = if value.is_empty() { value } else { format!("<{value}>") };
    let long = arg.get_long().map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    let name = format!("{} {value}", flags.join(", "));
    let code = |text: String| if text.is_empty() { text } else { format!("`{text}`") };
    let default: Vec<String> = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let default = if arg.get_action().takes_values() { default.join(" ") } else { String::new() };
    let variable = arg.get_env().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut meaning = arg.get_help().map_or_else(String::new, ToString::to_string);
    let choices: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|_| arg.get_action().takes_values())
        .map(|choice| {
            choice.get_help().map_or_else(|| format!("`{}`", choice.get_name()), |help| format!("`{}` ({help})", choice.get_name()))
        })
        .collect();
    if !choices.is_empty() {
        meaning = format!("{meaning}: {}", choices.join(", "));
    }
    let cells = [code(name.trim().to_owned()), code(default), code(variable), sentence(&meaning)];
    out!("| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
}

/// `text` with a full stop, which help on a terminal does not have.
fn sentence(text: &str) -> String {
    if text.is_empty() || text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}
