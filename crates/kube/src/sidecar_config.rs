//! The configuration of a pod's sidecar.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::Value;
use sidegate_config::Config;
use sidegate_config::schema::{Mode, Source, WorkloadApi};
use sidegate_config::value::{Address, Endpoint, PortRange, Span};

use crate::config::SidecarConfig;
use crate::options::PodOptions;
use crate::refusal::Refusal;
use crate::sidecar::{POLICY_FOLDER, WORKLOAD_API_FOLDER};

/// Between the end of the sidecar's drain and the moment at which the kubelet kills it.
const BEFORE_KILL: u64 = 5;
/// How long Kubernetes gives a pod to end if it does not say.
const GRACE: u64 = 30;

/// The configuration of a pod's sidecar, without its probes.
pub(crate) fn sidecar_config(settings: &SidecarConfig, options: &PodOptions, spec: &PodSpec) -> Result<Config, Refusal> {
    let mut config = settings.config.clone();
    if config.identity.sources.is_empty() {
        let socket = format!("unix://{WORKLOAD_API_FOLDER}/{}", settings.workload_api.socket);
        let socket = Endpoint::parse(&socket).map_err(|error| Refusal::Malformed(format!("workloadApi.socket: {error}")))?;
        config.identity.sources.push(Source { workload_api: Some(WorkloadApi { socket: Some(socket) }), files: None });
    }
    if options.policy.is_some() {
        config.policy.files.push(PathBuf::from(POLICY_FOLDER));
    }
    // What a pod says of its ports takes the place of what the cluster says.
    let overrides = |own: PortRange, named: PortRange| own.contains(named.first) && own.contains(named.last);
    config.inbound.ports.retain(|named| !options.inbound_ports.iter().any(|own| overrides(own.port.0, named.port.0)));
    config.inbound.ports.splice(0..0, options.inbound_ports.iter().cloned());
    if let Some(default) = &options.default_mode {
        config.inbound.default_mode = default.mode;
        config.inbound.reason.clone_from(&default.reason);
    }
    config.outbound.destinations.splice(0..0, options.destinations.iter().cloned());
    config.redirect.exempt_uid = Some(settings.uid);
    // The kubelet and Prometheus come from outside.
    if config.admin.listen.as_ref().is_some_and(|listen| listen.0.ip().is_loopback()) {
        config.admin.listen = Some(Address((Ipv6Addr::UNSPECIFIED, admin_port(&config)).into()));
    }
    let grace = spec.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(GRACE);
    let most = Duration::from_secs(grace.saturating_sub(BEFORE_KILL).max(1));
    if config.drain.deadline.duration() > most {
        config.drain.deadline = Span(most);
        config.drain.settle = Span(config.drain.settle.duration().min(most / 2));
    }
    Ok(config)
}

/// The port of the sidecar's probes.
pub(crate) fn admin_port(config: &Config) -> u16 {
    config.admin.listen.as_ref().map_or(15020, |listen| listen.0.port())
}

/// Whether only peers with an SVID reach a port.
pub(crate) fn is_strict(config: &Config, port: u16) -> bool {
    let captured = &config.redirect.inbound;
    let is_captured = (captured.include_ports.is_empty() || captured.include_ports.iter().any(|ports| ports.0.contains(port)))
        && !captured.exclude_ports.iter().any(|ports| ports.0.contains(port));
    let named = config.inbound.ports.iter().find(|named| named.port.0.contains(port));
    is_captured && named.map_or(config.inbound.default_mode, |named| named.mode) == Mode::Strict
}

/// `config` with these entries of `admin.probes`, as the text of a file that has only what differs from the defaults. It has passed
/// the checks of a file. The entries are not a part of `config`, since that would not show the values of their headers.
pub(crate) fn text_of(config: &Config, probes: Vec<Value>) -> Result<String, Refusal> {
    let json = |config: &Config| serde_json::to_value(config).map_err(|error| Refusal::Malformed(error.to_string()));
    let mut value = without_defaults(json(config)?, &json(&Config::default())?).unwrap_or_else(|| serde_json::json!({}));
    if !probes.is_empty() {
        let all = &mut value["admin"]["probes"];
        *all = all.as_array().into_iter().flatten().cloned().chain(probes).collect();
    }
    let text = serde_json::to_string_pretty(&value).map_err(|error| Refusal::Malformed(error.to_string()))?;
    sidegate_config::parse("sidegate.yaml", &text).map_err(Refusal::Config)?;
    Ok(text)
}

/// What of `value` differs from `default`; nothing if it does not.
fn without_defaults(value: Value, default: &Value) -> Option<Value> {
    match (value, default) {
        (value, default) if value == *default => None,
        (Value::Object(fields), Value::Object(defaults)) => {
            let kept = fields.into_iter().filter_map(|(key, value)| {
                let kept = without_defaults(value, defaults.get(&key).unwrap_or(&Value::Null))?;
                Some((key, kept))
            });
            Some(Value::Object(kept.collect()))
        }
        (value, _) => Some(without_nulls(value)),
    }
}

/// Without optional keys that are not set: in a list there is no default to compare with.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key, without_nulls(value))).collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> SidecarConfig {
        sidegate_config::typed("controller.yaml", text).unwrap().0
    }

    #[test]
    fn a_configuration_has_only_what_differs() {
        let settings = settings("{ image: x, config: { outbound: { destinations: [{ name: all, cidrs: [10.0.0.0/8] }] } } }");
        let config = sidecar_config(&settings, &PodOptions::default(), &PodSpec::default()).unwrap();
        let value: Value = serde_json::from_str(&text_of(&config, Vec::new()).unwrap()).unwrap();
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["admin", "identity", "outbound", "redirect"], "{value:#}");
        assert_eq!(value["identity"]["sources"][0]["workloadApi"]["socket"], "unix:///run/spire/spire-agent.sock");
        assert_eq!(value["redirect"]["exemptUid"], 1337);
        assert_eq!(value["admin"], serde_json::json!({ "listen": "[::]:15020" }));
    }

    #[test]
    fn a_sidecar_has_drained_before_the_kubelet_kills_it() {
        let deadline = |grace| {
            let spec = PodSpec { termination_grace_period_seconds: Some(grace), ..PodSpec::default() };
            sidecar_config(&settings("image: x"), &PodOptions::default(), &spec).unwrap().drain.deadline.duration().as_secs()
        };
        assert_eq!([deadline(60), deadline(30), deadline(10), deadline(0)], [25, 25, 5, 1]);
    }

    #[test]
    fn ports_that_are_not_captured_are_not_strict() {
        let settings = settings(
            "{ image: x, config: { inbound: { ports: [{ port: 80, mode: plaintext, reason: x }] }, redirect: { inbound: { excludePorts: [81] } } } }",
        );
        let config = sidecar_config(&settings, &PodOptions::default(), &PodSpec::default()).unwrap();
        assert_eq!([80, 81, 82].map(|port| is_strict(&config, port)), [false, false, true]);
    }
}
