//! Lines of text that fit: broken at spaces, and set in where they go on.

/// Lines are this wide at most, where their words allow it.
const WIDTH: usize = 120;

/// `line` in lines of at most 120 columns, those after the first indented by `indent` spaces more than it is itself.
#[must_use]
pub fn wrapped(line: &str, indent: usize) -> String {
    let own = line.len() - line.trim_start().len();
    let rest = " ".repeat(own + indent);
    let mut out = " ".repeat(own);
    let mut column = own;
    for word in line.split_whitespace() {
        let width = word.chars().count();
        if column > own && column + 1 + width > WIDTH {
            out.push('\n');
            out.push_str(&rest);
            column = rest.len();
        } else if column > own {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
    }
    out
}

/// `line` in lines of at most `width` columns: broken at spaces, and within a word that is wider itself.
#[must_use]
pub fn folded(line: &str, indent: usize, width: usize) -> String {
    let indent = indent.min(width / 2);
    let (mut out, mut room) = (String::new(), width);
    let mut rest: Vec<char> = line.chars().collect();
    while rest.len() > room {
        let has_words = |at: usize| rest.iter().take(at).any(|c| *c != ' ');
        let space = (1..=room).rev().find(|at| rest.get(*at) == Some(&' ') && has_words(*at));
        let next = rest.split_off(space.unwrap_or(room));
        out.extend(rest);
        out.push('\n');
        out.push_str(&" ".repeat(indent));
        rest = next.into_iter().skip_while(|c| *c == ' ').collect();
        room = width - indent;
    }
    out.extend(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_wrapped_at_words() {
        assert_eq!(wrapped("  short line", 2), "  short line");
        let text = format!("  {}", "word ".repeat(60));
        let lines = wrapped(&text, 2);
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() <= WIDTH && !line.ends_with(' ')), "{lines:?}");
        assert!(lines[0].starts_with("  word") && lines[1].starts_with("    word"), "{lines:?}");
        assert_eq!(lines.concat().matches("word").count(), 60);
        let long = "x".repeat(200);
        assert_eq!(wrapped(&long, 2), long);
    }

    #[test]
    fn a_folded_line_says_all_of_it_in_the_width_that_there_is() {
        let line = "       7 2026-01-31T08:00:00.000Z connection.ended  spiffe://prod.example/ns/shop/sa/web closed 5538989ccab157b8";
        let words = |text: &str| text.split_whitespace().collect::<String>();
        for width in 1..130 {
            let text = folded(line, 9, width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
            assert_eq!(words(&text), words(line), "{width}");
        }
        assert_eq!(folded(line, 9, 130), line);
        assert_eq!(folded("a bc def", 2, 5), "a bc\n  def");
    }
}
