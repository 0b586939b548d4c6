//! Invariants 4 and 8: everything is bounded, and whoever is slow, hostile or many costs only itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use sidegate_tests::{DEADLINE, Echo, Pair, echo_bytes, eventually, id, pattern};
use sidegate_tls::TlsContext;

const HOUR: Duration = Duration::from_secs(3600);

fn connect(address: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    tcp
}

/// Reads until the end or a reset; how many bytes came.
fn drain(tcp: &mut TcpStream) -> usize {
    let mut all = Vec::new();
    let _ = tcp.read_to_end(&mut all);
    all.len()
}

/// Slow, silent and garbage handshakes: each ends by itself, with its reason, and others are served meanwhile.
#[test]
fn slow_and_garbage_handshakes_harm_nobody_else() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "timeouts: { handshake: 2s }\n");
    let silent: Vec<TcpStream> = (0..50).map(|_| connect(pair.port)).collect();
    let trickle = {
        let mut tcp = connect(pair.port);
        std::thread::spawn(move || {
            let start = Instant::now();
            let hello = [0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0x3f, 0xfc];
            for byte in hello.iter().cycle() {
                if tcp.write_all(&[*byte]).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            start.elapsed()
        })
    };
    for seed in 0..100 {
        let mut tcp = connect(pair.port);
        let mut bytes = pattern(1 + usize::try_from(seed).unwrap() * 40, seed);
        match seed % 3 {
            0 => bytes[0] = 0x16,
            1 => bytes.splice(0..0, [0x16, 0x03, 0x01, 0x00, 0x20, 0x01]).for_each(drop),
            _ => {}
        }
        let _ = tcp.write_all(&bytes);
        let _ = tcp.shutdown(std::net::Shutdown::Write);
        drain(&mut tcp);
    }
    echo_bytes(pair.entry, 100_000, 1).unwrap();
    pair.api.reason("handshake_timeout");
    assert!(trickle.join().unwrap() < Duration::from_secs(20));
    for mut tcp in silent {
        assert_eq!(drain(&mut tcp), 0);
    }
    eventually("the end of all handshakes", || {
        (pair.api.metric("sidegate_handshakes_in_flight{sidegate_direction=\"inbound\"}") == 0.0).then_some(())
    });
    eventually("all records", || (pair.api.records().len() == 152).then_some(()));
    echo_bytes(pair.entry, 100_000, 2).unwrap();
}

/// A chain for `web` from CAs that nobody trusts: all have one name, so that each may have signed each.
fn maze(cas: usize, junk: usize) -> CertifiedKey {
    let named = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let ca = || {
        let mut params = named("x");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Issuer::new(params, KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap())
    };
    let issuers: Vec<Issuer<'_, KeyPair>> = (0..cas).map(|_| ca()).collect();
    let mut leaf = named("web");
    leaf.subject_alt_names = vec![SanType::URI(id("web").as_str().try_into().unwrap())];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().unwrap();
    let mut chain = vec![leaf.signed_by(&key, &issuers[0]).unwrap().der().clone()];
    for (at, issuer) in issuers.iter().enumerate() {
        let mut params = named("x");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        chain.push(params.signed_by(issuer.key(), &issuers[(at + 1) % cas]).unwrap().der().clone());
    }
    chain.extend((0..junk).map(|_| named("y").signed_by(&key, &issuers[0]).unwrap().der().clone()));
    CertifiedKey::new(chain, any_supported_type(&PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap())
}

/// Strangers whose chains take as long to verify as they can: who is connected goes on.
#[test]
fn chains_that_are_mazes_hold_up_nobody_else() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "workers: 1\n");
    let mut held = connect(pair.entry);
    let mut median = |count: usize| {
        let mut trip = || {
            let start = Instant::now();
            held.write_all(b"x").unwrap();
            held.read_exact(&mut [0]).unwrap();
            start.elapsed()
        };
        let mut trips: Vec<Duration> = (0..count).map(|_| trip()).collect();
        trips.sort_unstable();
        trips[count / 2]
    };
    let quiet = median(200);
    let chains = [maze(9, 80), maze(7, 0)];
    let stop = Arc::new(AtomicBool::new(false));
    let strangers: Vec<_> = chains
        .into_iter()
        .map(|chain| {
            let mut material = sidegate_tests::material(&pair.identities, "web");
            material.svid.certified_key = Arc::new(chain);
            let choice = TlsContext::new(&material).unwrap().client(&[], false);
            let (port, stop) = (pair.port, stop.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    while !stop.load(Ordering::Relaxed) {
                        let tcp = tokio::net::TcpStream::connect(port).await.unwrap();
                        let mut session = sidegate_tls::connect(&tcp, &choice, "x".try_into().unwrap()).await.unwrap();
                        // The client is done before the server has seen its chain.
                        let refused = std::future::poll_fn(|cx| {
                            let _ = session.poll_flush(&tcp, cx);
                            session.poll_fill(&tcp, cx)
                        });
                        refused.await.unwrap_err();
                    }
                });
            })
        })
        .collect();
    let refused = |reason: &str, count: f64| {
        let metric = format!("sidegate_connections_total{{sidegate_direction=\"inbound\",sidegate_reason=\"{reason}\"}}");
        eventually("strangers", || (pair.api.metric(&metric) >= count).then_some(()));
    };
    refused("certificate_malformed", 1.0);
    refused("path_invalid", 1.0);
    let beside = median(100);
    refused("certificate_malformed", 5.0);
    refused("path_invalid", 5.0);
    stop.store(true, Ordering::Relaxed);
    strangers.into_iter().for_each(|stranger| stranger.join().unwrap());
    assert!(beside < quiet * 20 + Duration::from_millis(100), "{quiet:?} became {beside:?}");
}

