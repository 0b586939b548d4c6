//! What is known of a cluster, and what that makes of an address.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use sidegate_core::SpiffeId;
use sidegate_directory::{Entry, ServicePort, Unidentified};

/// What is kept of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// `namespace/service-account`.
    pub account: String,
    /// Who it is, or why that can't be proven.
    pub id: Result<SpiffeId, Unidentified>,
    /// When it was made, in seconds since the epoch: of two pods with the same address the younger one has it.
    pub created: i64,
}

/// What is kept of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its virtual addresses.
    pub vips: Vec<IpAddr>,
    /// Its ports, with their names; one port may have none, which is an empty name here.
    pub ports: Vec<(u16, String)>,
}

/// What is kept of a slice of a service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// `namespace/name` of the service.
    pub service: String,
    /// The endpoints' ports, by the names that the service's have.
    pub ports: Vec<(String, u16)>,
    /// The endpoints that take connections.
    pub endpoints: Vec<SliceEndpoint>,
}

/// An endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address.
    pub ip: IpAddr,
    /// `namespace/name` of the pod, if it is one.
    pub pod: Option<String>,
}

impl SliceEndpoint {
    /// By what it is found when its pod changes.
    fn names(&self) -> impl Iterator<Item = String> + use<> {
        [Some(self.ip.to_string()), self.pod.clone()].into_iter().flatten()
    }
}

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Pods.
    Pod,
    /// Services.
    Service,
    /// Endpoint slices.
    Slice,
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A pod.
    Pod(Pod),
    /// A service.
    Service(Service),
    /// A slice of endpoints.
    Slice(Slice),
}

/// What is known of a cluster. Objects are named `namespace/name`.
#[derive(Debug, Default)]
pub struct Cluster {
    pods: HashMap<String, Pod>,
    services: HashMap<String, Service>,
    slices: HashMap<String, Slice>,
    pods_by_ip: HashMap<IpAddr, BTreeSet<String>>,
    services_by_vip: HashMap<IpAddr, BTreeSet<String>>,
    slices_by_service: HashMap<String, BTreeSet<String>>,
    /// By a pod's name and by an endpoint's address as text: the services that have it as an endpoint, and how often.
    services_by_endpoint: HashMap<String, HashMap<String, usize>>,
}

/// Endpoints of a service that sidecars are told of, for all its ports together. Without them sessions are not reused, and no more.
const MOST_ENDPOINTS: usize = 1024;
/// Ports and SPIFFE IDs of a service. Nobody is expected behind one that has more, so that the entry stays short.
const MOST_NAMES: usize = 256;

impl Cluster {
    /// An object as it is now, or that there is none any more. Returns the addresses of which something else may hold now.
    pub fn set(&mut self, kind: Kind, name: &str, object: Option<Object>) -> HashSet<IpAddr> {
        match object {
            Some(Object::Pod(pod)) => self.set_pod(name, Some(pod)),
            Some(Object::Service(service)) => self.set_service(name, Some(service)),
            Some(Object::Slice(slice)) => self.set_slice(name, Some(slice)),
            None => match kind {
                Kind::Pod => self.set_pod(name, None),
                Kind::Service => self.set_service(name, None),
                Kind::Slice => self.set_slice(name, None),
            },
        }
    }

    /// The names of all objects of a kind.
    pub fn names(&self, kind: Kind) -> impl Iterator<Item = &String> {
        let (pods, services, slices) = match kind {
            Kind::Pod => (Some(self.pods.keys()), None, None),
            Kind::Service => (None, Some(self.services.keys()), None),
            Kind::Slice => (None, None, Some(self.slices.keys())),
        };
        pods.into_iter().flatten().chain(services.into_iter().flatten()).chain(slices.into_iter().flatten())
    }

    fn set_pod(&mut self, name: &str, pod: Option<Pod>) -> HashSet<IpAddr> {
        let before = self.pods.remove(name);
        if before == pod {
            if let Some(pod) = pod {
                self.pods.insert(name.to_owned(), pod);
            }
            return HashSet::new();
        }
        let mut affected = HashSet::new();
        for ip in before.iter().flat_map(|pod| &pod.ips) {
            unindex(&mut self.pods_by_ip, ip, name);
            affected.insert(*ip);
        }
        for ip in pod.iter().flat_map(|pod| &pod.ips) {
            self.pods_by_ip.entry(*ip).or_default().insert(name.to_owned());
            affected.insert(*ip);
        }
        let endpoints: Vec<String> = affected.iter().map(ToString::to_string).chain([name.to_owned()]).collect();
        for service in endpoints.iter().filter_map(|endpoint| self.services_by_endpoint.get(endpoint)).flat_map(HashMap::keys) {
            affected.extend(self.services.get(service).into_iter().flat_map(|service| &service.vips));
        }
        if let Some(pod) = pod {
            self.pods.insert(name.to_owned(), pod);
        }
        affected
    }

