//! What a runtime says when it calls the plugin.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::error::CniError;
use super::network_config::NetworkConfig;
use crate::options::is_object_name;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

impl Command {
    pub(crate) fn of(name: &str) -> Result<Self, CniError> {
        Ok(match name {
            "ADD" => Self::Add,
            "CHECK" => Self::Check,
            "DEL" => Self::Del,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            other => {
                let why = format!("CNI_COMMAND is `{other}`; known are ADD, CHECK, DEL, GC, STATUS, VERSION");
                return Err(CniError::Environment(vec![why]));
            }
        })
    }
}

/// The network configuration of a call.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) config: NetworkConfig,
    /// The result of the plugins before this one, as it came.
    pub(crate) previous: Option<Box<RawValue>>,
}

/// The version that a configuration names. Configurations of version 0.1.0 need not.
pub(crate) fn version_of(text: &str) -> Result<String, CniError> {
    let input: Value =
        serde_json::from_str(text).map_err(|error| CniError::Decode(format!("the network configuration is no JSON: {error}")))?;
    match &input["cniVersion"] {
        Value::Null if input.is_object() => Ok("0.1.0".to_owned()),
        Value::String(version) => Ok(version.clone()),
        _ => Err(CniError::Decode("the network configuration names no cniVersion".to_owned())),
    }
}

impl Input {
    pub(crate) fn parse(text: &str) -> Result<Self, CniError> {
        #[derive(Deserialize)]
        struct Chained {
            #[serde(rename = "prevResult")]
            previous: Option<Box<RawValue>>,
        }
        let not_json = |error: serde_json::Error| CniError::Decode(format!("the network configuration is no JSON object: {error}"));
        let keys: Map<String, Value> = serde_json::from_str(text).map_err(not_json)?;
        let Chained { previous } = serde_json::from_str(text).map_err(not_json)?;
        Ok(Self { config: NetworkConfig::of(keys)?, previous })
    }

    /// The result of the plugins before.
    pub(crate) fn previous(&self) -> Result<&RawValue, CniError> {
        self.previous.as_deref().ok_or_else(|| {
            CniError::Config("there is no prevResult: sidegate-cni makes no interface, so chain it after the plugin that does".to_owned())
        })
    }

    /// The addresses that the plugins before gave to `interface` of the pod.
    pub(crate) fn addresses(&self, interface: &str) -> Result<Vec<IpAddr>, CniError> {
        #[derive(Deserialize)]
        struct Previous {
            #[serde(default)]
            interfaces: Vec<Interface>,
            #[serde(default)]
            ips: Vec<Ip>,
        }
        #[derive(Deserialize)]
        struct Interface {
            name: String,
        }
        #[derive(Deserialize)]
        struct Ip {
            address: String,
            interface: Option<usize>,
        }
        let previous: Previous = serde_json::from_str(self.previous()?.get())
            .map_err(|error| CniError::Decode(format!("prevResult is none of the CNI specification: {error}")))?;
        let mut addresses = Vec::new();
        for ip in previous.ips {
            // Some plugins say of no address which interface has it, and of no interface that it is the pod's. What is taken for the
            // pod's and is not is missing in its namespace, so the call is refused.
            let of_pod = match ip.interface.map(|at| previous.interfaces.get(at)) {
                None => true,
                Some(Some(at)) => at.name == interface,
                Some(None) => return Err(CniError::Decode(format!("prevResult: {} is on an interface that it does not list", ip.address))),
            };
            if of_pod {
                let address = ip.address.split('/').next().and_then(|address| address.parse().ok());
                addresses.push(address.ok_or_else(|| CniError::Decode(format!("prevResult: `{}` is no address", ip.address)))?);
            }
        }
        if addresses.is_empty() {
            let why = format!("prevResult names no address on {interface}, so nothing tells the pod's network namespace from another");
            return Err(CniError::Namespace(why));
        }
        Ok(addresses)
    }
}

/// What is said of one container's place in the network.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) namespace: PathBuf,
    pub(crate) interface: String,
    /// None if the runtime does not start a pod of Kubernetes.
    pub(crate) pod: Option<PodName>,
}

