//! The workload and its sidecar connect from the same addresses and ports to the same peers. What is left of one's connections in
//! the kernel must decide nothing for the other's: few ports, ends of every kind, and peers that vanish and come back.
//!
//! `SIDEGATE_TEST_PORTS=60` makes each of these take that many seconds instead of a few.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sidegate_devkit::pods::Pod;
use sidegate_tests::{DEADLINE, PodMesh, PodWorkload, Sidecar, eventually, id, require};
use socket2::SockRef;

const PORT: u16 = 8080;
const REQUEST: usize = 64;
/// What each request begins with.
const MAGIC: u8 = b'q';

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Fin,
    Reset,
    HalfClose,
    /// By the server.
    ServerReset,
}

const ENDS: [End; 4] = [End::Fin, End::Reset, End::HalfClose, End::ServerReset];

/// What the service's application has seen.
#[derive(Default)]
struct Service {
    requests: AtomicUsize,
    /// First bytes that no application has sent.
    foreign: Mutex<Vec<u8>>,
}

impl Service {
    fn start(pod: &Pod) -> Arc<Self> {
        let listener = pod.run(|| {
            let listener = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
            listener.set_reuse_address(true).unwrap();
            listener.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into()).unwrap();
            listener.listen(4096).unwrap();
            TcpListener::from(listener)
        });
        let (service, listener) = (Arc::new(Self::default()), listener.unwrap());
        let served = service.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            while let Ok((tcp, _)) = listener.accept() {
                let served = served.clone();
                std::thread::spawn(move || served.serve(tcp));
            }
        });
        service
    }

    fn serve(&self, mut tcp: TcpStream) {
        let mut request = [0; REQUEST];
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        while let Ok(1..) = tcp.read(&mut request[..1]) {
            if request[0] != MAGIC {
                self.foreign.lock().unwrap().push(request[0]);
                return;
            }
            if tcp.read_exact(&mut request[1..]).is_err() {
                return;
            }
            self.requests.fetch_add(1, Ordering::Relaxed);
            if request[1] == End::ServerReset as u8 {
                let _ = SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
                return;
            }
            if tcp.write_all(&request).is_err() {
                return;
            }
        }
    }
}