/// Past the limits a connection is reset with its reason; when there is room again, it is served.
#[test]
fn limits_refuse_and_recover() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "limits: { connections: 20, handshakes: 5 }\n");
    let slow: Vec<TcpStream> = (0..5)
        .map(|_| {
            let mut tcp = connect(pair.port);
            tcp.write_all(&[0x16, 0x03, 0x01]).unwrap();
            tcp
        })
        .collect();
    eventually("five handshakes", || {
        (pair.api.metric("sidegate_handshakes_in_flight{sidegate_direction=\"inbound\"}") == 5.0).then_some(())
    });
    let entry = pair.entry;
    let waiting = std::thread::spawn(move || echo_bytes(entry, 100, 1));
    eventually("who waits", || (pair.api.metric("sidegate_connections_open{sidegate_direction=\"inbound\"}") == 6.0).then_some(()));
    assert!(!waiting.is_finished());
    drop(slow);
    waiting.join().unwrap().unwrap();

    let mut open: Vec<TcpStream> = Vec::new();
    for _ in 0..20 {
        let mut tcp = connect(pair.entry);
        tcp.write_all(b"x").unwrap();
        tcp.read_exact(&mut [0]).unwrap();
        open.push(tcp);
    }
    // The reset may come before connect() has returned.
    let end = TcpStream::connect(pair.entry).and_then(|mut more| more.read(&mut [0]));
    assert!(end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset), "a refusal must not look like an end");
    pair.web.reason("connection_limit");
    open.truncate(10);
    eventually("room", || echo_bytes(pair.entry, 100, 3).ok());
    drop(open);
}

/// The descriptor table is full: no busy loop, what is open goes on, and when there is room it is served again.
#[test]
fn a_storm_at_the_descriptor_limit_is_survived() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let mut held = connect(pair.entry);
    held.write_all(b"a").unwrap();
    held.read_exact(&mut [0]).unwrap();
    // The limit of the running process comes down below what its own limit of connections reckons with.
    let set = |limit: &str| {
        // The soft limit alone: that may be raised again.
        let arguments = ["--pid", &pair.web.pid().to_string(), &format!("--nofile={limit}:")];
        std::process::Command::new("prlimit").args(arguments).status().is_ok_and(|s| s.success())
    };
    if !set("60") {
        return sidegate_tests::skipped("prlimit is absent, or may not change another process");
    }
    let storm: Vec<TcpStream> = (0..200).filter_map(|_| TcpStream::connect_timeout(&pair.entry, DEADLINE).ok()).collect();
    eventually("accept to fail", || pair.web.log().contains("Too many open files").then_some(()));
    let busy = |pid: u32| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum()
    };
    let before = busy(pair.web.pid());
    held.write_all(b"b").unwrap();
    held.read_exact(&mut [0]).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let ticks = busy(pair.web.pid()) - before;
    assert!(ticks < 50, "{ticks} ticks of CPU in a second of doing nothing");
    drop(storm);
    assert!(set("1024"));
    eventually("recovery", || echo_bytes(pair.entry, 1000, 1).ok());
    held.write_all(b"c").unwrap();
    held.read_exact(&mut [0]).unwrap();
}

