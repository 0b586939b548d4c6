//! Makes text of peers, certificates and libraries safe to show in logs and on terminals.

use std::borrow::Cow;
use std::time::Duration;

/// Longer than any legitimate message.
const MOST: usize = 512;

/// The innermost cause of an error: gRPC and HTTP wrap the system's error several times, and the innermost one helps most.
#[must_use]
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// A time in seconds since the epoch as RFC 3339. None for a time beyond the range of dates: a certificate may name any number.
#[must_use]
pub fn rfc3339(seconds: i64) -> Option<String> {
    const END_OF_9999: u64 = 253_402_300_799;
    let seconds = u64::try_from(seconds).ok().filter(|s| *s <= END_OF_9999)?;
    Some(humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_secs(seconds)).to_string())
}

/// A length of time in one unit: `42 seconds`, `3.5 hours`, `6.9 years`.
#[must_use]
pub fn long(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(31_556_952, "year"), (86_400, "day"), (3600, "hour"), (60, "minute")];
    let Some((size, name)) = UNITS.into_iter().find(|(size, _)| seconds >= *size) else { return counted(seconds, "second") };
    let tenths = seconds.saturating_mul(10) / size;
    if tenths.is_multiple_of(10) { counted(tenths / 10, name) } else { format!("{}.{} {name}s", tenths / 10, tenths % 10) }
}

/// `1 record`, `2 records`, `2 addresses`.
#[must_use]
pub fn counted(number: u64, one: &str) -> String {
    let ending = match number {
        1 => "",
        _ if one.ends_with('s') => "es",
        _ => "s",
    };
    format!("{number} {one}{ending}")
}

/// `text` without control characters and bounded: a peer must not write lines, move cursors or fill disks.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(shown).take(MOST).collect()
}

/// `text` of many lines as one that is [`printable`].
#[must_use]
pub fn one_line(text: &str) -> String {
    printable(&text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; "))
}

/// `text` without control characters, however long it is.
#[must_use]
pub fn without_controls(text: &str) -> String {
    // Almost no text has such characters.
    if is_plain(text) { text.to_owned() } else { text.chars().map(shown).collect() }
}

/// Whether `text` has no character that a terminal obeys. ASCII is compared as bytes.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| (b' '..0x7f).contains(&b)) || !text.contains(is_control_or_bidi)
}

/// Whether a terminal or a browser obeys `c` instead of showing it: control characters, C0 and C1, and those by which text
/// stands in another order than it is in (Unicode's UAX #9 §2, bidirectional formatting).
#[must_use]
pub fn is_control_or_bidi(c: char) -> bool {
    c.is_control() || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON in which what a terminal would obey is written `\\uXXXX`: the same JSON, on as many lines. `serde_json` does so only below
/// U+0020.
#[must_use]
pub fn printable_json(json: &str) -> Cow<'_, str> {
    use std::fmt::Write;
    let obeyed = |c: char| c != '\n' && is_control_or_bidi(c);
    // Almost no line has such characters: it is not copied, and ASCII is compared as bytes.
    if json.bytes().all(|b| (b' '..0x7f).contains(&b) || b == b'\n') || !json.contains(obeyed) {
        return json.into();
    }
    let mut out = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        if obeyed(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out.into()
}

fn shown(c: char) -> char {
    if is_control_or_bidi(c) { '\u{fffd}' } else { c }
}

/// A short length of time, human-readable: `850µs`, `12.4ms`, `3.2s`.
#[must_use]
pub fn duration(took: Duration) -> String {
    match took.as_micros() {
        micros @ 0..1_000 => format!("{micros}µs"),
        1_000..1_000_000 => format!("{:.1}ms", took.as_secs_f64() * 1e3),
        _ => format!("{:.1}s", took.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_not_shown() {
        let text = "a\u{1b}]0;x\u{7}b\u{9b}c\u{202e}d\u{2066}e\u{200f}\nf";
        let shown = "a\u{fffd}]0;x\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}e\u{fffd}\u{fffd}f";
        assert_eq!((printable(text), without_controls(text)), (shown.to_owned(), shown.to_owned()));
        assert_eq!(without_controls("Grüße, 你好 👋"), "Grüße, 你好 👋");
    }

    #[test]
    fn a_message_is_cut() {
        assert_eq!(printable(&"ü".repeat(5000)).chars().count(), MOST);
    }

    #[test]
    fn json_says_the_same_without_what_a_terminal_obeys() {
        let plain = "{\"a\": \"Grüße\"}\n";
        assert!(matches!(printable_json(plain), Cow::Borrowed(text) if text == plain));
        assert_eq!(printable_json("{\"\u{9b}\": \"\u{7f}\u{202e}\"}\n"), "{\"\\u009b\": \"\\u007f\\u202e\"}\n");
    }

    #[test]
    fn a_length_of_time_has_one_unit() {
        let long = [0, 1, 59, 60, 90, 3600, 86_400, 217_897_211, u64::MAX / 20].map(long);
        let says = ["0 seconds", "1 second", "59 seconds", "1 minute", "1.5 minutes", "1 hour", "1 day", "6.9 years"];
        assert_eq!(long[..8], says);
    }

    #[test]
    fn a_time_that_is_none_is_no_panic() {
        assert_eq!([i64::MIN, -1, 253_402_300_800, i64::MAX].map(rfc3339), [const { None }; 4]);
        assert_eq!(rfc3339(253_402_300_799).as_deref(), Some("9999-12-31T23:59:59Z"));
        assert_eq!(rfc3339(0).as_deref(), Some("1970-01-01T00:00:00Z"));
    }
}
