//! Who listens on a port that can't be bound.

use std::fs;

/// The user ID of the process that listens on TCP port `port` in this network namespace, by the kernel's table
/// (`/proc/net/tcp`, proc(5)). None if nobody does, or the table can't be read.
#[must_use]
pub fn port_holder(port: u16) -> Option<u32> {
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"].iter().find_map(|table| holder(&fs::read_to_string(table).ok()?, port))
}

fn holder(table: &str, port: u16) -> Option<u32> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().take(8).collect();
        let [_, local, _, LISTEN, _, _, _, uid] = fields[..] else { return None };
        let (_, found) = local.rsplit_once(':')?;
        (u16::from_str_radix(found, 16) == Ok(port)).then(|| uid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_found_by_its_port() {
        let listener = TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = fs::metadata("/proc/thread-self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).unwrap();
        assert_eq!(port_holder(port), Some(own));
        drop(listener);
        assert_eq!(port_holder(port), None);
    }

    #[test]
    fn only_listeners_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:3A99 0100007F:0050 01 00000000:00000000 00:00000000 00000000  1000        0 1\n   \
                     1: 00000000:3A9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 2\n";
        assert_eq!(holder(table, 15001), None);
        assert_eq!(holder(table, 15006), Some(1001));
        assert_eq!(holder("", 15006), None);
    }
}
