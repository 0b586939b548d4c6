//! What a pod's author says in its annotations and labels, typed.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sidegate_config::distance;
use sidegate_config::schema::{Destination, InboundPort, Mode};

use crate::config::{Resources, ResourcesOverride};
use crate::refusal::{Refusal, Refusals};

/// The label that says whether a pod gets a sidecar: `true` or `false`.
pub const INJECT: &str = "sidegate.dev/inject";
/// The annotation with the sidecar's configuration. The injector writes it.
pub const CONFIG: &str = "sidegate.dev/config";
/// The annotation with what was changed in the pod's own containers. The injector writes it; a pod that has it was injected.
pub const RESTORE: &str = "sidegate.dev/restore";
/// The annotation that says who makes the pod's kernel rules, if it is not an init container. The injector writes it, `sidegate-cni` reads it.
pub const RULES: &str = "sidegate.dev/rules";
/// The value of [`RULES`] by which `sidegate-cni` makes them.
pub const RULES_BY_CNI: &str = "cni";
/// What the names of our annotations begin with.
pub(crate) const PREFIX: &str = "sidegate.dev/";

/// All annotations of an object together, by Kubernetes' own limit.
pub(crate) const LARGEST: usize = 256 * 1024;
/// How much of a name that is not known is looked at.
const LONGEST_NAME: usize = 64;

const INBOUND_PORTS: &str = "sidegate.dev/inbound-ports";
const DEFAULT_MODE: &str = "sidegate.dev/default-mode";
const DESTINATIONS: &str = "sidegate.dev/destinations";
const POLICY: &str = "sidegate.dev/policy";
const RESOURCES: &str = "sidegate.dev/resources";
const LOG_FILTER: &str = "sidegate.dev/log-filter";
const EXCEPTIONS: &str = "sidegate.dev/exceptions";

/// The annotations that a pod's author may set, each with what it says.
pub const ANNOTATIONS: [(&str, &str); 7] = [
    (INBOUND_PORTS, "Ports that differ from the default: a list with the keys of `inbound.ports`."),
    (DEFAULT_MODE, "The mode of every other port: `{ mode: permissive, reason: REASON }`."),
    (DESTINATIONS, "Destinations in the mesh, before those of the cluster: a list with the keys of `outbound.destinations`."),
    (POLICY, "The ConfigMap, in the pod's namespace, whose entries are the workload's policy files. Without it every peer is denied."),
    (RESOURCES, "The sidecar's resources: `{ requests: { cpu: 50m }, limits: { memory: 64Mi } }`."),
    (LOG_FILTER, "The sidecar's log filter, such as `info,sidegate_proxy=debug`."),
    (
        EXCEPTIONS,
        "Reasons for what is refused otherwise: `{ shareProcessNamespace: REASON }`, `{ capabilities: REASON }`. They are admission warnings.",
    ),
];

/// What a pod's author says.
#[derive(Debug, Default)]
pub struct PodOptions {
    /// Ports that differ from the default.
    pub inbound_ports: Vec<InboundPort>,
    /// The mode of every other port, and why.
    pub default_mode: Option<DefaultMode>,
    /// Destinations in the mesh.
    pub destinations: Vec<Destination>,
    /// The ConfigMap with the policy.
    pub policy: Option<String>,
    /// The sidecar's resources.
    pub resources: ResourcesOverride,
    /// The sidecar's log filter.
    pub log_filter: Option<String>,
    /// What is allowed though it is refused otherwise.
    pub exceptions: Exceptions,
}

/// The mode of every port that is not named.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DefaultMode {
    /// The mode.
    pub mode: Mode,
    /// Why it is not strict.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Reasons for what is refused otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Exceptions {
    /// Why containers may share a process namespace with the sidecar.
    pub share_process_namespace: Option<String>,
    /// Why containers may have capabilities with which they can get around the sidecar.
    pub capabilities: Option<String>,
}

