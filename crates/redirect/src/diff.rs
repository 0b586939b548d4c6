//! Compares two lists of lines.

use std::fmt;

/// One difference between the wanted rules and those found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The wanted line; none if the line found is unexpected.
    pub wanted: Option<String>,
    /// The line found; none if the wanted line is missing.
    pub found: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.wanted, &self.found) {
            (Some(wanted), Some(found)) => write!(f, "changed: wanted `{wanted}`, found `{found}`"),
            (Some(wanted), None) => write!(f, "missing: `{wanted}`"),
            (None, Some(found)) => write!(f, "unexpected: `{found}`"),
            (None, None) => Ok(()),
        }
    }
}

/// The shortest list of changes, by the longest common subsequence.
pub(crate) fn diff(wanted: &[String], found: &[String]) -> Vec<Difference> {
    let mut differences = Vec::new();
    let (mut missing, mut extra) = (Vec::new(), Vec::new());
    let (mut w, mut f) = (0, 0);
    for (common_w, common_f) in common(wanted, found).into_iter().chain([(wanted.len(), found.len())]) {
        missing.extend(wanted.get(w..common_w).into_iter().flatten().cloned());
        extra.extend(found.get(f..common_f).into_iter().flatten().cloned());
        pair(&mut missing, &mut extra, &mut differences);
        (w, f) = (common_w + 1, common_f + 1);
    }
    differences
}

/// The differences at one place: lines are paired as changes, and the rest is missing or unexpected.
fn pair(missing: &mut Vec<String>, extra: &mut Vec<String>, into: &mut Vec<Difference>) {
    let (mut missing, mut extra) = (missing.drain(..), extra.drain(..));
    loop {
        match (missing.next(), extra.next()) {
            (None, None) => return,
            (wanted, found) => into.push(Difference { wanted, found }),
        }
    }
}

/// The indices of the common lines, in order.
fn common(a: &[String], b: &[String]) -> Vec<(usize, usize)> {
    // lengths[i][j]: how many lines a[i..] and b[j..] have in common. Tables of rules are small.
    let mut lengths = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for (i, line) in a.iter().enumerate().rev() {
        for (j, other) in b.iter().enumerate().rev() {
            lengths[i][j] = if line == other { lengths[i + 1][j + 1] + 1 } else { lengths[i + 1][j].max(lengths[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut pairs = Vec::new();
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if lengths[i + 1][j] >= lengths[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differences(wanted: &str, found: &str) -> Vec<String> {
        let lines = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        diff(&lines(wanted), &lines(found)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_kind_is_told_apart() {
        assert!(differences("a b c", "a b c").is_empty());
        assert_eq!(differences("a b c", "a c"), ["missing: `b`"]);
        assert_eq!(differences("a c", "a b c d"), ["unexpected: `b`", "unexpected: `d`"]);
        assert_eq!(differences("a b c", "a x c"), ["changed: wanted `b`, found `x`"]);
        assert_eq!(differences("a b", "b a").len(), 2);
        assert_eq!(differences("a b", "").len(), 2);
    }
}
