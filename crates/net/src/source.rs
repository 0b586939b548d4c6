//! Who counts as one where connections are shared out by source.

use std::net::{IpAddr, Ipv6Addr};

/// What counts as one source: an IPv4 address, or the /64 of an IPv6 address, of which a host may use all. An IPv4-mapped address is
/// the IPv4 address.
#[must_use]
pub fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_source() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_eq!(of("fd00::1"), of("fd00::ffff:ffff:ffff:ffff"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("fd00::1"), of("fd00:0:0:1::1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