    fn set_service(&mut self, name: &str, service: Option<Service>) -> HashSet<IpAddr> {
        let before = self.services.remove(name);
        let is_news = before != service;
        let mut affected = HashSet::new();
        for ip in before.iter().flat_map(|service| &service.vips) {
            unindex(&mut self.services_by_vip, ip, name);
            affected.insert(*ip);
        }
        if let Some(service) = service {
            for ip in &service.vips {
                self.services_by_vip.entry(*ip).or_default().insert(name.to_owned());
                affected.insert(*ip);
            }
            self.services.insert(name.to_owned(), service);
        }
        if is_news { affected } else { HashSet::new() }
    }

    fn set_slice(&mut self, name: &str, slice: Option<Slice>) -> HashSet<IpAddr> {
        let before = self.slices.remove(name);
        let is_news = before != slice;
        let mut affected = HashSet::new();
        if let Some(Slice { service, endpoints, .. }) = &before {
            unindex(&mut self.slices_by_service, service, name);
            for name in endpoints.iter().flat_map(SliceEndpoint::names) {
                let Some(services) = self.services_by_endpoint.get_mut(&name) else { continue };
                if let Some(count) = services.get_mut(service) {
                    *count -= 1;
                }
                services.retain(|_, count| *count > 0);
                if services.is_empty() {
                    self.services_by_endpoint.remove(&name);
                }
            }
            affected.extend(self.services.get(service).into_iter().flat_map(|service| &service.vips));
        }
        if let Some(slice) = slice {
            self.slices_by_service.entry(slice.service.clone()).or_default().insert(name.to_owned());
            for name in slice.endpoints.iter().flat_map(SliceEndpoint::names) {
                *self.services_by_endpoint.entry(name).or_default().entry(slice.service.clone()).or_default() += 1;
            }
            affected.extend(self.services.get(&slice.service).into_iter().flat_map(|service| &service.vips));
            self.slices.insert(name.to_owned(), slice);
        }
        if is_news { affected } else { HashSet::new() }
    }

    /// What is known of `ip`. Nothing if nobody has it.
    #[must_use]
    pub fn entry(&self, ip: IpAddr) -> Option<Entry> {
        // One name where two have the same address, which they should not, so that each controller says the same.
        if let Some(name) = self.services_by_vip.get(&ip).and_then(BTreeSet::first) {
            let service = self.services.get(name)?;
            let mut ports: Vec<ServicePort> = service.ports.iter().map(|(port, port_name)| self.port(ip, name, *port, port_name)).collect();
            ports.sort_by_key(|port| port.port);
            let ids: usize = ports.iter().flat_map(|port| &port.ids).map(Vec::len).sum();
            if ports.len() > MOST_NAMES || ids > MOST_NAMES {
                return Some(Entry::Unidentified { name: name.clone(), why: Unidentified::TooLarge });
            }
            if ports.iter().map(|port| port.endpoints.len()).sum::<usize>() > MOST_ENDPOINTS {
                ports.iter_mut().for_each(|port| port.endpoints.clear());
            }
            return Some(Entry::Service { name: name.clone(), ports });
        }
        let (name, pod) = self.pod_at(ip)?;
        Some(match &pod.id {
            Ok(id) => Entry::Workload { name: pod.account.clone(), id: id.clone() },
            Err(why) => Entry::Unidentified { name: name.clone(), why: *why },
        })
    }