impl PodOptions {
    /// What the annotations in a pod's `metadata` say.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn of(metadata: &Value) -> Result<Self, Refusals> {
        let mut options = Self::default();
        let mut refusals = Refusals::default();
        let annotations = metadata["annotations"].as_object();
        // Kubernetes looks at their size only after the webhooks.
        let size: usize = annotations.into_iter().flatten().map(|(name, value)| name.len() + value.as_str().map_or(0, str::len)).sum();
        if size > LARGEST {
            return Err(Refusal::Malformed(format!("annotations have {size} bytes, and Kubernetes allows {LARGEST}")).into());
        }
        for (name, value) in annotations.into_iter().flatten().filter(|(name, _)| name.starts_with(PREFIX)) {
            let Some(text) = value.as_str() else {
                refusals.0.push(Refusal::Malformed(format!("annotation `{name}` is no text")));
                continue;
            };
            if let Err(refusal) = options.set(name, text) {
                refusals.0.push(refusal);
            }
        }
        if refusals.0.is_empty() { Ok(options) } else { Err(refusals) }
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), Refusal> {
        match name {
            INBOUND_PORTS => self.inbound_ports = typed(INBOUND_PORTS, text)?,
            DEFAULT_MODE => self.default_mode = Some(typed(DEFAULT_MODE, text)?),
            DESTINATIONS => self.destinations = typed(DESTINATIONS, text)?,
            EXCEPTIONS => {
                let exceptions: Exceptions = typed(EXCEPTIONS, text)?;
                let reasons = [&exceptions.share_process_namespace, &exceptions.capabilities];
                if reasons.into_iter().flatten().any(|reason| reason.trim().is_empty()) {
                    return Err(Refusal::Value { name: EXCEPTIONS, why: "a reason is empty; say why this workload needs it".to_owned() });
                }
                self.exceptions = exceptions;
            }
            POLICY if is_object_name(text) => self.policy = Some(text.to_owned()),
            POLICY => {
                let why = format!("`{text}` is no name of a ConfigMap: at most 253 of a-z, 0-9, `-` and `.`");
                return Err(Refusal::Value { name: POLICY, why });
            }
            RESOURCES => {
                let resources: ResourcesOverride = typed(RESOURCES, text)?;
                if let Some(why) = Resources::default().with(&resources).mistake() {
                    return Err(Refusal::Value { name: RESOURCES, why });
                }
                self.resources = resources;
            }
            // Without patterns: some take gigabytes to compile.
            LOG_FILTER => match tracing_subscriber::EnvFilter::builder().with_regex(false).parse(text) {
                Ok(_) => self.log_filter = Some(text.to_owned()),
                Err(error) => return Err(Refusal::Value { name: LOG_FILTER, why: format!("`{text}` is no log filter: {error}") }),
            },
            other => {
                let other = &other.chars().take(LONGEST_NAME).collect::<String>();
                let nearest = ANNOTATIONS.iter().map(|(known, _)| *known).min_by_key(|known| distance(known, other));
                return Err(Refusal::UnknownAnnotation { name: other.clone(), nearest: nearest.unwrap_or(INJECT) });
            }
        }
        Ok(())
    }
}

/// The value of an annotation, YAML or JSON, checked by the schema of its type.
fn typed<T: DeserializeOwned + JsonSchema>(name: &'static str, text: &str) -> Result<T, Refusal> {
    let parsed = sidegate_config::typed::<T>(name, text);
    parsed.map(|(value, _)| value).map_err(|problems| Refusal::Value { name, why: problems.to_string() })
}

/// Whether `name` can be that of an object in Kubernetes: a DNS subdomain (RFC 1123).
pub(crate) fn is_object_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        !label.is_empty()
            && label.bytes().all(|byte| inner(byte) || byte == b'-')
            && label.bytes().next().is_some_and(inner)
            && label.bytes().last().is_some_and(inner)
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(annotations: &Value) -> String {
        PodOptions::of(&json!({ "annotations": annotations })).unwrap_err().to_string()
    }

    #[test]
    fn annotations_become_typed_values() {
        let options = PodOptions::of(&json!({ "annotations": {
            "other.example/x": "not ours",
            INBOUND_PORTS: "[{ port: 8080 }, { port: 9000-9010, mode: permissive, reason: 'old clients' }]",
            DEFAULT_MODE: "{ mode: plaintext, reason: x }",
            DESTINATIONS: r#"[{"name": "db", "cidrs": ["10.0.0.0/8"], "spiffeIds": ["spiffe://a.b/db"]}]"#,
            POLICY: "web-policy",
            RESOURCES: "limits: { memory: 64Mi }",
            LOG_FILTER: "info,sidegate_proxy=debug",
            EXCEPTIONS: "{ capabilities: 'a ping sidecar' }",
        } }))
        .unwrap();
        assert_eq!((options.inbound_ports.len(), options.destinations[0].name.as_str()), (2, "db"));
        assert_eq!(options.default_mode.unwrap().mode, Mode::Plaintext);
        assert_eq!((options.policy.as_deref(), options.exceptions.capabilities.as_deref()), (Some("web-policy"), Some("a ping sidecar")));
        let resources = Resources::default().with(&options.resources);
        assert_eq!((resources.limits["memory"].as_str(), resources.requests.len()), ("64Mi", 2), "what is left out is the cluster's");
    }

    #[test]
    fn all_mistakes_are_told_at_once_and_named() {
        let text = refused(&json!({
            INBOUND_PORTS: "[{ port: 8080, mod: strict }]",
            DEFAULT_MODE: "sometimes",
            POLICY: "../../etc",
            RESOURCES: "limits: { memory: 64MB }",
            LOG_FILTER: "info,=",
            EXCEPTIONS: "{ capabilities: '' }",
            "sidegate.dev/inbound-port": "8080",
        }));
        for part in [
            "`sidegate.dev/inbound-ports`: sidegate.dev/inbound-ports:1:16: [0].mod",
            "`sidegate.dev/default-mode`",
            "`../../etc` is no name of a ConfigMap",
            "memory: `64MB` is no quantity",
            "`sidegate.dev/log-filter`",
            "`sidegate.dev/exceptions`",
            "`sidegate.dev/inbound-port` is not known; did you mean `sidegate.dev/inbound-ports`?",
        ] {
            assert!(text.contains(part), "{part}\n in\n{text}");
        }
    }

    /// Text that would be structure if it were spliced into a template.
    #[test]
    fn what_looks_like_structure_is_a_value() {
        for hostile in ["]\nspec: { hostNetwork: true", "'}, {\"name\":\"x\"", "{{ .Values }}", "!!python/object:os.system x", "&a [*a]"] {
            for name in [INBOUND_PORTS, DESTINATIONS, RESOURCES, POLICY, EXCEPTIONS, DEFAULT_MODE] {
                refused(&json!({ name: hostile }));
            }
        }
    }
}