/// 10,000 connections come and go; descriptors and memory stay.
#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    let echo = Echo::start();
    let pair = Pair::start(echo.address, HOUR, "");
    let run = |count: usize| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let entry = pair.entry;
                std::thread::spawn(move || (0..count / 8).for_each(|n| echo_bytes(entry, 200, (thread * count + n) as u64).unwrap()))
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
    };
    let closed = |sidecar: &sidegate_tests::Sidecar| {
        eventually("all to be closed", || {
            (sidecar.records().len() as f64
                == sidecar.metric("sidegate_connections_total{sidegate_direction=\"inbound\",sidegate_reason=\"closed\"}")
                    + sidecar.metric("sidegate_connections_total{sidegate_direction=\"outbound\",sidegate_reason=\"closed\"}"))
            .then_some(())
        });
        eventually("no open connection", || {
            (sidecar.metric("sidegate_connections_open{sidegate_direction=\"inbound\"}")
                + sidecar.metric("sidegate_connections_open{sidegate_direction=\"outbound\"}")
                == 0.0)
                .then_some(())
        });
    };
    // The allocator and the tables take what they need in the first thousands.
    run(2_000);
    closed(&pair.web);
    closed(&pair.api);
    let before = [pair.web.usage(), pair.api.usage()];
    run(8_000);
    closed(&pair.web);
    closed(&pair.api);
    let after = [pair.web.usage(), pair.api.usage()];
    for ((descriptors, resident), (descriptors_after, resident_after)) in before.into_iter().zip(after) {
        assert!(descriptors_after <= descriptors + 2, "{descriptors} descriptors became {descriptors_after}");
        assert!(resident_after < resident + 4096, "{resident} KiB became {resident_after}");
    }
}

/// A connection from another address of this host than honest clients have.
fn connect_from(from: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&to.into(), DEADLINE)?;
    Ok(socket.into())
}

/// Strangers without end from one address: those who say nothing, and those who begin a handshake and stop. Others get in at once.
#[test]
fn one_address_cannot_crowd_out_the_others() {
    let echo = Echo::start();
    let limits = "limits: { connections: 200, handshakes: 20, unidentified: 100 }\n";
    let pair = Pair::start_with(echo.address, HOUR, limits, "tunnel: off", "");
    let stop = Arc::new(AtomicBool::new(false));
    let flood = {
        let (stop, to) = (stop.clone(), pair.port);
        std::thread::spawn(move || {
            let mut held = std::collections::VecDeque::new();
            let mut count = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut tcp) = connect_from([127, 0, 0, 2], to) else { continue };
                if count.is_multiple_of(2) {
                    let _ = tcp.write_all(&[0x16, 0x03, 0x01]);
                }
                count += 1;
                held.push_back(tcp);
                // Some hundred a second.
                std::thread::sleep(Duration::from_millis(2));
                if held.len() > 1000 {
                    held.pop_front();
                }
            }
            count
        })
    };
    eventually("the flood", || pair.api.records().iter().any(|record| record["reason"] == "evicted").then_some(()));
    for seed in 0..50 {
        echo_bytes(pair.entry, 1000, seed).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(flood.join().unwrap() > 200);
    let evicted = |record: &serde_json::Value| record["reason"] == "evicted";
    assert!(pair.api.records().iter().filter(|r| evicted(r)).all(|r| r["downstream"].as_str().unwrap().starts_with("127.0.0.2:")));
    assert!(!pair.web.records().iter().any(|record| record["reason"] != "closed"));
}

/// On a plaintext port nobody has an identity: one address can't hold all connections, and who speaks is not who is cut.
#[test]
fn one_address_cannot_hold_all_of_a_plaintext_port() {
    let echo = Echo::start();
    let port = format!("ports: [{{ port: {}, mode: plaintext, reason: a test }}],", echo.address.port());
    let pair = Pair::start_with(echo.address, HOUR, "limits: { connections: 200, unidentified: 50 }\n", "tunnel: off", &port);
    let trip = |tcp: &mut TcpStream| {
        tcp.write_all(b"x")?;
        tcp.read_exact(&mut [0])
    };
    let mut honest = connect(pair.port);
    trip(&mut honest).unwrap();
    let flood: Vec<TcpStream> = (0..300).filter_map(|_| connect_from([127, 0, 0, 2], pair.port).ok()).collect();
    eventually("what is too much", || (pair.api.records().len() >= 251).then_some(()));
    let refused = pair.api.records();
    trip(&mut honest).unwrap();
    trip(&mut connect(pair.port)).unwrap();
    eventually("one that gave way", || pair.api.records().iter().any(|r| r["reason"] == "evicted").then_some(()));
    let from_flood = |record: &serde_json::Value| record["downstream"].as_str().unwrap().starts_with("127.0.0.2:");
    assert!(refused.iter().all(from_flood));
    drop(flood);
}

