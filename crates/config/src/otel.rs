//! The standard `OTEL_*` variables, as far as the file leaves something out.
//!
//! Names and meanings are those of OpenTelemetry's specification (SDK environment variables, OTLP exporter). Each becomes
//! a key of the configuration, so that it is checked like one; an empty variable is none. These variables are often set for a
//! whole namespace, so a value that sidegate can't use is a warning, and the sidecar starts as if the variable were not set.

mod variables;

use serde_json::Value as Json;

use crate::document::{Location, Node, Problem, Problems, Value};
use crate::sound::is_within;
use crate::{environment, file};

use variables::VariableKind;
pub use variables::{StandardVariable, standard_variables};

/// What follows the reason in a warning.
const IGNORED: &str = "; ignored";

/// A variable that is set.
#[derive(Debug)]
pub(crate) struct SetVariable {
    variable: StandardVariable,
    text: String,
    location: Location,
}

/// The standard variables among `variables`, without the empty ones.
pub(crate) fn given(variables: &[(String, String)]) -> Vec<SetVariable> {
    let of = |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, text)| text.trim()).filter(|text| !text.is_empty());
    let set = |variable: StandardVariable| {
        let text = of(&variable.name)?.to_owned();
        let location = Location { source: format!("environment variable {}", variable.name).into(), line: 0, column: 0 };
        Some(SetVariable { variable, text, location })
    };
    standard_variables().into_iter().filter_map(set).collect()
}

/// Fills in what `root` leaves out, by `given`.
pub(crate) fn apply(root: &mut Node, given: &[&SetVariable], warnings: &mut Problems) {
    for one in given {
        let keys: Vec<Vec<&str>> = one.variable.keys.iter().map(|key| key.split('.').collect()).collect();
        // What is not used can't be wrong. Each attribute by itself may be absent, and what belongs to an endpoint comes after it.
        if !matches!(one.variable.kind, VariableKind::Attributes | VariableKind::Insecure) && !keys.iter().any(|path| is_absent(root, path))
        {
            continue;
        }
        let mut warn = |of: &SetVariable, message: String| warnings.push(&of.location, "", message);
        match parse(one, given, &mut warn) {
            Some(ParsedVariable::Value(value)) => {
                for path in &keys {
                    fill_in(root, path, Value::Scalar(value.clone()), &one.location);
                }
                if one.variable.kind == VariableKind::Sampler {
                    rates(root, one);
                }
            }
            Some(ParsedVariable::Pairs(pairs)) => {
                for (path, (name, value)) in keys.iter().flat_map(|path| pairs.iter().map(move |pair| (path, pair))) {
                    fill_in(root, &[&path[..], &[name.as_str()]].concat(), Value::Scalar(Json::String(value.clone())), &one.location);
                }
            }
            None => {}
        }
    }
    own_schemes(root, given);
}

/// A sampler that takes all, or nothing, is not to be bounded, or passed by, by our rates.
fn rates(root: &mut Node, sampler: &SetVariable) {
    let name = sampler.text.to_ascii_lowercase();
    let key: &[&str] = match name.strip_prefix("parentbased_").unwrap_or(&name) {
        "always_on" => &["telemetry", "traces", "sampler", "perSecond"],
        "always_off" => &["telemetry", "traces", "failuresPerSecond"],
        _ => return,
    };
    fill_in(root, key, Value::Scalar(Json::from(0)), &sampler.location);
}

/// A common endpoint without a scheme has that of a signal's own `…_INSECURE` for this signal.
fn own_schemes(root: &mut Node, given: &[&SetVariable]) {
    let find = |name: &str| given.iter().copied().find(|one| one.variable.name == name);
    let Some(common) = find("OTEL_EXPORTER_OTLP_ENDPOINT").filter(|one| !one.text.contains("://")) else { return };
    if root.nearest("telemetry.otlp.endpoint").location != common.location {
        return;
    }
    for signal in ["traces", "metrics", "logs"] {
        let Some(insecure) = find(&format!("OTEL_EXPORTER_OTLP_{}_INSECURE", signal.to_uppercase())) else { continue };
        let scheme = if insecure.text.eq_ignore_ascii_case("true") { "http" } else { "https" };
        let url = format!("{scheme}://{}/v1/{signal}", common.text.trim_end_matches('/'));
        fill_in(root, &["telemetry", signal, "otlp", "endpoint"], Value::Scalar(Json::String(url)), &insecure.location);
    }
}

/// Gives no headers to a signal whose own variable for them is ignored: the common ones, such as a token, may not be meant for its
/// collector.
pub(crate) fn keep_common_headers_away(root: &mut Node, given: &[SetVariable]) {
    for one in given.iter().filter(|one| one.variable.kind == VariableKind::Headers) {
        for key in &one.variable.keys {
            fill_in(root, &key.split('.').collect::<Vec<_>>(), Value::Map(Vec::new()), &one.location);
        }
    }
}

