//! A document of sections and tables, as Markdown and as HTML. Text of a log may come from a peer: it is escaped.

use std::fmt::Write;

use sidegate_core::{is_control_or_bidi, without_controls};

use super::summary::Counts;

/// For a screen, light or dark, and for paper.
const STYLE: &str = include_str!("style.css");
/// A column of Markdown is padded to the width of its widest cell, unless that is wider than this or it is the last.
const PADDED: usize = 56;

/// How a verdict looks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tone {
    Good,
    Doubtful,
    Bad,
}

pub(super) struct Document {
    title: &'static str,
    tone: Tone,
    headline: String,
    /// What the headline means here.
    meaning: String,
    facts: Vec<(&'static str, String)>,
    sections: Vec<Section>,
}

pub(super) struct Section {
    title: &'static str,
    parts: Vec<DocumentPart>,
}

enum DocumentPart {
    Text(String),
    List(Vec<String>),
    Table { head: Vec<String>, rows: Vec<Vec<String>> },
}

impl Document {
    pub(super) fn new(title: &'static str, tone: Tone, headline: String, meaning: String) -> Self {
        Self { title, tone, headline, meaning, facts: Vec::new(), sections: Vec::new() }
    }

    /// Something about the document itself; nothing is said of what is empty.
    pub(super) fn fact(&mut self, name: &'static str, value: String) {
        if !value.is_empty() {
            self.facts.push((name, value));
        }
    }

    pub(super) fn add(&mut self, section: Section) {
        self.sections.push(section);
    }

    pub(super) fn markdown(&self) -> String {
        let (headline, meaning) = (in_markdown(&self.headline), in_markdown(&self.meaning));
        let mut out = format!("# {}\n\n> **{headline}**\n>\n> {meaning}\n\n", self.title);
        for (name, value) in &self.facts {
            let _ = writeln!(out, "- **{name}:** {}", in_markdown(value));
        }
        for section in &self.sections {
            let _ = write!(out, "\n## {}\n", section.title);
            for part in &section.parts {
                out.push('\n');
                match part {
                    DocumentPart::Text(text) => {
                        let _ = writeln!(out, "{}", in_markdown(text));
                    }
                    DocumentPart::List(lines) => {
                        for line in lines {
                            let _ = writeln!(out, "- {}", in_markdown(line));
                        }
                    }
                    DocumentPart::Table { head, rows } => table_in_markdown(&mut out, head, rows),
                }
            }
        }
        out
    }

    pub(super) fn html(&self) -> String {
        let tone = match self.tone {
            Tone::Good => "good",
            Tone::Doubtful => "doubtful",
            Tone::Bad => "bad",
        };
        let mut out = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{0}</title>\n\
             <style>\n{STYLE}</style></head>\n<body><main><h1>{0}</h1>\n<div class=\"verdict {tone}\"><strong>{1}</strong><p>{2}</p></div>\n<dl>\n",
            self.title,
            in_html(&self.headline),
            in_html(&self.meaning)
        );
        for (name, value) in &self.facts {
            let _ = writeln!(out, "<dt>{name}</dt><dd>{}</dd>", in_html(value));
        }
        out.push_str("</dl>\n");
        for section in &self.sections {
            let _ = writeln!(out, "<section><h2>{}</h2>", section.title);
            for part in &section.parts {
                match part {
                    DocumentPart::Text(text) => {
                        let _ = writeln!(out, "<p>{}</p>", in_html(text));
                    }
                    DocumentPart::List(lines) => {
                        out.push_str("<ul>\n");
                        for line in lines {
                            let _ = writeln!(out, "<li>{}</li>", in_html(line));
                        }
                        out.push_str("</ul>\n");
                    }
                    DocumentPart::Table { head, rows } => {
                        let head: String = head.iter().map(|name| format!("<th scope=\"col\">{}</th>", in_html(name))).collect();
                        let _ = writeln!(out, "<table>\n<thead><tr>{head}</tr></thead>\n<tbody>");
                        for row in rows {
                            let cells: String = row.iter().map(|cell| format!("<td{}>{}</td>", class(cell), in_html(cell))).collect();
                            let _ = writeln!(out, "<tr>{cells}</tr>");
                        }
                        out.push_str("</tbody></table>\n");
                    }
                }
            }
            out.push_str("</section>\n");
        }
        out.push_str("</main></body></html>\n");
        out
    }
}

