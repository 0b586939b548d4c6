//! Of whom all telemetry speaks.

use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1;
use opentelemetry_semantic_conventions::attribute as semconv;
use sidegate_config::schema::telemetry as schema;

use crate::attributes::LOCAL_ID;

/// The resource attributes: name, where they come from.
pub const RESOURCE: &[(&str, &str)] = &[
    (semconv::SERVICE_NAME, "`telemetry.serviceName` or OTEL_SERVICE_NAME; else the last part of the SPIFFE ID; else sidegate."),
    (semconv::SERVICE_INSTANCE_ID, "POD_UID, else random for each start."),
    (LOCAL_ID, "Our SPIFFE ID, once there is one."),
    (semconv::HOST_NAME, "The host's name; in Kubernetes the pod's."),
    (semconv::K8S_POD_NAME, "POD_NAME, from the downward API."),
    (semconv::K8S_POD_UID, "POD_UID, from the downward API."),
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
        let name = config.service_name.clone().or_else(|| config.resource.get(semconv::SERVICE_NAME).cloned());
        let named = name.is_some();
        add(semconv::SERVICE_NAME, name);
        let random = || sidegate_core::ConnectionId::random().to_string();
        add(semconv::SERVICE_INSTANCE_ID, variable("POD_UID").or_else(|| Some(random())));
        add(semconv::HOST_NAME, nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()));
        for (key, name) in [
            (semconv::K8S_POD_NAME, "POD_NAME"),
            (semconv::K8S_POD_UID, "POD_UID"),
            (semconv::K8S_NAMESPACE_NAME, "POD_NAMESPACE"),
            (semconv::K8S_NODE_NAME, "NODE_NAME"),
        ] {
            add(key, variable(name));
        }
        add("telemetry.sdk.name", Some("sidegate".to_owned()));
        add("telemetry.sdk.language", Some("rust".to_owned()));
        add("telemetry.sdk.version", Some(env!("CARGO_PKG_VERSION").to_owned()));
        for (key, value) in config.resource.iter().filter(|(key, _)| *key != semconv::SERVICE_NAME) {
            fixed.retain(|(k, _)| k != key);
            fixed.push((key.clone(), value.clone()));
        }
        Self { fixed, named, identity: Mutex::default() }
    }

    /// Who we are from now on.
    pub fn identify(&self, spiffe_id: Arc<str>) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(spiffe_id);
    }

    /// All attributes now.
    #[must_use]
    pub fn pairs(&self) -> Vec<(String, String)> {
        let mut pairs = self.fixed.clone();
        let identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !self.named {
            let name = identity.as_ref().and_then(|id| id.rsplit('/').next()).unwrap_or("sidegate");
            pairs.insert(0, (semconv::SERVICE_NAME.to_owned(), name.to_owned()));
        }
        pairs.extend(identity.map(|id| (LOCAL_ID.to_owned(), id.to_string())));
        pairs
    }

    pub(crate) fn message(&self) -> v1::Resource {
        let attributes = self.pairs().into_iter().map(|(key, value)| text_attribute(key, value)).collect();
        v1::Resource { attributes, ..v1::Resource::default() }
    }
}

/// An attribute in the generated types, for what is made seldom.
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
        assert_eq!(value(&resource, "service.name").as_deref(), Some("sidegate"));
        resource.identify("spiffe://a.b/ns/x/sa/web".into());
        assert_eq!(value(&resource, "service.name").as_deref(), Some("web"));
        for (key, wanted) in [("host.name", "h"), ("team", "t"), ("k8s.pod.name", "web-1"), (LOCAL_ID, "spiffe://a.b/ns/x/sa/web")] {
            assert_eq!(value(&resource, key).as_deref(), Some(wanted));
        }
        let named = Resource::new(&schema::Telemetry { service_name: Some("shop".to_owned()), ..config }, |_| None);
        named.identify("spiffe://a.b/web".into());
        assert_eq!(value(&named, "service.name").as_deref(), Some("shop"));
    }
}
