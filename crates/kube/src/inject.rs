//! Gives a pod its sidecar, and takes it away.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sidegate_config::Config;

use crate::config::{Rules, SidecarConfig};
use crate::options::{CONFIG, PodOptions, RESTORE, RULES, RULES_BY_CNI};
use crate::probes::{PROBE_FOLDER, PROBES, rewrite, strict_hooks};
use crate::refusal::{Refusal, Refusals};
use crate::sidecar::{REDIRECT, SIDECAR, VOLUMES, redirect_container, sidecar_container, volumes};
use crate::sidecar_config::{admin_port, sidecar_config, text_of};

/// Capabilities with which a container can remove the kernel rules, send past them, or become the user that they exempt.
const DANGEROUS: [&str; 6] = ["ALL", "NET_ADMIN", "NET_RAW", "SETUID", "SYS_ADMIN", "SYS_MODULE"];
/// The one of them that container runtimes give by default, and that is dropped.
const BY_DEFAULT: &str = "NET_RAW";
/// The one that they give by default too, and that is not dropped: images that begin as root and become another user need it.
const BECOMES_ANY_USER: &str = "SETUID";

/// The lists of containers in a pod's spec.
const LISTS: [&str; 2] = ["initContainers", "containers"];

/// What was changed in a pod's own containers, and which of its fields were made.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Restore {
    /// By the container's name: its probes as they were.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    probes: BTreeMap<String, BTreeMap<String, Value>>,
    /// The containers in which [`BY_DEFAULT`] was dropped, and how many fields of the path to it were made for that: of
    /// `securityContext`, `capabilities`, `drop`, the last ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    dropped: BTreeMap<String, usize>,
    /// Fields that the pod did not have.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    made: BTreeSet<String>,
}

/// An injected pod can't be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation `{RESTORE}` can't be read, so the pod can't be restored: {0}; take the manifest that was injected")]
pub struct UninjectError(String);

/// Whether a pod was injected.
#[must_use]
pub fn is_injected(pod: &Value) -> bool {
    pod["metadata"]["annotations"][RESTORE].is_string()
}

/// Gives `pod` a sidecar; one that has one already gets it again. Returns what its author should know.
///
/// # Errors
/// Why it can't have one: everything at once. The pod is as it was then.
pub fn inject(pod: &mut Value, settings: &SidecarConfig) -> Result<Vec<String>, Refusals> {
    for part in ["metadata", "spec"] {
        if !pod[part].is_object() {
            return Err(Refusal::Malformed(format!("this is no pod: it has no {part}")).into());
        }
    }
    let mut changed = pod.clone();
    if is_injected(&changed) {
        uninject(&mut changed).map_err(|error| Refusal::Malformed(error.to_string()))?;
    }
    let spec: PodSpec =
        serde_json::from_value(changed["spec"].clone()).map_err(|error| Refusal::Malformed(format!("this is no pod: spec: {error}")))?;
    let (options, mut refusals) = match PodOptions::of(&changed["metadata"]) {
        Ok(options) => (options, Refusals::default()),
        Err(refusals) => (PodOptions::default(), refusals),
    };
    let config = match sidecar_config(settings, &options, &spec) {
        Ok(config) => config,
        Err(refusal) => {
            refusals.0.push(refusal);
            return Err(refusals);
        }
    };
    let warnings = refuse(&spec, settings, &options, &config, &mut refusals.0);
    let mut restore = Restore::default();
    let mut probes = Vec::new();
    for (list, containers) in LISTS.into_iter().zip([spec.init_containers.as_deref().unwrap_or_default(), &spec.containers]) {
        for (container, original) in containers.iter().zip(changed["spec"][list].as_array_mut().into_iter().flatten()) {
            match rewrite(container, original, &config, admin_port(&config)) {
                Ok(rewritten) => {
                    for probe in rewritten {
                        let before = std::mem::replace(&mut original[probe.key], probe.probe);
                        restore.probes.entry(container.name.clone()).or_default().insert(probe.key.to_owned(), before);
                        probes.push(probe.entry);
                    }
                }
                Err(unknown) => refusals.0.extend(unknown),
            }
            if options.exceptions.capabilities.is_none()
                && let Some(made) = drop_by_default(original)
            {
                restore.dropped.insert(container.name.clone(), made);
            }
        }
    }
    let text = match text_of(&config, probes) {
        Ok(text) if refusals.0.is_empty() => text,
        Ok(_) => return Err(refusals),
        Err(refusal) => {
            refusals.0.push(refusal);
            return Err(refusals);
        }
    };
    let sidecar = sidecar_container(settings, &options, admin_port(&config));
    let own = match settings.rules {
        Rules::InitContainer => vec![json!(redirect_container(settings)), json!(sidecar)],
        Rules::Cni => vec![json!(sidecar)],
    };
    let volumes = volumes(settings, &options).into_iter().map(|volume| json!(volume));
    add(&mut changed["spec"], "initContainers", own, true, &mut restore.made);
    add(&mut changed["spec"], "volumes", volumes.collect(), false, &mut restore.made);
    if !changed["metadata"]["annotations"].is_object() {
        restore.made.insert("annotations".to_owned());
        changed["metadata"]["annotations"] = json!({});
    }
    changed["metadata"]["annotations"][CONFIG] = json!(text);
    if settings.rules == Rules::Cni {
        changed["metadata"]["annotations"][RULES] = json!(RULES_BY_CNI);
    }
    let restore = serde_json::to_string(&restore).map_err(|error| Refusal::Malformed(error.to_string()))?;
    changed["metadata"]["annotations"][RESTORE] = json!(restore);
    *pod = changed;
    Ok(warnings)
}

