//! Reads a file as a checked value.

use std::path::Path;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::check::{check, coerce};
use crate::document::{Location, Node, Problem, Problems, Value};
use crate::otel::SetVariable;
use crate::paths::make_absolute;
use crate::schema::{Config, Profile};
use crate::sound::{LeftOut, sound};
use crate::{environment, file, otel, validate};

/// Reads, checks and validates sidegate's configuration, with the overrides of this process's environment.
///
/// # Errors
/// Every mistake in the file and the overrides.
pub fn load(file: &Path) -> Result<Config, Problems> {
    Draft::read(file).accept()
}

/// A configuration that may have mistakes, to which others can be added: what it names is not looked at here.
#[derive(Debug)]
pub struct Draft {
    /// Its valid parts; none if it can't be read at all.
    pub config: Option<Config>,
    /// Every mistake.
    pub problems: Problems,
    /// What is wrong with `OTEL_*` variables. They are ignored where they can't be used, so this keeps nothing from starting.
    pub warnings: Problems,
    root: Node,
    left_out: LeftOut,
}

impl Draft {
    /// Reads, checks and validates `file` with the overrides of this process's environment.
    #[must_use]
    pub fn read(file: &Path) -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        match read(file) {
            Ok(text) => Self::parse(&file.display().to_string(), &text, variables),
            Err(problems) => Self::useless(problems),
        }
    }

    fn useless(problems: Problems) -> Self {
        let location = Location { source: "".into(), line: 0, column: 0 };
        Self {
            config: None,
            problems,
            warnings: Problems::default(),
            root: Node { location, value: Value::Map(Vec::new()) },
            left_out: LeftOut::default(),
        }
    }

    /// As [`Draft::read`], of `text`. Paths in it are relative to the folder of the file `source`.
    pub(crate) fn parse(source: &str, text: &str, variables: impl Iterator<Item = (String, String)>) -> Self {
        let (mut root, mut problems) = match Node::read(source, text) {
            Ok(read) => read,
            Err(problems) => return Self::useless(problems),
        };
        let schema = json_schema::<Config>();
        let variables: Vec<(String, String)> = variables.collect();
        environment::apply(&mut root, &schema, &variables, &mut problems);
        let given = otel::given(&variables);
        let mut kept: Vec<&SetVariable> = given.iter().collect();
        let with = |some: &[&SetVariable]| Self::with(root.clone(), problems.clone(), &given, some, &schema);
        let mut draft = with(&kept);
        let mut ignored = Problems::default();
        if !draft.problems.0.is_empty() {
            let of_the_file = with(&[]).problems;
            // What is wrong only with the variables is their fault: some are ignored, and all else is looked at again.
            while let Some(problem) = draft.problems.0.iter().find(|problem| !of_the_file.says(problem)).cloned() {
                let at_fault = otel::at_fault(&kept, &problem.path, |some| with(some).problems.says(&problem));
                if at_fault.is_empty() {
                    break;
                }
                ignored.0.extend(at_fault.iter().map(|one| otel::ignored(one, &problem)));
                kept.retain(|one| !at_fault.iter().any(|other| std::ptr::eq(*one, *other)));
                let orphans: Vec<&SetVariable> = kept.extract_if(.., |one| otel::is_for(one, &at_fault)).collect();
                ignored.0.extend(orphans.into_iter().map(otel::orphaned));
                draft = with(&kept);
            }
        }
        draft.warnings.0.append(&mut ignored.0);
        otel::unreadable_files(&draft.root, &kept, &mut draft.warnings);
        draft
    }

    /// `root` with what those of `given` fill in that are `kept`, checked and validated.
    fn with(mut root: Node, mut problems: Problems, given: &[SetVariable], kept: &[&SetVariable], schema: &serde_json::Value) -> Self {
        let mut warnings = Problems::default();
        otel::apply(&mut root, kept, &mut warnings);
        otel::keep_common_headers_away(&mut root, given);
        check(&root, schema, schema, "", &mut problems);
        let mut left_out = LeftOut::default();
        let Some(mut root) = sound(&root, schema, schema, "", &mut left_out) else { return Self::useless(problems) };
        let config = match build::<Config>(&mut root, schema) {
            Ok(mut config) => {
                if left_out.contains("profile") {
                    // What production would refuse is not known to be meant.
                    config.profile = Profile::Development;
                }
                let mut others = Problems::default();
                validate::validate(&config, &root, &mut others);
                problems.0.extend(others.0.into_iter().filter_map(|problem| left_out.translate(problem)));
                Some(config)
            }
            Err(mut others) => {
                problems.0.append(&mut others.0);
                None
            }
        };
        Self { config, problems, warnings, root, left_out }
    }

    /// Adds what is wrong with what the key at `path` of [`Draft::config`] names.
    pub fn push(&mut self, path: &str, message: impl Into<String>) {
        self.problems.push(&self.root.nearest(path).location, &self.left_out.original(path), message);
    }

    /// The configuration, if it has no mistake.
    ///
    /// # Errors
    /// Every mistake.
    pub fn accept(self) -> Result<Config, Problems> {
        match self.config {
            Some(config) => self.problems.or(config),
            None => Err(self.problems),
        }
    }
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
    Draft::parse(source, text, variables).accept()
}

/// Parses `text` as a document of type `T`, checked as a whole, and also yields the tree with its places. Paths in it are relative to the
/// folder of the file `source`.
///
/// # Errors
/// Every mistake in it.
pub fn typed<T: DeserializeOwned + JsonSchema>(source: &str, text: &str) -> Result<(T, Node), Problems> {
    let (mut root, mut problems) = Node::read(source, text)?;
    let schema = json_schema::<T>();
    check(&root, &schema, &schema, "", &mut problems);
    problems.or(())?;
    let value = build(&mut root, &schema)?;
    Ok((value, root))
}

/// Each of `nodes` as a value of type `T`; none where it is not as the schema wants it.
#[must_use]
pub fn build_each<T: DeserializeOwned + JsonSchema>(nodes: &[Node]) -> Vec<Option<T>> {
    let schema = json_schema::<T>();
    let build_one = |node: &Node| {
        let mut problems = Problems::default();
        check(node, &schema, &schema, "", &mut problems);
        problems.or(()).and_then(|()| build(&mut node.clone(), &schema)).ok()
    };
    nodes.iter().map(build_one).collect()
}

/// The JSON Schema of `T`.
#[must_use]
pub fn json_schema<T: JsonSchema>() -> serde_json::Value {
    schemars::schema_for!(T).to_value()
}

/// The JSON Schema of what is written of `T`.
#[must_use]
pub fn json_schema_of_output<T: JsonSchema>() -> serde_json::Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// The value of a tree that is as `schema` wants it; its paths are made absolute.
fn build<T: DeserializeOwned>(root: &mut Node, schema: &serde_json::Value) -> Result<T, Problems> {
    make_absolute(root, schema, schema);
    let mut json = root.to_json();
    coerce(&mut json, schema, schema);
    serde_json::from_value(json)
        .map_err(|error| Problems(vec![Problem { location: root.location.clone(), path: String::new(), message: error.to_string() }]))
}

fn read(path: &Path) -> Result<String, Problems> {
    file::read_text(path, file::SMALL).map_err(|error| {
        Problems(vec![Problem {
            location: Location { source: path.display().to_string().into(), line: 0, column: 0 },
            path: String::new(),
            message: format!("can't be read: {error}"),
        }])
    })
}
