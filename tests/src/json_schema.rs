//! Validates a document by a JSON Schema as schemars writes them (draft 2020-12). A keyword that is not known here is a
//! failure, so that nothing passes since nobody looked at it.

use std::path::Path;

use serde_json::Value;

/// What is wrong with `value`; nothing if it is as `schema`, a part of `root`, says.
pub fn schema_problems(schema: &Value, root: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (keyword, rule) in schema.as_object().unwrap() {
        let ways = |rule: &Value| rule.as_array().unwrap().iter().filter(|way| schema_problems(way, root, value, path).is_empty()).count();
        let good = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" => true,
            // Of how large a number is: `minimum` and `maximum` say it too.
            "format" => true,
            "type" => rule.as_array().map_or_else(|| is_of_type(value, rule), |types| types.iter().any(|rule| is_of_type(value, rule))),
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
            "required" => rule.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
            "oneOf" => ways(rule) == 1,
            "anyOf" => ways(rule) > 0,
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                problems.extend(schema_problems(&root["$defs"][name], root, value, path));
                true
            }
            "properties" => {
                let known = rule.as_object().unwrap().iter().filter_map(|(name, rule)| Some((name, rule, value.get(name)?)));
                problems.extend(known.flat_map(|(name, rule, value)| schema_problems(rule, root, value, &format!("{path}.{name}"))));
                true
            }
            // Beside `properties`.
            "additionalProperties" if *rule == Value::Bool(false) => {
                let known = schema.get("properties").and_then(Value::as_object);
                value.as_object().into_iter().flatten().all(|(name, _)| known.is_some_and(|known| known.contains_key(name)))
            }
            "items" => {
                let items = value.as_array().into_iter().flatten().enumerate();
                problems.extend(items.flat_map(|(i, item)| schema_problems(rule, root, item, &format!("{path}[{i}]"))));
                true
            }
            unknown => panic!("the keyword {unknown} is not known to this test"),
        };
        if !good {
            problems.push(format!("{path}: {value} is not as {keyword} wants it"));
        }
    }
    problems
}

/// What is wrong with `value` by the schema `deploy/schema/NAME.json`.
pub fn problems_by(name: &str, value: &Value) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(format!("deploy/schema/{name}.json"));
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    schema_problems(&schema, &schema, value, "")
}

fn is_of_type(value: &Value, name: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("the type {other} is not known to this test"),
    }
}
