//! What the tests of the rules share: a captured pod and a peer, and ways to talk between them.
#![allow(dead_code, reason = "each test file uses a part")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::unistd::setfsuid;
use sidegate_devkit::pods::{Network, Pod, Support, nft_support, support};
use sidegate_redirect::{Difference, Exempt, InboundCapture, OutboundCapture, Plan, UdpHandling, apply, counters, verify};
use socket2::{Domain, SockRef, Socket, Type};

pub(crate) const SIDECAR: u32 = 1337;
pub(crate) const INBOUND: u16 = 15006;
pub(crate) const OUTBOUND: u16 = 15001;

/// A pod whose traffic is captured, and another one.
pub(crate) struct Pair {
    pub(crate) network: Network,
    pub(crate) pod: Pod,
    pub(crate) peer: Pod,
}

/// None, and a message, where this machine can't do it.
pub(crate) fn pair() -> Option<Pair> {
    for support in [support(), nft_support()] {
        if let Support::NotPossible(why) = support {
            assert_ne!(std::env::var("SIDEGATE_REQUIRE_PEERS").as_deref(), Ok("1"), "{why}");
            println!("SKIPPED: {why}");
            return None;
        }
    }
    let mut network = Network::new().expect("a network");
    let (pod, peer) = (network.pod("captured").expect("a pod"), network.pod("peer").expect("a pod"));
    Some(Pair { network, pod, peer })
}

pub(crate) fn outbound() -> OutboundCapture {
    OutboundCapture { port: OUTBOUND, include_cidrs: vec![], exclude_cidrs: vec![], include_ports: vec![], exclude_ports: vec![] }
}

pub(crate) fn inbound() -> InboundCapture {
    InboundCapture { port: INBOUND, include_ports: vec![], exclude_ports: vec![], exclude_cidrs: vec![] }
}

pub(crate) fn plan() -> Plan {
    Plan {
        exempt: Exempt::Uid(SIDECAR),
        exempt_uids: vec![],
        inbound: Some(inbound()),
        outbound: Some(outbound()),
        udp: UdpHandling::Drop,
        dns_resolvers: vec![],
    }
}

pub(crate) fn plan_out(outbound: OutboundCapture) -> Plan {
    Plan { inbound: None, outbound: Some(outbound), ..plan() }
}

pub(crate) fn plan_in(inbound: InboundCapture) -> Plan {
    Plan { inbound: Some(inbound), outbound: None, ..plan() }
}

/// Applies the plan and verifies the kernel's rules.
pub(crate) fn capture(pod: &Pod, plan: &Plan) {
    let wanted = plan.clone();
    pod.run(move || apply(&wanted)).unwrap().unwrap();
    assert_eq!(differences(pod, plan), []);
}

pub(crate) fn differences(pod: &Pod, plan: &Plan) -> Vec<Difference> {
    let plan = plan.clone();
    pod.run(move || verify(&plan)).unwrap().unwrap()
}

pub(crate) fn counter(pod: &Pod, name: &str) -> u64 {
    let counters = pod.run(counters).unwrap().unwrap();
    counters.iter().find(|(counter, _)| counter == name).unwrap_or_else(|| panic!("{name} in {counters:?}")).1
}

pub(crate) fn nft(pod: &Pod, arguments: &'static str) -> String {
    let output = pod.run(move || Command::new("nft").arg(arguments).output()).unwrap().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Both addresses of a pod.
pub(crate) fn addresses(pod: &Pod) -> [IpAddr; 2] {
    [pod.ipv4().into(), pod.ipv6().into()]
}

/// The address of the outbound listener.
pub(crate) fn loopback(family: IpAddr) -> IpAddr {
    if family.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

/// Binds an address that was used a moment ago. A child process (nft, of any test) holds a copy of all our descriptors
/// until it has become the program, so that a socket may outlive its being closed here.
#[track_caller]
pub(crate) fn insist<T>(bind: impl Fn() -> io::Result<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            bound => return bound.unwrap(),
        }
    }
}

pub(crate) fn listen(pod: &Pod, address: IpAddr, port: u16) -> TcpListener {
    pod.run(move || insist(|| TcpListener::bind((address, port)))).unwrap()
}

/// A listener of the sidecar, which runs as `who`.
pub(crate) fn listen_as(pod: &Pod, address: IpAddr, port: u16, who: As) -> TcpListener {
    let address = SocketAddr::from((address, port));
    let listener = socket(pod, address, who);
    listener.set_reuse_address(true).unwrap();
    insist(|| listener.bind(&address.into()));
    listener.listen(128).unwrap();
    listener.into()
}

pub(crate) fn udp(pod: &Pod, address: IpAddr, port: u16) -> UdpSocket {
    let socket = pod.run(move || insist(|| UdpSocket::bind((address, port)))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Who opens a connection.
#[derive(Clone, Copy)]
pub(crate) enum As {
    App,
    Uid(u32),
    Mark(u32),
}

pub(crate) fn socket(pod: &Pod, address: SocketAddr, who: As) -> Socket {
    // On a thread of its own, which may become another user without the pod's becoming one.
    let open = move || {
        if let As::Uid(uid) = who {
            setfsuid(uid.into());
        }
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        if let As::Mark(mark) = who {
            sidegate_net::claim(&socket, Some(mark)).unwrap();
        }
        socket
    };
    pod.spawn(open).unwrap().join().unwrap()
}

pub(crate) fn connect(pod: &Pod, address: impl Into<SocketAddr>, who: As) -> io::Result<TcpStream> {
    let address = address.into();
    let socket = socket(pod, address, who);
    socket.connect_timeout(&address.into(), Duration::from_secs(5))?;
    Ok(socket.into())
}

/// Starts a connection that gets no answer.
pub(crate) fn knock(pod: &Pod, address: impl Into<SocketAddr>) -> Socket {
    let address = address.into();
    let socket = socket(pod, address, As::App);
    socket.set_nonblocking(true).unwrap();
    let _ = socket.connect(&address.into());
    socket
}

/// Accepts one connection as the sidecar, and returns its original destination.
pub(crate) fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let accept = || {
        setfsuid(SIDECAR.into());
        listener.accept().unwrap().0
    };
    let stream = std::thread::scope(|scope| scope.spawn(accept).join().unwrap());
    let socket = SockRef::from(&stream);
    let original = match listener.local_addr().unwrap() {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    let original = original.unwrap().as_socket().unwrap();
    (stream, original)
}

pub(crate) fn nobody_came(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    listener.accept().is_err()
}

/// The header fields of every packet from one to the other.
pub(crate) fn header(from: &Pod, to: &Pod, family: IpAddr) -> Vec<u8> {
    if family.is_ipv4() { [from.ipv4().octets(), to.ipv4().octets()].concat() } else { [from.ipv6().octets(), to.ipv6().octets()].concat() }
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}
