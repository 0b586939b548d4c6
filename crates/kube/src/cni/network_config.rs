//! The plugin's own keys of a network configuration.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sidegate_config::value::{Scheme, Span, Url};

use super::error::CniError;

/// The name of the plugin, which is that of its file.
pub(crate) const PLUGIN: &str = "sidegate-cni";

/// Keys of the specification, and of its conventions. What they say is for others.
const SPECIFIED: [&str; 13] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "disableCheck",
    "disableGC",
    "args",
    "capabilities",
    "runtimeConfig",
    "ipMasq",
    "ipam",
    "dns",
    "prevResult",
];
const OWN: [&str; 5] = ["apiServer", "caFile", "tokenFile", "excludeNamespaces", "timeout"];

/// The plugin's own keys of a network configuration. The installer writes them.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkConfig {
    /// The API server that is asked what a pod says: `https://HOST:PORT`.
    pub api_server: Url,
    /// The CA of its certificate, PEM.
    pub ca_file: PathBuf,
    /// A token of a service account that may `get` pods.
    pub token_file: PathBuf,
    /// Namespaces whose pods are never asked about. Default: those in which the injector injects nothing.
    #[serde(default = "exclude_namespaces")]
    pub exclude_namespaces: Vec<String>,
    /// How long a call may take. The API server has half of it. Default 30 s.
    #[serde(default = "call_timeout")]
    pub timeout: Span,
}

/// The namespaces in which nothing is injected, and which must start without the API server's answer.
pub(crate) fn exclude_namespaces() -> Vec<String> {
    ["kube-system", "sidegate-system", "sidegate-cni"].map(str::to_owned).into()
}

fn call_timeout() -> Span {
    Span(Duration::from_secs(30))
}

impl NetworkConfig {
    /// What the keys of a network configuration say to us.
    pub(crate) fn of(mut keys: Map<String, Value>) -> Result<Self, CniError> {
        keys.retain(|key, _| !SPECIFIED.contains(&key.as_str()) && !key.starts_with("cni.dev/"));
        if let Some((key, value)) = keys.iter().find(|(key, _)| !OWN.contains(&key.as_str())) {
            return Err(CniError::UnknownKey { key: key.clone(), value: value.to_string(), known: OWN.join(", ") });
        }
        let (config, _) = sidegate_config::typed::<Self>("network configuration", &Value::Object(keys).to_string())
            .map_err(|problems| CniError::Config(problems.to_string()))?;
        if config.api_server.get().scheme != Scheme::Https {
            return Err(CniError::Config("apiServer: it has to be https, or the token could be read on its way".to_owned()));
        }
        Ok(config)
    }

    /// The plugin's entry in a list of plugins.
    pub(crate) fn entry(&self) -> Value {
        let mut entry = json!(self);
        entry["type"] = json!(PLUGIN);
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<NetworkConfig, CniError> {
        NetworkConfig::of(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn keys_of_the_specification_are_for_others_and_unknown_ones_are_refused() {
        let good = r#"{ "cniVersion": "1.1.0", "name": "n", "type": "sidegate-cni", "runtimeConfig": { "x": 1 }, "cni.dev/valid-attachments": [],
            "apiServer": "https://[fd00::1]:6443", "caFile": "/ca", "tokenFile": "/token" }"#;
        let config = of(good).unwrap();
        assert_eq!((config.timeout.duration().as_secs(), config.exclude_namespaces.len()), (30, 3));
        assert_eq!(of(&config.entry().to_string()).unwrap(), config);
        let unknown = of(&good.replace("\"caFile\"", "\"cafile\": 1, \"caFile\"")).unwrap_err();
        assert!(unknown.code().0 == 2 && unknown.to_string().contains("`cafile: 1`"), "{unknown}");
        for bad in [good.replace("https", "http"), good.replace("\"/ca\"", "7"), good.replace("\"apiServer\"", "\"ipMasq\"")] {
            assert_eq!(of(&bad).unwrap_err().code().0, 7, "{bad}");
        }
    }
}
