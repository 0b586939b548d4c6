//! What is kept of the objects of the API server.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use sidegate_directory::Unidentified;

use super::cluster::{Pod, Service, Slice, SliceEndpoint};
use super::template::SpiffeIdTemplate;
use crate::options::RESTORE;

/// The label of a slice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// What a service without a virtual address has in its place.
const HEADLESS: &str = "None";

/// What is kept of a pod. Nothing of one that has ended: its address may be another's.
#[must_use]
pub fn pod(pod: &core::Pod, template: &SpiffeIdTemplate) -> Option<Pod> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let several = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut ips: Vec<IpAddr> = several.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
    ips.sort_unstable();
    ips.dedup();
    let namespace = pod.metadata.namespace.as_deref()?;
    let account = spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let has_sidecar = pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(RESTORE));
    let id = if spec.host_network == Some(true) {
        Err(Unidentified::HostNetwork)
    } else if has_sidecar {
        template.id(namespace, account).ok_or(Unidentified::NotInMesh)
    } else {
        Err(Unidentified::NotInMesh)
    };
    let created = pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    Some(Pod { ips, account: format!("{namespace}/{account}"), id, created })
}

/// What is kept of a service. Nothing of one that leads to a name outside.
///
/// Only the virtual addresses that the cluster gives count: anyone who may make a service may write any address into
/// `externalIPs` (CVE-2020-8554), and would so say who is expected there.
#[must_use]
pub fn service(service: &core::Service) -> Option<Service> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let addresses = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter(|ip| *ip != HEADLESS);
    let mut vips: Vec<IpAddr> = addresses.filter_map(|ip| ip.parse().ok()).collect();
    vips.sort_unstable();
    vips.dedup();
    // sidegate carries TCP only.
    let ports = spec.ports.iter().flatten().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    let ports = ports.filter_map(|port| Some((u16::try_from(port.port).ok()?, port.name.clone().unwrap_or_default())));
    Some(Service { vips, ports: ports.collect() })
}

/// What is kept of a slice of endpoints. Nothing of one that belongs to no service, or has names instead of addresses.
#[must_use]
pub fn slice(slice: &EndpointSlice) -> Option<Slice> {
    let namespace = slice.metadata.namespace.as_deref()?;
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    if !["IPv4", "IPv6"].contains(&slice.address_type.as_str()) {
        return None;
    }
    let ports = slice.ports.iter().flatten().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    let ports = ports.filter_map(|port| Some((port.name.clone().unwrap_or_default(), u16::try_from(port.port?).ok()?)));
    // One that ends still takes connections where no other is left.
    let serves = |conditions: &k8s_openapi::api::discovery::v1::EndpointConditions| {
        conditions.serving.or(conditions.ready).unwrap_or(true) || conditions.ready == Some(true)
    };
    let endpoints = slice.endpoints.iter().flatten().filter(|endpoint| endpoint.conditions.as_ref().is_none_or(serves));
    let endpoints = endpoints.filter_map(|endpoint| {
        let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
        let pod =
            target.and_then(|target| Some(format!("{}/{}", target.namespace.as_deref().unwrap_or(namespace), target.name.as_deref()?)));
        // All addresses of an endpoint stand for the same; the first is the one that is used.
        Some(SliceEndpoint { ip: endpoint.addresses.first()?.parse().ok()?, pod })
    });
    Some(Slice { service: format!("{namespace}/{service}"), ports: ports.collect(), endpoints: endpoints.collect() })
}
