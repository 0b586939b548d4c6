//! Checks the section `audit` for contradictions.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::schema::audit::{Audit, Destination, LogFiles, OnFailure};
use crate::schema::telemetry::Signal;
use crate::schema::{Config, LogFormat};
use crate::value::Span;

pub(super) fn validate(config: &Config, say: &mut impl FnMut(&str, String)) {
    let audit = &config.audit;
    destinations(config, "audit.copies", &audit.copies, say);
    destinations(config, "audit.anchors", &audit.anchors, say);
    paths(audit, say);
    if !audit.is_on() && !audit.anchors.is_empty() {
        say("audit.anchors", "there is nothing to anchor; name the log's folder in `audit.file.folder`".to_owned());
    }
    span("audit.checkpoint.interval", &audit.checkpoint.interval, Duration::from_millis(100), say);
    if let Some(file) = &audit.file {
        log_files(file, audit.auditors.is_empty(), say);
    }
}

/// No two destinations write the same file, and none writes among the log's own.
fn paths(audit: &Audit, say: &mut impl FnMut(&str, String)) {
    // As far as names tell: neither has to be there.
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = audit.file.as_ref().map(|file| absolute(&file.folder));
    let mut seen: HashMap<PathBuf, String> = HashMap::new();
    for (list, destinations) in [("copies", &audit.copies), ("anchors", &audit.anchors)] {
        for (i, destination) in destinations.iter().enumerate() {
            let Some(file) = destination.file.as_deref().map(absolute) else { continue };
            let path = format!("audit.{list}[{i}].file");
            if folder.as_ref().is_some_and(|folder| file.starts_with(folder)) {
                say(&path, "lies in the log's own folder; name a file elsewhere, best on another disk".to_owned());
            }
            if let Some(other) = seen.get(&file) {
                say(&path, format!("`{other}` writes this file already; give each a file of its own"));
            } else {
                seen.insert(file, path);
            }
        }
    }
}

fn log_files(file: &LogFiles, nobody: bool, say: &mut impl FnMut(&str, String)) {
    span("audit.file.sync.interval", &file.sync.interval, Duration::from_millis(1), say);
    span("audit.file.rotate.age", &file.rotate.age, Duration::from_secs(1), say);
    if file.encrypt && nobody {
        say("audit.file.encrypt", "nobody could read it; name who may in `audit.auditors`".to_owned());
    }
}

fn destinations(config: &Config, path: &str, destinations: &[Destination], say: &mut impl FnMut(&str, String)) {
    for (i, destination) in destinations.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let kinds = [destination.file.is_some(), destination.stdout, destination.syslog.is_some(), destination.otlp];
        if kinds.iter().filter(|set| **set).count() != 1 {
            say(&path, "a destination is exactly one of `file`, `stdout`, `syslog` and `otlp`".to_owned());
        }
        if destination.stdout && config.access_log.format != LogFormat::Off {
            say(&format!("{path}.stdout"), "is where the access log goes; set `accessLog.format` to off".to_owned());
        }
        if destination.otlp && config.telemetry.target(Signal::Logs).is_none() {
            say(&format!("{path}.otlp"), "there is no collector of log records; name it in `telemetry.otlp.endpoint`".to_owned());
        }
        if destination.otlp && destination.on_failure == OnFailure::BlockNewConnections {
            say(&format!("{path}.onFailure"), "can't be block-new-connections for `otlp`, whose queue drops and counts".to_owned());
        }
        if let Some(syslog) = &destination.syslog {
            let tls = &syslog.tls;
            if tls.certificate.is_some() != tls.key.is_some() {
                say(&format!("{path}.syslog.tls"), "`certificate` and `key` belong together".to_owned());
            }
            if tls.svid && tls.certificate.is_some() {
                say(&format!("{path}.syslog.tls"), "set either `svid` or `certificate` and `key`".to_owned());
            }
        }
    }
}

fn span(path: &str, span: &Span, least: Duration, say: &mut impl FnMut(&str, String)) {
    const MOST: Duration = Duration::from_secs(366 * 86_400);
    if !(least..=MOST).contains(&span.0) {
        say(path, format!("must be between {} and {}", Span(least), Span(MOST)));
    }
}

#[cfg(test)]
mod tests {
    use crate::load::parse;

    /// What is said of a configuration; nothing if it is good.
    fn problems(text: &str) -> String {
        parse("f.yaml", text).map_or_else(|problems| problems.to_string(), |_| String::new())
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (text, say) in [
            ("{ copies: [{ stdout: true }] }", "audit.copies[0].stdout: is where the access log goes"),
            ("{ copies: [{}] }", "audit.copies[0]: a destination is exactly one of"),
            ("{ copies: [{ file: a, syslog: { to: \"a:6514\" } }] }", "audit.copies[0]: a destination is exactly one of"),
            ("{ copies: [{ otlp: true }] }", "audit.copies[0].otlp: there is no collector"),
            ("{ copies: [{ otlp: true, onFailure: block-new-connections }] }", "audit.copies[0].onFailure: can't be"),
            ("{ anchors: [{ file: a }] }", "audit.anchors: there is nothing to anchor"),
            ("{ file: { folder: a }, copies: [{ file: a/b/c }] }", "audit.copies[0].file: lies in the log's own folder"),
            ("{ file: { folder: a }, anchors: [{ file: ./a//b }] }", "audit.anchors[0].file: lies in the log's own folder"),
            (
                "{ copies: [{ file: a }, { file: b }, { file: ./b }] }",
                "audit.copies[2].file: `audit.copies[1].file` writes this file already",
            ),
            (
                "{ file: { folder: a }, copies: [{ file: b }], anchors: [{ file: b }] }",
                "audit.anchors[0].file: `audit.copies[0].file` writes",
            ),
            ("{ file: { folder: a, encrypt: true } }", "audit.file.encrypt: nobody could read it"),
            ("{ file: { folder: a, sync: { interval: 0s } } }", "audit.file.sync.interval: must be between 1ms and"),
            ("{ file: { folder: a }, auditors: [age1x] }", "audit.auditors[0]: `age1x` is no public key of age"),
            ("{ file: { folder: a, onFailure: ignore } }", "use block-new-connections, drop-and-count"),
            ("{ file: { folder: a }, anchors: [{ syslog: { to: \"a:1\", tls: { key: k } } }] }", "`certificate` and `key` belong together"),
        ] {
            let said = problems(&format!("audit: {text}\n"));
            assert!(said.contains(say), "{text}\n{said}");
        }
        assert_eq!(problems("audit: { file: { folder: a }, copies: [{ file: c }], anchors: [{ file: ab }] }\n"), "");
    }

    #[test]
    fn an_audit_log_does_for_an_access_log() {
        assert_eq!(problems("accessLog: { format: off }\naudit: { copies: [{ stdout: true }] }\n"), "");
    }
}