/// Those of `given` without which there is no problem at `path`: `has_problem` says whether there is one with some of them.
///
/// As many as possible are kept. The variables for `path` itself are the last that are put back, so that they are the ones at fault
/// where others could be too.
pub(crate) fn at_fault<'a>(
    given: &[&'a SetVariable],
    path: &str,
    has_problem: impl Fn(&[&'a SetVariable]) -> bool,
) -> Vec<&'a SetVariable> {
    let is_about = |one: &&SetVariable| one.variable.keys.iter().any(|key| is_within(key, path));
    let (about, others): (Vec<&SetVariable>, Vec<&SetVariable>) = given.iter().copied().partition(is_about);
    let (mut kept, mut at_fault) = (Vec::new(), Vec::new());
    for one in others.into_iter().chain(about) {
        kept.push(one);
        if has_problem(&kept) {
            kept.pop();
            at_fault.push(one);
        }
    }
    at_fault
}

/// The warning that `one` is ignored because of `problem`.
pub(crate) fn ignored(one: &SetVariable, problem: &Problem) -> Problem {
    Problem { location: one.location.clone(), path: problem.path.clone(), message: format!("{}{IGNORED}", problem.message) }
}

/// Whether `one` are the headers for a signal's own endpoint that is among `ignored`: they may be a token that is not meant for the
/// common collector, where the signal goes then.
pub(crate) fn is_for(one: &SetVariable, ignored: &[&SetVariable]) -> bool {
    let of_endpoint = |other: &&SetVariable| {
        let name = &other.variable.name;
        other.variable.kind == VariableKind::Endpoint
            && name != "OTEL_EXPORTER_OTLP_ENDPOINT"
            && name.replace("_ENDPOINT", "_HEADERS") == one.variable.name
    };
    ignored.iter().any(of_endpoint)
}

/// The warning that headers are ignored with their endpoint.
pub(crate) fn orphaned(headers: &SetVariable) -> Problem {
    let message = format!("the endpoint that it is for is ignored{IGNORED}");
    Problem { location: headers.location.clone(), path: String::new(), message }
}

/// Adds the files that variables name and that can't be read. `root` has their absolute paths.
pub(crate) fn unreadable_files(root: &Node, given: &[&SetVariable], warnings: &mut Problems) {
    for one in given.iter().filter(|one| one.variable.kind == VariableKind::File) {
        for node in one.variable.keys.iter().map(|key| root.nearest(key)).filter(|node| node.location == one.location) {
            if let Value::Scalar(Json::String(path)) = &node.value
                && let Err(error) = file::open(path.as_ref())
            {
                warnings.push(&one.location, "", format!("{path} can't be read, and exports fail until it can: {error}"));
            }
        }
    }
}

enum ParsedVariable {
    Value(Json),
    Pairs(Vec<(String, String)>),
}

/// What `one` says; nothing if it can't be used.
fn parse(one: &SetVariable, given: &[&SetVariable], warn: &mut impl FnMut(&SetVariable, String)) -> Option<ParsedVariable> {
    let text = one.text.as_str();
    let value = match one.variable.kind {
        // The key itself, instead of its file, is not to stand in a log.
        VariableKind::File if text.contains("-----BEGIN") => Err("is not the path of a file".to_owned()),
        VariableKind::Text | VariableKind::File => Ok(Json::String(text.to_owned())),
        VariableKind::Number => text.parse::<u32>().map(Json::from).map_err(|_| format!("{} is not a whole number from 0 on", shown(text))),
        VariableKind::Milliseconds => milliseconds(text).map(|millis| Json::String(format!("{millis}ms"))),
        VariableKind::Timeout => {
            milliseconds(text).map(|millis| Json::String(if millis == 0 { LONGEST.to_owned() } else { format!("{millis}ms") }))
        }
        VariableKind::Headers | VariableKind::Attributes => {
            return pairs(text).map(ParsedVariable::Pairs).map_err(|message| warn(one, message + IGNORED)).ok();
        }
        VariableKind::Exporters => return exporters(one, warn).map(|has_otlp| ParsedVariable::Value(Json::Bool(has_otlp))),
        // For gRPC the scheme may be left out; then a variable of its own says whether there is TLS.
        VariableKind::Endpoint if !text.contains("://") => {
            let scheme = if is_insecure(one, given) { "http" } else { "https" };
            Ok(Json::String(format!("{scheme}://{text}")))
        }
        VariableKind::Endpoint => Ok(Json::String(text.to_owned())),
        VariableKind::Words(words) => word(text, words).map(|ours| Json::String(ours.to_owned())),
        VariableKind::Sampler => return ratio(one, given, warn).map(|ratio| ParsedVariable::Value(Json::from(ratio))),
        VariableKind::Disabled | VariableKind::Insecure => {
            let is_true = text.eq_ignore_ascii_case("true");
            if !is_true && !text.eq_ignore_ascii_case("false") {
                warn(one, format!("{} is neither true nor false; it counts as false", shown(text)));
            }
            return (is_true && one.variable.kind == VariableKind::Disabled).then_some(ParsedVariable::Value(Json::Bool(false)));
        }
        VariableKind::SamplerArgument | VariableKind::Unused => return None,
    };
    value.map(ParsedVariable::Value).map_err(|message| warn(one, message + IGNORED)).ok()
}

/// The longest timeout that the configuration takes: for a limit that is none.
const LONGEST: &str = "10m";

fn milliseconds(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{} is not a number of milliseconds", shown(text)))
}

fn word(text: &str, words: &[(&str, &'static str)]) -> Result<&'static str, String> {
    let known = words.iter().find(|(theirs, _)| theirs.eq_ignore_ascii_case(text)).map(|(_, ours)| *ours);
    known.ok_or_else(|| unknown(text, &words.iter().map(|(theirs, _)| *theirs).collect::<Vec<_>>()))
}

fn unknown(text: &str, known: &[&str]) -> String {
    format!("{} is not supported; use {}", shown(text), known.join(", "))
}

/// A value in a warning; never of a variable that may hold a secret.
fn shown(text: &str) -> String {
    format!("`{}`", text.chars().take(60).collect::<String>())
}

/// Whether `otlp` is in a list of exporters; nothing if the list has none that is known.
fn exporters(one: &SetVariable, warn: &mut impl FnMut(&SetVariable, String)) -> Option<bool> {
    const KNOWN: [&str; 4] = ["otlp", "none", "console", "prometheus"];
    let names = one.text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let find = |name: &str| KNOWN.iter().copied().find(|known| known.eq_ignore_ascii_case(name));
    let (known, others): (Vec<&str>, Vec<&str>) = names.partition(|name| find(name).is_some());
    if !others.is_empty() {
        let what = if known.is_empty() { IGNORED } else { "; the others count" };
        warn(one, unknown(&others.join(","), &KNOWN) + what);
    }
    // The scrape is always there, and `none` names no exporter; without `otlp` nothing is sent.
    (!known.is_empty()).then(|| known.iter().any(|name| name.eq_ignore_ascii_case("otlp")))
}

/// Whether an endpoint without a scheme has no TLS: by the variable of the same signal if that is set, else by the common one.
fn is_insecure(endpoint: &SetVariable, given: &[&SetVariable]) -> bool {
    let own = endpoint.variable.name.replace("_ENDPOINT", "_INSECURE");
    let says = |name: &str| given.iter().find(|one| one.variable.name == name).map(|one| one.text.eq_ignore_ascii_case("true"));
    says(&own).or_else(|| says("OTEL_EXPORTER_OTLP_INSECURE")).unwrap_or(false)
}

/// The ratio that `OTEL_TRACES_SAMPLER` and its argument mean.
fn ratio(sampler: &SetVariable, given: &[&SetVariable], warn: &mut impl FnMut(&SetVariable, String)) -> Option<f64> {
    let name = sampler.text.to_ascii_lowercase();
    match name.strip_prefix("parentbased_").unwrap_or(&name) {
        "always_on" => Some(1.0),
        "always_off" => Some(0.0),
        "traceidratio" => {
            let Some(argument) = given.iter().find(|one| one.variable.kind == VariableKind::SamplerArgument) else { return Some(1.0) };
            let ratio = argument.text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
            if ratio.is_none() {
                warn(argument, format!("{} is not a number between 0 and 1; 1 is used", shown(&argument.text)));
            }
            Some(ratio.unwrap_or(1.0))
        }
        _ => {
            warn(sampler, unknown(&sampler.text, &["always_on", "always_off", "traceidratio"]) + IGNORED);
            None
        }
    }
}

/// The text may hold a secret: it is not repeated.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("is not a list of name=value, separated by commas")?;
        let name = percent_decoded(name.trim()).filter(|name| !name.is_empty()).ok_or("has a value without a name")?;
        let value = percent_decoded(value.trim()).ok_or("has a value that is not percent-encoded correctly")?;
        pairs.push((name, value));
    }
    Ok(pairs)
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// Whether the file says nothing at `path`, and has nothing else in the way there.
fn is_absent(node: &Node, path: &[&str]) -> bool {
    let (Some((key, rest)), Value::Map(entries)) = (path.split_first(), &node.value) else { return false };
    entries.iter().find(|(k, _, _)| k == key).is_none_or(|(_, _, child)| is_absent(child, rest))
}

/// Sets what is absent; what the file says stays.
fn fill_in(root: &mut Node, path: &[&str], value: Value, location: &Location) {
    if is_absent(root, path) {
        environment::set(root, path, Node { location: location.clone(), value }, location);
    }
}

#[cfg(test)]
mod tests;
