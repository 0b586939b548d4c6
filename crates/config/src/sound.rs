//! Keeps the valid parts of a document that has mistakes, so that they can still be checked.

use serde_json::Value as Json;

use crate::check::{check, meant, resolve};
use crate::document::{Node, Problem, Problems, Value};

/// The paths of keys and entries that were left out.
#[derive(Debug, Default)]
pub(crate) struct LeftOut(Vec<String>);

/// `node` without the parts that do not match `schema`, if those are optional.
pub(crate) fn sound(node: &Node, schema: &Json, root: &Json, path: &str, left_out: &mut LeftOut) -> Option<Node> {
    let is_sound = |node: &Node| {
        let mut wrong = Problems::default();
        check(node, schema, root, path, &mut wrong);
        wrong.0.is_empty()
    };
    if is_sound(node) {
        return Some(node.clone());
    }
    let inner = resolve(schema, root);
    let inner = inner["anyOf"].as_array().and_then(|c| c.iter().find(|c| resolve(c, root)["type"] != "null")).unwrap_or(inner);
    let inner = resolve(inner, root);
    let value = match &node.value {
        Value::Scalar(_) => None,
        Value::List(items) => {
            let of = |(index, item)| sound(item, &inner["items"], root, &format!("{path}[{index}]"), left_out);
            Some(Value::List(items.iter().enumerate().filter_map(of).collect()))
        }
        Value::Map(entries) => {
            let known = inner["properties"].as_object();
            let at = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            let mut kept = Vec::new();
            for (key, location, child) in entries {
                let schema = known.and_then(|known| known.get(key)).unwrap_or(&inner["additionalProperties"]);
                if schema.is_object() {
                    kept.extend(sound(child, schema, root, &at(key), left_out).map(|child| (key.clone(), location.clone(), child)));
                } else {
                    let names: Vec<&str> = known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                    left_out.0.extend(meant(key, &names).map(at));
                }
            }
            Some(Value::Map(kept))
        }
    };
    let rest = value.map(|value| Node { location: node.location.clone(), value }).filter(is_sound);
    if rest.is_none() {
        left_out.0.push(path.to_owned());
    }
    rest
}

impl LeftOut {
    /// The path in the file of what has `path` in the sound rest, where entries of lists may be missing.
    pub(crate) fn original(&self, path: &str) -> String {
        let mut original = String::new();
        for part in path.split_inclusive(']') {
            let entry = part.strip_suffix(']').and_then(|part| part.rsplit_once('['));
            match entry.and_then(|(list, index)| Some((list, index.parse::<usize>().ok()?))) {
                Some((list, index)) => {
                    original += list;
                    let index = (0..).filter(|index| !self.0.contains(&format!("{original}[{index}]"))).nth(index).unwrap_or(index);
                    original += &format!("[{index}]");
                }
                None => original += part,
            }
        }
        original
    }

    pub(crate) fn contains(&self, path: &str) -> bool {
        self.0.iter().any(|left| left == path)
    }

    /// `problem` of the sound rest in terms of the file; none if it may only come of what was left out: of that has been complained.
    pub(crate) fn translate(&self, problem: Problem) -> Option<Problem> {
        if self.0.is_empty() {
            return Some(problem);
        }
        let Problem { location, path, message } = problem;
        let path = self.original(&path);
        // Every second part is a key that the message names.
        let parts = message.split('`').enumerate().map(|(at, part)| if at % 2 == 1 { self.original(part) } else { part.to_owned() });
        let parts: Vec<String> = parts.collect();
        let beside = |key: &String| path.rsplit_once('.').map(|(parent, _)| format!("{parent}.{key}"));
        let mut concerned =
            parts.iter().skip(1).step_by(2).flat_map(|key| [Some(key.clone()), beside(key)]).flatten().chain([path.clone()]);
        if concerned.any(|key| self.0.iter().any(|left| is_within(left, &key))) {
            return None;
        }
        Some(Problem { location, path, message: parts.join("`") })
    }
}

/// Whether `path` is `of`, or in it.
pub(crate) fn is_within(path: &str, of: &str) -> bool {
    !of.is_empty() && path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use crate::load::parse;

    /// The mistakes that another phase would have found are there at once, with the paths of the file; what only comes of a mistake is not.
    #[test]
    fn one_mistake_hides_no_other() {
        let text = "
limits: { connections: none }
inbound:
  defaultMode: permissive
  reasn: typing
  ports:
    - { port: nonsense, mode: permissive }
    - { port: 80, mode: plaintext }
    - { port: 80-90, mode: strict, reason: 5 }
    - { port: 443, mode: permissive, reason: 5 }
outbound: { otherwise: passthrough, reason: [], listeners: [{ name: a, listen: '127.0.0.1:1' }] }
drain: { deadline: 1ms, settle: soon }
drain: {}
";
        let said = parse("f.yaml", text).unwrap_err().to_string();
        let mut lines: Vec<&str> = said.lines().map(|line| line.split_once(": ").unwrap().1).collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "`drain` is given twice, first on line 12; remove one",
                "drain.deadline: must be between 1s and 24h",
                "drain.settle: `soon` is not a duration; write for example 500ms, 30s, 5m or 1h30m",
                "inbound.ports[0].port: `nonsense` is not a port or range; write for example 8080 or 9000-9010",
                "inbound.ports[1].mode: port 80 is plaintext: profile `production` wants the why in `reason`",
                "inbound.ports[2].port: 80-90 overlaps with `inbound.ports[1]`",
                "inbound.ports[2].reason: expected a text, found `5`",
                "inbound.ports[3].reason: expected a text, found `5`",
                "inbound.reasn: unknown key; did you mean `reason`?",
                "limits.connections: expected a whole number, found `none`",
                "outbound.listeners[0]: `to` is missing; add it",
                "outbound.reason: expected a text, found a list",
            ]
        );
        let said = parse("f.yaml", "profile: prodution\ninbound: { defaultMode: plaintext }\n").unwrap_err().to_string();
        assert!(said.contains("profile: `prodution`") && said.lines().count() == 1, "{said}");
    }
}