/// Whether any pod at all can get this sidecar.
///
/// # Errors
/// What is wrong with it.
pub fn check_sidecar(settings: &SidecarConfig) -> Result<(), Refusals> {
    let mut refusals = Refusals::default();
    if settings.workload_api.csi.is_some() && settings.workload_api.host_path.is_some() {
        refusals.0.push(Refusal::Malformed("sidecar.workloadApi: name either `csi` or `hostPath`".to_owned()));
    }
    if let Some(mistake) = settings.resources.mistake() {
        refusals.0.push(Refusal::Malformed(format!("sidecar.resources: {mistake}")));
    }
    // An annotation is no place for a secret, and a configuration does not show it.
    let text = serde_json::to_string(&settings.config).unwrap_or_default();
    if text.contains(sidegate_core::REDACTED) {
        refusals
            .0
            .push(Refusal::Malformed("sidecar.config: it holds a secret, which every pod would show; name a file instead".to_owned()));
    }
    let mut pod = json!({ "metadata": {}, "spec": { "containers": [] } });
    if let Err(of_pod) = inject(&mut pod, settings) {
        refusals.0.extend(of_pod.0);
    }
    if refusals.0.is_empty() { Ok(()) } else { Err(refusals) }
}

/// Takes the sidecar away from a pod, which is then as it was. One that was not injected stays as it is.
///
/// # Errors
/// If the annotation that says how it was can't be read. The pod stays as it is then.
pub fn uninject(pod: &mut Value) -> Result<(), UninjectError> {
    let Some(text) = pod["metadata"]["annotations"][RESTORE].as_str() else { return Ok(()) };
    let restore: Restore = serde_json::from_str(text).map_err(|error| UninjectError(error.to_string()))?;
    if !pod["spec"].is_object() {
        return Err(UninjectError("the pod has no spec".to_owned()));
    }
    let is_own = |item: &Value, names: &[&str]| item["name"].as_str().is_some_and(|name| names.contains(&name));
    for list in LISTS {
        let Some(containers) = pod["spec"][list].as_array_mut() else { continue };
        containers.retain(|container| !is_own(container, &[REDIRECT, SIDECAR]));
        for container in containers {
            let Some(name) = container["name"].as_str().map(str::to_owned) else { continue };
            // What somebody else has changed since is theirs.
            for (key, probe) in restore.probes.get(&name).into_iter().flatten().filter(|(key, _)| PROBES.contains(&key.as_str())) {
                if container[key]["httpGet"]["path"].as_str().is_some_and(|path| path.starts_with(PROBE_FOLDER)) {
                    container[key] = probe.clone();
                }
            }
            if let Some(made) = restore.dropped.get(&name) {
                restore_dropped(container, *made);
            }
        }
    }
    if let Some(volumes) = pod["spec"]["volumes"].as_array_mut() {
        volumes.retain(|volume| !is_own(volume, &VOLUMES));
    }
    if let Some(annotations) = pod["metadata"]["annotations"].as_object_mut() {
        [CONFIG, RESTORE, RULES].iter().for_each(|name| drop(annotations.remove(*name)));
    }
    for (parent, field) in [("spec", "initContainers"), ("spec", "volumes"), ("metadata", "annotations")] {
        let is_empty = match &pod[parent][field] {
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        if is_empty
            && restore.made.contains(field)
            && let Some(parent) = pod[parent].as_object_mut()
        {
            parent.remove(field);
        }
    }
    Ok(())
}

/// Adds why the pod can't have a sidecar. Returns what is allowed, but worth a warning.
fn refuse(spec: &PodSpec, settings: &SidecarConfig, options: &PodOptions, config: &Config, refusals: &mut Vec<Refusal>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        refusals.push(Refusal::OtherSystem(os.name.clone()));
    }
    if spec.host_network == Some(true) {
        refusals.push(Refusal::HostNetwork);
    }
    for (field, is_set) in [("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)] {
        if is_set == Some(true) {
            refusals.push(Refusal::HostProcesses(field));
        }
    }
    if spec.share_process_namespace == Some(true) {
        match &options.exceptions.share_process_namespace {
            Some(reason) => warnings.push(format!("sidegate: containers share processes with the sidecar: {reason}")),
            None => refusals.push(Refusal::SharedProcesses),
        }
    }
    let uid = i64::from(settings.uid);
    let own_ports = config.own_ports();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let name = &container.name;
        if [REDIRECT, SIDECAR].contains(&name.as_str()) {
            refusals.push(Refusal::Name { what: "container", name: name.clone() });
        }
        if user_of(container, spec) == Some(uid) {
            refusals.push(Refusal::SidecarUid { container: name.clone(), uid: settings.uid });
        }
        if may_become_other_user(container, spec) {
            warnings.push(format!(
                "sidegate: container {name} may run as root and become user {uid}, the sidecar's, which the rules exempt: set runAsNonRoot, or drop SETUID"
            ));
        }
        for capability in dangerous_capabilities(container) {
            match &options.exceptions.capabilities {
                Some(reason) => warnings.push(format!("sidegate: container {name} has {capability}: {reason}")),
                None => refusals.push(Refusal::Capability { container: name.clone(), capability }),
            }
        }
        for mount in container.volume_mounts.iter().flatten().filter(|mount| VOLUMES.contains(&mount.name.as_str())) {
            refusals.push(Refusal::Mount { container: name.clone(), volume: mount.name.clone() });
        }
        refusals.extend(strict_hooks(container, config));
        for port in container.ports.iter().flatten().filter_map(|port| u16::try_from(port.container_port).ok()) {
            if own_ports.contains(&port) {
                refusals.push(Refusal::Port { container: name.clone(), port });
            }
        }
    }
    let resolvers = &config.redirect.dns_resolvers;
    for server in spec.dns_config.iter().flat_map(|dns| dns.nameservers.iter().flatten()) {
        if !server.parse().is_ok_and(|server| resolvers.contains(&server)) {
            warnings
                .push(format!("sidegate: dnsConfig names {server}, which is not among redirect.dnsResolvers: what goes there is dropped"));
        }
    }
    for volume in spec.volumes.iter().flatten().filter(|volume| VOLUMES.contains(&volume.name.as_str())) {
        refusals.push(Refusal::Name { what: "volume", name: volume.name.clone() });
    }
    warnings
}

