//! Where the demo writes.

/// Takes whole texts, of one line or more, without the newline at their end.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Takes what the demo shows.
    pub shown: fn(&str),
    /// Takes what went wrong.
    pub complaint: fn(&str),
}

impl Output {
    pub(super) fn show(self, text: impl AsRef<str>) {
        (self.shown)(text.as_ref());
    }

    pub(super) fn complain(self, text: impl AsRef<str>) {
        (self.complaint)(text.as_ref());
    }
}
