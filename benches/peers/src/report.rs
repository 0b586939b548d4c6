//! What was measured, to read and for programs.

mod json;
mod machine;
mod summary;
mod svg;
mod table;

use anyhow::{Context, Result};

use crate::cli::Options;
use crate::figures::catalog;
use crate::run::Results;

/// Prints the tables, and writes the files that `options` ask for.
pub(crate) fn report(options: &Options, results: &Results) -> Result<()> {
    let machine = machine::Machine::look();
    let summary = summary::Summary::of(&catalog(&options.idle), results);
    if options.table_markdown {
        print!("{}", table::markdown(&summary));
    } else {
        print!("{}", table::plain(&machine, &summary, results));
    }
    if let Some(file) = &options.json {
        let text = json::json(&machine, options, &summary, results);
        std::fs::write(file, format!("{text:#}\n")).with_context(|| format!("{} can't be written", file.display()))?;
    }
    if let Some(file) = &options.svg {
        std::fs::write(file, svg::svg(&summary)).with_context(|| format!("{} can't be written", file.display()))?;
    }
    Ok(())
}
