//! A switch and its pods.

use std::fs;

use super::error::PodError;
use super::pod::Pod;

/// The switch's own last part of the address; the pods come before it.
const SWITCH: u8 = 254;

/// Makes pods and wires them to one switch, on which all of them see each other.
///
/// The switch is also their default route, and forwards nothing: a packet to an address that no pod has can be sent
/// (and captured), and ends there.
#[derive(Debug)]
pub struct Network {
    switch: Pod,
    pods: u8,
}

impl Network {
    /// A network without pods.
    pub fn new() -> Result<Self, PodError> {
        let switch = Pod::new("switch", SWITCH, None)?;
        // Multicast snooping would hold back neighbour discovery until a querier appears, and there is none.
        switch.ip(format!(
            "link set lo up\n\
             link add br0 type bridge stp_state 0 mcast_snooping 0\n\
             {}link set br0 up\n",
            addresses(&switch, "br0")
        ))?;
        // A switch does not track the connections of others. Where the module is absent there is nothing to switch off.
        for filter in ["iptables", "ip6tables"] {
            switch.run(move || fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{filter}"), "0"))?.ok();
        }
        Ok(Self { switch, pods: 0 })
    }

    /// A new pod: `eth0` is its wire, `lo` is up, both addresses can be used at once.
    pub fn pod(&mut self, name: &str) -> Result<Pod, PodError> {
        let number = self.pods + 1;
        if number == SWITCH {
            return Err(PodError::Full { limit: self.pods });
        }
        // The number is spent even if something fails below, so that the next attempt does not meet the remains.
        self.pods = number;
        let pod = Pod::new(name, number, Some(self.switch.clone()))?;
        // Some container runtimes switch IPv6 off by default. Where this cannot be written, `ip` says what is missing.
        pod.run(|| fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0"))?.ok();
        self.switch.ip(format!(
            "link add port{number} type veth peer name eth0 netns {}\n\
             link set port{number} master br0 up\n",
            pod.netns_path().display()
        ))?;
        pod.ip(format!(
            "link set lo up\n\
             {}link set eth0 up\n\
             route add default via {}\n\
             route add ::/0 via {}\n",
            addresses(&pod, "eth0"),
            self.switch.ipv4(),
            self.switch.ipv6()
        ))?;
        Ok(pod)
    }

    /// The switch, to capture what is on the wires and nothing of what stays inside a pod.
    pub fn switch(&self) -> &Pod {
        &self.switch
    }
}

/// The commands that give a pod its addresses; `nodad`: nobody else is here, so they need no second of proof.
fn addresses(pod: &Pod, interface: &str) -> String {
    let (ipv4, ipv6) = (pod.ipv4(), pod.ipv6());
    format!("addr add {ipv4}/24 dev {interface}\naddr add {ipv6}/64 dev {interface} nodad\n")
}
