//! Pods: their addresses, their isolation, what runs in them, and what a capture sees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sidegate_devkit::pods::{Network, Pod, PodError, Support, contains, support};

/// A network, or None (and a word why) where none can be made.
fn network() -> Option<Network> {
    match support() {
        Support::Root => Some(Network::new().expect("a network")),
        Support::NotPossible(why) => {
            assert_ne!(std::env::var("SIDEGATE_REQUIRE_PEERS").as_deref(), Ok("1"), "{why}");
            println!("SKIPPED: {why}");
            None
        }
    }
}

fn own_namespace() -> PathBuf {
    fs::read_link("/proc/thread-self/ns/net").unwrap()
}

fn listener(pod: &Pod, address: impl Into<IpAddr>) -> TcpListener {
    let address = SocketAddr::new(address.into(), 0);
    pod.run(move || TcpListener::bind(address)).unwrap().unwrap()
}

/// Says something from one pod to another and returns what arrived.
fn say(from: &Pod, listener: &TcpListener, words: &'static [u8]) -> Vec<u8> {
    let address = listener.local_addr().unwrap();
    from.run(move || TcpStream::connect(address)?.write_all(words)).unwrap().unwrap();
    let mut heard = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut heard).unwrap();
    heard
}

#[test]
fn pods_reach_each_other_over_both_families_and_nobody_else() {
    let Some(mut network) = network() else { return };
    let (a, b) = (network.pod("a").unwrap(), network.pod("b").unwrap());
    assert_eq!((a.ipv4().to_string(), b.ipv6().to_string()), ("10.77.0.1".to_owned(), "fd77::2".to_owned()));
    assert_eq!(say(&a, &listener(&b, b.ipv4()), b"four"), b"four");
    assert_eq!(say(&a, &listener(&b, b.ipv6()), b"six"), b"six");
    let loopback = listener(&b, [127, 0, 0, 1]);
    assert_eq!(say(&b, &loopback, b"inside"), b"inside");
    let address = loopback.local_addr().unwrap();
    assert!(a.run(move || TcpStream::connect(address)).unwrap().is_err(), "loopback is each pod's own");
}

#[test]
fn a_pod_is_ready_quickly() {
    let Some(mut network) = network() else { return };
    let began = Instant::now();
    let pods = (0..8).map(|n| network.pod(&format!("p{n}")).unwrap()).collect::<Vec<_>>();
    let took = began.elapsed();
    println!("{} pods in {took:?}", pods.len());
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn closures_threads_and_processes_are_inside_and_the_caller_is_not() {
    let Some(mut network) = network() else { return };
    let pod = network.pod("inside").unwrap();
    let outside = own_namespace();
    let inside = pod.run(own_namespace).unwrap();
    assert_ne!(inside, outside);
    assert_eq!(own_namespace(), outside);
    assert_eq!(fs::read_link(pod.netns_path()).unwrap(), inside);
    assert_eq!(pod.spawn(own_namespace).unwrap().join().unwrap(), inside);
    // Plain, as std starts it with posix_spawn, and changed so that std has to fork.
    let plain = Command::new("readlink");
    let mut forked = Command::new("readlink");
    std::os::unix::process::CommandExt::process_group(forked.current_dir("/"), 0);
    for mut command in [plain, forked] {
        command.arg("/proc/self/ns/net").stdout(Stdio::piped());
        let output = pod.spawn_process(command).unwrap().wait_with_output().unwrap();
        assert_eq!(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()), inside);
    }
}

#[test]
fn a_panic_is_an_error_and_the_pod_goes_on() {
    let Some(mut network) = network() else { return };
    let pod = network.pod("panics").unwrap();
    let error = pod.run(|| panic!("number {}", 7)).unwrap_err();
    assert!(matches!(&error, PodError::Panicked { message, .. } if message == "number 7"), "{error}");
    assert_eq!(pod.run(|| 1).unwrap(), 1);
}

#[test]
fn a_closure_may_use_its_own_pod() {
    let Some(mut network) = network() else { return };
    let pod = network.pod("nested").unwrap();
    let again = pod.clone();
    assert_eq!(pod.run(move || again.run(|| 2).unwrap()).unwrap(), 2);
}

#[test]
fn a_pod_vanishes_with_its_last_handle() {
    let Some(mut network) = network() else { return };
    let path = network.pod("short").unwrap().netns_path();
    let deadline = Instant::now() + Duration::from_secs(5);
    while path.exists() {
        assert!(Instant::now() < deadline, "the thread is still there");
        std::thread::yield_now();
    }
    network.pod("next").expect("the network goes on");
}

#[test]
fn a_capture_has_every_frame_until_it_is_stopped() {
    let Some(mut network) = network() else { return };
    let (a, b) = (network.pod("a").unwrap(), network.pod("b").unwrap());
    let (on_a, on_switch) = (a.capture().unwrap(), network.switch().capture().unwrap());
    let inside = a.capture_on("lo").unwrap();
    let on_wire = listener(&b, b.ipv4());
    for _ in 0..50 {
        say(&a, &on_wire, b"over the wire");
    }
    let loopback = listener(&a, [127, 0, 0, 1]);
    say(&a, &loopback, b"stays inside");
    // Stopped at once: what is still queued must be there.
    let (on_a, on_switch, inside) = (on_a.stop().unwrap(), on_switch.stop().unwrap(), inside.stop().unwrap());
    let count = |frames: &[Vec<u8>]| frames.iter().filter(|frame| contains(&[(*frame).clone()], b"over the")).count();
    assert_eq!(count(&on_a), 50);
    assert!(contains(&on_switch, b"over the wire") && !contains(&on_switch, b"stays inside"));
    assert!(contains(&on_a, b"stays inside"));
    assert!(contains(&inside, b"stays inside") && !contains(&inside, b"over the wire"));
}

#[test]
fn a_capture_that_lost_frames_says_so() {
    let Some(mut network) = network() else { return };
    let (a, b) = (network.pod("a").unwrap(), network.pod("b").unwrap());
    let capture = a.capture_on("eth0").unwrap();
    let listener = listener(&b, b.ipv4());
    let address = listener.local_addr().unwrap();
    let sender = a.spawn(move || TcpStream::connect(address)?.write_all(&vec![7; 80 << 20])).unwrap();
    std::io::copy(&mut listener.accept().unwrap().0, &mut std::io::sink()).unwrap();
    sender.join().unwrap().unwrap();
    let error = capture.stop().unwrap_err();
    assert!(matches!(error, PodError::CaptureLost { lost: 1.., .. }), "{error}");
}

#[test]
fn errors_say_what_ip_said() {
    let Some(mut network) = network() else { return };
    let pod = network.pod("bad").unwrap();
    assert!(matches!(pod.capture_on("none0").unwrap_err(), PodError::Capture { step: "interface", .. }));
    let error = pod.spawn_process(Command::new("/no/such/program")).unwrap_err().to_string();
    assert!(error.contains("/no/such/program"), "{error}");
}

#[test]
fn the_last_address_is_the_last_pod() {
    let Some(mut network) = network() else { return };
    for _ in 1..=253 {
        network.pod("many").unwrap();
    }
    assert!(matches!(network.pod("one more"), Err(PodError::Full { limit: 253 })));
}
