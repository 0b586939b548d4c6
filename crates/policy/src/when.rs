//! The condition `when` of a rule, in CEL: parsed and checked when it is loaded, evaluated when its rule is a candidate.
//!
//! The cost of an evaluation is bounded by the expression alone: it has at most [`MAX_NODES`] parts, none of which repeats,
//! and the texts that it looks at are bounded too. Evaluation is as deep as the expression, at most [`MAX_DEPTH`].

use cel::common::ast::{Expr, LiteralValue, SourceInfo, operators};
use cel::parser::Parser;
use cel::{ExecutionError, IdedExpr, Value};

use crate::environment::{self, VariableType};
use crate::query::Query;

/// A longer text is refused.
const MAX_BYTES: usize = 1024;
const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 256;
/// The parser calls itself once or more for each byte. So it runs on a stack that is large enough for [`MAX_BYTES`] of any text.
const PARSER_STACK: usize = 64 << 20;

/// A condition that has been checked.
#[derive(Debug)]
pub(crate) struct When {
    pub(crate) text: String,
    expression: IdedExpr,
    /// Its value, if it uses no variable.
    pub(crate) constant: Option<bool>,
}

/// What is wrong with a condition, and at which byte.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ExpressionError {
    pub(crate) at: usize,
    pub(crate) message: String,
}

impl When {
    /// Parses and checks `text`.
    pub(crate) fn compile(text: &str) -> Result<Self, Vec<ExpressionError>> {
        let whole = |message: String| vec![ExpressionError { at: text.len() - text.trim_start().len(), message }];
        if text.len() > MAX_BYTES {
            return Err(whole(format!("the condition has {} bytes, {MAX_BYTES} are the most; make several rules of it", text.len())));
        }
        if let Some(at) = text.find(|c: char| !c.is_ascii_graphic() && !c.is_ascii_whitespace()) {
            return Err(vec![ExpressionError { at, message: "only ASCII may stand in a condition".to_owned() }]);
        }
        let (expression, source) = match parse(text) {
            Ok(parsed) => parsed,
            Err(UnparsedExpression::Wrong(mistake)) => return Err(vec![mistake]),
            Err(UnparsedExpression::Impossible(why)) => return Err(whole(why)),
        };
        let mut checker = Checker { source: &source, mistakes: Vec::new(), nodes: 0, asks: false };
        match checker.type_of(&expression, 0) {
            Some(kind) if kind != VariableType::Bool => checker.mistakes.extend(whole(format!("is {kind}; a condition is true or false"))),
            _ => {}
        }
        if !checker.mistakes.is_empty() {
            return Err(checker.mistakes);
        }
        let asks = checker.asks;
        let mut when = Self { text: text.to_owned(), expression, constant: None };
        if !asks {
            let value = truth(environment::evaluate_constant(&when.expression))
                .map_err(|error| whole(format!("can never be evaluated: {error}")))?;
            when.constant = Some(value);
        }
        Ok(when)
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// Why it can't be evaluated, for example because a fact of this connection is not known.
    pub(crate) fn holds(&self, query: &Query<'_>) -> Result<bool, String> {
        truth(environment::evaluate(&self.expression, query))
    }
}

fn truth(value: Result<Value, ExecutionError>) -> Result<bool, String> {
    match value {
        Ok(Value::Bool(value)) => Ok(value),
        Ok(_) => Err("it is neither true nor false".to_owned()),
        Err(ExecutionError::NoSuchKey(key)) => Err(format!("`{key}` is not known of this connection; ask `has(…)` first")),
        Err(error) => Err(error.to_string()),
    }
}

/// Why a text can't be parsed.
enum UnparsedExpression {
    Wrong(ExpressionError),
    /// That says nothing of the text.
    Impossible(String),
}

/// The tree of `text`, by a parser that neither runs out of stack nor brings down the caller if it panics.
fn parse(text: &str) -> Result<(IdedExpr, SourceInfo), UnparsedExpression> {
    let parser = || Parser::new().max_recursion_depth(96).error_recovery_limit(4).parse_with_source_info(text);
    let parsed = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("cel parser".to_owned()).stack_size(PARSER_STACK).spawn_scoped(scope, parser);
        thread.map(std::thread::ScopedJoinHandle::join)
    });
    match parsed {
        Ok(Ok(Ok(parsed))) => Ok(parsed),
        // Errors after the first are mostly its consequences.
        Ok(Ok(Err(wrong))) => Err(UnparsedExpression::Wrong(wrong.errors.first().map_or_else(
            || ExpressionError { at: 0, message: "is not CEL".to_owned() },
            |error| ExpressionError { at: offset(text, error.pos), message: reworded(&error.msg) },
        ))),
        Ok(Err(_)) => {
            Err(UnparsedExpression::Impossible("the parser of CEL has a defect and gave up on this; say it in another way".to_owned()))
        }
        Err(error) => Err(UnparsedExpression::Impossible(format!("can't be parsed, since the system gives no thread for it: {error}"))),
    }
}

