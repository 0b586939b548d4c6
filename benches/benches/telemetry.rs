//! What telemetry costs the data plane, and what a collector that fails does to it.
//!
//! Pairs of sidecars on loopback, alike but for their telemetry, take the same load in turn, so that all meet the same
//! noise; what is printed are medians, and ratios to the pair that has no telemetry at all. The load generator, the service
//! and the collector share the machine with them, so CPU time is measured at the sidecars alone.
//!
//!     cargo bench --package sidegate-benches --bench telemetry

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use sidegate_devkit::fake_collector::Behaviour;
use sidegate_devkit::harness::{Collector, Identities, Sidecar, client_config, eventually, free_port, server_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ROUNDS: usize = 10;
const TIME: Duration = Duration::from_secs(2);
/// Connections that carry requests; connections that are opened at a time.
const KEPT: usize = 64;
const OPENING: usize = 16;

/// A pair of sidecars with the same telemetry.
struct Pair {
    name: &'static str,
    entry: SocketAddr,
    sidecars: [Sidecar; 2],
    results: Vec<Result>,
}

/// One round of one pair.
struct Result {
    requests: f64,
    p50: f64,
    p99: f64,
    cpu_per_request: f64,
    connections: f64,
    cpu_per_connection: f64,
}

fn main() {
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let service = serve();
    let identities = Identities::start(&["web", "api"], Duration::from_secs(3600));
    let collectors = [Behaviour::Discard, Behaviour::Hang, Behaviour::Slow(Duration::from_secs(1))].map(|behaviour| {
        let collector = Collector::start();
        collector.fake.behave(behaviour);
        collector
    });
    // It lives for the first round only.
    let killed = Collector::start();
    killed.fake.behave(Behaviour::Discard);
    let everything = |to: SocketAddr| {
        format!(
            "telemetry: {{ otlp: {{ endpoint: \"http://{to}\" }}, traces: {{ sampler: {{ perSecond: 0 }} }}, metrics: {{ interval: 1s }} }}\n"
        )
    };
    let default = format!("telemetry: {{ otlp: {{ endpoint: \"http://{}\" }} }}\n", collectors[0].address);
    let mut pairs: Vec<Pair> = [
        ("none", "accessLog: { format: \"off\" }\n".to_owned()),
        ("no collector", String::new()),
        ("default, to a collector", default),
        ("all, to a collector", everything(collectors[0].address)),
        ("all, collector hangs", everything(collectors[1].address)),
        ("all, collector slow", everything(collectors[2].address)),
        ("all, collector killed", everything(killed.address)),
    ]
    .into_iter()
    .map(|(name, telemetry)| start(&identities, service, name, &telemetry))
    .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The first round warms up.
    let mut killed = Some(killed);
    for round in 0..=ROUNDS {
        if round > 0 {
            drop(killed.take());
        }
        // In another order each time: what a pair still exports after its turn, such as to a slow collector, is a burden on
        // the next one, and shall not always be the same one's.
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        fastrand::shuffle(&mut order);
        for place in order {
            let pair = &mut pairs[place];
            let result = measure(&runtime, pair);
            if round > 0 {
                pair.results.push(result);
            }
        }
        eprintln!("round {round} of {ROUNDS}");
    }
    print(&pairs);
}

fn start(identities: &Identities, service: SocketAddr, name: &'static str, telemetry: &str) -> Pair {
    let (entry, port) = (SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())), SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
    let short = name.replace([' ', ','], "-");
    let run =
        |who: &str, config: String| Sidecar::start_unread(identities.folder(), &format!("{short}-{who}"), &format!("{config}{telemetry}"));
    let sidecars = [run("api", server_config(identities, port, service)), run("web", client_config(identities, entry, port))];
    for sidecar in &sidecars {
        sidecar.wait_ready();
    }
    Pair { name, entry, sidecars, results: Vec::new() }
}

