//! Renders addresses and ports as nft conditions.

use std::fmt::Display;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sidegate_config::value::PortRange;

/// The field of a packet that holds an address.
#[derive(Clone, Copy)]
pub(crate) enum AddressField {
    Source,
    Destination,
}

/// Conditions of which one holds if the address is in one of the networks.
pub(crate) fn within(side: AddressField, networks: &[IpNet]) -> Vec<String> {
    let (v4, v6) = split(networks);
    [family("ip", side, "", &v4), family("ip6", side, "", &v6)].into_iter().flatten().collect()
}

/// Conditions of which one holds if the address is in none of the networks.
pub(crate) fn outside(side: AddressField, networks: &[IpNet]) -> Vec<String> {
    let (v4, v6) = split(networks);
    // A family without a network is outside as a whole.
    let v4 = family("ip", side, "!= ", &v4).or_else(|| v4.is_empty().then(|| "meta nfproto ipv4".to_owned()));
    let v6 = family("ip6", side, "!= ", &v6).or_else(|| v6.is_empty().then(|| "meta nfproto ipv6".to_owned()));
    [v4, v6].into_iter().flatten().collect()
}

/// The condition that the port is one of these, or none of these with `!= `.
pub(crate) fn ports(not: &str, ranges: &[PortRange]) -> String {
    let ranges = merge(ranges).into_iter().map(
        |PortRange { first, last }| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        },
    );
    format!("meta l4proto {{ tcp, udp }} th dport {not}{}", set(ranges))
}

/// A set with one or more elements.
pub(crate) fn set(elements: impl IntoIterator<Item = impl Display>) -> String {
    let elements = elements.into_iter().map(|element| element.to_string()).collect::<Vec<_>>();
    format!("{{ {} }}", elements.join(", "))
}

/// Removes overlaps, which the kernel refuses.
fn split(networks: &[IpNet]) -> (Vec<String>, Vec<String>) {
    let v4 = networks.iter().filter_map(|network| if let IpNet::V4(v4) = network { Some(*v4) } else { None });
    let v6 = networks.iter().filter_map(|network| if let IpNet::V6(v6) = network { Some(*v6) } else { None });
    (
        Ipv4Net::aggregate(&v4.collect()).iter().map(ToString::to_string).collect(),
        Ipv6Net::aggregate(&v6.collect()).iter().map(ToString::to_string).collect(),
    )
}

fn family(family: &str, side: AddressField, not: &str, networks: &[String]) -> Option<String> {
    let field = match side {
        AddressField::Source => "saddr",
        AddressField::Destination => "daddr",
    };
    // The whole family is no interval that nft would take; aggregated, it is alone.
    let whole = networks.iter().any(|network| network.ends_with("/0"));
    match (networks.is_empty(), whole, not.is_empty()) {
        (true, ..) | (_, true, false) => None,
        (_, true, true) => Some(format!("meta nfproto {}", if family == "ip" { "ipv4" } else { "ipv6" })),
        _ => Some(format!("{family} {field} {not}{}", set(networks))),
    }
}

fn merge(ranges: &[PortRange]) -> Vec<PortRange> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(text: &[&str]) -> Vec<IpNet> {
        text.iter().map(|network| network.parse().unwrap()).collect()
    }

    #[test]
    fn ports_are_merged() {
        let range = |first, last| PortRange { first, last };
        let condition = ports("", &[range(443, 443), range(1, 80), range(81, 90), range(85, 88)]);
        assert_eq!(condition, "meta l4proto { tcp, udp } th dport { 1-90, 443 }");
    }

    #[test]
    fn networks_are_merged_and_split_by_family() {
        let overlapping = networks(&["10.1.0.0/16", "10.0.0.0/8", "fd00::/8"]);
        assert_eq!(within(AddressField::Destination, &overlapping), ["ip daddr { 10.0.0.0/8 }", "ip6 daddr { fd00::/8 }"]);
        assert_eq!(within(AddressField::Source, &networks(&["0.0.0.0/0", "10.0.0.0/8"])), ["meta nfproto ipv4"]);
    }

    #[test]
    fn a_family_without_networks_is_outside() {
        let v4 = networks(&["10.0.0.0/8"]);
        assert_eq!(outside(AddressField::Destination, &v4), ["ip daddr != { 10.0.0.0/8 }", "meta nfproto ipv6"]);
        assert_eq!(outside(AddressField::Destination, &networks(&["0.0.0.0/0"])), ["meta nfproto ipv6"]);
        assert!(outside(AddressField::Destination, &networks(&["0.0.0.0/0", "::/0"])).is_empty());
    }
}
