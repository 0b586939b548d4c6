//! A YAML file as a tree in which every node knows its location.
//!
//! A configuration is a plain tree: anchors, aliases, tags and a second document are refused, and so
//! is a key that is given twice.

use std::fmt;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// The deepest nesting of a document.
const MAX_DEPTH: usize = 32;
/// Values of a document. Each takes some 100 bytes, whatever it is: a file of small ones would otherwise take many times its size.
const MAX_VALUES: usize = 2_000_000;
/// Keys of one mapping; each is compared with those before it.
const MAX_KEYS: usize = 1000;
/// Mistakes that are shown.
const SHOWN: usize = 100;

/// Where something stands: a file with line and column, or an environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// File name, or name of the variable.
    pub source: Arc<str>,
    /// 1-based; 0 where the source has no lines.
    pub line: usize,
    /// 1-based; 0 where the source has no lines.
    pub column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.source),
            line => write!(f, "{}:{line}:{}", self.source, self.column),
        }
    }
}

/// One mistake in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub location: Location,
    /// Path in the document, such as `inbound.ports[0].mode`.
    pub path: String,
    /// What is wrong, and how to fix it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { location, path, message } = self;
        if path.is_empty() { write!(f, "{location}: {message}") } else { write!(f, "{location}: {path}: {message}") }
    }
}

/// All mistakes of a document; as text one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// `value` if there is no problem, else all of them.
    ///
    /// # Errors
    /// `self`, if it holds a problem.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }

    /// Whether `problem` is among these, wherever it stands.
    pub(crate) fn says(&self, problem: &Problem) -> bool {
        self.0.iter().any(|other| other.path == problem.path && other.message == problem.message)
    }

    /// Adds what is wrong at `location`, the value of `path`.
    pub fn push(&mut self, location: &Location, path: &str, message: impl Into<String>) {
        self.0.push(Problem { location: location.clone(), path: path.to_owned(), message: message.into() });
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().take(SHOWN).enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

/// A value and its location.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where the value starts.
    pub location: Location,
    /// The value.
    pub value: Value,
}

/// A YAML value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Null, boolean, number or string.
    Scalar(serde_json::Value),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file, each key with its place.
    Map(Vec<(String, Location, Node)>),
}

impl Node {
    /// Parses one YAML document. An empty one is an empty mapping.
    ///
    /// # Errors
    /// Every key that is given twice, and the first syntax error: what follows one can't be trusted.
    pub fn parse(source: &str, text: &str) -> Result<Self, Problems> {
        let (node, problems) = Self::read(source, text)?;
        problems.or(node)
    }

    /// As [`Node::parse`], but a key that is given twice does not keep the rest from being looked at: the first counts.
    ///
    /// # Errors
    /// The first syntax error, after every key that was given twice before it.
    pub fn read(source: &str, text: &str) -> Result<(Self, Problems), Problems> {
        let parser = Parser::new_from_str(text);
        let mut reader = Reader { parser, source: source.into(), values: 0, twice: Problems::default() };
        match reader.document() {
            Ok(node) => Ok((node, reader.twice)),
            Err(problem) => {
                reader.twice.0.push(problem);
                Err(reader.twice)
            }
        }
    }

    /// The elements of the list `key`; none if there is no such list.
    #[must_use]
    pub fn items(&self, key: &str) -> &[Self] {
        match self.get(key).map(|node| &node.value) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    /// The value of `key`, if this is a mapping that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(name, _, _)| name == key).map(|(_, _, node)| node)
    }

    /// The text of `key`, if it is one.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value {
            Value::Scalar(serde_json::Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// The node at `path`, as deep as it exists: for a missing key the place of its nearest parent.
    #[must_use]
    pub fn nearest(&self, path: &str) -> &Node {
        let mut node = self;
        for step in path.split(['.', '[']).filter(|s| !s.is_empty()) {
            let next = match &node.value {
                Value::Map(entries) => entries.iter().find(|(key, _, _)| key == step).map(|(_, _, n)| n),
                Value::List(items) => step.trim_end_matches(']').parse().ok().and_then(|i: usize| items.get(i)),
                Value::Scalar(_) => None,
            };
            let Some(next) = next else { break };
            node = next;
        }
        node
    }

    /// The tree without its locations.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Scalar(scalar) => scalar.clone(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => serde_json::Value::Object(entries.iter().map(|(key, _, node)| (key.clone(), node.to_json())).collect()),
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    source: Arc<str>,
    values: usize,
    /// Keys that are given twice.
    twice: Problems,
}

impl<'a> Reader<'a> {
    fn location(&self, span: Span) -> Location {
        Location { source: self.source.clone(), line: span.start.line(), column: span.start.col() + 1 }
    }

