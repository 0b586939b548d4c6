//! The files, folders and sockets that a configuration names: all of them, since the schema says which texts are paths.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::check::resolve;
use crate::path_use::{KEY, PathUse};
use crate::schema::{Config, SPIFFE_ENDPOINT_SOCKET};
use crate::value::{Collector, Endpoint, EndpointSocket, Scheme};

/// A file, folder or socket that a configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPath {
    /// Where it is named: a key such as `identity.sources[0].files.key`, or a variable of the environment.
    pub key: String,
    /// The path, absolute.
    pub path: PathBuf,
    /// What sidegate does with it.
    pub path_use: PathUse,
}

impl Config {
    /// Every file, folder and Unix socket that this configuration names, in the order of its keys, and the Workload API's socket where
    /// the environment names that instead. None of them has to be there.
    ///
    /// Files that are read are watched, so the folder of each is looked at too; one is replaced by renaming another over it. The
    /// configuration's own file is not among them, nor what no configuration names: the system's CA certificates, resolver
    /// configuration, `/proc` and `/sys/fs/cgroup`, and the service manager's `NOTIFY_SOCKET`.
    #[must_use]
    pub fn paths(&self) -> Vec<NamedPath> {
        self.paths_with(std::env::var(SPIFFE_ENDPOINT_SOCKET).ok().as_deref())
    }

    fn paths_with(&self, endpoint: Option<&str>) -> Vec<NamedPath> {
        let mut found = Vec::new();
        let schema = schemars::schema_for!(Config).to_value();
        // It can be written as JSON, as it was read.
        let values = serde_json::to_value(self).unwrap_or_default();
        walk(&values, &schema, &schema, "", &mut found);
        let sources = &self.identity.sources;
        let asks_environment =
            sources.is_empty() || sources.iter().filter_map(|source| source.workload_api.as_ref()).any(|api| api.socket.is_none());
        if let Some(socket) = endpoint.filter(|_| asks_environment).and_then(workload_api) {
            found.push(NamedPath { key: SPIFFE_ENDPOINT_SOCKET.to_owned(), path: socket, path_use: PathUse::ConnectSocket });
        }
        found
    }
}

/// Adds the paths of `value`, whose key is `key`.
fn walk(value: &Json, schema: &Json, root: &Json, key: &str, found: &mut Vec<NamedPath>) {
    let schema = resolve(schema, root);
    if let Some(choices) = schema["anyOf"].as_array() {
        if let Some(choice) = choices.iter().find(|choice| resolve(choice, root)["type"] != "null") {
            walk(value, choice, root, key, found);
        }
        return;
    }
    match value {
        Json::Object(entries) => {
            for (name, child) in entries {
                let known = &schema["properties"][name.as_str()];
                let schema = if known.is_null() { &schema["additionalProperties"] } else { known };
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                walk(child, schema, root, &key, found);
            }
        }
        Json::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, &schema["items"], root, &format!("{key}[{index}]"), found);
            }
        }
        Json::String(text) => {
            if let Some((path, path_use)) = named(text, schema) {
                found.push(NamedPath { key: key.to_owned(), path, path_use });
            }
        }
        _ => {}
    }
}

/// The path in `text`, if there is one. A test sorts all formats of the schema by whether they are here.
fn named(text: &str, schema: &Json) -> Option<(PathBuf, PathUse)> {
    match schema["format"].as_str()? {
        "path" => Some((PathBuf::from(text), PathUse::of_word(schema[KEY].as_str()?)?)),
        "endpoint-socket" => Some((workload_api(text)?, PathUse::ConnectSocket)),
        "collector-url" => {
            let collector = Collector::parse(text).ok().filter(|collector| collector.get().scheme == Scheme::Unix)?;
            Some((Path::new(&collector.get().host).to_owned(), PathUse::ConnectSocket))
        }
        _ => None,
    }
}

