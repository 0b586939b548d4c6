//! The kubelet's probes of strict ports: the sidecar's admin port asks the application in the kubelet's place, which has no SVID.

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use sidegate_config::Config;

use crate::refusal::Refusal;
use crate::sidecar_config::is_strict;

/// The probes of a container, by their keys in Kubernetes.
pub(crate) const PROBES: [&str; 3] = ["startupProbe", "readinessProbe", "livenessProbe"];

/// What the paths begin with at which the sidecar is asked.
pub(crate) const PROBE_FOLDER: &str = "/probe/";
/// The longest check that a sidecar makes, in seconds.
const LONGEST: i32 = 300;

/// What a probe does.
const ACTIONS: [&str; 4] = ["httpGet", "tcpSocket", "grpc", "exec"];

/// What asks the application in the kubelet's place.
#[derive(Debug)]
pub(crate) struct RewrittenProbe {
    /// The key of the probe in its container.
    pub(crate) key: &'static str,
    /// The probe as it is now.
    pub(crate) probe: Value,
    /// The entry of `admin.probes` that it asks.
    pub(crate) entry: Value,
}

/// The probes of a container that have to be asked by the sidecar. `original` is the container as it stands in the pod.
///
/// # Errors
/// A port that nobody names.
pub(crate) fn rewrite(
    container: &Container,
    original: &Value,
    config: &Config,
    admin_port: u16,
) -> Result<Vec<RewrittenProbe>, Vec<Refusal>> {
    let (mut rewritten, mut refusals) = (Vec::new(), Vec::new());
    for (key, probe) in PROBES.into_iter().zip([&container.startup_probe, &container.readiness_probe, &container.liveness_probe]) {
        let Some(probe) = probe else { continue };
        match action(container, key, probe) {
            Ok(Some((port, mut entry))) if is_strict(config, port) => {
                let path = format!("{PROBE_FOLDER}{}/{}", container.name, key.trim_end_matches("Probe"));
                entry["path"] = json!(path);
                // A little before the kubelet gives up, so that it hears why.
                let timeout = u64::try_from(probe.timeout_seconds.unwrap_or(1).clamp(1, LONGEST)).unwrap_or(1) * 1000 - 100;
                entry["timeout"] = json!(format!("{timeout}ms"));
                let mut asked = original[key].clone();
                if let Some(fields) = asked.as_object_mut() {
                    ACTIONS.iter().for_each(|action| drop(fields.remove(*action)));
                    fields.insert("httpGet".to_owned(), json!({ "path": path, "port": admin_port }));
                }
                rewritten.push(RewrittenProbe { key, probe: asked, entry });
            }
            Ok(_) => {}
            Err(refusal) => refusals.push(refusal),
        }
    }
    if refusals.is_empty() { Ok(rewritten) } else { Err(refusals) }
}

/// Whether a probe with this host asks the pod itself.
fn is_here(host: Option<&str>) -> bool {
    host.is_none_or(str::is_empty)
}

/// The hooks that a kubelet would make by HTTP to a strict port.
pub(crate) fn strict_hooks(container: &Container, config: &Config) -> Vec<Refusal> {
    let lifecycle = container.lifecycle.as_ref();
    let hooks = [("postStart", lifecycle.and_then(|l| l.post_start.as_ref())), ("preStop", lifecycle.and_then(|l| l.pre_stop.as_ref()))];
    let mut refusals = Vec::new();
    for (hook, handler) in hooks {
        let Some(get) = handler.and_then(|handler| handler.http_get.as_ref()).filter(|get| is_here(get.host.as_deref())) else { continue };
        match number_of(container, hook, &get.port) {
            Ok(port) if is_strict(config, port) => refusals.push(Refusal::Hook { container: container.name.clone(), hook, port }),
            Ok(_) => {}
            Err(refusal) => refusals.push(refusal),
        }
    }
    refusals
}

/// The port that a probe asks, and how, as the sidecar's configuration says it. Nothing if it goes elsewhere, or to no port.
fn action(container: &Container, key: &'static str, probe: &Probe) -> Result<Option<(u16, Value)>, Refusal> {
    let number = |port: &IntOrString| number_of(container, key, port);
    if let Some(get) = probe.http_get.as_ref().filter(|get| is_here(get.host.as_deref())) {
        let port = number(&get.port)?;
        // The kubelet puts the slash before a path that has none.
        let path = get.path.as_deref().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        let mut http = json!({ "port": port, "path": format!("{slash}{path}") });
        if get.scheme.as_deref() == Some("HTTPS") {
            http["scheme"] = json!("https");
        }
        let headers: Vec<Value> =
            get.http_headers.iter().flatten().map(|header| json!({ "name": header.name, "value": header.value })).collect();
        if !headers.is_empty() {
            http["headers"] = json!(headers);
        }
        return Ok(Some((port, json!({ "http": http }))));
    }
    if let Some(tcp) = probe.tcp_socket.as_ref().filter(|tcp| is_here(tcp.host.as_deref())) {
        let port = number(&tcp.port)?;
        return Ok(Some((port, json!({ "tcp": { "port": port } }))));
    }
    if let Some(grpc) = &probe.grpc {
        let port = number(&IntOrString::Int(grpc.port))?;
        let service = grpc.service.as_deref().unwrap_or_default();
        return Ok(Some((port, json!({ "grpc": { "port": port, "service": service } }))));
    }
    Ok(None)
}

/// The number of a port, which may be one of the container's names.
fn number_of(container: &Container, key: &'static str, port: &IntOrString) -> Result<u16, Refusal> {
    let unknown = |port: String| Refusal::ProbePort { container: container.name.clone(), probe: key, port };
    match port {
        IntOrString::Int(number) => u16::try_from(*number).map_err(|_| unknown(number.to_string())),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            let number = named.and_then(|port| u16::try_from(port.container_port).ok()).or_else(|| name.parse().ok());
            number.ok_or_else(|| unknown(name.clone()))
        }
    }
}
