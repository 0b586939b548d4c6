//! The injector offline: manifests of all kinds that have pods.

use serde_json::Value;

use crate::config::SidecarConfig;
use crate::inject::{UninjectError, inject, uninject};
use crate::options::INJECT;
use crate::refusal::Refusals;

/// A manifest can't be injected.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is no YAML.
    #[error("the manifest can't be read: {0}")]
    Read(String),
    /// It can't be written.
    #[error("document {0} can't be written: {1}")]
    Write(usize, String),
    /// Pods of it can't have a sidecar.
    #[error("{}", .0.iter().map(|(name, why)| format!("{name}:\n{why}")).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<(String, Refusals)>),
    /// A pod of it can't be restored.
    #[error("{0}: {1}")]
    Uninject(String, UninjectError),
}

/// Gives all pods of a manifest, YAML or JSON, a sidecar, but those whose label says no. Everything else stays as it is; comments are lost.
/// Returns the manifest, and what its author should know.
///
/// # Errors
/// If it can't be read, or pods can't have a sidecar: all of them at once.
pub fn inject_manifest(text: &str, settings: &SidecarConfig) -> Result<(String, Vec<String>), ManifestError> {
    let mut documents = read(text)?;
    let (mut warnings, mut refused) = (Vec::new(), Vec::new());
    for document in &mut documents {
        each_pod(document, "", &mut |name, pod| {
            if pod["metadata"]["labels"][INJECT] == "false" {
                return;
            }
            match inject(pod, settings) {
                Ok(of_pod) => warnings.extend(of_pod.into_iter().map(|warning| format!("{name}: {warning}"))),
                Err(refusals) => refused.push((name.to_owned(), refusals)),
            }
        });
    }
    if refused.is_empty() { Ok((write(&documents)?, warnings)) } else { Err(ManifestError::Refused(refused)) }
}

/// Takes the sidecars away from all pods of a manifest.
///
/// # Errors
/// If it can't be read, or a pod can't be restored.
pub fn uninject_manifest(text: &str) -> Result<String, ManifestError> {
    let mut documents = read(text)?;
    let mut failed = None;
    for document in &mut documents {
        each_pod(document, "", &mut |name, pod| {
            if let Err(error) = uninject(pod) {
                failed.get_or_insert_with(|| ManifestError::Uninject(name.to_owned(), error));
            }
        });
    }
    failed.map_or_else(|| write(&documents), Err)
}

fn read(text: &str) -> Result<Vec<Value>, ManifestError> {
    // As kubectl does, by YAML 1.1: `0440` is octal, and `yes` is true.
    let options = serde_saphyr::options! { legacy_octal_numbers: true, strict_booleans: false };
    let documents =
        serde_saphyr::from_multiple_with_options::<Value>(text, options).map_err(|error| ManifestError::Read(error.to_string()))?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

fn write(documents: &[Value]) -> Result<String, ManifestError> {
    let mut all = String::new();
    for (at, document) in documents.iter().enumerate() {
        if at > 0 {
            all.push_str("---\n");
        }
        let text = serde_saphyr::to_string(document).map_err(|error| ManifestError::Write(at + 1, error.to_string()))?;
        all.push_str(text.trim_end());
        all.push('\n');
    }
    Ok(all)
}

/// Calls `visit` with every pod, or template of pods, of an object. In a list of one kind, `listed`, the objects need not name it.
fn each_pod(object: &mut Value, listed: &str, visit: &mut impl FnMut(&str, &mut Value)) {
    let kind = object["kind"].as_str().unwrap_or(listed).to_owned();
    let name = format!("{kind} {}", object["metadata"]["name"].as_str().unwrap_or("?"));
    let template = match kind.as_str() {
        "Pod" => Some(object),
        "PodTemplate" => object.pointer_mut("/template"),
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => object.pointer_mut("/spec/template"),
        "CronJob" => object.pointer_mut("/spec/jobTemplate/spec/template"),
        list => {
            if let (Some(listed), Some(Value::Array(items))) = (list.strip_suffix("List"), object.get_mut("items")) {
                items.iter_mut().for_each(|item| each_pod(item, listed, visit));
            }
            None
        }
    };
    if let Some(template) = template.filter(|template| template.is_object()) {
        // A template may come without metadata.
        if template["metadata"].is_null() {
            template["metadata"] = Value::Object(serde_json::Map::default());
        }
        visit(&name, template);
    }
}
