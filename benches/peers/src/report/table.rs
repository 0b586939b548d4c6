//! Tables to read.

use std::fmt::Write;

use super::machine::Machine;
use super::summary::{Cell, Ratio, Summary};
use crate::figures::{Better, Figure};
use crate::products::BASELINE;
use crate::run::Results;

/// Two tables for a terminal: figures, and ratios to the baseline.
pub(crate) fn plain(machine: &Machine, summary: &Summary, results: &Results) -> String {
    let mut text = format!("\n{}, {} cores, Linux {}\n", machine.processor, machine.cores, machine.kernel);
    for (product, version) in &results.versions {
        let _ = writeln!(text, "  {:<18} {version}", product.name());
    }
    for (product, why) in &results.skipped {
        let _ = writeln!(text, "  {:<18} skipped: {why}", product.name());
    }
    let _ = writeln!(text, "\nMedian of {} rounds\n", results.rounds.len());
    text += &align(&grid(summary, |figure, cell| number(cell.median, figure.digits)));
    if summary.products.contains(&BASELINE) {
        let _ = writeln!(
            text,
            "\nRatio to {} in the same round: median (least–greatest); ↑ more is better, ↓ less is better\n",
            BASELINE.name()
        );
        let mut rows = grid(summary, |_, cell| cell.ratio.map_or_else(String::new, ratio));
        rows.retain(|row| row[0].is_empty() || row[1..].iter().any(|cell| !cell.is_empty()));
        text += &align(&rows);
    }
    for failure in &results.failures {
        let _ = writeln!(text, "\nnot measured: {failure}");
    }
    text
}

/// One table for a page: figures, with the ratio to the baseline in brackets.
pub(crate) fn markdown(summary: &Summary) -> String {
    let both = |figure: &Figure, cell: &Cell| {
        let ratio = cell.ratio.map(|ratio| format!(" ({:.2})", ratio.median)).unwrap_or_default();
        number(cell.median, figure.digits) + &ratio
    };
    let rows = grid(summary, both);
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let _ = writeln!(text, "| {} |", row.join(" | "));
        if index == 0 {
            let _ = writeln!(text, "| --- |{}", " ---: |".repeat(row.len() - 1));
        }
    }
    text
}

/// A head, then a row each figure.
fn grid(summary: &Summary, show: impl Fn(&Figure, &Cell) -> String) -> Vec<Vec<String>> {
    let head = std::iter::once(String::new()).chain(summary.products.iter().map(|product| product.name())).collect();
    let row = |(figure, cells): &(Figure, Vec<Option<Cell>>)| {
        let arrow = match figure.better {
            Better::More => " ↑",
            Better::Less => " ↓",
            Better::Neither => "",
        };
        let cells = cells.iter().map(|cell| cell.as_ref().map_or_else(|| "–".to_owned(), |cell| show(figure, cell)));
        std::iter::once(format!("{}{arrow}", figure.label)).chain(cells).collect()
    };
    std::iter::once(head).chain(summary.rows.iter().map(row)).collect()
}

/// The first column to the left, the others to the right.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            let width = widths[index];
            let _ = if index == 0 { write!(text, "{cell:<width$}") } else { write!(text, "  {cell:>width$}") };
        }
        text.push('\n');
    }
    text
}

fn ratio(ratio: Ratio) -> String {
    format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.least, ratio.greatest)
}

/// With a comma each three digits.
fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let whole = text.find('.').unwrap_or(text.len());
    let mut shown = String::new();
    for (index, c) in text.chars().enumerate() {
        let left = whole.saturating_sub(index);
        if index > 0 && left > 0 && left.is_multiple_of(3) && !shown.ends_with('-') {
            shown.push(',');
        }
        shown.push(c);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_grouped() {
        for (value, digits, shown) in [
            (0.0, 0, "0"),
            (999.4, 0, "999"),
            (1234.56, 1, "1,234.6"),
            (-1234.0, 0, "-1,234"),
            (-123.0, 0, "-123"),
            (140_704.0, 0, "140,704"),
        ] {
            assert_eq!(number(value, digits), shown);
        }
    }
}
