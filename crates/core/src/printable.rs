//! What a peer says, made fit for logs.

/// Longer than any honest message.
const MOST: usize = 512;

/// `text` without control characters and bounded: a peer must not write lines, move cursors or fill disks.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(MOST).collect()
}