/// What of [`DANGEROUS`] a container has by its own wish.
fn dangerous_capabilities(container: &Container) -> Vec<String> {
    let Some(context) = &container.security_context else { return Vec::new() };
    if context.privileged == Some(true) {
        return vec!["privileged: true".to_owned()];
    }
    let added = context.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten());
    added.filter(|name| DANGEROUS.contains(&plain(name).as_str())).cloned().collect()
}

/// The user that a container runs as, if the pod says so; else its image does.
fn user_of(container: &Container, spec: &PodSpec) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
    own.or(spec.security_context.as_ref().and_then(|context| context.run_as_user))
}

/// Whether a container may run as root with the capability to become any user, which container runtimes give by default.
fn may_become_other_user(container: &Container, spec: &PodSpec) -> bool {
    let (own, pods) = (container.security_context.as_ref(), spec.security_context.as_ref());
    let is_not_root = own.and_then(|context| context.run_as_non_root).or(pods.and_then(|context| context.run_as_non_root));
    let dropped = own.and_then(|context| context.capabilities.as_ref()).into_iter().flat_map(|all| all.drop.iter().flatten());
    user_of(container, spec).is_none_or(|user| user == 0)
        && is_not_root != Some(true)
        && !dropped.into_iter().any(|name| ["ALL", BECOMES_ANY_USER].contains(&plain(name).as_str()))
}