    fn port(&self, vip: IpAddr, service: &str, port: u16, port_name: &str) -> ServicePort {
        let slices = self.slices_by_service.get(service).into_iter().flatten().filter_map(|name| self.slices.get(name));
        let (mut ids, mut endpoints, mut host_network) = (BTreeSet::new(), BTreeSet::new(), false);
        for slice in slices {
            let Some((_, target)) = slice.ports.iter().find(|(name, _)| name == port_name) else { continue };
            // Of the slices of a service for both families, those of the address's own.
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ip.is_ipv4() == vip.is_ipv4()) {
                endpoints.insert(SocketAddr::new(endpoint.ip, *target));
                let by_name = endpoint.pod.as_ref().and_then(|name| self.pods.get(name));
                match by_name.or_else(|| self.pod_at(endpoint.ip).map(|(_, pod)| pod)).map(|pod| &pod.id) {
                    Some(Ok(id)) => drop(ids.insert(id.to_string())),
                    Some(Err(Unidentified::HostNetwork)) => host_network = true,
                    Some(Err(_)) | None => {}
                }
            }
        }
        let ids: Vec<SpiffeId> = ids.into_iter().filter_map(|id| SpiffeId::new(id).ok()).collect();
        let ids = if !ids.is_empty() {
            Ok(ids)
        } else if endpoints.is_empty() {
            Err(Unidentified::NoEndpoints)
        } else if host_network {
            Err(Unidentified::HostNetwork)
        } else {
            Err(Unidentified::NotInMesh)
        };
        ServicePort { port, ids, endpoints: endpoints.into_iter().collect() }
    }

    /// Whose address it is: of those on their node's network, which share one, any; else the youngest, for an old one may linger.
    fn pod_at(&self, ip: IpAddr) -> Option<(&String, &Pod)> {
        let pods = self.pods_by_ip.get(&ip)?.iter().filter_map(|name| self.pods.get_key_value(name));
        pods.max_by_key(|(name, pod)| (pod.id == Err(Unidentified::HostNetwork), pod.created, *name))
    }
}

