//! Pods without root: the test starts itself again as a user without any privilege, who makes a user namespace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;

use sidegate_devkit::pods::{Network, PodError, Support, contains, enter_user_namespace, support};

const NOBODY: u32 = 65534;

fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    match arguments.first().map(String::as_str) {
        Some("--as-nobody") => as_nobody(),
        Some("--list") => println!("rootless: test"),
        _ => start_as_nobody(),
    }
}

fn start_as_nobody() {
    if let Support::NotPossible(why) = support() {
        assert_ne!(std::env::var("SIDEGATE_REQUIRE_PEERS").as_deref(), Ok("1"), "{why}");
        return println!("SKIPPED: {why}");
    }
    // Opened by us: nobody may not be able to walk to it.
    let mut command = Command::new("/proc/self/exe");
    let status = command.arg("--as-nobody").uid(NOBODY).gid(NOBODY).current_dir("/").status().unwrap();
    assert!(status.success(), "{status}");
    println!("rootless: ok");
}

fn as_nobody() {
    assert!(matches!(support(), Support::NotPossible(_)), "nobody must not be root");
    assert!(matches!(Network::new(), Err(PodError::Namespace { .. })));
    enter_user_namespace().unwrap();
    assert_eq!(support(), Support::Root);

    let mut network = Network::new().unwrap();
    let (a, b) = (network.pod("a").unwrap(), network.pod("b").unwrap());
    let capture = network.switch().capture().unwrap();
    for address in [SocketAddr::from((b.ipv4(), 80)), SocketAddr::from((b.ipv6(), 80))] {
        let listener = b.run(move || TcpListener::bind(address)).unwrap().unwrap();
        a.run(move || TcpStream::connect(address)?.write_all(b"no root")).unwrap().unwrap();
        let mut heard = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"no root");
    }
    assert!(contains(&capture.stop().unwrap(), b"no root"));
    let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
    TcpStream::connect(loopback.local_addr().unwrap()).expect("the process's own loopback is up");
}
