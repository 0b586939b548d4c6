//! What a pod says of its rules.

use serde_json::Value;
use sidegate_redirect::Plan;

use super::call::PodName;
use super::error::CniError;
use crate::options::{CONFIG, LARGEST, RULES, RULES_BY_CNI};

/// The plan of the rules that `pod` of the API server waits for; none if it waits for none.
pub(crate) fn plan(pod: &Value, name: &PodName) -> Result<Option<Plan>, CniError> {
    // `status.podIPs` proves nothing here: while a pod's network is made again it has the addresses of the one before.
    let annotations = &pod["metadata"]["annotations"];
    let PodName { namespace, name, uid } = name;
    let known = pod["metadata"]["uid"].as_str().unwrap_or_default();
    if known != uid {
        // A pod that the kubelet has from a file: the API server shows a mirror of it. The injector never sees it.
        if annotations["kubernetes.io/config.mirror"].is_string() && annotations["kubernetes.io/config.hash"] == uid.as_str() {
            return Ok(None);
        }
        let why = format!(
            "the API server's pod {namespace}/{name} has the UID {}, and the runtime starts {}",
            known.escape_debug(),
            uid.escape_debug()
        );
        return Err(CniError::Pod(why));
    }
    match annotations[RULES].as_str() {
        None if annotations[RULES].is_null() => return Ok(None),
        Some(RULES_BY_CNI) => {}
        other => {
            let why =
                format!("annotation `{RULES}` is `{}`; the injector writes `{RULES_BY_CNI}`", other.unwrap_or("no text").escape_debug());
            return Err(CniError::PodConfig(why));
        }
    }
    if pod["spec"]["hostNetwork"] == true {
        return Err(CniError::Pod(format!("the API server's pod {namespace}/{name} is in the node's network")));
    }
    let Some(text) = annotations[CONFIG].as_str() else {
        return Err(CniError::PodConfig(format!("annotation `{CONFIG}` is missing; the injector writes it")));
    };
    if text.len() > LARGEST {
        return Err(CniError::PodConfig(format!("annotation `{CONFIG}` has {} bytes, and Kubernetes allows {LARGEST}", text.len())));
    }
    let config = sidegate_config::parse(CONFIG, text)
        .map_err(|problems| CniError::PodConfig(format!("annotation `{CONFIG}` can't be used:\n{problems}")))?;
    let plan = Plan::new(&config);
    // A plan that contradicts itself is told as what it is: the pod's mistake.
    sidegate_redirect::render(&plan).map_err(|error| CniError::PodConfig(format!("annotation `{CONFIG}`: {error}")))?;
    Ok(Some(plan))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LISTENER: &str = "{ outbound: { listen: '127.0.0.1:15001' } }";

    fn of(annotations: &Value, host_network: bool, uid: &str) -> Result<Option<Plan>, CniError> {
        let name = PodName { namespace: "shop".to_owned(), name: "web".to_owned(), uid: uid.to_owned() };
        plan(&json!({ "metadata": { "uid": "u-1", "annotations": annotations }, "spec": { "hostNetwork": host_network } }), &name)
    }

    #[test]
    fn only_a_pod_that_waits_for_rules_has_a_plan() {
        assert!(of(&json!({ RULES: "cni", CONFIG: LISTENER }), false, "u-1").unwrap().is_some());
        assert!(of(&json!({ CONFIG: LISTENER }), false, "u-1").unwrap().is_none());
        assert!(of(&Value::Null, true, "u-1").unwrap().is_none());
        let mirror = json!({ "kubernetes.io/config.mirror": "h", "kubernetes.io/config.hash": "h" });
        assert!(of(&mirror, false, "h").unwrap().is_none());
    }

    #[test]
    fn what_is_not_the_pod_or_no_configuration_is_refused() {
        let code = |annotations: Value, host_network, uid| of(&annotations, host_network, uid).unwrap_err().code().0;
        assert_eq!(code(json!({ RULES: "cni", CONFIG: LISTENER }), false, "u-2"), 101);
        assert_eq!(code(json!({ RULES: "cni", CONFIG: LISTENER }), true, "u-1"), 101);
        for bad in [
            json!({ RULES: "cni" }),
            json!({ RULES: "initContainer", CONFIG: LISTENER }),
            json!({ RULES: 1, CONFIG: LISTENER }),
            json!({ RULES: "cni", CONFIG: "{ redirect: { exemptUid: '0; nft flush ruleset' } }" }),
            json!({ RULES: "cni", CONFIG: "{ redirect: { dnsResolvers: ['$(id)'] } }" }),
            json!({ RULES: "cni", CONFIG: "{ redirect: { exemptUid: 4294967295 } }" }),
            json!({ RULES: "cni", CONFIG: "[".repeat(LARGEST) }),
            json!({ RULES: "cni", CONFIG: format!("{{ redirect: {{ outbound: {{ excludePorts: [{}] }} }} }}", "1,".repeat(LARGEST / 4)) }),
            json!({ RULES: "cni", CONFIG: " ".repeat(LARGEST + 1) }),
        ] {
            assert_eq!(code(bad.clone(), false, "u-1"), 102, "{bad}");
        }
    }
}