/// Many more connections at once than there may be handshakes: they wait for their turn.
#[test]
fn a_burst_waits_for_its_turn() {
    const BURST: usize = 3000;
    let service = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = service.local_addr().unwrap();
    // One word each way, one connection after the other.
    std::thread::spawn(move || {
        for tcp in service.incoming() {
            let mut tcp = tcp.unwrap();
            let _ = tcp.read_exact(&mut [0]).and_then(|()| tcp.write_all(b"y"));
        }
    });
    let pair = Pair::start_with(address, HOUR, "limits: { handshakes: 64 }\ntimeouts: { handshake: 60s }\n", "tunnel: off", "");
    // Begun at the same time, as far as one thread can.
    let burst: Vec<socket2::Socket> = (0..BURST)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&pair.entry.into());
            socket
        })
        .collect();
    let ask = |socket: socket2::Socket| {
        socket.set_nonblocking(false).unwrap();
        let mut tcp = TcpStream::from(socket);
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        eventually("the connection", || tcp.peer_addr().ok());
        tcp.write_all(b"x").unwrap();
        tcp
    };
    let asked: Vec<TcpStream> = burst.into_iter().map(ask).collect();
    for mut tcp in asked {
        tcp.read_exact(&mut [0]).unwrap();
    }
    let records = eventually("all records", || Some(pair.web.records()).filter(|records| records.len() >= BURST));
    assert!(records.iter().all(|record| record["reason"] == "closed"));
}

/// A memory cgroup for one process; none where this machine has none to give.
struct MemoryCgroup(std::path::PathBuf);

impl MemoryCgroup {
    fn of(pid: u32, bytes: u64) -> Option<Self> {
        let name = format!("sidegate-test-{pid}");
        let v1 = std::path::Path::new("/sys/fs/cgroup/memory");
        let (parent, file) =
            if v1.is_dir() { (v1, "memory.limit_in_bytes") } else { (std::path::Path::new("/sys/fs/cgroup"), "memory.max") };
        let folder = parent.join(name);
        let made = std::fs::create_dir(&folder)
            .and_then(|()| std::fs::write(folder.join(file), bytes.to_string()))
            .and_then(|()| std::fs::write(folder.join("cgroup.procs"), pid.to_string()));
        match made {
            Ok(()) => Some(Self(folder)),
            Err(error) => {
                println!("SKIPPED: no memory cgroup can be made: {error}");
                let _ = std::fs::remove_dir(&folder);
                None
            }
        }
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Unfinished handshakes and peers that never read, as many as they like: memory stays within its bound, and who is open goes on.
#[test]
fn neither_strangers_nor_peers_that_never_read_take_the_memory() {
    const LIMIT: usize = 16 << 20;
    let service = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = service.local_addr().unwrap();
    // The first byte says whether it echoes or sends what nobody reads.
    let serve = |mut tcp: TcpStream| {
        let mut word = [0];
        while tcp.read_exact(&mut word).is_ok() {
            let answer = if word == *b"f" { vec![7; 768 * 1024] } else { word.to_vec() };
            if tcp.write_all(&answer).is_err() {
                return;
            }
        }
    };
    std::thread::spawn(move || {
        for tcp in service.incoming() {
            std::thread::Builder::new().stack_size(64 << 10).spawn(move || serve(tcp.unwrap())).unwrap();
        }
    });
    let limits = format!("workers: 1\nlimits: {{ bufferedBytes: {LIMIT} }}\n");
    let pair = Pair::start_with(address, HOUR, &limits, "tunnel: off", "");
    let cgroup = MemoryCgroup::of(pair.api.pid(), 64 << 20);
    let mut honest = connect(pair.entry);
    let mut trip = || {
        honest.write_all(b"e").unwrap();
        honest.read_exact(&mut [0]).unwrap();
    };
    trip();
    // A hello of 16 KiB, without its last byte.
    let mut hello = vec![0x16, 0x03, 0x01, 0x3f, 0xff, 0x01, 0x00, 0x3f, 0xfb];
    hello.resize(5 + 0x3ffe, 0);
    let strangers: Vec<TcpStream> = (0..1024)
        .map(|_| {
            let mut tcp = connect(pair.port);
            tcp.write_all(&hello).unwrap();
            tcp
        })
        .collect();
    trip();
    let deaf: Vec<TcpStream> = (0..600)
        .map(|_| {
            let mut tcp = connect(pair.entry);
            tcp.write_all(b"f").unwrap();
            tcp
        })
        .collect();
    let held = || pair.api.metric("sidegate_buffers_held_bytes");
    eventually("what nobody reads", || {
        (pair.api.metric("sidegate_connections_open{sidegate_direction=\"inbound\"}") >= 601.0).then_some(())
    });
    for _ in 0..200 {
        trip();
        assert!(held() < (LIMIT + (1 << 20)) as f64, "{}", held());
    }
    assert_eq!(pair.api.metric("sidegate_buffers_limit_bytes"), LIMIT as f64);
    let (_, resident) = pair.api.usage();
    assert!(resident < 64 << 10, "{resident} KiB");
    drop((strangers, deaf));
    echo_bytes_of_service(pair.entry);
    eventually("an empty house", || (held() == 0.0).then_some(()));
    drop((pair, cgroup));
}

fn echo_bytes_of_service(entry: SocketAddr) {
    let mut tcp = connect(entry);
    tcp.write_all(b"e").unwrap();
    tcp.read_exact(&mut [0]).unwrap();
}
