//! SPIFFE IDs, and the patterns by which configuration and policy name sets of them.

use std::fmt;

pub use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

/// SPIFFE-ID §2.3: longer ones need not be supported, and everything in a record should be bounded.
const MAX_ID: usize = 2048;

/// Parses `text` as a SPIFFE ID and accepts only its canonical spelling.
///
/// The `spiffe` crate lowers an upper-case trust domain; SPIFFE-ID §2.1 allows lower case only, and a
/// certificate that spells an ID differently must not pass for it.
///
/// # Errors
/// The error is human-readable.
pub fn parse_canonical(text: &str) -> Result<SpiffeId, String> {
    if text.len() > MAX_ID {
        return Err(format!("it has {} bytes, {MAX_ID} are the most", text.len()));
    }
    let id = SpiffeId::new(text).map_err(|e| e.to_string())?;
    if id.to_string() == text { Ok(id) } else { Err(format!("not in canonical form, which is `{id}`")) }
}

/// A set of SPIFFE IDs: an ID in which `*` stands for one whole path segment and a final `**` for
/// one or more segments.
///
/// The trust domain is always literal: a pattern can't reach across trust domains.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SpiffeIdPattern {
    trust_domain: TrustDomain,
    segments: Vec<Segment>,
    text: String,
}

/// A part of a pattern's path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// Exactly this segment.
    Literal(String),
    /// `*`: one segment, whatever it is.
    One,
    /// A final `**`: one or more segments.
    Rest,
}

/// Why a text is no [`SpiffeIdPattern`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatternError {
    /// It would not be a SPIFFE ID even with its wildcards filled in.
    #[error("`{0}` is not a SPIFFE ID pattern: {1}; write spiffe://TRUST-DOMAIN/PATH, with * for one segment or a final **")]
    NotAnId(String, String),
    /// A wildcard stands where none may.
    #[error("`{0}` is not a SPIFFE ID pattern: {1}")]
    BadWildcard(String, &'static str),
}

impl SpiffeIdPattern {
    /// Parses a pattern such as `spiffe://prod.example/ns/*/sa/web` or `spiffe://prod.example/**`.
    ///
    /// # Errors
    /// [`PatternError`] names the text and what to write instead.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let bad = |why| PatternError::BadWildcard(text.to_owned(), why);
        let rest = text.strip_prefix("spiffe://").unwrap_or(text);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('*') {
            return Err(bad("the trust domain can't have a wildcard; name each trust domain in a pattern of its own"));
        }
        let parts: Vec<&str> = if path.is_empty() { Vec::new() } else { path.split('/').collect() };
        let mut segments = Vec::with_capacity(parts.len());
        for (at, part) in parts.iter().enumerate() {
            segments.push(match *part {
                "*" => Segment::One,
                "**" if at + 1 == parts.len() => Segment::Rest,
                "**" => return Err(bad("** may only be the last segment")),
                part if part.contains('*') => {
                    return Err(bad("* stands for a whole path segment, it can't be a part of one"));
                }
                part => Segment::Literal(part.to_owned()),
            });
        }
        // The grammar of what is not a wildcard is the SPIFFE ID's own.
        let filled = text.replace("**", "x").replace('*', "x");
        let id = parse_canonical(&filled).map_err(|e| PatternError::NotAnId(text.to_owned(), e))?;
        if segments.is_empty() {
            return Err(PatternError::NotAnId(text.to_owned(), "it has no path, so no workload can match".to_owned()));
        }
        Ok(Self { trust_domain: id.trust_domain().clone(), segments, text: text.to_owned() })
    }

    /// The set of this one ID.
    #[must_use]
    pub fn exactly(id: &SpiffeId) -> Self {
        let segments = id.path().split('/').skip(1).map(|segment| Segment::Literal(segment.to_owned())).collect();
        Self { trust_domain: id.trust_domain().clone(), segments, text: id.to_string() }
    }

    /// Whether the set contains `id`.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        if id.trust_domain() != &self.trust_domain {
            return false;
        }
        let mut path = id.path().split('/').skip(1);
        for segment in &self.segments {
            match segment {
                Segment::Rest => return path.next().is_some(),
                Segment::One if path.next().is_some() => {}
                Segment::Literal(want) if path.next() == Some(want.as_str()) => {}
                Segment::One | Segment::Literal(_) => return false,
            }
        }
        path.next().is_none()
    }

    /// Whether this set contains every ID of `other`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if self.trust_domain != other.trust_domain {
            return false;
        }
        let (mut ours, mut theirs) = (self.segments.iter(), other.segments.iter());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) | (Some(Segment::Rest), Some(_)) => return true,
                (Some(Segment::One), Some(Segment::Literal(_) | Segment::One)) => {}
                (Some(Segment::Literal(a)), Some(Segment::Literal(b))) if a == b => {}
                _ => return false,
            }
        }
    }

    /// Whether the two sets have no ID in common.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        if self.trust_domain != other.trust_domain {
            return true;
        }
        let (mut ours, mut theirs) = (self.segments.iter(), other.segments.iter());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) | (Some(Segment::Rest), Some(_)) | (Some(_), Some(Segment::Rest)) => return false,
                (None, Some(_)) | (Some(_), None) => return true,
                (Some(Segment::Literal(a)), Some(Segment::Literal(b))) if a != b => return true,
                _ => {}
            }
        }
    }

    /// The trust domain of all IDs in the set.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The parts of the path.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether the pattern has nothing but wildcards after its trust domain, and so names no workload in particular.
    #[must_use]
    pub fn is_whole_trust_domain(&self) -> bool {
        !self.segments.iter().any(|segment| matches!(segment, Segment::Literal(_)))
    }
}