/// How a cell looks that is a number, or says whether a point is met.
fn class(cell: &str) -> &'static str {
    match cell {
        "yes" => " class=\"yes\"",
        "NO" => " class=\"no\"",
        "not shown" => " class=\"open\"",
        cell if is_number(cell) => " class=\"number\"",
        _ => "",
    }
}

fn is_number(cell: &str) -> bool {
    !cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit())
}

/// Columns in line, as far as they are narrow: a table reads as text, too.
fn table_in_markdown(out: &mut String, head: &[String], rows: &[Vec<String>]) {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| in_markdown(cell)).collect()).collect();
    let width = |text: &str| text.chars().count();
    let columns: Vec<(usize, bool)> = (0..head.len())
        .map(|column| {
            let cells = || rows.iter().filter_map(|row| row.get(column));
            let widest = cells().map(|cell| width(cell)).chain([width(&head[column]), 3]).max().unwrap_or(3);
            let numbers = !rows.is_empty() && cells().all(|cell| is_number(cell));
            let is_last = column + 1 == head.len();
            (if widest > PADDED || (is_last && !numbers) { 0 } else { widest }, numbers)
        })
        .collect();
    let mut line = |cells: &[String]| {
        let padded = cells.iter().zip(&columns).map(|(cell, (width, numbers))| {
            let width = *width;
            if *numbers { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        let _ = writeln!(out, "| {} |", padded.collect::<Vec<_>>().join(" | "));
    };
    line(head);
    let rule = |(width, numbers): &(usize, bool)| {
        let dashes = "-".repeat((*width).max(3) - usize::from(*numbers));
        if *numbers { format!("{dashes}:") } else { dashes }
    };
    line(&columns.iter().map(rule).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}

impl Section {
    pub(super) fn new(title: &'static str) -> Self {
        Self { title, parts: Vec::new() }
    }

    pub(super) fn say(&mut self, text: String) {
        self.parts.push(DocumentPart::Text(text));
    }

    pub(super) fn list(&mut self, lines: Vec<String>) {
        self.parts.push(DocumentPart::List(lines));
    }

    pub(super) fn table(&mut self, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        let head = head.iter().map(|&name| name.to_owned()).collect();
        self.parts.push(DocumentPart::Table { head, rows: rows.into_iter().collect() });
    }

    /// A table of names and numbers, the most frequent first.
    pub(super) fn counts(&mut self, what: &str, counts: &Counts, most: usize) {
        if counts.is_empty() {
            return;
        }
        let mut sorted: Vec<(&String, &u64)> = counts.iter().collect();
        sorted.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
        let left = sorted.len().saturating_sub(most);
        self.table(&[what, "number"], sorted.into_iter().take(most).map(|(name, count)| vec![name.clone(), count.to_string()]));
        if left > 0 {
            self.say(format!("… and {left} more, which `--format json` shows."));
        }
    }
}

fn in_markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if is_control_or_bidi(c) => out.push(' '),
            '|' | '<' | '[' | ']' | '*' | '`' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

fn in_html(text: &str) -> String {
    without_controls(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_words_stay_words() {
        let mut section = Section::new("x");
        section.counts("peer", &[("<script>a|b\n# c\u{1b}\u{9b}\u{202e}d</script>".to_owned(), 1)].into(), 5);
        let hostile = || "<b>\u{1b}*x*</b>".to_owned();
        let mut document = Document::new("t", Tone::Bad, hostile(), hostile());
        document.fact("log", hostile());
        document.add(section);
        let (markdown, html) = (document.markdown(), document.html());
        assert!(html.contains("<td>&lt;script&gt;a|b\u{fffd}# c\u{fffd}\u{fffd}\u{fffd}d") && !html.contains("<script>"), "{html}");
        assert!(!html.contains("<b>") && !markdown.contains(" <b>"), "{html}{markdown}");
        assert!(markdown.contains("| \\<script>a\\|b # c   d\\</script> |      1 |"), "{markdown}");
    }
}