/// The byte of `text` at a line and column, both from 1.
fn offset(text: &str, (line, column): (isize, isize)) -> usize {
    let (line, column) = (usize::try_from(line).unwrap_or(0), usize::try_from(column).unwrap_or(0));
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)).min(text.len())
}

/// The parser's message in our style.
fn reworded(message: &str) -> String {
    // Without its list of all that could stand there.
    let message = message.trim_start_matches("Syntax error: ").split(" expecting ").next().unwrap_or_default();
    format!("is not CEL: {}", message.replace("'<EOF>'", "at the end").replace('\n', " "))
}

struct Checker<'a> {
    source: &'a SourceInfo,
    mistakes: Vec<ExpressionError>,
    nodes: usize,
    /// Whether the expression uses a variable.
    asks: bool,
}

impl Checker<'_> {
    fn wrong(&mut self, node: &IdedExpr, message: impl Into<String>) -> Option<VariableType> {
        let at = self.source.offset_for(node.id).map_or(0, |(start, _)| start as usize);
        self.mistakes.push(ExpressionError { at, message: message.into() });
        None
    }

    /// The type of `node`; none if it has a mistake, which has been reported then.
    fn type_of(&mut self, node: &IdedExpr, depth: usize) -> Option<VariableType> {
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            // Reported once; the nodes below are not checked.
            let told = self.mistakes.iter().any(|m| m.message.starts_with("too "));
            let limit = if depth > MAX_DEPTH { format!("too deep: {MAX_DEPTH} levels") } else { format!("too long: {MAX_NODES} parts") };
            return if told { None } else { self.wrong(node, format!("{limit} are the most; make several rules of it")) };
        }
        match &node.expr {
            Expr::Literal(LiteralValue::Boolean(_)) => Some(VariableType::Bool),
            Expr::Literal(LiteralValue::Int(_)) => Some(VariableType::Int),
            Expr::Literal(LiteralValue::String(_)) => Some(VariableType::Text),
            Expr::Literal(_) => self.wrong(node, "only texts, whole numbers, true and false may stand here"),
            Expr::Select(select) => {
                self.asks = true;
                let Expr::Ident(root) = &select.operand.expr else {
                    return self.wrong(&select.operand, format!("`.{}`: only {} have fields", select.field, environment::roots()));
                };
                match environment::field(root, &select.field) {
                    Some(_) if select.test => Some(VariableType::Bool),
                    Some(kind) => Some(kind),
                    None => self.wrong(&select.operand, environment::unknown_field(root, &select.field)),
                }
            }
            Expr::Ident(name) if environment::is_root(name) => {
                self.wrong(node, format!("`{name}` has fields: {}", environment::fields(name)))
            }
            Expr::Ident(name) => self.wrong(node, format!("`{name}` is not known; there are {}", environment::roots())),
            Expr::Call(call) => {
                let operands: Vec<&IdedExpr> = call.target.iter().map(|target| &**target).chain(&call.args).collect();
                if call.func_name == operators::IN
                    && let [item, list] = operands[..]
                {
                    return self.membership(item, list, depth);
                }
                let types: Option<Vec<VariableType>> =
                    operands.iter().map(|operand| self.type_of(operand, depth + 1)).collect::<Vec<_>>().into_iter().collect();
                let types = types?;
                match result(&call.func_name, call.target.is_some(), &types) {
                    Some(kind) => Some(kind),
                    None => self.wrong(node, misapplied(&call.func_name, &types)),
                }
            }
            Expr::List(_) => self.wrong(node, "a list may only stand behind `in`"),
            Expr::Comprehension(_) => {
                self.wrong(node, "`all`, `exists`, `map` and their like are not used here; name the cases with `in` or `||`")
            }
            Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => self.wrong(node, "maps and structures are not used here"),
        }
    }

    /// `item in [a, b]`: what is in the list is of one type, the item's.
    fn membership(&mut self, item: &IdedExpr, list: &IdedExpr, depth: usize) -> Option<VariableType> {
        let kind = self.type_of(item, depth + 1);
        let Expr::List(elements) = &list.expr else {
            return self.wrong(list, "behind `in` stands a list, such as `[80, 443]`");
        };
        for element in &elements.elements {
            match (kind, self.type_of(element, depth + 1)) {
                (Some(want), Some(found)) if want != found => {
                    self.wrong(element, format!("is {found}, but what is looked for is {want}"));
                }
                _ => {}
            }
        }
        kind.map(|_| VariableType::Bool)
    }
}