/// A capability without the prefix, which runtimes do without.
fn plain(capability: &str) -> String {
    let capability = capability.to_ascii_uppercase();
    capability.strip_prefix("CAP_").map(str::to_owned).unwrap_or(capability)
}

/// Where a container says what it does without.
const DROP: [&str; 3] = ["securityContext", "capabilities", "drop"];

/// Drops the capability that container runtimes give by default. How many fields were made for that; none if the container does
/// without already.
fn drop_by_default(container: &mut Value) -> Option<usize> {
    let dropped = container[DROP[0]][DROP[1]][DROP[2]].as_array();
    let does_without = |name: &Value| name.as_str().is_some_and(|name| ["ALL", BY_DEFAULT].contains(&plain(name).as_str()));
    if dropped.is_some_and(|dropped| dropped.iter().any(does_without)) {
        return None;
    }
    let (mut made, mut field) = (0, container);
    for key in DROP {
        field = &mut field[key];
        if field.is_null() {
            made += 1;
            *field = if key == DROP[2] { json!([]) } else { json!({}) };
        }
    }
    field.as_array_mut()?.push(json!(BY_DEFAULT));
    Some(made)
}

/// Takes back what [`drop_by_default`] did: the entry, and the fields that were made for it, as far as nobody else uses them.
fn restore_dropped(container: &mut Value, made: usize) {
    if let Some(dropped) = container.pointer_mut("/securityContext/capabilities/drop").and_then(Value::as_array_mut)
        && let Some(at) = dropped.iter().rposition(|name| name == BY_DEFAULT)
    {
        dropped.remove(at);
    }
    for depth in (DROP.len().saturating_sub(made)..DROP.len()).rev() {
        let parent = DROP[..depth].iter().try_fold(&mut *container, |field, key| field.get_mut(*key));
        let Some(parent) = parent.and_then(Value::as_object_mut) else { return };
        let is_empty = match parent.get(DROP[depth]) {
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Object(fields)) => fields.is_empty(),
            _ => false,
        };
        if !is_empty {
            return;
        }
        parent.remove(DROP[depth]);
    }
}

/// Adds to a list of `parent`, in front or behind, and makes the list if it is not there.
fn add(parent: &mut Value, field: &str, items: Vec<Value>, in_front: bool, made: &mut BTreeSet<String>) {
    match parent[field].as_array_mut() {
        Some(list) => {
            let at = if in_front { 0 } else { list.len() };
            list.splice(at..at, items);
        }
        None => {
            made.insert(field.to_owned());
            parent[field] = Value::Array(items);
        }
    }
}
