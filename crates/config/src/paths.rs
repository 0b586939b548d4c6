//! Relative paths: the one place that makes them absolute.
//!
//! A path in a file is relative to the folder of that file. A path in an environment variable is relative to the working
//! directory, like one on the command line.

use std::path::Path;

use serde_json::Value as Json;

use crate::check::resolve;
use crate::document::{Node, Value};

/// Makes every path in `node` absolute; `schema` says which texts are paths.
pub(crate) fn make_absolute(node: &mut Node, schema: &Json, root: &Json) {
    let schema = resolve(schema, root);
    if let Some(choices) = schema["anyOf"].as_array() {
        if let Some(choice) = choices.iter().find(|choice| resolve(choice, root)["type"] != "null") {
            make_absolute(node, choice, root);
        }
        return;
    }
    match &mut node.value {
        Value::Map(entries) => {
            for (key, _, child) in entries {
                let known = &schema["properties"][key.as_str()];
                make_absolute(child, if known.is_null() { &schema["additionalProperties"] } else { known }, root);
            }
        }
        Value::List(items) => items.iter_mut().for_each(|item| make_absolute(item, &schema["items"], root)),
        Value::Scalar(scalar) if schema["format"] == "path" => {
            let text = match scalar {
                Json::String(text) => text.clone(),
                Json::Number(number) => number.to_string(),
                _ => return,
            };
            let folder = if node.location.line == 0 { None } else { Path::new(&*node.location.source).parent() };
            // Without a working directory it stays as it is, and names nothing.
            if let Ok(path) = std::path::absolute(folder.unwrap_or(Path::new("")).join(text)) {
                *scalar = Json::String(path.display().to_string());
            }
        }
        Value::Scalar(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::load::parse_with;

    #[test]
    fn a_path_is_relative_to_what_says_it() {
        let text = "
identity: { sources: [{ files: { certificate: c.pem, key: k/k.pem, bundle: /b.pem, federatedBundles: [{ trustDomain: a.b, bundle: f.pem }] } }] }
policy: { files: [p.yaml, ./q, ../r, 5] }
revocation: { denyLists: [d.yaml], trustDomains: [{ trustDomain: a.b, files: [l.pem] }] }
admin: { socket: a.sock }
audit: { file: { folder: log }, checkpoint: { key: s.pem }, copies: [{ file: copy }, { syslog: { to: 'a:1', tls: { ca: ca.pem } } }] }
telemetry: { logs: { otlp: { endpoint: 'https://c', tls: { ca: o.pem } } } }
";
        let variables = [("SIDEGATE__REVOCATION__DENY_LISTS", "[here.yaml]"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = parse_with("/etc/x/f.yaml", text, variables.clone().into_iter()).unwrap();
        let printed = serde_json::to_string(&config).unwrap();
        for path in ["c.pem", "k/k.pem", "f.pem", "p.yaml", "q", "../r", "5", "l.pem", "a.sock", "log", "s.pem", "copy", "ca.pem", "o.pem"]
        {
            assert!(printed.contains(&format!("\"/etc/x/{path}\"")), "{path}\n{printed}");
        }
        assert!(printed.contains("\"/b.pem\""), "{printed}");
        let here = |name: &str| std::path::absolute(name).unwrap();
        assert_eq!(config.revocation.deny_lists, [here("here.yaml")]);
        assert_eq!(config.telemetry.otlp.tls.ca, Some(here("ca.pem")));
        let of_a_relative_file = parse_with("x/f.yaml", "policy: { files: [p.yaml] }", std::iter::empty()).unwrap();
        assert_eq!(of_a_relative_file.policy.files, [here("x/p.yaml")]);
        let nothing = parse_with("f.yaml", "policy: { files: [''] }", std::iter::empty()).unwrap_err().to_string();
        assert!(nothing.contains("policy.files[0]: is empty; name a file or folder"), "{nothing}");
    }

    /// A key that is a path and does not say so in the schema would be relative to the working directory.
    #[test]
    fn every_path_of_the_schema_is_known_as_one() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let files = std::fs::read_dir(source.join("schema")).unwrap().map(|entry| entry.unwrap().path()).chain([source.join("schema.rs")]);
        let mut found = 0;
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("    pub ") && line.contains("PathBuf")) {
                assert!(lines[at - 1].contains("Path"), "{}: {line}", file.display());
                found += 1;
            }
        }
        assert!(found > 10, "{found}");
    }
}