    fn problem(&self, span: Span, message: impl Into<String>) -> Problem {
        Problem { location: self.location(span), path: String::new(), message: message.into() }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(Problem {
                location: Location { source: self.source.clone(), line: error.marker().line(), column: error.marker().col() + 1 },
                path: String::new(),
                message: format!("not YAML: {}", error.info()),
            }),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Result<Node, Problem> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(_) => {}
                Event::StreamEnd => {
                    let location = Location { source: self.source.clone(), line: 1, column: 1 };
                    return Ok(Node { location, value: Value::Map(Vec::new()) });
                }
                event => {
                    let mut node = self.node(event, span, 0)?;
                    if node.value == Value::Scalar(serde_json::Value::Null) {
                        node.value = Value::Map(Vec::new());
                    }
                    loop {
                        match self.next()? {
                            (Event::DocumentEnd, _) => {}
                            (Event::StreamEnd, _) => return Ok(node),
                            (_, span) => return Err(self.problem(span, "a second document; one file holds one")),
                        }
                    }
                }
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Problem> {
        if depth > MAX_DEPTH {
            return Err(self.problem(span, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.problem(span, format!("more than {MAX_VALUES} values in one document")));
        }
        let location = self.location(span);
        let value = match event {
            Event::Scalar(text, style, 0, None) => Value::Scalar(scalar(&text, style)),
            Event::SequenceStart(0, None) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Value::List(items),
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(0, None) => {
                let mut entries: Vec<(String, Location, Node)> = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    let key = match event {
                        Event::MappingEnd => break Value::Map(entries),
                        Event::Scalar(key, _, 0, None) => key.into_owned(),
                        _ => return Err(self.problem(span, "a key must be a plain word")),
                    };
                    let first = entries.iter().find(|(k, _, _)| *k == key).map(|(_, first, _)| first.line);
                    if let Some(first) = first {
                        let problem = self.problem(span, format!("`{key}` is given twice, first on line {first}; remove one"));
                        self.twice.0.push(problem);
                    }
                    if entries.len() == MAX_KEYS {
                        return Err(self.problem(span, format!("more than {MAX_KEYS} keys in one mapping")));
                    }
                    let key_location = self.location(span);
                    let (event, span) = self.next()?;
                    let node = self.node(event, span, depth + 1)?;
                    if first.is_none() {
                        entries.push((key, key_location, node));
                    }
                }
            }
            _ => return Err(self.problem(span, "anchors, aliases and tags are not used here; write the value out")),
        };
        Ok(Node { location, value })
    }
}

/// The YAML 1.2 core schema; what is quoted is a string.
fn scalar(text: &str, style: ScalarStyle) -> serde_json::Value {
    use serde_json::Value as Json;
    if style != ScalarStyle::Plain {
        return Json::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Json::Null,
        "true" | "True" | "TRUE" => Json::Bool(true),
        "false" | "False" | "FALSE" => Json::Bool(false),
        _ => match text.parse::<i64>() {
            Ok(number) => Json::from(number),
            Err(_) => match text.parse::<f64>() {
                Ok(number) if number.is_finite() && text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.') => {
                    Json::from(number)
                }
                _ => Json::String(text.to_owned()),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_file() {
        let node = Node::parse("f.yaml", "a: 1\nb:\n  - c: x\n  - c: 'true'\n").unwrap();
        let at = node.nearest("b[1].c");
        assert_eq!((at.location.line, at.location.column), (4, 8));
        assert_eq!(at.to_json(), serde_json::json!("true"));
    }

    #[test]
    fn so_many_mistakes_are_shown_and_the_rest_counted() {
        let mut problems = Problems::default();
        let location = Node::parse("f", "").unwrap().location;
        (0..SHOWN + 3).for_each(|_| problems.push(&location, "a", "wrong"));
        let text = problems.to_string();
        assert!(text.lines().count() == SHOWN + 1 && text.ends_with("and 3 more"), "{text}");
    }

    #[test]
    fn what_is_no_plain_tree_is_refused() {
        for (text, say) in [
            ("a: 1\na: 2\n", "f:2:1: `a` is given twice, first on line 1"),
            ("a: &x 1\nb: *x\n", "anchors"),
            ("a: !!str 1\n", "tags"),
            ("a: 1\n---\nb: 2\n", "second document"),
            ("a: [1\n", "not YAML"),
        ] {
            let problems = Node::parse("f", text).unwrap_err().to_string();
            assert!(problems.contains(say), "{problems}");
        }
        let wide: String = (0..=MAX_KEYS).map(|n| format!("k{n}: 1\n")).collect();
        assert_eq!(Node::parse("f", &wide).unwrap_err().to_string(), "f:1001:1: more than 1000 keys in one mapping");
        let many = format!("[{}]", "1,".repeat(MAX_VALUES));
        assert!(Node::parse("f", &many).unwrap_err().to_string().contains("more than 2000000 values in one document"));
        let deep = "[".repeat(200);
        assert!(Node::parse("f", &deep).unwrap_err().to_string().contains("nested deeper"));
    }
}
