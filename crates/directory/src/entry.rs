//! What is known of one IP address, and how it is put on the wire.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;
use sidegate_core::{SpiffeId, parse_canonical};

use crate::{v1, xds};

/// The type of the directory's resources.
pub const TYPE_URL: &str = "type.googleapis.com/sidegate.directory.v1.Address";

/// What is known of one IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// One workload has it, on every port.
    Workload {
        /// `namespace/service-account`.
        name: String,
        /// Who it is.
        id: SpiffeId,
    },
    /// It is a service's: the workloads behind it share it.
    Service {
        /// `namespace/name`.
        name: String,
        /// By port, in ascending order.
        ports: Vec<ServicePort>,
    },
    /// Nobody there can prove an identity.
    Unidentified {
        /// `namespace/name` of whatever has it.
        name: String,
        /// Why.
        why: Unidentified,
    },
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The service's port.
    pub port: u16,
    /// Who may answer, sorted; or why nobody is expected.
    pub ids: Result<Vec<SpiffeId>, Unidentified>,
    /// Where connections to it lead, sorted.
    pub endpoints: Vec<SocketAddr>,
}

/// Why nobody at an address can prove an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unidentified {
    /// It has no sidecar.
    NotInMesh,
    /// It shares the network of its node, and so its address with others.
    HostNetwork,
    /// Nothing is behind the port.
    NoEndpoints,
    /// There is too much to say about it.
    TooLarge,
}

/// A resource is no entry.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Invalid {
    /// It can't be decoded, or is of another type.
    #[error("it is no {TYPE_URL}: {0}")]
    Message(String),
    /// Something in it is not what it should be.
    #[error("{what} `{value}` {why}")]
    Value {
        /// What it is.
        what: &'static str,
        /// What was sent.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Invalid {
    fn value(what: &'static str, value: &dyn ToString, why: &str) -> Self {
        Self::Value { what, value: value.to_string().chars().take(200).collect(), why: why.to_string() }
    }
}

impl Entry {
    /// As the resource of `address`.
    #[must_use]
    pub fn to_resource(&self, address: IpAddr) -> xds::Resource {
        let value = v1::Address::from(self).encode_to_vec();
        xds::Resource {
            version: version(&value),
            resource: Some(prost_types::Any { type_url: TYPE_URL.to_owned(), value }),
            name: address.to_string(),
        }
    }

    /// The entry that a resource is.
    ///
    /// # Errors
    /// If it is none, or holds what is no SPIFFE ID, port or address.
    pub fn of_resource(resource: &xds::Resource) -> Result<Self, Invalid> {
        // An empty one stands for an address that nobody has.
        if resource.version.is_empty() {
            return Err(Invalid::Message("it has no version".to_owned()));
        }
        let any = resource.resource.as_ref().ok_or_else(|| Invalid::Message("it is empty".to_owned()))?;
        if any.type_url != TYPE_URL {
            return Err(Invalid::Message(format!("its type is `{}`", any.type_url.chars().take(200).collect::<String>())));
        }
        let address = v1::Address::decode(&*any.value).map_err(|error| Invalid::Message(error.to_string()))?;
        Self::try_from(address)
    }
}

/// A digest of what is sent, the same on each controller. Sidecars take equal versions for the same content, also of two addresses, so
/// nobody may be able to make one that another has: anyone who writes into the cluster's objects chooses what goes into it.
fn version(bytes: &[u8]) -> String {
    hex::encode(&digest(&SHA256, bytes).as_ref()[..16])
}

impl From<&Entry> for v1::Address {
    fn from(entry: &Entry) -> Self {
        use v1::address::Holder;
        let holder = match entry {
            Entry::Workload { name, id } => Holder::Workload(v1::Workload { name: name.clone(), spiffe_id: id.to_string() }),
            Entry::Service { name, ports } => {
                Holder::Service(v1::Service { name: name.clone(), ports: ports.iter().map(Into::into).collect() })
            }
            Entry::Unidentified { name, why } => {
                Holder::Unidentified(v1::Unidentified { name: name.clone(), why: v1::Why::from(*why).into() })
            }
        };
        Self { holder: Some(holder) }
    }
}

impl From<&ServicePort> for v1::ServicePort {
    fn from(port: &ServicePort) -> Self {
        Self {
            port: port.port.into(),
            spiffe_ids: port.ids.iter().flatten().map(ToString::to_string).collect(),
            endpoints: port
                .endpoints
                .iter()
                .map(|endpoint| v1::Endpoint { address: octets(endpoint.ip()), port: endpoint.port().into() })
                .collect(),
            why: port.ids.as_ref().err().map_or(v1::Why::Unspecified, |why| (*why).into()).into(),
        }
    }
}

impl From<Unidentified> for v1::Why {
    fn from(why: Unidentified) -> Self {
        match why {
            Unidentified::NotInMesh => Self::NotInMesh,
            Unidentified::HostNetwork => Self::HostNetwork,
            Unidentified::NoEndpoints => Self::NoEndpoints,
            Unidentified::TooLarge => Self::TooLarge,
        }
    }
}

impl TryFrom<v1::Address> for Entry {
    type Error = Invalid;

    fn try_from(address: v1::Address) -> Result<Self, Invalid> {
        use v1::address::Holder;
        Ok(match address.holder.ok_or_else(|| Invalid::Message("it says nothing".to_owned()))? {
            Holder::Workload(workload) => Self::Workload { name: name(workload.name)?, id: id(&workload.spiffe_id)? },
            Holder::Service(service) => Self::Service {
                name: name(service.name)?,
                ports: service.ports.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            },
            Holder::Unidentified(unidentified) => Self::Unidentified { name: name(unidentified.name)?, why: why(unidentified.why)? },
        })
    }
}