/// The type of an operator's or a function's result, if there is one with such operands.
fn result(function: &str, member: bool, operands: &[VariableType]) -> Option<VariableType> {
    use VariableType::{Bool, Int, Text};
    match (function, operands) {
        (operators::LOGICAL_AND | operators::LOGICAL_OR, [Bool, Bool]) | (operators::LOGICAL_NOT, [Bool]) => Some(Bool),
        (operators::EQUALS | operators::NOT_EQUALS, [a, b]) if a == b => Some(Bool),
        (operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS, [Int, Int] | [Text, Text]) => {
            Some(Bool)
        }
        (operators::ADD | operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO, [Int, Int])
        | (operators::NEGATE, [Int]) => Some(Int),
        (operators::CONDITIONAL, [Bool, a, b]) if a == b => Some(*a),
        ("startsWith" | "endsWith" | "contains", [Text, Text]) if member => Some(Bool),
        ("size", [Text]) => Some(Int),
        _ => None,
    }
}

fn misapplied(function: &str, operands: &[VariableType]) -> String {
    let operands: Vec<String> = operands.iter().map(ToString::to_string).collect();
    let operator = function.trim_matches(['_', '@']).replace("_", " ");
    match function.contains('_') {
        true => format!("`{operator}` can't be applied to {}", operands.join(" and ")),
        false => {
            format!("there is no function `{function}` of {}; there are startsWith, endsWith, contains, size and has", operands.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::KnownFacts;
    use proptest::prelude::*;
    use sidegate_core::Direction;

    fn bare() -> Query<'static> {
        let (direction, client_address, to) = (Direction::Inbound, [10, 0, 0, 1].into(), ([10, 0, 0, 2], 80).into());
        Query::new(KnownFacts { direction, client_address, to, time: std::time::UNIX_EPOCH })
    }

    fn mistakes(text: &str) -> String {
        let found = When::compile(text).expect_err(text);
        found.iter().map(|m| format!("{}: {}\n", m.at, m.message)).collect()
    }

    #[test]
    fn what_is_good_compiles() {
        for (text, constant) in [
            ("peer.id.startsWith('spiffe://a.b/ns/') && !(connection.port in [22, 23])", None),
            ("time.hour * 60 + time.minute >= 8 * 60 && time.weekday <= 5", None),
            ("has(connection.sni) ? connection.sni.endsWith('.example') : false", None),
            ("connection.tlsVersion == '1.3' && connection.resumed == false && size(peer.path) < 100", None),
            ("connection.group in ['X25519MLKEM768']", None),
            ("-1 < peer.notAfter - time.unix", None),
            ("true", Some(true)),
            ("1 + 1 == 3", Some(false)),
        ] {
            let when = When::compile(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
            assert_eq!(when.constant, constant, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, says) in [
            ("peer.nam == 'x'", "`peer` has no `nam`; it has id,"),
            ("true && per.id == 'x'", "8: `per` is not known; there are peer, local, connection, time"),
            ("peer", "`peer` has fields: id,"),
            ("peer.id.x == 1", "`.x`: only peer, local, connection, time have fields"),
            ("connection.port == '80'", "`==` can't be applied to a whole number and a text"),
            ("connection.port", "is a whole number; a condition is true or false"),
            ("connection.port in ['80']", "20: is a text, but what is looked for is a whole number"),
            ("connection.port in connection.sni", "29: behind `in` stands a list"),
            ("[1, 2] == [1, 2]", "a list may only stand behind `in`"),
            ("peer.id.matches('a+')", "there is no function `matches`"),
            ("startsWith(peer.id, 'a')", "there is no function `startsWith`"),
            ("[1, 2].exists(x, x == connection.port)", "`all`, `exists`, `map`"),
            ("connection.port > 1.5", "only texts, whole numbers"),
            ("{'a': 1} == {'a': 1}", "maps and structures"),
            ("1 / 0 == 1", "can never be evaluated"),
            ("connection.port ==", "is not CEL: "),
            ("", "is not CEL: "),
            ("peer.id == 'ä'", "12: only ASCII"),
        ] {
            assert!(mistakes(text).contains(says), "{text}: {}", mistakes(text));
        }
        assert_eq!(When::compile("a.b && c.d").unwrap_err().len(), 2, "all at once");
    }

    proptest! {
        /// Neither parsing nor evaluating any text ends in a panic.
        #[test]
        fn nothing_panics(parts in prop::collection::vec(prop::sample::select(PARTS), 1..24), separated in any::<bool>()) {
            let text = parts.join(if separated { " " } else { "" });
            let query = bare();
            match When::compile(&text) {
                Ok(when) => drop(when.holds(&query)),
                Err(mistakes) => prop_assert!(mistakes.iter().all(|m| m.at <= text.len() && !m.message.contains("defect")), "{mistakes:?}"),
            }
        }
    }

    const PARTS: &[&str] = &[
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "true",
        "false",
        "null",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "<",
        "<=",
        "==",
        "!=",
        "&&",
        "||",
        "?",
        ":",
        ",",
        ".",
        "in",
        "has",
        "size",
        "peer.id",
        "connection.port",
        "connection.sni",
        "time.hour",
        "local",
        ".startsWith(",
        "'a'",
        "\"",
        "\\",
        "r'",
        "b'",
        "0",
        "1",
        "9223372036854775807",
        "0x",
        "1u",
        "1.5",
        "1e9",
        "\n",
        "//",
        "`",
        "@",
        "x",
        "[1, 2]",
        ".all(",
    ];

    /// A deeply nested text is refused or parsed, and never brings down the process.
    #[test]
    fn size_and_depth_are_bounded() {
        let query = bare();
        let fill = |part: &str, most: usize| part.repeat(most / part.len());
        for text in [
            fill("(", MAX_BYTES),
            format!("{}1{}", fill("(", 500), fill(")", 500)),
            format!("{}true", fill("!", 1000)),
            format!("{}1 == 1", fill("-", 1000)),
            format!("a{}", fill(".a", 1000)),
            format!("1{} == 1", fill("+1", 1000)),
            format!("{}1", fill("true?1:", 1000)),
            format!("a{}", fill("[a", 1000)),
            format!("{}{}", fill("[", 500), fill("]", 500)),
            format!("{}{}", fill("{1:", 750), fill("}", 250)),
            format!("a{}", fill(".f(a", 1000)),
            fill("'", MAX_BYTES),
            fill("\\", MAX_BYTES),
            format!("true{}", fill("&&true", 1000)),
            format!("1 in [{}1]", fill("1,", 1000)),
            fill("0", MAX_BYTES),
            "x".repeat(MAX_BYTES + 1),
        ] {
            if let Ok(when) = When::compile(&text) {
                assert!(when.holds(&query).is_ok(), "{text}");
            }
        }
        assert!(mistakes(&format!("1{} == 1", fill("+1", 100))).contains("too deep"));
        assert!(mistakes(&format!("1 in [{}1]", fill("1,", 1000))).contains("too long"));
        assert!(When::compile(&format!("true{}", fill("&&true", 600))).is_ok());
    }
}
