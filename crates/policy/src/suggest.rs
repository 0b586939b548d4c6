//! Suggests the smallest allow rules that cover the recorded connections and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Which client connected to which port, and how often.
#[derive(Debug, Default)]
pub struct Usage(BTreeMap<(String, u16), u64>);

/// Clients and ports: each of these clients connected to each of these ports.
type ClientsAndPorts = (BTreeSet<String>, BTreeSet<u16>);

impl Usage {
    /// Counts a connection of the client with this SPIFFE ID.
    pub fn saw(&mut self, client: &str, port: u16) {
        *self.0.entry((client.to_owned(), port)).or_default() += 1;
    }

    /// How many connections were counted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.0.values().sum()
    }

    /// A policy file with as few rules as either grouping needs: the clients that use the same ports, or the ports that the same
    /// clients use.
    #[must_use]
    pub fn policy(&self) -> String {
        let mut text = "rules:\n".to_owned();
        if self.0.is_empty() {
            // Nothing was recorded: a policy without rules denies everything.
            return "rules: []\n".to_owned();
        }
        let mut names = BTreeSet::new();
        for (clients, ports) in self.groups() {
            let count: u64 = self.0.iter().filter(|((c, p), _)| clients.contains(c) && ports.contains(p)).map(|(_, n)| n).sum();
            let name = name(&clients, &ports, &mut names);
            let connections = if count == 1 { "connection" } else { "connections" };
            let _ = write!(text, "  # {count} {connections}\n  - name: \"{name}\"\n    action: allow\n    from:\n      spiffeIds:\n");
            for client in clients {
                let _ = writeln!(text, "        - \"{client}\"");
            }
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "    to: {{ ports: [{}] }}", ports.join(", "));
        }
        text
    }

    fn groups(&self) -> Vec<ClientsAndPorts> {
        let mut ports_of: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
        let mut clients_of: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
        for (client, port) in self.0.keys() {
            ports_of.entry(client).or_default().insert(*port);
            clients_of.entry(*port).or_default().insert(client.clone());
        }
        let mut by_ports: BTreeMap<BTreeSet<u16>, BTreeSet<String>> = BTreeMap::new();
        for (client, ports) in ports_of {
            by_ports.entry(ports).or_default().insert(client.to_owned());
        }
        let mut by_clients: BTreeMap<BTreeSet<String>, BTreeSet<u16>> = BTreeMap::new();
        for (port, clients) in clients_of {
            by_clients.entry(clients).or_default().insert(port);
        }
        if by_clients.len() < by_ports.len() {
            by_clients.into_iter().collect()
        } else {
            by_ports.into_iter().map(|(ports, clients)| (clients, ports)).collect()
        }
    }
}

/// A unique name made of the client and the port.
fn name(clients: &BTreeSet<String>, ports: &BTreeSet<u16>, taken: &mut BTreeSet<String>) -> String {
    let who = clients.first().and_then(|id| id.rsplit('/').next()).unwrap_or_default();
    let more = |count: usize| if count > 1 { format!("-and-{}-more", count - 1) } else { String::new() };
    let port = ports.first().copied().unwrap_or_default();
    let plain = format!("{who}{}-to-{port}{}", more(clients.len()), more(ports.len()));
    let name = std::iter::once(plain.clone()).chain((2..).map(|n| format!("{plain}-{n}"))).find(|name| !taken.contains(name));
    let name = name.unwrap_or(plain);
    taken.insert(name.clone());
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;
    use sidegate_config::schema::Profile;

    fn suggest(seen: &[(&str, u16)]) -> (String, usize) {
        let mut usage = Usage::default();
        seen.iter().for_each(|(client, port)| usage.saw(&format!("spiffe://a.b/{client}"), *port));
        assert_eq!(usage.connections(), seen.len() as u64);
        let text = usage.policy();
        let policy = Policy::parse(&[("p".to_owned(), text.clone())], Profile::Production).unwrap_or_else(|p| panic!("{text}{p}"));
        assert!(policy.findings(None).is_empty(), "{text}");
        (text, policy.len())
    }

    #[test]
    fn rules_are_as_few_as_the_better_grouping() {
        assert_eq!(suggest(&[]).1, 0);
        let (text, rules) = suggest(&[("web", 80), ("api", 80), ("api", 443), ("web", 443), ("web", 80)]);
        assert_eq!(rules, 1, "{text}");
        assert!(text.contains("# 5 connections") && text.contains("name: \"api-and-1-more-to-80-and-1-more\""), "{text}");
        // Three clients with ports of their own, or two ports of which one has all of them as clients.
        assert_eq!(suggest(&[("a", 80), ("b", 80), ("c", 80), ("a", 81), ("b", 81), ("c", 82)]).1, 2);
        assert_eq!(suggest(&[("a", 80), ("x/a", 81)]).1, 2);
        assert_eq!(suggest(&[("x/a", 80), ("y/a", 81), ("y/a", 80)]).1, 2, "names that collide");
    }
}