/// Takes `name` out of what is indexed under `key`.
fn unindex<K: std::hash::Hash + Eq>(index: &mut HashMap<K, BTreeSet<String>>, key: &K, name: &str) {
    if let Some(names) = index.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{SpiffeIdTemplate, objects};
    use super::*;

    fn object(value: Value) -> (Kind, String, Option<Object>) {
        let template = SpiffeIdTemplate::parse("spiffe://a.b/ns/{namespace}/sa/{serviceAccount}").unwrap();
        let name = format!("shop/{}", value["metadata"]["name"].as_str().unwrap());
        let typed = |value: Value| serde_json::from_value(value).unwrap();
        match value["kind"].as_str().unwrap() {
            "Pod" => (Kind::Pod, name, objects::pod(&typed(value), &template).map(Object::Pod)),
            "Service" => (Kind::Service, name, objects::service(&serde_json::from_value(value).unwrap()).map(Object::Service)),
            _ => (Kind::Slice, name, objects::slice(&serde_json::from_value(value).unwrap()).map(Object::Slice)),
        }
    }

    fn set(cluster: &mut Cluster, value: Value) -> Vec<String> {
        let (kind, name, object) = object(value);
        let mut affected: Vec<String> = cluster.set(kind, &name, object).iter().map(ToString::to_string).collect();
        affected.sort();
        affected
    }

    fn pod(name: &str, account: &str, ips: &[&str]) -> Value {
        json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": { "namespace": "shop", "name": name, "annotations": { "sidegate.dev/restore": "{}" } },
            "spec": { "serviceAccountName": account, "containers": [] },
            "status": { "podIPs": ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>() }
        })
    }

    fn service(name: &str, vips: &[&str], ports: &Value) -> Value {
        json!({
            "kind": "Service", "apiVersion": "v1", "metadata": { "namespace": "shop", "name": name },
            "spec": { "clusterIPs": vips, "ports": ports, "externalIPs": ["192.0.2.1"] }
        })
    }

    fn slice(name: &str, service: &str, ports: &Value, endpoints: &[(&str, Option<&str>)]) -> Value {
        let endpoint = |(ip, pod): &(&str, Option<&str>)| {
            let target = pod.map(|pod| json!({ "kind": "Pod", "namespace": "shop", "name": pod }));
            json!({ "addresses": [ip], "conditions": { "ready": true }, "targetRef": target })
        };
        let family = if endpoints.iter().any(|(ip, _)| ip.contains(':')) { "IPv6" } else { "IPv4" };
        json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": family,
            "metadata": { "namespace": "shop", "name": name, "labels": { "kubernetes.io/service-name": service } },
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(), "ports": ports
        })
    }

    fn entry(cluster: &Cluster, ip: &str) -> Option<Entry> {
        cluster.entry(ip.parse().unwrap())
    }

    /// `port ids|why endpoints`, a line for each port.
    fn ports(cluster: &Cluster, ip: &str) -> Vec<String> {
        let Some(Entry::Service { ports, .. }) = entry(cluster, ip) else { panic!("{ip} is no service's") };
        let ids = |ids: &Result<Vec<SpiffeId>, Unidentified>| match ids {
            Ok(ids) => ids.iter().map(|id| id.path().rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>().join(","),
            Err(why) => format!("{why:?}"),
        };
        let endpoints = |port: &ServicePort| port.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        ports.iter().map(|port| format!("{} {} {}", port.port, ids(&port.ids), endpoints(port))).collect()
    }

    #[test]
    fn named_ports_and_both_families_of_a_service() {
        let mut cluster = Cluster::default();
        set(&mut cluster, pod("web-0", "web", &["10.0.0.1", "fd00::1"]));
        set(&mut cluster, pod("web-1", "web2", &["10.0.0.2"]));
        let named = json!([{ "name": "http", "port": 80, "targetPort": "http" }, { "name": "admin", "port": 90 }, { "name": "dns", "port": 53, "protocol": "UDP" }]);
        set(&mut cluster, service("web", &["10.96.0.1", "fd96::1"], &named));
        // The named port is another in each pod, so there are two slices.
        set(
            &mut cluster,
            slice(
                "web-a",
                "web",
                &json!([{ "name": "http", "port": 8080 }, { "name": "admin", "port": 9090 }]),
                &[("10.0.0.1", Some("web-0"))],
            ),
        );
        set(&mut cluster, slice("web-b", "web", &json!([{ "name": "http", "port": 8081 }]), &[("10.0.0.2", Some("web-1"))]));
        set(&mut cluster, slice("web-c", "web", &json!([{ "name": "http", "port": 8080 }]), &[("fd00::1", Some("web-0"))]));
        assert_eq!(ports(&cluster, "10.96.0.1"), ["80 web,web2 10.0.0.1:8080,10.0.0.2:8081", "90 web 10.0.0.1:9090"]);
        assert_eq!(ports(&cluster, "fd96::1"), ["80 web [fd00::1]:8080", "90 NoEndpoints "]);
        // The headless case: who resolves the name has the pod's address.
        assert!(matches!(entry(&cluster, "fd00::1"), Some(Entry::Workload { name, .. }) if name == "shop/web"));
        // What somebody writes into a service's external addresses says nothing.
        assert_eq!(entry(&cluster, "192.0.2.1"), None);
    }

    #[test]
    fn who_has_no_identity_and_why() {
        let mut cluster = Cluster::default();
        let mut host = pod("host", "node", &["10.1.0.1"]);
        host["spec"]["hostNetwork"] = true.into();
        set(&mut cluster, host);
        // Another on the same node's network, which has no sidecar: the address is no more its own.
        let mut other = pod("other", "node", &["10.1.0.1"]);
        other["metadata"]["annotations"] = json!({});
        other["spec"]["hostNetwork"] = true.into();
        set(&mut cluster, other);
        let mut bare = pod("bare", "bare", &["10.0.0.3"]);
        bare["metadata"]["annotations"] = json!({});
        set(&mut cluster, bare);
        let why = |ip| match entry(&cluster, ip) {
            Some(Entry::Unidentified { why, .. }) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!((why("10.1.0.1"), why("10.0.0.3")), (Unidentified::HostNetwork, Unidentified::NotInMesh));
        let port = json!([{ "port": 443 }]);
        set(&mut cluster, service("mixed", &["10.96.0.2"], &port));
        let target = json!([{ "port": 6443 }]);
        set(&mut cluster, slice("m", "mixed", &target, &[("10.1.0.1", Some("host")), ("10.0.0.3", Some("bare"))]));
        assert_eq!(ports(&cluster, "10.96.0.2"), ["443 HostNetwork 10.0.0.3:6443,10.1.0.1:6443"]);
        // As the API server's own service: endpoints that are no pods.
        set(&mut cluster, slice("m", "mixed", &target, &[("10.2.0.1", None)]));
        assert_eq!(ports(&cluster, "10.96.0.2"), ["443 NotInMesh 10.2.0.1:6443"]);
    }

    #[test]
    fn what_changes_tells_which_addresses_do() {
        let mut cluster = Cluster::default();
        let one = json!([{ "port": 80 }]);
        assert_eq!(set(&mut cluster, service("web", &["10.96.0.1"], &one)), ["10.96.0.1"]);
        assert_eq!(set(&mut cluster, slice("w", "web", &one, &[("10.0.0.1", Some("web-0"))])), ["10.96.0.1"]);
        assert_eq!(ports(&cluster, "10.96.0.1"), ["80 NotInMesh 10.0.0.1:80"]);
        // The pod comes after its endpoint.
        assert_eq!(set(&mut cluster, pod("web-0", "web", &["10.0.0.1"])), ["10.0.0.1", "10.96.0.1"]);
        assert_eq!(ports(&cluster, "10.96.0.1"), ["80 web 10.0.0.1:80"]);
        assert_eq!(set(&mut cluster, pod("web-0", "web", &["10.0.0.1"])), [""; 0], "nothing has changed");
        assert_eq!(set(&mut cluster, slice("w", "web", &one, &[("10.0.0.1", Some("web-0"))])), [""; 0]);
        // A pod that has ended gives its address to another.
        let mut ended = pod("web-0", "web", &["10.0.0.1"]);
        ended["status"]["phase"] = "Succeeded".into();
        assert_eq!(set(&mut cluster, ended), ["10.0.0.1", "10.96.0.1"]);
        assert_eq!(entry(&cluster, "10.0.0.1"), None);
        set(&mut cluster, pod("db-0", "db", &["10.0.0.1"]));
        assert!(matches!(entry(&cluster, "10.0.0.1"), Some(Entry::Workload { name, .. }) if name == "shop/db"));
        assert_eq!(cluster.set(Kind::Slice, "shop/w", None).len(), 1);
        assert_eq!(ports(&cluster, "10.96.0.1"), ["80 NoEndpoints "]);
        assert_eq!(cluster.set(Kind::Service, "shop/web", None).len(), 1);
        assert_eq!(entry(&cluster, "10.96.0.1"), None);
        assert!(cluster.services_by_endpoint.is_empty() && cluster.slices_by_service.is_empty() && cluster.services_by_vip.is_empty());
    }

    #[test]
    fn an_endpoint_that_names_no_pod_is_who_has_its_address() {
        let mut cluster = Cluster::default();
        let one = json!([{ "port": 80 }]);
        set(&mut cluster, service("web", &["10.96.0.1"], &one));
        set(&mut cluster, slice("w", "web", &one, &[("10.0.0.1", None)]));
        assert_eq!(ports(&cluster, "10.96.0.1"), ["80 NotInMesh 10.0.0.1:80"]);
        assert_eq!(set(&mut cluster, pod("a", "a", &["10.0.0.1"])), ["10.0.0.1", "10.96.0.1"]);
        assert_eq!(ports(&cluster, "10.96.0.1"), ["80 a 10.0.0.1:80"]);
        assert_eq!(set(&mut cluster, pod("a", "a", &["10.0.0.2"])), ["10.0.0.1", "10.0.0.2", "10.96.0.1"]);
        assert_eq!(ports(&cluster, "10.96.0.1"), ["80 NotInMesh 10.0.0.1:80"]);
    }

    #[test]
    fn a_large_service_is_told_of_within_bounds() {
        let mut cluster = Cluster::default();
        let many = |count: u16| Value::from((1..=count).map(|n| json!({ "name": format!("p{n}"), "port": n })).collect::<Vec<_>>());
        set(&mut cluster, pod("a", "a", &["10.0.0.1"]));
        let ips: Vec<String> = (1..=6).map(|n| format!("10.0.0.{n}")).collect();
        let endpoints: Vec<(&str, Option<&str>)> = ips.iter().map(|ip| (ip.as_str(), None)).collect();
        set(&mut cluster, service("web", &["10.96.0.1"], &many(200)));
        set(&mut cluster, slice("w", "web", &many(200), &endpoints));
        // 200 ports of 6 endpoints: who is expected is told, where it leads is not.
        assert_eq!(ports(&cluster, "10.96.0.1")[0], "1 a ");
        set(&mut cluster, service("web", &["10.96.0.1"], &many(300)));
        assert!(matches!(entry(&cluster, "10.96.0.1"), Some(Entry::Unidentified { why: Unidentified::TooLarge, .. })));
    }

    #[test]
    fn of_two_pods_with_an_address_the_younger_has_it() {
        let mut cluster = Cluster::default();
        let at = |name: &str, time: &str| {
            let mut pod = pod(name, name, &["10.0.0.1"]);
            pod["metadata"]["creationTimestamp"] = time.into();
            pod
        };
        set(&mut cluster, at("a", "2026-01-02T00:00:00Z"));
        set(&mut cluster, at("z", "2026-01-01T00:00:00Z"));
        assert!(matches!(entry(&cluster, "10.0.0.1"), Some(Entry::Workload { name, .. }) if name == "shop/a"));
    }
}