/// One request. How long the connection took to come about, or that the client's host has no port left.
fn call(to: SocketAddr, end: End) -> io::Result<Duration> {
    let start = Instant::now();
    let mut tcp = TcpStream::connect_timeout(&to, DEADLINE)?;
    let took = start.elapsed();
    tcp.set_read_timeout(Some(DEADLINE))?;
    let mut request = [MAGIC; REQUEST];
    request[1] = end as u8;
    tcp.write_all(&request)?;
    if end == End::HalfClose {
        tcp.shutdown(Shutdown::Write)?;
    }
    let mut answer = [0; REQUEST];
    match (end, tcp.read_exact(&mut answer)) {
        (End::ServerReset, Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
        (End::ServerReset, other) => return Err(io::Error::other(format!("the server's reset looks like {other:?}"))),
        (_, answered) => answered?,
    }
    match end {
        End::Reset => SockRef::from(&tcp).set_linger(Some(Duration::ZERO))?,
        End::HalfClose => assert_eq!(tcp.read(&mut answer)?, 0),
        End::Fin | End::ServerReset => {}
    }
    Ok(took)
}

/// How far all callers are.
#[derive(Default)]
struct Progress {
    /// Calls that have begun.
    begun: AtomicUsize,
    /// Calls that failed, and not for want of a port of the client's host.
    failed: AtomicUsize,
}

/// The mesh under test: web calls api, from few ports.
struct World {
    mesh: PodMesh,
    api: PodWorkload,
    web: PodWorkload,
    service: Arc<Service>,
}

impl World {
    fn new(tunnel: &str, ports: &'static str) -> Self {
        let mut mesh = PodMesh::new(&["web", "api"], Duration::from_secs(3600));
        let api = mesh.workload("api", &["web"], "");
        let more = format!(
            "timeouts: {{ dial: 500ms }}\noutbound: {{ destinations: [{{ name: mesh, cidrs: [10.77.0.0/24, \"fd77::/64\"], tunnel: {tunnel}, spiffeIds: [\"{}\"] }}] }}\n",
            id("api")
        );
        let web = mesh.workload("web", &[], &more);
        let service = Service::start(&api.pod);
        let few = move || {
            std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", ports).unwrap();
            // The client's host may use a port again a second after its last connection has ended.
            std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1").unwrap();
        };
        web.pod.run(few).unwrap();
        Self { mesh, api, web, service }
    }

    /// Calls from `callers` threads until `until` says so; what went wrong, and the longest connect.
    fn call(&self, callers: usize, until: impl Fn(&Progress) -> bool + Send + Sync + 'static) -> (Vec<String>, Duration) {
        let addresses = [self.api.v4(PORT), self.api.v6(PORT)];
        let (until, progress) = (Arc::new(until), Arc::new(Progress::default()));
        let callers: Vec<_> = (0..callers)
            .map(|_| {
                let (until, progress) = (until.clone(), progress.clone());
                let call = move || {
                    let (mut wrong, mut longest) = (Vec::new(), Duration::ZERO);
                    while !until(&progress) {
                        let n = progress.begun.fetch_add(1, Ordering::Relaxed);
                        match call(addresses[n % 2], ENDS[n / 2 % ENDS.len()]) {
                            Ok(took) => longest = longest.max(took),
                            // The host's own business: all its ports are taken.
                            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => std::thread::yield_now(),
                            Err(error) => {
                                progress.failed.fetch_add(1, Ordering::Relaxed);
                                wrong.push(format!("{:?} {error}", ENDS[n / 2 % ENDS.len()]));
                            }
                        }
                    }
                    (wrong, longest)
                };
                self.web.pod.spawn(call).unwrap()
            })
            .collect();
        let mut all = (Vec::new(), Duration::ZERO);
        for caller in callers {
            let (wrong, longest) = caller.join().unwrap();
            all.0.extend(wrong);
            all.1 = all.1.max(longest);
        }
        all
    }

    /// As [`World::call`], for a period, and on a slow machine for longer: until there is `enough`.
    fn call_for_a_period(&self, enough: impl Fn(&Progress) -> bool + Send + Sync + 'static) -> (Vec<String>, Duration) {
        let (end, give_up) = (Instant::now() + period(), Instant::now() + period() + DEADLINE);
        self.call(16, move |progress| {
            let now = Instant::now();
            now > give_up || now > end && enough(progress)
        })
    }

    /// No connection waited for a SYN to be sent again.
    #[track_caller]
    fn assert_at_once(&self, longest: Duration) {
        assert!(longest < Duration::from_secs(1), "a connection took {longest:?}\n{}", self.kernel_counters());
    }

    /// What the kernels of both pods have dropped, refused and sent again.
    fn kernel_counters(&self) -> String {
        let counters = || {
            let list = Command::new("nft").args(["list", "counters", "table", "inet", "sidegate"]).output();
            let nft = list.map_or_else(|error| error.to_string(), |out| String::from_utf8_lossy(&out.stdout).into_owned());
            let nft: Vec<String> =
                nft.lines().filter(|line| line.contains("packets") && !line.contains("packets 0 ")).map(str::to_owned).collect();
            let mut told = Vec::new();
            for file in ["/proc/thread-self/net/netstat", "/proc/thread-self/net/snmp"] {
                let text = std::fs::read_to_string(file).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                for pair in lines.chunks_exact(2) {
                    for (name, value) in pair[0].split_whitespace().zip(pair[1].split_whitespace()).filter(|(_, value)| *value != "0") {
                        if ["Challenge", "Retrans", "Syn", "Drop", "Overflow", "PAWS", "Abort", "Recycl", "Timeout"]
                            .iter()
                            .any(|part| name.contains(part))
                        {
                            told.push(format!("{name}={value}"));
                        }
                    }
                }
            }
            format!("{nft:?} {}", told.join(" "))
        };
        [&self.web, &self.api].map(|workload| format!("{}: {}\n", workload.name, workload.pod.run(counters).unwrap())).concat()
    }

    /// Nothing was dropped by the rules of either pod, and the application has had its own requests only.
    #[track_caller]
    fn assert_clean(&self) {
        assert_eq!(*self.service.foreign.lock().unwrap(), Vec::<u8>::new(), "the application has got what no application has sent");
        for workload in [&self.web, &self.api] {
            let list = || Command::new("nft").args(["list", "counters", "table", "inet", "sidegate"]).output();
            let counters = String::from_utf8(workload.pod.run(list).unwrap().unwrap().stdout).unwrap();
            let dropped: Vec<&str> = counters.lines().filter(|line| line.contains("packets") && !line.contains("packets 0 ")).collect();
            assert!(counters.contains("packets 0") && dropped.is_empty(), "{}: {counters}", workload.name);
        }
    }
}

/// How long each part lasts at least.
fn period() -> Duration {
    Duration::from_secs(std::env::var("SIDEGATE_TEST_PORTS").map_or(2, |seconds| seconds.parse().unwrap()))
}

/// Without a port the sidecar can't dial; that is said, and is no defect.
fn ran_out_of_ports(sidecar: &Sidecar) -> usize {
    sidecar.records().iter().filter(|r| r["reason"] == "dial_failed").count()
}

/// The last connections that ended in another way than the callers ask for.
fn unusual(sidecar: &Sidecar) -> String {
    let records = sidecar.records();
    let unusual =
        records.iter().filter(|r| !["closed", "downstream_reset", "upstream_reset"].contains(&r["reason"].as_str().unwrap_or("")));
    unusual.rev().take(20).map(|r| format!("{} {}\n", r["reason"], r["detail"])).collect()
}

/// Every kind of end, while `ports` are used again and again.
fn ends_of_every_kind(tunnel: &str, ports: &'static str) {
    if !require() {
        return;
    }
    let world = World::new(tunnel, ports);
    let (api, web) = (world.api.start(), world.web.start());
    api.wait_ready();
    web.wait_ready();
    let service = world.service.clone();
    let (wrong, longest) = world.call_for_a_period(move |_| service.requests.load(Ordering::Relaxed) > 500);
    assert!(wrong.len() <= ran_out_of_ports(&web), "{wrong:?}\n{}", web.log());
    world.assert_at_once(longest);
    assert!(world.service.requests.load(Ordering::Relaxed) > 500, "{:?}", world.service.requests);
    world.assert_clean();
    if tunnel != "off" {
        // The two sidecars tell of the same connections.
        eventually("records that pair", || {
            let ids = |sidecar: &Sidecar| -> HashSet<String> {
                sidecar.records().iter().filter(|r| r["peerId"].is_string()).map(|r| r["connectionId"].to_string()).collect()
            };
            (ids(&web) == ids(&api)).then_some(())
        });
    }
}

const FEW: &str = "40000 40399";
const USUAL: &str = "32768 60999";

#[test]
fn few_ports_with_tunnels() {
    ends_of_every_kind("auto", FEW);
}

#[test]
fn few_ports_with_a_tunnel_for_each_connection() {
    ends_of_every_kind("once", FEW);
}

#[test]
fn few_ports_without_tunnels() {
    ends_of_every_kind("off", FEW);
}

#[test]
fn the_usual_ports_with_tunnels() {
    ends_of_every_kind("auto", USUAL);
}

#[test]
fn the_usual_ports_without_tunnels() {
    ends_of_every_kind("off", USUAL);
}

/// The server's sidecar is killed while thousands of connections are refused, and comes back.
fn a_sidecar_comes_back(tunnel: &str, ports: &'static str) {
    if !require() {
        return;
    }
    let world = World::new(tunnel, ports);
    let (mut api, web) = (world.api.start(), world.web.start());
    api.wait_ready();
    web.wait_ready();
    api.kill();
    let (refused, longest) = world.call_for_a_period(|progress| progress.failed.load(Ordering::Relaxed) > 100);
    assert!(refused.len() > 100, "nobody is there");
    world.assert_at_once(longest);
    let api = world.api.start();
    api.wait_ready();
    let failed = ran_out_of_ports(&web);
    let (wrong, longest) = world.call(16, |progress| progress.begun.load(Ordering::Relaxed) >= 2000);
    assert!(wrong.len() <= ran_out_of_ports(&web) - failed, "{wrong:?}\n{}", unusual(&web));
    world.assert_at_once(longest);
    world.assert_clean();
}

#[test]
fn a_sidecar_that_comes_back_is_reached_at_once_from_few_ports() {
    a_sidecar_comes_back("auto", FEW);
}

#[test]
fn a_sidecar_that_comes_back_is_reached_at_once() {
    a_sidecar_comes_back("off", USUAL);
}

/// The network swallows what is sent; dials time out.
#[test]
fn a_host_that_comes_back_is_reached_at_once() {
    if !require() {
        return;
    }
    let world = World::new("auto", FEW);
    let (api, web) = (world.api.start(), world.web.start());
    api.wait_ready();
    web.wait_ready();
    let link = |state: &'static str| {
        let set = move || Command::new("ip").args(["link", "set", "port1", state]).status();
        assert!(world.mesh.switch().run(set).unwrap().unwrap().success());
    };
    link("down");
    let (lost, longest) = world.call_for_a_period(|progress| progress.failed.load(Ordering::Relaxed) > 0);
    assert!(!lost.is_empty());
    world.assert_at_once(longest);
    // The kernel keeps the last SYNs for as long as it looks for a neighbour. With the link they would arrive, long after their
    // sockets are gone, and what answers them would be in the way of the next connections from the same ports.
    eventually("neighbours that are given up", || {
        let look = || Command::new("ip").args(["neigh", "show", "nud", "incomplete"]).output();
        let v6 = || Command::new("ip").args(["-6", "neigh", "show", "nud", "incomplete"]).output();
        let looked = [world.web.pod.run(look), world.web.pod.run(v6)];
        looked.into_iter().all(|out| out.unwrap().unwrap().stdout.is_empty()).then_some(())
    });
    link("up");
    // The network's own business: neighbours have to be found again.
    let addresses = [world.api.v4(PORT), world.api.v6(PORT)];
    for to in addresses {
        let pod = world.web.pod.clone();
        eventually("the network", || pod.run(move || call(to, End::Fin)).unwrap().ok());
    }
    let failed = ran_out_of_ports(&web);
    let (wrong, longest) = world.call(16, |progress| progress.begun.load(Ordering::Relaxed) >= 1000);
    assert!(wrong.len() <= ran_out_of_ports(&web) - failed, "{wrong:?}\n{}", unusual(&web));
    world.assert_at_once(longest);
    world.assert_clean();
}
