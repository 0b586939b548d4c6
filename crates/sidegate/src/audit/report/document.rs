//! A document of sections and tables, as Markdown and as HTML. What stands in a log may be a stranger's words: it is escaped.

use std::fmt::Write;

use sidegate_core::{is_control_or_bidi, without_controls};

use super::summary::Counts;

pub(super) struct Document {
    title: &'static str,
    intro: Vec<String>,
    sections: Vec<Section>,
}

pub(super) struct Section {
    title: &'static str,
    parts: Vec<Part>,
}

enum Part {
    Text(String),
    Table { head: Vec<String>, rows: Vec<Vec<String>> },
}

impl Document {
    pub(super) fn new(title: &'static str) -> Self {
        Self { title, intro: Vec::new(), sections: Vec::new() }
    }

    pub(super) fn say(&mut self, text: String) {
        self.intro.push(text);
    }

    pub(super) fn add(&mut self, section: Section) {
        self.sections.push(section);
    }

    pub(super) fn markdown(&self) -> String {
        let mut out = format!("# {}\n", self.title);
        let line = |cells: &[String]| format!("| {} |\n", cells.iter().map(|c| in_markdown(c)).collect::<Vec<_>>().join(" | "));
        for text in &self.intro {
            let _ = write!(out, "\n{}\n", in_markdown(text));
        }
        for section in &self.sections {
            let _ = write!(out, "\n## {}\n", section.title);
            for part in &section.parts {
                out.push('\n');
                match part {
                    Part::Text(text) => {
                        let _ = writeln!(out, "{}", in_markdown(text));
                    }
                    Part::Table { head, rows } => {
                        out.push_str(&line(head));
                        out.push_str(&line(&vec!["---".to_owned(); head.len()]));
                        rows.iter().for_each(|row| out.push_str(&line(row)));
                    }
                }
            }
        }
        out
    }

    pub(super) fn html(&self) -> String {
        let mut out = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title>\n<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:75em;margin:2em auto;padding:0 1em}}table{{border-collapse:collapse;margin:1em 0}}th,td{{border:1px solid #999;padding:.3em .6em;text-align:left;overflow-wrap:anywhere}}</style></head>\n<body><h1>{0}</h1>\n",
            self.title
        );
        let text = |out: &mut String, text: &str| {
            let _ = writeln!(out, "<p>{}</p>", in_html(text));
        };
        let cells = |out: &mut String, name: &str, cells: &[String]| {
            let all: String = cells.iter().map(|cell| format!("<{name}>{}</{name}>", in_html(cell))).collect();
            let _ = writeln!(out, "<tr>{all}</tr>");
        };
        self.intro.iter().for_each(|intro| text(&mut out, intro));
        for section in &self.sections {
            let _ = writeln!(out, "<h2>{}</h2>", section.title);
            for part in &section.parts {
                match part {
                    Part::Text(said) => text(&mut out, said),
                    Part::Table { head, rows } => {
                        out.push_str("<table>\n");
                        cells(&mut out, "th", head);
                        rows.iter().for_each(|row| cells(&mut out, "td", row));
                        out.push_str("</table>\n");
                    }
                }
            }
        }
        out.push_str("</body></html>\n");
        out
    }
}

impl Section {
    pub(super) fn new(title: &'static str) -> Self {
        Self { title, parts: Vec::new() }
    }

    pub(super) fn say(&mut self, text: String) {
        self.parts.push(Part::Text(text));
    }

    pub(super) fn table(&mut self, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        let head = head.iter().map(|&name| name.to_owned()).collect();
        self.parts.push(Part::Table { head, rows: rows.into_iter().collect() });
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
        let mut document = Document::new("t");
        document.add(section);
        let (markdown, html) = (document.markdown(), document.html());
        assert!(html.contains("<td>&lt;script&gt;a|b\u{fffd}# c\u{fffd}\u{fffd}\u{fffd}d") && !html.contains("<script>"), "{html}");
        assert!(markdown.contains("| \\<script>a\\|b # c   d\\</script> | 1 |"), "{markdown}");
    }
}
