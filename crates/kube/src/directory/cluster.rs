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
    services_by_pod: HashMap<String, HashMap<String, usize>>,
}

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
        for service in self.services_by_pod.get(name).into_iter().flat_map(HashMap::keys) {
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
            for pod in endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref()) {
                let Some(services) = self.services_by_pod.get_mut(pod) else { continue };
                if let Some(count) = services.get_mut(service) {
                    *count -= 1;
                }
                services.retain(|_, count| *count > 0);
                if services.is_empty() {
                    self.services_by_pod.remove(pod);
                }
            }
            affected.extend(self.services.get(service).into_iter().flat_map(|service| &service.vips));
        }
        if let Some(slice) = slice {
            self.slices_by_service.entry(slice.service.clone()).or_default().insert(name.to_owned());
            for pod in slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref()) {
                *self.services_by_pod.entry(pod.clone()).or_default().entry(slice.service.clone()).or_default() += 1;
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
