//! From a file to a checked value.

use std::path::Path;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::check::{check, coerce};
use crate::document::{Node, Place, Problem, Problems};
use crate::paths::make_absolute;
use crate::schema::Config;
use crate::{environment, file, otel, validate};

/// Reads, checks and validates sidegate's configuration, with the overrides of this process's environment.
///
/// # Errors
/// Every mistake in the file and the overrides.
pub fn load(file: &Path) -> Result<Config, Problems> {
    let text = read(file)?;
    parse_with(
        &file.display().to_string(),
        &text,
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
    )
}

/// Checks and validates `text` as sidegate's configuration, without an environment. Paths in it are relative to the folder of the file
/// `source`.
///
/// # Errors
/// Every mistake in it.
pub fn parse(source: &str, text: &str) -> Result<Config, Problems> {
    parse_with(source, text, std::iter::empty())
}

/// As [`parse`], with overrides from `variables`.
///
/// # Errors
/// Every mistake in the text and the overrides.
pub fn parse_with(source: &str, text: &str, variables: impl Iterator<Item = (String, String)>) -> Result<Config, Problems> {
    let mut root = Node::parse(source, text)?;
    let schema = json_schema::<Config>();
    let mut problems = Problems::default();
    let variables: Vec<(String, String)> = variables.collect();
    environment::apply(&mut root, &schema, &variables, &mut problems);
    otel::apply(&mut root, &variables, &mut problems);
    match build::<Config>(&mut root, &schema) {
        Ok(config) => {
            validate::validate(&config, &root, &mut problems);
            problems.or(config)
        }
        Err(mut others) => {
            problems.0.append(&mut others.0);
            Err(problems)
        }
    }
}

/// Parses `text` as a document of type `T`, checked as a whole, and also yields the tree with its places. Paths in it are relative to the
/// folder of the file `source`.
///
/// # Errors
/// Every mistake in it.
pub fn typed<T: DeserializeOwned + JsonSchema>(source: &str, text: &str) -> Result<(T, Node), Problems> {
    let mut root = Node::parse(source, text)?;
    let value = build(&mut root, &json_schema::<T>())?;
    Ok((value, root))
}

/// The JSON Schema of `T`.
#[must_use]
pub fn json_schema<T: JsonSchema>() -> serde_json::Value {
    schemars::schema_for!(T).to_value()
}

fn build<T: DeserializeOwned>(root: &mut Node, schema: &serde_json::Value) -> Result<T, Problems> {
    let mut problems = Problems::default();
    check(root, schema, schema, "", &mut problems);
    problems.or(())?;
    make_absolute(root, schema, schema);
    let mut json = root.to_json();
    coerce(&mut json, schema, schema);
    serde_json::from_value(json)
        .map_err(|error| Problems(vec![Problem { place: root.place.clone(), path: String::new(), message: error.to_string() }]))
}

fn read(path: &Path) -> Result<String, Problems> {
    file::read_text(path, file::SMALL).map_err(|error| {
        Problems(vec![Problem {
            place: Place { source: path.display().to_string().into(), line: 0, column: 0 },
            path: String::new(),
            message: format!("can't be read: {error}"),
        }])
    })
}