impl fmt::Display for SpiffeIdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, id: &str) -> bool {
        SpiffeIdPattern::parse(pattern).unwrap().matches(&SpiffeId::new(id).unwrap())
    }

    #[test]
    fn wildcards_cover_whole_segments_only() {
        assert!(matches("spiffe://a.b/ns/*/sa/web", "spiffe://a.b/ns/x/sa/web"));
        assert!(!matches("spiffe://a.b/ns/*/sa/web", "spiffe://a.b/ns/x/y/sa/web"));
        assert!(!matches("spiffe://a.b/ns/*", "spiffe://a.b/ns"));
        assert!(matches("spiffe://a.b/**", "spiffe://a.b/x/y/z"));
        assert!(!matches("spiffe://a.b/**", "spiffe://a.b"));
        assert!(!matches("spiffe://a.b/x/**", "spiffe://a.b/x"));
        assert!(!matches("spiffe://a.b/x", "spiffe://a.c/x"));
        assert!(!matches("spiffe://a.b/x", "spiffe://a.b/x/y"));
        assert!(!matches("spiffe://a.b/x", "spiffe://a.b/xy"));
    }

    #[test]
    fn sets_are_compared_without_looking_at_ids() {
        let of = |text: &str| SpiffeIdPattern::parse(text).unwrap();
        let all = ["x", "y", "*", "**", "x/y", "x/*", "*/y", "x/**", "*/**", "x/y/z"].map(|path| format!("spiffe://a.b/{path}"));
        let ids = ["x", "y", "x/y", "x/z", "y/y", "x/y/z", "x/y/x"].map(|path| SpiffeId::new(format!("spiffe://a.b/{path}")).unwrap());
        for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (of(a), of(b)))) {
            // The IDs are enough to tell all these patterns apart.
            assert_eq!(a.covers(&b), ids.iter().all(|id| !b.matches(id) || a.matches(id)), "{a} covers {b}");
            assert_eq!(a.is_disjoint(&b), !ids.iter().any(|id| a.matches(id) && b.matches(id)), "{a} and {b}");
        }
        assert!(!of("spiffe://a.b/**").covers(&of("spiffe://a.c/x")) && of("spiffe://a.b/**").is_disjoint(&of("spiffe://a.c/x")));
    }

    #[test]
    fn bad_patterns_are_named() {
        for bad in [
            "",
            "web",
            "spiffe://a.b",
            "spiffe://*/x",
            "spiffe://a.b/we*",
            "spiffe://a.b/**/x",
            "spiffe://A.b/x",
            "spiffe://a.b/x/",
            "http://a.b/x",
            "spiffe://a.b//x",
        ] {
            assert!(SpiffeIdPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_canonical_spelling_is_an_id() {
        assert!(parse_canonical("spiffe://a.b/x").is_ok());
        assert!(parse_canonical("spiffe://A.b/x").is_err());
        assert!(parse_canonical("SPIFFE://a.b/x").is_err());
    }
}
