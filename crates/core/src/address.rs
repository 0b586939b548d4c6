//! Addresses as text, without the formatter: several stand in every record.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// An address as its `Display` writes it, in memory of its own.
#[derive(Debug, Clone, Copy)]
pub struct AddressText {
    bytes: [u8; LONGEST],
    length: usize,
}

/// `[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%4294967295]:65535`
const LONGEST: usize = 65;

impl AddressText {
    /// The text of an address with its port.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        let mut text = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                text.ipv4(*v4.ip());
                text.push(b':');
                text.decimal(v4.port());
            }
            SocketAddr::V6(v6) => text.formatted(format_args!("{v6}")),
        }
        text
    }

    /// The text of an IP address.
    #[must_use]
    pub fn of_ip(ip: IpAddr) -> Self {
        let mut text = Self::empty();
        match ip {
            IpAddr::V4(v4) => text.ipv4(v4),
            IpAddr::V6(v6) => text.formatted(format_args!("{v6}")),
        }
        text
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }

    const fn empty() -> Self {
        Self { bytes: [0; LONGEST], length: 0 }
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn decimal(&mut self, number: u16) {
        let mut unit = 10_000;
        while unit > 1 && number < unit {
            unit /= 10;
        }
        while unit > 0 {
            self.push(b'0' + (number / unit % 10).to_le_bytes()[0]);
            unit /= 10;
        }
    }

    fn ipv4(&mut self, ip: Ipv4Addr) {
        for (at, octet) in ip.octets().into_iter().enumerate() {
            if at > 0 {
                self.push(b'.');
            }
            self.decimal(octet.into());
        }
    }

    fn formatted(&mut self, what: std::fmt::Arguments<'_>) {
        let mut rest = &mut self.bytes[..];
        let _ = rest.write_fmt(what);
        self.length = LONGEST - rest.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_display_writes() {
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535";
        for text in
            ["0.0.0.0:0", "10.0.20.255:8080", "255.255.255.255:65535", "1.2.3.4:99", "[::1]:443", "[::ffff:255.255.255.255]:1", longest]
        {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!((AddressText::new(address).as_str(), text), (text, &*address.to_string()));
            assert_eq!(AddressText::of_ip(address.ip()).as_str(), address.ip().to_string());
        }
    }
}