impl TryFrom<v1::ServicePort> for ServicePort {
    type Error = Invalid;

    fn try_from(of: v1::ServicePort) -> Result<Self, Invalid> {
        let ids = if of.spiffe_ids.is_empty() {
            Err(why(of.why)?)
        } else {
            Ok(of.spiffe_ids.iter().map(|text| id(text)).collect::<Result<_, _>>()?)
        };
        let endpoints = of.endpoints.into_iter().map(|endpoint| Ok(SocketAddr::new(ip(&endpoint.address)?, port(endpoint.port)?)));
        Ok(Self { port: port(of.port)?, ids, endpoints: endpoints.collect::<Result<_, _>>()? })
    }
}

/// Names of Kubernetes have at most 253 bytes each; they go on record, so nothing else may be in one.
fn name(text: String) -> Result<String, Invalid> {
    let is_name = |part: &str| {
        (1..=253).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
    };
    match text.split_once('/') {
        Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok(text),
        _ => Err(Invalid::value("name", &text, "is not namespace/name")),
    }
}

fn id(text: &str) -> Result<SpiffeId, Invalid> {
    parse_canonical(text).map_err(|why| Invalid::value("SPIFFE ID", &text, &why))
}

fn port(number: u32) -> Result<u16, Invalid> {
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| Invalid::value("port", &number, "is not between 1 and 65535"))
}

fn why(number: i32) -> Result<Unidentified, Invalid> {
    match v1::Why::try_from(number) {
        Ok(v1::Why::NotInMesh) => Ok(Unidentified::NotInMesh),
        Ok(v1::Why::HostNetwork) => Ok(Unidentified::HostNetwork),
        Ok(v1::Why::NoEndpoints) => Ok(Unidentified::NoEndpoints),
        Ok(v1::Why::TooLarge) => Ok(Unidentified::TooLarge),
        Ok(v1::Why::Unspecified) | Err(_) => Err(Invalid::value("reason", &number, "is not one for which there is no SPIFFE ID")),
    }
}

fn ip(bytes: &[u8]) -> Result<IpAddr, Invalid> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .map_err(|_| Invalid::value("address", &bytes.len(), "bytes long is no IP address"))
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Entry {
        let id = |text| SpiffeId::new(text).unwrap();
        Entry::Service {
            name: "shop/db".to_owned(),
            ports: vec![
                ServicePort {
                    port: 5432,
                    ids: Ok(vec![id("spiffe://a.b/ns/shop/sa/db"), id("spiffe://a.b/ns/shop/sa/db2")]),
                    endpoints: vec![([10, 0, 0, 1], 5433).into(), "[fd00::1]:5433".parse().unwrap()],
                },
                ServicePort { port: 9090, ids: Err(Unidentified::NoEndpoints), endpoints: Vec::new() },
            ],
        }
    }

    #[test]
    fn entries_pass_the_wire_as_they_are() {
        let alone = |why| Entry::Unidentified { name: "kube-system/node".to_owned(), why };
        let ip = IpAddr::from([10, 96, 0, 1]);
        for entry in [service(), alone(Unidentified::NotInMesh), alone(Unidentified::HostNetwork)] {
            let resource = entry.to_resource(ip);
            assert_eq!(Entry::of_resource(&resource), Ok(entry.clone()));
            assert_eq!(resource, entry.to_resource(ip));
        }
    }

    #[test]
    fn versions_differ_where_entries_do() {
        let (one, ip) = (service(), IpAddr::from([10, 96, 0, 1]));
        let Entry::Service { name, mut ports } = one.clone() else { panic!() };
        ports[0].endpoints.pop();
        assert_ne!(one.to_resource(ip).version, Entry::Service { name, ports }.to_resource(ip).version);
    }

    #[test]
    fn what_is_no_entry_is_refused_with_its_mistake() {
        let refused = |holder| Entry::try_from(v1::Address { holder }).unwrap_err().to_string();
        use v1::address::Holder::{Service, Unidentified, Workload};
        let workload = |name: &str, id: &str| Some(Workload(v1::Workload { name: name.to_owned(), spiffe_id: id.to_owned() }));
        assert!(refused(None).contains("says nothing"));
        assert!(refused(workload("shop/web", "spiffe://A.b/web")).contains("spiffe://A.b/web"));
        assert!(refused(workload("shop/web\n", "spiffe://a.b/web")).contains("is not namespace/name"));
        assert!(refused(workload("shop/", "spiffe://a.b/web")).contains("is not namespace/name"));
        assert!(refused(Some(Unidentified(v1::Unidentified { name: "a/b".to_owned(), why: 9 }))).contains("reason `9`"));
        let of_service = |port: v1::ServicePort| refused(Some(Service(v1::Service { name: "a/b".to_owned(), ports: vec![port] })));
        let good = v1::ServicePort { port: 80, why: 1, ..Default::default() };
        assert!(of_service(v1::ServicePort { port: 65536, ..good.clone() }).contains("port `65536`"));
        assert!(of_service(v1::ServicePort { why: 0, ..good.clone() }).contains("reason `0`"));
        let endpoint = v1::Endpoint { address: vec![1, 2, 3], port: 80 };
        assert!(of_service(v1::ServicePort { endpoints: vec![endpoint], ..good }).contains("address `3`"));
        let other = xds::Resource {
            version: "1".to_owned(),
            resource: Some(prost_types::Any { type_url: "x".to_owned(), value: Vec::new() }),
            ..Default::default()
        };
        assert!(Entry::of_resource(&other).unwrap_err().to_string().contains("its type is `x`"));
    }
}