/// An echo on a thread of its own.
fn serve() -> SocketAddr {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind(address).await.unwrap();
            loop {
                let Ok((mut tcp, _)) = listener.accept().await else { continue };
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(read) = tcp.read(&mut buffer).await {
                        if read == 0 || tcp.write_all(&buffer[..read]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
    });
    eventually("the service", || std::net::TcpStream::connect(address).ok());
    address
}

fn measure(runtime: &tokio::runtime::Runtime, pair: &Pair) -> Result {
    let before = cpu(pair);
    let (requests, mut times) = runtime.block_on(requests(pair.entry));
    let between = cpu(pair);
    let connections = runtime.block_on(connections(pair.entry));
    let after = cpu(pair);
    times.sort_unstable();
    #[allow(clippy::cast_precision_loss, reason = "a few figures are shown")]
    let (request_count, connection_count) = (requests as f64, connections as f64);
    Result {
        requests: request_count / TIME.as_secs_f64(),
        p50: times[times.len() / 2].as_secs_f64() * 1e6,
        p99: times[times.len() * 99 / 100].as_secs_f64() * 1e6,
        cpu_per_request: (between - before) * 1e6 / request_count,
        connections: connection_count / TIME.as_secs_f64(),
        cpu_per_connection: (after - between) * 1e6 / connection_count,
    }
}

/// Closed loop: requests of 1 KiB on connections that stay open.
async fn requests(entry: SocketAddr) -> (usize, Vec<Duration>) {
    let mut tasks = tokio::task::JoinSet::new();
    let mut ready = Vec::new();
    for _ in 0..KEPT {
        let mut tcp = TcpStream::connect(entry).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        exchange(&mut tcp, 1024).await;
        ready.push(tcp);
    }
    let end = Instant::now() + TIME;
    for mut tcp in ready {
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(4096);
            while Instant::now() < end {
                let start = Instant::now();
                exchange(&mut tcp, 1024).await;
                times.push(start.elapsed());
            }
            times
        });
    }
    let times: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    (times.len(), times)
}

/// Some at a time: a new connection for each echo of 64 bytes.
async fn connections(entry: SocketAddr) -> usize {
    let end = Instant::now() + TIME;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..OPENING {
        tasks.spawn(async move {
            let mut count = 0;
            while Instant::now() < end {
                let mut tcp = TcpStream::connect(entry).await.unwrap();
                exchange(&mut tcp, 64).await;
                count += 1;
            }
            count
        });
    }
    tasks.join_all().await.into_iter().sum()
}

async fn exchange(tcp: &mut TcpStream, length: usize) {
    let mut buffer = [7; 1024];
    tcp.write_all(&buffer[..length]).await.unwrap();
    tcp.read_exact(&mut buffer[..length]).await.unwrap();
}

/// CPU seconds that both sidecars have used.
fn cpu(pair: &Pair) -> f64 {
    pair.sidecars.iter().map(Sidecar::cpu_seconds).sum()
}

fn median(pair: &Pair, field: fn(&Result) -> f64) -> f64 {
    let mut values: Vec<f64> = pair.results.iter().map(field).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of the ratios round by round, which cancels what drifts.
fn ratio(pair: &Pair, base: &Pair, field: fn(&Result) -> f64) -> f64 {
    let mut ratios: Vec<f64> = pair.results.iter().zip(&base.results).map(|(one, other)| field(one) / field(other)).collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// A column: its title, what it shows, and whether in whole numbers.
type Column = (&'static str, fn(&Result) -> f64);

fn print(pairs: &[Pair]) {
    let columns: [Column; 6] = [
        ("requests/s", |r| r.requests),
        ("p50 us", |r| r.p50),
        ("p99 us", |r| r.p99),
        ("CPU us/request", |r| r.cpu_per_request),
        ("connections/s", |r| r.connections),
        ("CPU us/connection", |r| r.cpu_per_connection),
    ];
    println!("medians of {ROUNDS} rounds; in brackets the median of the ratios to `{}`, round by round", pairs[0].name);
    print!("{:<24}", "telemetry");
    columns.iter().for_each(|(title, _)| print!("{title:>22}"));
    println!("{:>30}", "dropped: traces, logs");
    for pair in pairs {
        print!("{:<24}", pair.name);
        for (_, field) in columns {
            print!("{:>22}", format!("{:.0} ({:.3})", median(pair, field), ratio(pair, &pairs[0], field)));
        }
        let dropped = |signal: &str| -> f64 {
            let causes = ["queue_full", "export_failed"].map(|cause| {
                let name = format!(
                    "sidegate_telemetry_dropped_total{{sidegate_telemetry_signal=\"{signal}\",sidegate_telemetry_cause=\"{cause}\"}}"
                );
                pair.sidecars.iter().map(|s| s.metric(&name)).sum::<f64>()
            });
            causes.iter().sum()
        };
        println!("{:>30}", format!("{}, {}", dropped("traces"), dropped("logs")));
    }
}
