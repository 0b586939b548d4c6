//! The resource: the workload and sidecar that all telemetry describes.

use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1;
use opentelemetry_semantic_conventions::attribute as semconv;
use sidegate_config::schema::telemetry as schema;

use crate::attributes::LOCAL_ID;

/// The resource attributes: name, where they come from.
pub const RESOURCE: &[(&str, &str)] = &[
    (
        semconv::SERVICE_NAME,
        "`telemetry.serviceName` or OTEL_SERVICE_NAME; else the last part of the SPIFFE ID; else unknown_service:sidegate.",
    ),
    (semconv::SERVICE_NAMESPACE, "As configured, else POD_NAMESPACE."),
    (
        semconv::SERVICE_VERSION,
        "The workload's, only as configured. sidegate's own is telemetry.sdk.version, and the version of the scope.",
    ),
    (
        semconv::SERVICE_INSTANCE_ID,
        "As configured, else POD_NAMESPACE.POD_NAME.container where both are known, which tells the sidecar from the application; else a random UUID for each start.",
    ),
    (LOCAL_ID, "Our SPIFFE ID, once there is one."),
    (semconv::HOST_NAME, "The host's name; in Kubernetes the pod's."),
    (semconv::K8S_POD_NAME, "POD_NAME, from the downward API."),
    (semconv::K8S_POD_UID, "POD_UID, from the downward API."),
    (semconv::K8S_CONTAINER_NAME, "CONTAINER_NAME, else sidegate where there is POD_NAME."),
    (semconv::K8S_NAMESPACE_NAME, "POD_NAMESPACE, from the downward API."),
    (semconv::K8S_NODE_NAME, "NODE_NAME, from the downward API."),
    ("telemetry.sdk.name", "Always sidegate."),
    ("telemetry.sdk.language", "Always rust."),
    ("telemetry.sdk.version", "sidegate's version."),
];

/// The resource; our identity in it becomes known later, and may change.
#[derive(Debug)]
pub struct Resource {
    fixed: Vec<(String, String)>,
    named: bool,
    identity: Mutex<Option<Arc<str>>>,
}

impl Resource {
    /// By the configuration, and by `variable`s of the environment.
    pub(crate) fn new(config: &schema::Telemetry, variable: impl Fn(&str) -> Option<String>) -> Self {
        let mut fixed: Vec<(String, String)> = Vec::new();
        let mut add = |key: &str, value: Option<String>| fixed.extend(value.filter(|v| !v.is_empty()).map(|v| (key.to_owned(), v)));
        // An empty value is ignored, such as that of a template that was not filled in.
        let name = [config.service_name.as_ref(), config.resource.get(semconv::SERVICE_NAME)];
        let name = name.into_iter().flatten().find(|name| !name.is_empty()).cloned();
        let named = name.is_some();
        add(semconv::SERVICE_NAME, name);
        let known = |name: &str| variable(name).filter(|value| !value.is_empty());
        let (namespace, pod) = (known("POD_NAMESPACE"), known("POD_NAME"));
        let container = known("CONTAINER_NAME").or_else(|| pod.is_some().then(|| "sidegate".to_owned()));
        let instance = match (&namespace, &pod, &container) {
            (Some(namespace), Some(pod), Some(container)) => format!("{namespace}.{pod}.{container}"),
            _ => random_uuid(),
        };
        add(semconv::SERVICE_NAMESPACE, namespace.clone());
        add(semconv::SERVICE_INSTANCE_ID, Some(instance));
        add(semconv::HOST_NAME, nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()));
        add(semconv::K8S_POD_NAME, pod);
        add(semconv::K8S_POD_UID, known("POD_UID"));
        add(semconv::K8S_CONTAINER_NAME, container);
        add(semconv::K8S_NAMESPACE_NAME, namespace);
        add(semconv::K8S_NODE_NAME, known("NODE_NAME"));
        add("telemetry.sdk.name", Some("sidegate".to_owned()));
        add("telemetry.sdk.language", Some("rust".to_owned()));
        add("telemetry.sdk.version", Some(env!("CARGO_PKG_VERSION").to_owned()));
        let is_said = |(key, value): &(&String, &String)| *key != semconv::SERVICE_NAME && !value.is_empty();
        for (key, value) in config.resource.iter().filter(is_said) {
            fixed.retain(|(k, _)| k != key);
            fixed.push((key.clone(), value.clone()));
        }
        Self { fixed, named, identity: Mutex::default() }
    }

    /// Sets our SPIFFE ID.
    pub fn identify(&self, spiffe_id: Arc<str>) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(spiffe_id);
    }

    /// All attributes now.
    #[must_use]
    pub fn pairs(&self) -> Vec<(String, String)> {
        let mut pairs = self.fixed.clone();
        let identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !self.named {
            let name = identity.as_ref().and_then(|id| id.rsplit('/').next()).unwrap_or("unknown_service:sidegate");
            pairs.insert(0, (semconv::SERVICE_NAME.to_owned(), name.to_owned()));
        }
        if let Some(id) = identity {
            // A proved value replaces a configured one, so that each key is there once.
            pairs.retain(|(key, _)| key != LOCAL_ID);
            pairs.push((LOCAL_ID.to_owned(), id.to_string()));
        }
        pairs
    }

    pub(crate) fn message(&self) -> v1::Resource {
        let attributes = self.pairs().into_iter().map(|(key, value)| text_attribute(key, value)).collect();
        v1::Resource { attributes, ..v1::Resource::default() }
    }
}