fn workload_api(text: &str) -> Option<PathBuf> {
    match Endpoint::parse(text).ok()?.0 {
        EndpointSocket::Unix(path) => Some(path),
        EndpointSocket::Tcp(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::load::parse_with;

    #[test]
    fn all_that_a_configuration_names_is_found() {
        let text = "
profile: development
identity: { sources: [{ files: { certificate: /c, key: /k, bundle: /b, federatedBundles: [{ trustDomain: a.b, bundle: /f }] } },
                      { workloadApi: { socket: 'unix:///agent.sock' } }, { workloadApi: { socket: 'tcp://127.0.0.1:8081' } }, { workloadApi: {} }] }
policy: { files: [/p.yaml, /q] }
revocation: { denyLists: [/d.yaml], trustDomains: [{ trustDomain: a.b, files: [/l.pem], urls: ['http://a/b'] }] }
admin: { socket: /a.sock }
audit: { file: { folder: /log }, checkpoint: { key: /s }, copies: [{ file: /copy }, { syslog: { to: 'a:1', tls: { certificate: /sc, key: /sk } } }],
         anchors: [{ file: /anchor }] }
telemetry: { otlp: { endpoint: 'unix:///otel.sock' }, logs: { otlp: { endpoint: 'https://c' } } }
";
        let variables = [("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "/o")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = parse_with("/f.yaml", text, variables.into_iter()).unwrap();
        let found = config.paths_with(Some("unix:///from-environment.sock"));
        let found: BTreeSet<String> = found.iter().map(|p| format!("{} {} {:?}", p.key, p.path.display(), p.path_use)).collect();
        let expected = [
            "SPIFFE_ENDPOINT_SOCKET /from-environment.sock ConnectSocket",
            "admin.socket /a.sock BindSocket",
            "audit.anchors[0].file /anchor Append",
            "audit.checkpoint.key /s ReadSecret",
            "audit.copies[0].file /copy Append",
            "audit.copies[1].syslog.tls.certificate /sc Read",
            "audit.copies[1].syslog.tls.key /sk ReadSecret",
            "audit.file.folder /log KeepFolder",
            "identity.sources[0].files.bundle /b Read",
            "identity.sources[0].files.certificate /c Read",
            "identity.sources[0].files.federatedBundles[0].bundle /f Read",
            "identity.sources[0].files.key /k ReadSecret",
            "identity.sources[1].workloadApi.socket /agent.sock ConnectSocket",
            "policy.files[0] /p.yaml ReadFileOrFolder",
            "policy.files[1] /q ReadFileOrFolder",
            "revocation.denyLists[0] /d.yaml Read",
            "revocation.trustDomains[0].files[0] /l.pem Read",
            "telemetry.logs.otlp.tls.ca /o Read",
            "telemetry.otlp.endpoint /otel.sock ConnectSocket",
        ];
        assert_eq!(found, expected.map(str::to_owned).into());
    }

    #[test]
    fn the_environment_names_the_workload_api_only_where_the_file_does_not() {
        let sockets = |text: &str, variable| {
            let config = parse_with("/f.yaml", text, std::iter::empty()).unwrap();
            config.paths_with(variable).iter().filter(|p| p.path_use == PathUse::ConnectSocket).count()
        };
        assert_eq!(sockets("{}", Some("unix:///x")), 1);
        assert_eq!(sockets("{}", None), 0);
        assert_eq!(sockets("{}", Some("tcp://127.0.0.1:1")), 0);
        let named = "identity: { sources: [{ workloadApi: { socket: 'tcp://127.0.0.1:1' } }] }";
        assert_eq!(sockets(named, Some("unix:///x")), 0);
    }

    /// A key that is a path and does not say what becomes of it would be in no sandbox and in no check.
    #[test]
    fn every_path_of_the_schema_has_a_use() {
        let schema = schemars::schema_for!(Config).to_value();
        let mut formats = BTreeSet::new();
        let mut uses = BTreeSet::new();
        for (key, text) in texts(&schema) {
            let Some(format) = text["format"].as_str() else { continue };
            formats.insert(format.to_owned());
            if format == "path" {
                let path_use = text[KEY].as_str().and_then(PathUse::of_word);
                let path_use = path_use.unwrap_or_else(|| panic!("{key} does not say what becomes of the path"));
                assert_eq!(path_use.is_secret(), key == "key", "{key}: {path_use:?}");
                uses.insert(format!("{path_use:?}"));
            }
        }
        assert_eq!(uses.len(), 6, "{uses:?}");
        // Another format is either named in `named`, or added here because it holds no path.
        let with_paths = ["path", "endpoint-socket", "collector-url"];
        let others = "age-recipient cidr dns-name double duration host-port ip ports secret socket-address spiffe-id spiffe-id-pattern \
                      trust-domain uint16 uint32 uint64 uint8 url";
        assert_eq!(formats, with_paths.into_iter().chain(others.split_whitespace()).map(str::to_owned).collect());
    }

    /// Every schema in `schema` with its key, wherever it is.
    fn texts(schema: &Json) -> Vec<(String, Json)> {
        let mut found = Vec::new();
        match schema {
            Json::Object(entries) => {
                // What a default says is no schema.
                for (name, child) in entries.iter().filter(|(name, _)| *name != "default") {
                    found.push((name.clone(), child.clone()));
                    found.extend(texts(child));
                }
            }
            Json::Array(items) => found.extend(items.iter().flat_map(texts)),
            _ => {}
        }
        found
    }
}
