//! Answers an AdmissionReview of the API server (`admission.k8s.io/v1`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sidegate_core::event;

use crate::config::SidecarConfig;
use crate::inject::inject;
use crate::options::INJECT;

/// Longer warnings are cut by the API server.
const LONGEST_WARNING: usize = 256;

/// The answer to `review`: the pod as it comes, with the patch that injects it, or a refusal that says why. None if this is no review.
#[must_use]
pub fn review(review: &Value, settings: &SidecarConfig) -> Option<Value> {
    let request = &review["request"];
    let uid = request["uid"].as_str().filter(|_| review["kind"] == "AdmissionReview" && review["apiVersion"] == "admission.k8s.io/v1")?;
    let mut response = json!({ "uid": uid, "allowed": true });
    let pod = &request["object"];
    let is_pod = request["kind"]["kind"] == "Pod" && request["kind"]["group"] == "" && request["operation"] == "CREATE";
    // The webhook's selectors say which pods come here; what a pod says about itself counts in any case.
    if is_pod && pod["metadata"]["labels"][INJECT] != "false" {
        let name = pod["metadata"]["name"].as_str().or(pod["metadata"]["generateName"].as_str()).unwrap_or("?");
        let namespace = request["namespace"].as_str().unwrap_or("?");
        let mut injected = pod.clone();
        match inject(&mut injected, settings) {
            Ok(warnings) => {
                tracing::info!(event = event::POD_INJECTED, namespace, pod = name, warnings = warnings.len(), "a pod is injected");
                let patch = serde_json::to_string(&json_patch::diff(pod, &injected)).unwrap_or_default();
                response["patchType"] = json!("JSONPatch");
                response["patch"] = json!(STANDARD.encode(patch));
                if !warnings.is_empty() {
                    let cut = |warning: String| warning.chars().take(LONGEST_WARNING).collect::<String>();
                    response["warnings"] = json!(warnings.into_iter().map(cut).collect::<Vec<_>>());
                }
            }
            Err(refusals) => {
                tracing::warn!(event = event::POD_REFUSED, namespace, pod = name, "a pod is refused: {refusals}");
                response["allowed"] = json!(false);
                response["status"] = json!({ "code": 422, "reason": "Invalid", "message": format!("sidegate: {refusals}") });
            }
        }
    }
    Some(json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response }))
}
