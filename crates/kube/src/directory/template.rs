//! How the SPIFFE ID of a pod is made of its service account.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sidegate_core::{SpiffeId, parse_canonical};

const NAMESPACE: &str = "{namespace}";
const SERVICE_ACCOUNT: &str = "{serviceAccount}";

/// A SPIFFE ID in which `{namespace}` and `{serviceAccount}` stand for those of a pod. It has to be what SPIRE issues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffeIdTemplate(String);

impl SpiffeIdTemplate {
    /// Parses the text form.
    ///
    /// # Errors
    /// What is wrong with `text`, and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let template = Self(text.to_owned());
        let example = format!("write it like `spiffe://prod.example/ns/{NAMESPACE}/sa/{SERVICE_ACCOUNT}`");
        if !text.contains(SERVICE_ACCOUNT) || !text.contains(NAMESPACE) {
            return Err(format!("it must contain {NAMESPACE} and {SERVICE_ACCOUNT}, or pods of others would have the same ID; {example}"));
        }
        // As a part of a segment, `a-b` and `c` would make the same as `a` and `b-c`.
        if text.split('/').any(|segment| segment.contains(['{', '}']) && segment != NAMESPACE && segment != SERVICE_ACCOUNT) {
            return Err(format!("{NAMESPACE} and {SERVICE_ACCOUNT} can only be whole segments; {example}"));
        }
        let (authority, _) = text.trim_start_matches("spiffe://").split_once('/').unwrap_or_default();
        if authority.contains('{') {
            return Err(format!("the trust domain can't be a part of a pod's name; {example}"));
        }
        parse_canonical(&template.fill("x", "x")).map(|_| template).map_err(|why| format!("{why}; {example}"))
    }

    /// The SPIFFE ID of a pod with this service account. None if that makes none.
    #[must_use]
    pub fn id(&self, namespace: &str, service_account: &str) -> Option<SpiffeId> {
        parse_canonical(&self.fill(namespace, service_account)).ok()
    }

    fn fill(&self, namespace: &str, service_account: &str) -> String {
        self.0.replace(NAMESPACE, namespace).replace(SERVICE_ACCOUNT, service_account)
    }
}

impl<'de> Deserialize<'de> for SpiffeIdTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&Cow::<str>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Serialize for SpiffeIdTemplate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl JsonSchema for SpiffeIdTemplate {
    fn schema_name() -> Cow<'static, str> {
        "SpiffeIdTemplate".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_of_a_service_account() {
        let template = SpiffeIdTemplate::parse("spiffe://prod.example/ns/{namespace}/sa/{serviceAccount}").unwrap();
        assert_eq!(template.id("shop", "web").unwrap().to_string(), "spiffe://prod.example/ns/shop/sa/web");
        assert_eq!(template.id("shop", "web/../root"), None);
        // Kubernetes allows dots, and so does SPIFFE; a name can't add what the template does not have.
        assert_eq!(template.id("shop", "{namespace}"), None);
    }

    #[test]
    fn a_template_tells_pods_apart() {
        for bad in [
            "spiffe://prod.example/sa/{serviceAccount}",
            "spiffe://{namespace}/sa/{serviceAccount}",
            "spiffe://prod.example/ns/{namespace}/sa/{serviceAccount}/{pod}",
            "prod.example/{namespace}/{serviceAccount}",
            "spiffe://prod.example/{namespace}-{serviceAccount}",
        ] {
            assert!(SpiffeIdTemplate::parse(bad).unwrap_err().contains("spiffe://prod.example/ns/"), "{bad}");
        }
    }
}