/// Which pod it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Attachment {
    /// What the variables say.
    pub(crate) fn of(variables: &dyn Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let mut wrong = Vec::new();
        let mut variable = |name: &str, is_good: fn(&str) -> bool| {
            let value = variables(name).unwrap_or_default();
            match value.as_str() {
                "" => wrong.push(format!("{name} is missing")),
                value if !is_good(value) => wrong.push(format!("{name} is `{}`, which it can't be", value.escape_debug())),
                _ => {}
            }
            value
        };
        variable("CNI_CONTAINERID", is_container_id);
        let namespace = PathBuf::from(variable("CNI_NETNS", |path| path.starts_with('/')));
        let interface = variable("CNI_IFNAME", is_interface);
        let pod = match pod_of(&variables("CNI_ARGS").unwrap_or_default()) {
            Ok(pod) => pod,
            Err(why) => {
                wrong.push(why);
                None
            }
        };
        if wrong.is_empty() { Ok(Self { namespace, interface, pod }) } else { Err(CniError::Environment(wrong)) }
    }
}

fn pod_of(arguments: &str) -> Result<Option<PodName>, String> {
    let find = |key: &str| {
        let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).filter(|value| !value.is_empty())
    };
    match (find("K8S_POD_NAMESPACE"), find("K8S_POD_NAME"), find("K8S_POD_UID")) {
        (None, None, None) => Ok(None),
        (Some(namespace), Some(name), Some(uid)) => {
            // They become a part of a URL.
            if is_object_name(&namespace) && is_object_name(&name) {
                Ok(Some(PodName { namespace, name, uid }))
            } else {
                Err(format!("CNI_ARGS: `{}/{}` is no name of a pod", namespace.escape_debug(), name.escape_debug()))
            }
        }
        _ => Err("CNI_ARGS has not all of K8S_POD_NAMESPACE, K8S_POD_NAME and K8S_POD_UID; the runtime is too old".to_owned()),
    }
}

fn is_container_id(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// The kernel's rule.
fn is_interface(name: &str) -> bool {
    name.len() < 16 && !matches!(name, "." | "..") && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(arguments: &str, interface: &str) -> Result<Attachment, CniError> {
        Attachment::of(&|name| {
            Some(match name {
                "CNI_CONTAINERID" => "c1".to_owned(),
                "CNI_NETNS" => "/run/netns/a".to_owned(),
                "CNI_IFNAME" => interface.to_owned(),
                _ => arguments.to_owned(),
            })
        })
    }

    #[test]
    fn a_pod_has_all_three_names_or_none() {
        let pod = attachment("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u", "eth0").unwrap().pod;
        assert_eq!(pod, Some(PodName { namespace: "shop".to_owned(), name: "web-0".to_owned(), uid: "u".to_owned() }));
        assert_eq!(attachment("IgnoreUnknown=1", "eth0").unwrap().pod, None);
        for bad in ["K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=../x;K8S_POD_UID=u"] {
            assert!(attachment(bad, "eth0").unwrap_err().to_string().contains("CNI_ARGS"), "{bad}");
        }
    }

    #[test]
    fn all_variables_that_are_wrong_are_named() {
        let text = Attachment::of(&|name| (name == "CNI_IFNAME").then(|| "eth0/..".to_owned())).unwrap_err().to_string();
        for name in ["CNI_CONTAINERID is missing", "CNI_NETNS is missing", "CNI_IFNAME is `eth0/..`"] {
            assert!(text.contains(name), "{text}");
        }
        assert!(attachment("", "a-name-that-is-too-long").is_err());
    }

    #[test]
    fn only_addresses_of_the_pods_interface_count() {
        let input = |previous: &str| {
            let text = format!(
                r#"{{ "type": "sidegate-cni", "apiServer": "https://a", "caFile": "/ca", "tokenFile": "/t", "prevResult": {previous} }}"#
            );
            Input::parse(&text).unwrap().addresses("eth0").map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let interfaces = r#""interfaces": [{ "name": "cni0" }, { "name": "eth0", "sandbox": "/n" }, { "name": "eth1", "sandbox": "/n" }]"#;
        let ips = r#"[{ "address": "10.0.0.1/24", "interface": 0 }, { "address": "10.0.0.2/24", "interface": 1 }, { "address": "10.0.0.3/24", "interface": 2 }]"#;
        assert_eq!(input(&format!(r#"{{ {interfaces}, "ips": {ips} }}"#)).unwrap(), ["10.0.0.2"]);
        assert_eq!(input(r#"{ "ips": [{ "address": "fd00::2/64" }] }"#).unwrap(), ["fd00::2"]);
        for bad in
            [r#"{ "ips": [] }"#, r#"{ "ips": [{ "address": "x" }] }"#, r#"{ "ips": [{ "address": "10.0.0.1/8", "interface": 7 }] }"#, "[]"]
        {
            assert!(input(bad).is_err(), "{bad}");
        }
    }
}
