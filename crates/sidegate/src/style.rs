//! Colours on a terminal, unless `NO_COLOR` is set or the terminal is dumb. They only repeat what the words say.

use std::io::IsTerminal;

const RED: &str = "\u{1b}[1;31m";
const YELLOW: &str = "\u{1b}[1;33m";
const GREEN: &str = "\u{1b}[1;32m";
const PLAIN: &str = "\u{1b}[0m";

/// The words that say how something is. Of two that begin at the same place the first counts.
const VERDICTS: &[(&str, &str)] = &[
    ("NOT READY", RED),
    ("REFUSED", RED),
    ("TROUBLE", RED),
    ("FAILING", RED),
    ("MISSING", RED),
    ("EXPIRED", RED),
    ("DENIED", RED),
    ("FAILED", RED),
    ("FOUND", RED),
    ("NOT INTACT", RED),
    ("NOTHING PROVED", YELLOW),
    ("PARTLY PROVED", YELLOW),
    ("PROVED", GREEN),
    ("allowed by", GREEN),
];

/// With what a line of standard error may begin.
const PREFIXES: &[(&str, &str)] = &[("sidegate:", RED), ("error:", RED), ("warning:", YELLOW)];

/// Whether what goes to `stream` may have colours.
pub(crate) fn is_coloured(stream: &impl IsTerminal) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// `line` with its first verdict in colour.
pub(crate) fn verdict(line: &str) -> String {
    let found = VERDICTS.iter().filter_map(|(word, colour)| Some((whole(line, word)?, *word, *colour)));
    found.min_by_key(|(at, ..)| *at).map_or_else(|| line.to_owned(), |(at, word, colour)| painted(line, at, word, colour))
}

/// `line` with its beginning in colour, where that says what kind of line it is.
pub(crate) fn prefix(line: &str) -> String {
    let found = PREFIXES.iter().find(|(word, _)| line.starts_with(word));
    found.map_or_else(|| line.to_owned(), |(word, colour)| painted(line, 0, word, colour))
}

/// Where `word` stands in `line`, not as a part of another.
fn whole(line: &str, word: &str) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    line.match_indices(word).map(|(at, _)| at).find(|at| {
        let (before, after) = (line.get(..*at).unwrap_or_default(), line.get(at + word.len()..).unwrap_or_default());
        !before.ends_with(is_part) && !after.starts_with(is_part)
    })
}

fn painted(line: &str, at: usize, word: &str, colour: &str) -> String {
    let (before, after) = (line.get(..at).unwrap_or_default(), line.get(at + word.len()..).unwrap_or_default());
    format!("{before}{colour}{word}{PLAIN}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_of_a_line_has_a_colour() {
        assert_eq!(verdict("NOTHING PROVED: PROVED"), "\u{1b}[1;33mNOTHING PROVED\u{1b}[0m: PROVED");
        assert_eq!(verdict("  now:    DENIED by allowed by"), "  now:    \u{1b}[1;31mDENIED\u{1b}[0m by allowed by");
        for line in ["", "UNREFUSED x-DENIED-y", "it is allowed", "refused"] {
            assert_eq!(verdict(line), line);
        }
        assert_eq!(prefix("warning: a"), "\u{1b}[1;33mwarning:\u{1b}[0m a");
        assert_eq!(prefix("a warning: b"), "a warning: b");
    }
}
