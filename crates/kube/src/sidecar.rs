//! The containers and volumes that a pod gets.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    CSIVolumeSource, Capabilities, ConfigMapVolumeSource, Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource,
    EnvVar, EnvVarSource, HTTPGetAction, HostPathVolumeSource, ObjectFieldSelector, Probe, ResourceRequirements, SeccompProfile,
    SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::config::{Resources, SidecarConfig};
use crate::options::{CONFIG, PodOptions};

/// The container that makes the kernel rules.
pub(crate) const REDIRECT: &str = "sidegate-redirect";
/// The sidecar. Its resource attributes in telemetry name it by this, too.
pub(crate) const SIDECAR: &str = "sidegate";

const CONFIG_VOLUME: &str = "sidegate-config";
const POLICY_VOLUME: &str = "sidegate-policy";
const WORKLOAD_API_VOLUME: &str = "sidegate-workload-api";
const RUN_VOLUME: &str = "sidegate-run";
const NO_TOKEN_VOLUME: &str = "sidegate-no-token";

/// All volumes that a pod may get.
pub(crate) const VOLUMES: [&str; 5] = [CONFIG_VOLUME, POLICY_VOLUME, WORKLOAD_API_VOLUME, RUN_VOLUME, NO_TOKEN_VOLUME];

/// Where the sidecar finds its policy files. Not inside the folder of the configuration: that is read-only, also for the runtime
/// that would make the mount point.
pub(crate) const POLICY_FOLDER: &str = "/etc/sidegate-policy";
/// Where the sidecar finds the socket of the Workload API.
pub(crate) const WORKLOAD_API_FOLDER: &str = "/run/spire";
/// Where Kubernetes mounts the service account's token, unless something is mounted there.
const TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Makes the kernel rules, and ends. It has NET_ADMIN, and nothing else.
pub(crate) fn redirect_container(settings: &SidecarConfig) -> Container {
    Container {
        name: REDIRECT.to_owned(),
        args: Some(vec!["redirect".to_owned(), "apply".to_owned()]),
        security_context: Some(SecurityContext {
            run_as_user: Some(0),
            run_as_non_root: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { add: Some(vec!["NET_ADMIN".to_owned()]), drop: Some(vec!["ALL".to_owned()]) }),
            ..unprivileged()
        }),
        volume_mounts: Some(vec![mount(CONFIG_VOLUME, "/etc/sidegate", true), mount(NO_TOKEN_VOLUME, TOKEN_FOLDER, true)]),
        ..container(settings, &settings.resources)
    }
}

/// The sidecar: an init container that always restarts, so that it starts before the application and ends after it.
pub(crate) fn sidecar_container(settings: &SidecarConfig, options: &PodOptions, admin_port: u16) -> Container {
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field(path)), ..EnvVarSource::default() }),
        ..EnvVar::default()
    };
    let log_filter = options.log_filter.as_ref().unwrap_or(&settings.log_filter);
    let probe = |path: &str| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(admin_port.into()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    };
    let mut mounts = vec![
        mount(CONFIG_VOLUME, "/etc/sidegate", true),
        mount(WORKLOAD_API_VOLUME, WORKLOAD_API_FOLDER, true),
        mount(RUN_VOLUME, "/run/sidegate", false),
        mount(NO_TOKEN_VOLUME, TOKEN_FOLDER, true),
    ];
    if options.policy.is_some() {
        mounts.push(mount(POLICY_VOLUME, POLICY_FOLDER, true));
    }
    Container {
        name: SIDECAR.to_owned(),
        args: Some(vec!["run".to_owned()]),
        restart_policy: Some("Always".to_owned()),
        env: Some(vec![
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_UID", "metadata.uid"),
            field("NODE_NAME", "spec.nodeName"),
            EnvVar { name: "SIDEGATE_LOG".to_owned(), value: Some(log_filter.clone()), ..EnvVar::default() },
        ]),
        security_context: Some(SecurityContext {
            run_as_user: Some(settings.uid.into()),
            run_as_group: Some(settings.uid.into()),
            run_as_non_root: Some(true),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
            ..unprivileged()
        }),
        startup_probe: Some(Probe { period_seconds: Some(1), failure_threshold: Some(60), ..probe("/startupz") }),
        readiness_probe: Some(probe("/readyz")),
        liveness_probe: Some(probe("/livez")),
        volume_mounts: Some(mounts),
        ..container(settings, &settings.resources.with(&options.resources))
    }
}

/// The volumes of both. The configuration comes from an annotation of the pod, so that it needs no object of its own in each namespace.
pub(crate) fn volumes(settings: &SidecarConfig, options: &PodOptions) -> Vec<Volume> {
    let named = |name: &str| Volume { name: name.to_owned(), ..Volume::default() };
    let config = DownwardAPIVolumeSource {
        items: Some(vec![DownwardAPIVolumeFile {
            path: "sidegate.yaml".to_owned(),
            field_ref: Some(field(&format!("metadata.annotations['{CONFIG}']"))),
            ..DownwardAPIVolumeFile::default()
        }]),
        ..DownwardAPIVolumeSource::default()
    };
    let workload_api = match (&settings.workload_api.csi, &settings.workload_api.host_path) {
        (None, Some(path)) => Volume {
            host_path: Some(HostPathVolumeSource { path: path.clone(), type_: Some("Directory".to_owned()) }),
            ..named(WORKLOAD_API_VOLUME)
        },
        (driver, _) => Volume {
            csi: Some(CSIVolumeSource {
                driver: driver.clone().unwrap_or_else(|| "csi.spiffe.io".to_owned()),
                read_only: Some(true),
                ..CSIVolumeSource::default()
            }),
            ..named(WORKLOAD_API_VOLUME)
        },
    };
    let mut all = vec![
        Volume { downward_api: Some(config), ..named(CONFIG_VOLUME) },
        workload_api,
        // Every user may write to an emptyDir, so the sidecar's needs no fsGroup.
        Volume { empty_dir: Some(EmptyDirVolumeSource::default()), ..named(RUN_VOLUME) },
        Volume { empty_dir: Some(EmptyDirVolumeSource::default()), ..named(NO_TOKEN_VOLUME) },
    ];
    if let Some(name) = &options.policy {
        let source = ConfigMapVolumeSource { name: name.clone(), ..ConfigMapVolumeSource::default() };
        all.push(Volume { config_map: Some(source), ..named(POLICY_VOLUME) });
    }
    all
}

fn container(settings: &SidecarConfig, resources: &Resources) -> Container {
    let quantities = |all: &BTreeMap<String, String>| {
        let all = all.iter().map(|(name, quantity)| (name.clone(), Quantity(quantity.clone())));
        Some(all.collect::<BTreeMap<_, _>>()).filter(|all| !all.is_empty())
    };
    Container {
        image: Some(settings.image.clone()),
        image_pull_policy: settings.image_pull_policy.map(|policy| policy.label().to_owned()),
        resources: Some(ResourceRequirements {
            requests: quantities(&resources.requests),
            limits: quantities(&resources.limits),
            ..ResourceRequirements::default()
        }),
        ..Container::default()
    }
}

fn unprivileged() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        privileged: Some(false),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
        ..SecurityContext::default()
    }
}

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    let read_only = read_only.then_some(true);
    VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), read_only, ..VolumeMount::default() }
}

fn field(path: &str) -> ObjectFieldSelector {
    ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: path.to_owned() }
}