/// A UUID of version 4 (RFC 9562, 5.4).
fn random_uuid() -> String {
    let mut bytes = sidegate_core::ConnectionId::random().bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = bytes.map(|byte| format!("{byte:02x}")).concat();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// An attribute in the generated types, for rare uses.
pub(crate) fn text_attribute(key: String, value: String) -> KeyValue {
    KeyValue { key, value: Some(AnyValue { value: Some(any_value::Value::StringValue(value)) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(resource: &Resource, key: &str) -> Option<String> {
        resource.pairs().into_iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    #[test]
    fn what_is_configured_comes_before_what_is_found() {
        let mut config = schema::Telemetry::default();
        config.resource.insert("host.name".to_owned(), "h".to_owned());
        config.resource.insert("team".to_owned(), "t".to_owned());
        let resource = Resource::new(&config, |name| (name == "POD_NAME").then(|| "web-1".to_owned()));
        assert_eq!(value(&resource, "service.name").as_deref(), Some("unknown_service:sidegate"));
        resource.identify("spiffe://a.b/ns/x/sa/web".into());
        assert_eq!(value(&resource, "service.name").as_deref(), Some("web"));
        for (key, wanted) in [("host.name", "h"), ("team", "t"), ("k8s.pod.name", "web-1"), (LOCAL_ID, "spiffe://a.b/ns/x/sa/web")] {
            assert_eq!(value(&resource, key).as_deref(), Some(wanted));
        }
        let named = Resource::new(&schema::Telemetry { service_name: Some("shop".to_owned()), ..config }, |_| None);
        named.identify("spiffe://a.b/web".into());
        assert_eq!(value(&named, "service.name").as_deref(), Some("shop"));
    }

    /// The application of the pod reports as the same service, and as another instance of another container.
    #[test]
    fn an_instance_is_a_container_of_a_pod() {
        let pod = |name: &str| match name {
            "POD_NAME" => Some("web-1".to_owned()),
            "POD_NAMESPACE" => Some("shop".to_owned()),
            _ => None,
        };
        let mut config = schema::Telemetry::default();
        let resource = Resource::new(&config, pod);
        for (key, wanted) in [
            ("service.instance.id", Some("shop.web-1.sidegate")),
            ("service.namespace", Some("shop")),
            ("k8s.container.name", Some("sidegate")),
            ("service.version", None),
        ] {
            assert_eq!(value(&resource, key).as_deref(), wanted, "{key}");
        }
        let resource = Resource::new(&config, |name| pod(name).or_else(|| (name == "CONTAINER_NAME").then(|| "proxy".to_owned())));
        assert_eq!(value(&resource, "service.instance.id").as_deref(), Some("shop.web-1.proxy"));
        let told = [("service.instance.id", "7"), ("service.namespace", "prod"), ("k8s.container.name", "app"), ("service.version", "2.1")];
        config.resource = told.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let resource = Resource::new(&config, pod);
        for (key, wanted) in told {
            assert_eq!(value(&resource, key).as_deref(), Some(wanted), "{key}");
        }
    }

    #[test]
    fn an_instance_outside_of_a_pod_is_a_random_uuid() {
        let config = schema::Telemetry::default();
        let id = || value(&Resource::new(&config, |name| (name == "POD_NAME").then(String::new)), "service.instance.id").unwrap();
        let (one, other) = (id(), id());
        assert_ne!(one, other);
        assert_eq!(one.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{one}");
        assert!(one.as_bytes()[14] == b'4' && b"89ab".contains(&one.as_bytes()[19]), "{one}");
    }
}
